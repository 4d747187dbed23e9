//! How long single first touches take: the distribution, not the mean.

use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cases::{Outcome, Scale};
use crate::measure::{Meter, nanoseconds};
use crate::memory::{Block, Memory};
use crate::seed;

/// In which order pages are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// From the first to the last.
    Ascending,
    /// One page in eight, at random: each is a fault of its own, unless huge pages make it none.
    Random,
}

/// A point of a distribution.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Quantile {
    /// This share of the touches, in percent, ...
    pub percent: f64,
    /// ... took at most so many nanoseconds.
    pub ns: u64,
}

/// What is reported, in percent: finer towards the slow end, where the faults are.
const PERCENTS: [f64; 24] = [
    0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 85.0, 90.0, 93.0, 95.0, 97.0,
    98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 100.0,
];

impl Order {
    /// One line for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ascending => "single first touches, all pages of a fresh block in order",
            Self::Random => "single first touches, one page in 8 of a fresh block, at random",
        }
    }
}

/// Touches the pages of one fresh block, each by the clock, then reads what must still hold the promise.
pub fn measure(
    memory: &dyn Memory,
    order: Order,
    scale: Scale,
) -> Result<(Outcome, Vec<Quantile>)> {
    let mut block = Block::new(memory, scale.pick(256, 64, 2) << 20);
    let pages: Vec<usize> = match order {
        Order::Ascending => (0..block.pages()).collect(),
        Order::Random => {
            let mut pages = seed::random(2026).permutation(block.pages());
            pages.truncate(block.pages() / 8);
            pages
        }
    };
    seed::note(pages.iter().map(|&page| page as u64));
    // Written to before the clock runs: its own first touches are not to be among those that are measured.
    let mut times = vec![1u32; pages.len()];
    let meter = Meter::start();
    for (&page, time) in pages.iter().zip(&mut times) {
        let before = Instant::now();
        block.touch(page);
        *time = u32::try_from(nanoseconds(before.elapsed())).unwrap_or(u32::MAX);
    }
    let cost = meter.stop();
    let mut touched = vec![false; block.pages()];
    pages.iter().for_each(|&page| touched[page] = true);
    let checked_bytes = block.check(|page| touched[page])?;
    Ok((Outcome { cost, operations: pages.len(), checked_bytes }, quantiles(times)))
}

fn quantiles(mut times: Vec<u32>) -> Vec<Quantile> {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = |percent: f64| (last as f64 * percent / 100.0).round() as usize;
    let quantile = |percent| Quantile { percent, ns: times[at(percent)].max(1).into() };
    PERCENTS.map(quantile).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_go_from_the_least_to_the_greatest() {
        let quantiles = quantiles((1..=1001).rev().collect());
        let of = |percent| quantiles.iter().find(|q| q.percent == percent).unwrap().ns;
        assert_eq!([of(0.0), of(50.0), of(99.9), of(100.0)], [1, 501, 1000, 1001]);
    }
}
