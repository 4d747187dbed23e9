//! The child: one case on one allocator, reported as JSON on stdout.

use anyhow::{Context, Result};

use super::cases;
use crate::cases::Scale;
use crate::work::{Measured, Provider};

/// One measurement of a case of large blocks
#[derive(clap::Args)]
pub struct Arguments {
    /// The case's whole name
    #[arg(long)]
    case: String,
    /// How large
    #[arg(long)]
    scale: Scale,
    #[command(flatten)]
    provider: Provider,
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let memory = arguments.provider.memory()?;
    let case = cases::all(arguments.scale).into_iter().find(|case| case.name == arguments.case);
    let case = case.with_context(|| format!("no case is called {}", arguments.case))?;
    let (outcome, space) = case.run(&*memory)?;
    let measured = Measured { space: Some(space), ..Measured::here(outcome) };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
