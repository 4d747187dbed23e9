//! One measured run: a process of its own, with the kernel's accounts of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use refpage_bench::peers::{Peer, Source, surround};
use serde::Serialize;

use crate::pages::Pages;
use crate::render::Rendered;

/// What every run renders.
#[derive(Clone, Debug)]
pub struct Job {
    /// libpdfium.so.
    pub library: PathBuf,
    /// The document.
    pub file: PathBuf,
    /// Its pages to render.
    pub pages: Pages,
    /// Pixels a point.
    pub scale: f32,
    /// Seconds until a run is given up.
    pub timeout: u32,
    /// Where the harness keeps its files.
    pub cache: PathBuf,
}

/// What the kernel counted for one process, all its threads included.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Seconds from before the spawn to after the exit.
    pub wall: f64,
    /// Seconds of user and system time.
    pub cpu: f64,
    /// Peak resident set, MiB.
    pub rss: f64,
    /// Page faults, minor and major.
    pub faults: f64,
    /// Page faults that read from a disk.
    pub major_faults: f64,
}

/// One finished run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it cost.
    pub cost: Cost,
    /// What it rendered.
    pub rendered: Rendered,
    /// What it wrote to stderr.
    pub messages: String,
}

/// The statistics that refpage wrote in a run made to learn them.
pub type Statistics = serde_json::Value;

/// The warm-up run, which is not counted, and what refpage says about its service in it: it writes its statistics only here.
pub fn warm_up(job: &Job, peer: &Peer) -> Result<(Run, Option<Statistics>)> {
    let file = job.cache.join(format!("stats-{}.json", std::process::id()));
    let mut peer = peer.clone();
    let options = peer.environment.iter_mut().find(|(key, _)| *key == "REFPAGE_OPTIONS");
    let Some((_, options)) = options else {
        return Ok((measure(job, &peer)?, None));
    };
    options.push_str(&format!(":stats=json:{}", file.display()));
    let run = measure(job, &peer);
    let text = fs::read_to_string(&file);
    // What matters was read, and the name is this process's alone.
    let _ = fs::remove_file(&file);
    let statistics = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    Ok((run?, statistics))
}

/// Runs `job` once.
pub fn measure(job: &Job, peer: &Peer) -> Result<Run> {
    let messages_path = job.cache.join(format!("stderr-{}.txt", std::process::id()));
    let messages = File::create(&messages_path)
        .with_context(|| format!("cannot write {}", messages_path.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    surround(&mut command, peer);
    command
        .args(["render", "--pdfium"])
        .arg(&job.library)
        .args(["--pages", &job.pages.to_string(), "--scale", &job.scale.to_string()])
        .args(["--timeout", &job.timeout.to_string(), "--"])
        .arg(&job.file)
        .stdout(Stdio::piped())
        .stderr(messages);
    if let Source::Preload(path) = &peer.source {
        command.env("LD_PRELOAD", path);
    }
    let finished = spawn_and_account(&mut command);
    let messages = fs::read(&messages_path).unwrap_or_default();
    // As with the statistics: read, and this process's alone.
    let _ = fs::remove_file(&messages_path);
    let messages = String::from_utf8_lossy(&messages).trim().to_string();
    let (status, output, cost) = finished?;
    if !status.success() {
        bail!("{}", failure(status, &messages, job.timeout));
    }
    let rendered: Rendered =
        serde_json::from_str(&output).context("the run's report is not readable")?;
    check_malloc(peer, &rendered.malloc)?;
    Ok(Run { cost, rendered, messages })
}

/// Why a run failed, in one line.
fn failure(status: ExitStatus, messages: &str, timeout: u32) -> String {
    let last = messages.lines().last().unwrap_or("it wrote no message");
    match status.signal() {
        Some(libc::SIGALRM) => format!("given up after {timeout} s"),
        Some(signal) => format!("killed by signal {signal}: {last}"),
        None => last.strip_prefix("error: ").unwrap_or(last).to_string(),
    }
}

/// The loader goes on without a library it cannot preload: that must not pass for a result.
fn check_malloc(peer: &Peer, provider: &str) -> Result<()> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    match &peer.source {
        Source::Preload(path) if real(path) != real(provider.as_ref()) => {
            bail!("malloc came from {provider}, not from {}", path.display())
        }
        _ => Ok(()),
    }
}

/// Runs a command to its end: its status, what it printed, and what it cost.
///
/// The peak RSS of a process begins at that of the one it was spawned from (the kernel carries the old
/// address space's high-water mark over an exec), so the harness itself must stay smaller than its
/// children: it loads no document and no library; `setup` does that in a process of its own.
fn spawn_and_account(command: &mut Command) -> Result<(ExitStatus, String, Cost)> {
    let start = Instant::now();
    let mut child = command.spawn().context("cannot start a run")?;
    let mut output = String::new();
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut output));
    let mut status = 0;
    // SAFETY: rusage is plain integers, for which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = child.id() as libc::pid_t;
    loop {
        // SAFETY: both pointers are to live, writable locals of the types that wait4 fills in.
        if unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for a run");
        }
    }
    let wall = start.elapsed().as_secs_f64();
    read.context("cannot read a run's report")?;
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let cost = Cost {
        wall,
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        rss: usage.ru_maxrss as f64 / 1024.0,
        faults: (usage.ru_minflt + usage.ru_majflt) as f64,
        major_faults: usage.ru_majflt as f64,
    };
    Ok((ExitStatus::from_raw(status), output, cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accounts_are_those_of_the_child_alone() {
        let (status, output, cost) =
            spawn_and_account(Command::new("/bin/echo").arg("hello").stdout(Stdio::piped()))
                .unwrap();
        assert!(status.success());
        assert_eq!(output, "hello\n");
        assert!(cost.wall > 0.0 && cost.faults > 0.0);
        // The test process itself stays below this, so a larger figure would not be the child's.
        assert!(cost.rss > 0.1 && cost.rss < 64.0, "{} MiB", cost.rss);
    }
}
