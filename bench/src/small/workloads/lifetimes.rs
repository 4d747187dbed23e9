//! Sizes and lifetimes as programs have them: many small and short, few large and long.

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, Worker};
use crate::small::harness;

const LEAST: f64 = 16.0;
const MOST: f64 = 32.0 * 1024.0;
/// Exponent of the power law: of the blocks, a share of `(16 / x) ^ 0.9` is larger than `x`.
const EXPONENT: f64 = 0.9;
/// Quantiles of the sizes that are known beforehand; between them all sizes are as likely.
const QUANTILES: usize = 4096;

/// Slots of each kind, over all threads. Replacing a random one of `n` blocks gives each an exponential lifetime with
/// the mean of `n` allocations of its kind.
const SHORT: usize = 512;
const MEDIUM: usize = 8192;

/// Three kinds of blocks, by how long they live.
pub struct Lifetimes {
    sizes: Vec<u32>,
    /// Slots of each kind in each thread.
    slots: [usize; 3],
    /// Allocations of each thread.
    allocations: usize,
}

impl Lifetimes {
    pub fn new(threads: usize, scale: Scale) -> Self {
        let long = scale.pick(120_000, 60_000, 1000);
        let allocations = scale.pick(4_000_000, 400_000, 8000) / threads;
        let slots = [SHORT, MEDIUM, long].map(|slots| slots / threads);
        Self { sizes: (0..=QUANTILES).map(quantile).collect(), slots, allocations }
    }

    fn size(&self, worker: &mut Worker<impl Memory>) -> usize {
        let at = worker.random.below(QUANTILES);
        let (least, most) = (self.sizes[at] as usize, self.sizes[at + 1] as usize);
        least + worker.random.below(most - least + 1)
    }
}

/// The size that a share of `number` in `QUANTILES` of all blocks does not exceed.
fn quantile(number: usize) -> u32 {
    let beyond = 1.0 - number as f64 / QUANTILES as f64;
    let least_share = (LEAST / MOST).powf(EXPONENT);
    (LEAST * beyond.max(least_share).powf(-1.0 / EXPONENT)) as u32
}

impl harness::Work for Lifetimes {
    type Ready = [Vec<Block>; 3];

    fn prepare<M: Memory>(&self, worker: &mut Worker<M>) -> [Vec<Block>; 3] {
        self.slots.map(|slots| {
            let block = |_| {
                let size = self.size(worker);
                worker.allocate(size)
            };
            (0..slots).map(block).collect()
        })
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, mut kinds: [Vec<Block>; 3]) {
        for _ in 0..self.allocations {
            let kind = match worker.random.below(16) {
                0..10 => 0,
                10..15 => 1,
                _ => 2,
            };
            let slot = worker.random.below(self.slots[kind]);
            let size = self.size(worker);
            let new = worker.allocate(size);
            worker.free(std::mem::replace(&mut kinds[kind][slot], new));
        }
        kinds.into_iter().flatten().for_each(|block| worker.retire(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_begin_at_sixteen_and_end_at_thirty_two_kibibytes() {
        let sizes: Vec<u32> = (0..=QUANTILES).map(quantile).collect();
        assert!(sizes.is_sorted());
        assert_eq!(sizes[0], 16);
        assert!((32_000..=32_768).contains(&sizes[QUANTILES]), "{}", sizes[QUANTILES]);
        let mean = sizes.iter().map(|&size| f64::from(size)).sum::<f64>() / sizes.len() as f64;
        assert!((100.0..400.0).contains(&mean), "{mean}");
    }
}
