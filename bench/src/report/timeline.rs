//! The resident set of a process while it runs, looked at from outside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::memory::page_bytes;
use crate::programs::process::{Finished, Started};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(2);
/// More points than that are not to be told apart in a plot.
const POINTS: usize = 250;

/// The resident set at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the process was started.
    pub ms: f64,
    /// How large it was, at most, since the sample before.
    pub kib: u64,
}

/// Runs a command to its end beside a thread that looks at its memory.
pub fn watch(command: &mut Command, directory: &Path) -> Result<(Finished, Vec<Sample>)> {
    let started = Started::start(command, directory)?;
    let (id, begun) = (started.id(), Instant::now());
    // A process that has ended has no memory, and stays until it is waited for: so the ID is its own meanwhile.
    let watcher = thread::spawn(move || {
        let mut samples = Vec::new();
        while let Some(kib) = resident_kib(id).filter(|&kib| kib > 0) {
            samples.push(Sample { ms: begun.elapsed().as_secs_f64() * 1e3, kib });
            thread::sleep(INTERVAL);
        }
        samples
    });
    let samples = watcher.join().unwrap_or_default();
    Ok((started.finish()?, thinned(&samples)))
}

/// The second number of /proc/PID/statm, in KiB.
fn resident_kib(id: libc::pid_t) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * (page_bytes() as u64 >> 10))
}

/// At most [`POINTS`] of them, each the greatest of its part.
fn thinned(samples: &[Sample]) -> Vec<Sample> {
    let greatest = |part: &[Sample]| {
        let kib = part.iter().map(|sample| sample.kib).max().unwrap_or_default();
        part.last().map(|last| Sample { kib, ..*last })
    };
    samples.chunks(samples.len().div_ceil(POINTS).max(1)).filter_map(greatest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_outlives_the_thinning() {
        let samples: Vec<Sample> = (0..1000)
            .map(|at| Sample { ms: f64::from(at), kib: if at == 501 { 9 } else { 1 } })
            .collect();
        let thinned = thinned(&samples);
        assert_eq!(thinned.len(), POINTS);
        assert_eq!(thinned.iter().map(|sample| sample.kib).max(), Some(9));
        assert_eq!(thinned.last().unwrap().ms, 999.0);
    }

    #[test]
    fn the_memory_of_another_process_is_seen() {
        let directory =
            std::env::temp_dir().join(format!("refpage-timeline-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (finished, samples) =
            watch(Command::new("/bin/sleep").arg("0.05"), &directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(finished.success);
        assert!(samples.len() > 3 && samples.iter().all(|sample| sample.kib > 0), "{samples:?}");
    }
}
