//! The workloads: well-known shapes of allocation, each written for this project.

mod batches;
mod cache;
mod compiler;
mod handoff;
mod lifetimes;
mod server;

use clap::ValueEnum;

use super::harness::run;
use crate::cases::{Outcome, Scale};
use crate::memory::{Memory, Wrong};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Blocks of random sizes replaced at random, and handed to new threads.
    Server,
    /// Half of the threads allocate what the others free.
    Handoff,
    /// Random sizes with mixed lifetimes.
    Lifetimes,
    /// Batches of growing sizes, freed in several orders.
    #[value(name = "batches-6")]
    Batches6,
    /// Batches that threads exchange.
    #[value(name = "batches-8")]
    Batches8,
    /// Blocks that lay side by side when other threads got them.
    CacheScratch,
    /// Blocks that threads allocate at the same time.
    CacheThrash,
    /// Phases of small blocks that are gone at the phase's end.
    Compiler,
}

impl Workload {
    /// One line for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Server => {
                "blocks of 10 to 500 bytes, some larger, replaced at random; new threads take over"
            }
            Self::Handoff => "half of the threads allocate batches that the other half frees",
            Self::Lifetimes => {
                "power-law sizes of 16 bytes to 32 KiB with mixed exponential lifetimes"
            }
            Self::Batches6 => "batches of growing sizes, freed last first, first first and mixed",
            Self::Batches8 => "batches of random sizes, freed by the thread they were swapped to",
            Self::CacheScratch => {
                "passive false sharing: neighbours given to threads, then own ones"
            }
            Self::CacheThrash => "active false sharing: small blocks allocated at the same time",
            Self::Compiler => "phases of nodes, strings, growing vectors and hash tables",
        }
    }

    /// Runs it; `after` is called when all is freed but the few survivors.
    pub fn run<M: Memory>(
        self,
        memory: &M,
        threads: usize,
        scale: Scale,
        after: impl FnOnce(),
    ) -> Result<Outcome, Wrong> {
        match self {
            Self::Server => run(&server::Server::new(threads, scale), memory, threads, after),
            Self::Handoff => run(&handoff::Handoff::new(threads, scale), memory, threads, after),
            Self::Lifetimes => {
                run(&lifetimes::Lifetimes::new(threads, scale), memory, threads, after)
            }
            Self::Batches6 => run(&batches::Orders::new(threads, scale), memory, threads, after),
            Self::Batches8 => run(&batches::Exchange::new(threads, scale), memory, threads, after),
            Self::CacheScratch => {
                run(&cache::Sharing::new(true, threads, scale), memory, threads, after)
            }
            Self::CacheThrash => {
                run(&cache::Sharing::new(false, threads, scale), memory, threads, after)
            }
            Self::Compiler => run(&compiler::Compiler::new(threads, scale), memory, threads, after),
        }
    }
}

#[cfg(test)]
mod tests;
