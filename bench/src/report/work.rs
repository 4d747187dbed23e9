//! The child: one of the report's own measurements on one allocator, reported as JSON on stdout.

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::latency::{self, Order, Quantile};
use super::profile::Profile;
use super::reads::{self, Readings};
use super::timeline::Sample;
use super::windows;
use crate::cases::Scale;
use crate::work::{Measured, Provider};

/// One measurement of the report's own
#[derive(clap::Args)]
pub struct Arguments {
    /// What is measured
    #[arg(long)]
    what: What,
    /// Pages that a fault is answered with, for the windows
    #[arg(long)]
    window: Option<usize>,
    /// How large
    #[arg(long)]
    scale: Scale,
    #[command(flatten)]
    provider: Provider,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// [`Order::Ascending`].
    Ascending,
    /// [`Order::Random`].
    Random,
    /// See [`reads`].
    Reads,
    /// See [`windows`].
    Windows,
}

/// What there is to tell of a measurement beside its cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// The distribution of single touches.
    Latency(Vec<Quantile>),
    /// What memory reads as that nobody wrote.
    Reads(Readings),
    /// The resident set over time.
    Timeline(Vec<Sample>),
    /// How allocations were used.
    Profile(Box<Profile>),
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let &Arguments { what, scale, window, ref provider } = arguments;
    let (outcome, detail) = match what {
        What::Ascending | What::Random => {
            let order = if what == What::Random { Order::Random } else { Order::Ascending };
            let (outcome, quantiles) = latency::measure(&*provider.memory()?, order, scale)?;
            (outcome, Some(Detail::Latency(quantiles)))
        }
        What::Reads => {
            let (outcome, readings) = reads::look(&provider.malloc()?);
            (outcome, Some(Detail::Reads(readings)))
        }
        What::Windows => {
            provider.malloc()?;
            (windows::measure(window.context("--window is missing")?, scale)?, None)
        }
    };
    let measured = Measured { detail, ..Measured::here(outcome) };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
