//! The child: one workload on one allocator, reported as JSON on stdout.

use std::cell::Cell;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::promise;
use super::workloads::Workload;
use crate::cases::{Outcome, Scale};
use crate::measure::resident_kib;
use crate::work::{Measured, Provider, service};

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
    let Outcome { cost, operations, mut checked_bytes } =
        workload.run(&memory, threads, scale, after)?;
    checked_bytes += promise::check(&memory, threads, scale)?;
    let decayed_kib = decayed.get();
    let service = service();
    let measured = Measured { cost, operations, checked_bytes, service, decayed_kib, space: None };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
