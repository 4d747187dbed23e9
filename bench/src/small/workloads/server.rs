//! A server's churn, after Larson and Krishnan's benchmark of 1998.

use std::thread;

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, Worker};
use crate::small::harness::{self, joined};

/// Of so many blocks one is large.
const LARGE_ONE_IN: usize = 32;

/// Slots whose blocks are replaced, by one thread after another.
pub struct Server {
    /// Blocks that each thread holds.
    slots: usize,
    /// Threads that follow each other at each array of slots.
    generations: usize,
    /// Blocks that each of them replaces.
    replaced: usize,
}

impl Server {
    pub fn new(threads: usize, scale: Scale) -> Self {
        let replaced = scale.pick(25_000, 10_000, 100);
        let total = scale.pick(5_600_000, 640_000, 3200);
        let slots = scale.pick(10_000, 5000, 500);
        Self { slots, generations: total / replaced / threads, replaced }
    }

    fn size(worker: &mut Worker<impl Memory>) -> usize {
        match worker.random.below(LARGE_ONE_IN) {
            0 => 501 + worker.random.below(3500),
            _ => 10 + worker.random.below(491),
        }
    }
}

impl harness::Work for Server {
    type Ready = Vec<Block>;

    fn prepare<M: Memory>(&self, worker: &mut Worker<M>) -> Vec<Block> {
        (0..self.slots)
            .map(|_| {
                let size = Self::size(worker);
                worker.allocate(size)
            })
            .collect()
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, mut slots: Vec<Block>) {
        for _ in 0..self.generations {
            // Each generation is a new thread, which frees what those before it allocated.
            let (slots, worker) = (&mut slots, &mut *worker);
            thread::scope(|scope| {
                joined(scope.spawn(|| {
                    for _ in 0..self.replaced {
                        let slot = worker.random.below(self.slots);
                        let size = Self::size(worker);
                        let new = worker.allocate(size);
                        worker.free(std::mem::replace(&mut slots[slot], new));
                    }
                }));
            });
        }
        slots.into_iter().for_each(|block| worker.retire(block));
    }
}
