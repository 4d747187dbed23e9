//! The child: one workload on one allocator, reported as JSON on stdout.

use std::cell::Cell;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::promise;
use super::workloads::Workload;
use crate::cases::Scale;
use crate::measure::resident_kib;
use crate::work::{Measured, Provider};

/// How long an allocator has to give memory back when everything was freed.
const DECAY: Duration = Duration::from_millis(1500);

/// One measurement of a workload of small blocks
#[derive(clap::Args)]
pub struct Arguments {
    /// The workload
    #[arg(long)]
    workload: Workload,
    /// How many threads
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// How large
    #[arg(long)]
    scale: Scale,
    /// Look at the resident set once more, a while after everything was freed
    #[arg(long)]
    decay: bool,
    #[command(flatten)]
    provider: Provider,
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let memory = arguments.provider.malloc()?;
    let &Arguments { workload, threads, scale, decay, .. } = arguments;
    let threads = usize::from(threads);
    let decayed = Cell::new(None);
    let after = || {
        if decay {
            sleep(DECAY);
            decayed.set(Some(resident_kib()));
        }
    };
    let mut outcome = workload.run(&memory, threads, scale, after)?;
    outcome.checked_bytes += promise::check(&memory, threads, scale)?;
    let measured = Measured { decayed_kib: decayed.get(), ..Measured::here(outcome) };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
