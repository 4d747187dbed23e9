//! The child: one compaction, reported as JSON on stdout.

use anyhow::{Context, Result};
use refpage::moves::Mover;
use refpage_compactor::{Outcome, Setup, Way, run as compact};
use serde::{Deserialize, Serialize};

use super::cases;
use crate::cases::Scale;
use crate::measure::nanoseconds;
use crate::work::Provider;

/// Pages that go together at most.
pub const BATCH: usize = 64;

/// One compaction
#[derive(clap::Args)]
pub struct Arguments {
    /// The case's whole name
    #[arg(long)]
    case: String,
    /// How large
    #[arg(long)]
    scale: Scale,
    /// How pages are carried
    #[arg(long)]
    way: Way,
    #[command(flatten)]
    provider: Provider,
}

/// A compaction whose objects were verified.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Compacted {
    /// From the flip to the last page, in nanoseconds.
    pub wall_ns: u64,
    /// CPU time of the compactor and of who answers faults, in nanoseconds.
    pub cpu_ns: u64,
    /// How long the mutators stood still, in nanoseconds.
    pub flip_ns: u64,
    /// Pages that the kernel allocated meanwhile, for all processes.
    pub allocated: Option<u64>,
    /// Minor faults of the process.
    pub minor_faults: u64,
    /// Mappings of both arenas at the end; 2 at the start.
    pub vmas: usize,
    /// Whether mremap was refused more mappings.
    pub mappings_full: bool,
    /// OS pages of the heap before.
    pub pages_before: usize,
    /// OS pages after.
    pub pages_after: usize,
    /// Those that were moved.
    pub moved: usize,
    /// Those that were copied.
    pub copied: usize,
    /// Those that were put in place by mremap.
    pub remapped: usize,
    /// Pages that were prepared because a mutator waited.
    pub answered: usize,
    /// Bytes of objects that were verified.
    pub checked_bytes: usize,
}

/// Compacts, verifies and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    arguments.provider.malloc()?;
    let case = cases(arguments.scale).into_iter().find(|case| case.name == arguments.case);
    let case = case.with_context(|| format!("no case is called {}", arguments.case))?;
    let mover = Mover::new()?;
    let setup =
        Setup { shape: case.shape, way: arguments.way, mutators: case.mutators, batch: BATCH };
    let outcome = compact(&mover, &setup)?;
    println!("{}", serde_json::to_string(&Compacted::from(&outcome))?);
    Ok(())
}

impl From<&Outcome> for Compacted {
    fn from(outcome: &Outcome) -> Self {
        Self {
            wall_ns: nanoseconds(outcome.wall),
            cpu_ns: nanoseconds(outcome.cpu()),
            flip_ns: nanoseconds(outcome.pause),
            allocated: outcome.allocated,
            minor_faults: outcome.minor_faults,
            vmas: outcome.vmas_after,
            mappings_full: outcome.mappings_full,
            pages_before: outcome.pages_before,
            pages_after: outcome.pages_after,
            moved: outcome.moved,
            copied: outcome.copied,
            remapped: outcome.remapped,
            answered: outcome.answered,
            checked_bytes: outcome.bytes,
        }
    }
}
