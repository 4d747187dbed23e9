//! The child: one case, on one allocator, reported as JSON on stdout.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cases;
use super::counter::Counter;
use super::tally::Tally;
use crate::work::{self, Provider};

/// One count
#[derive(clap::Args)]
pub struct Arguments {
    /// The case's whole name
    #[arg(long)]
    case: String,
    /// How pointers' tags are to be checked: sync, or off if there are to be none
    #[arg(long)]
    tags: String,
    #[command(flatten)]
    provider: Provider,
}

/// What the child reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// What the counted parts add up to.
    #[serde(flatten)]
    pub tally: Tally,
    /// How many operations they consisted of.
    pub operations: usize,
    /// How many bytes were compared with what they should be.
    pub checked_bytes: u64,
    /// The service that refpage took.
    pub service: Option<String>,
}

/// Counts, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let memory = arguments.provider.memory()?;
    let case = cases::ALL.iter().find(|case| case.name == arguments.case);
    let case = case.with_context(|| format!("no case is called {}", arguments.case))?;
    let mut tally = Tally::new(Counter::calibrated()?);
    let tags = arguments.tags != "off";
    let (operations, checked_bytes) = case.run(&mut tally, &*memory, tags)?;
    // The library's word for it, and the kernel's.
    let taken = work::tags().unwrap_or("off".into());
    let checked = mte::mode().map_or("off", mte::Mode::as_str);
    if [&*taken, checked] != [&*arguments.tags; 2] {
        bail!("tags are {taken}, and checked {checked}, not {}", arguments.tags);
    }
    let counted = Counted { tally, operations, checked_bytes, service: work::service() };
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}
