//! The cases: what is done with memory, and beside which baselines.

mod cycles;
mod dense;
mod forks;
mod growth;
pub mod shares;
mod sparse;
mod threads;
pub mod touched;

use clap::ValueEnum;

use crate::measure::Cost;
use crate::memory::{Baseline, Memory, Wrong};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How large and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scale {
    /// For results.
    Full,
    /// For a look.
    Quick,
    /// For tests of the cases themselves.
    Tiny,
}

impl Scale {
    /// The value for this scale.
    pub fn pick<T>(self, full: T, quick: T, tiny: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
            Self::Tiny => tiny,
        }
    }
}

/// What came of one run of a case.
#[derive(Debug)]
pub struct Outcome {
    /// What the measured part cost.
    pub cost: Cost,
    /// How many operations it consisted of.
    pub operations: usize,
    /// How many bytes were compared with what they should be.
    pub checked_bytes: u64,
}

/// What a case does.
pub trait Work {
    /// Does it, measures the part that counts, then checks the content.
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong>;
}

/// A workload.
pub struct Case {
    /// A name for the command line.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// What its times are per.
    pub unit: &'static str,
    /// What runs beside the allocators. The first one gets a column of ratios.
    pub baselines: &'static [Baseline],
    /// Whether refpage is also run with a page pool that holds all of it.
    pub with_large_pool: bool,
    /// What it does.
    pub work: Box<dyn Work>,
}

/// Allocation size of the reference-page patch's benchmark.
const PATCH_BYTES: usize = 4_096_000;

/// All cases, in the order of the output.
pub fn all(scale: Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    cycles::add_patch(&mut cases, scale);
    dense::add(&mut cases, scale);
    sparse::add(&mut cases, scale);
    cycles::add(&mut cases, scale);
    growth::add(&mut cases, scale);
    threads::add(&mut cases, scale);
    forks::add(&mut cases, scale);
    cases
}

/// The cases of [`all`], and those that only the report has: blocks of which one share or another is touched.
pub fn with_shares(scale: Scale) -> Vec<Case> {
    let mut cases = all(scale);
    shares::add(&mut cases, scale);
    cases
}

/// A size as it is written in names: 64K, 4M.
pub fn short(bytes: usize) -> String {
    if bytes >= MIB { format!("{}M", bytes / MIB) } else { format!("{}K", bytes / KIB) }
}

#[cfg(test)]
mod tests;
