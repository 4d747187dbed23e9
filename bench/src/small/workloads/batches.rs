//! Batches of blocks, after the shapes of MicroQuill's SmartHeap benchmarks sh6bench and sh8bench.

use std::sync::Mutex;

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, LEAST, Worker};
use crate::small::harness;

/// The largest block of a batch.
const MOST: usize = 1000;
/// Sizes grow by this, in each round by a little more.
const STEP: usize = 8;
/// Of so many blocks one is kept until the next round's end.
const KEPT_ONE_IN: usize = 32;
/// Blocks that threads exchange at once.
const EXCHANGED: usize = 2000;

/// Batches of increasing sizes, freed in one of three orders.
pub struct Orders {
    rounds: usize,
    /// Blocks of the smallest sizes in a round; there are fewer of the larger ones.
    most: usize,
}

impl Orders {
    pub fn new(threads: usize, scale: Scale) -> Self {
        let rounds = scale.pick(840, 96, 24) / threads;
        Self { rounds, most: scale.pick(600, 600, 40) }
    }
}

impl harness::Work for Orders {
    type Ready = [Vec<Block>; 2];

    fn prepare<M: Memory>(&self, _: &mut Worker<M>) -> [Vec<Block>; 2] {
        let capacity = self.most * (MOST / STEP);
        [Vec::with_capacity(capacity), Vec::with_capacity(capacity / KEPT_ONE_IN + 1)]
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, [mut live, mut kept]: [Vec<Block>; 2]) {
        for round in 0..self.rounds {
            for size in (LEAST + round % STEP..=MOST).step_by(STEP) {
                // As many bytes of each size, up to a most.
                let count = (self.most * 64 / size).clamp(1, self.most);
                live.extend((0..count).map(|_| worker.allocate(size)));
            }
            kept.drain(..).for_each(|block| worker.free(block));
            let mut place = 0;
            let mut free = |worker: &mut Worker<M>, block| {
                place += 1;
                if place % KEPT_ONE_IN == 0 { kept.push(block) } else { worker.free(block) }
            };
            match round % 3 {
                0 => live.drain(..).rev().for_each(|block| free(worker, block)),
                1 => live.drain(..).for_each(|block| free(worker, block)),
                _ => {
                    // From both ends by turns: the largest beside the smallest.
                    let mut blocks = live.drain(..);
                    while let Some(block) = blocks.next() {
                        free(worker, block);
                        if let Some(block) = blocks.next_back() {
                            free(worker, block);
                        }
                    }
                }
            }
        }
        kept.into_iter().for_each(|block| worker.retire(block));
    }
}

/// Batches that are swapped for those of other threads and freed there.
pub struct Exchange {
    /// A place for a batch, one a thread.
    places: Vec<Mutex<Vec<Block>>>,
    rounds: usize,
    /// Blocks of a batch.
    batch: usize,
}

impl Exchange {
    pub fn new(threads: usize, scale: Scale) -> Self {
        let batch = scale.pick(EXCHANGED, EXCHANGED, 100);
        let places = (0..threads).map(|_| Mutex::new(Vec::with_capacity(batch))).collect();
        Self { places, rounds: scale.pick(4800, 480, 48) / threads, batch }
    }
}

impl harness::Work for Exchange {
    type Ready = Vec<Block>;

    fn prepare<M: Memory>(&self, _: &mut Worker<M>) -> Vec<Block> {
        Vec::with_capacity(self.batch)
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, mut batch: Vec<Block>) {
        for round in 0..self.rounds {
            for _ in 0..self.batch {
                // The least of two prefers small ones.
                let [one, two] = [(); 2].map(|()| worker.random.below(MOST));
                batch.push(worker.allocate(LEAST + one.min(two)));
            }
            let place = &self.places[(worker.number + round) % self.places.len()];
            // Swapped, so that the batch freed here was mostly allocated elsewhere.
            std::mem::swap(&mut batch, &mut *place.lock().expect("no holder of the lock panics"));
            if round % 2 == 0 {
                batch.drain(..).for_each(|block| worker.free(block));
            } else {
                batch.drain(..).rev().for_each(|block| worker.free(block));
            }
        }
    }

    fn end<M: Memory>(&self, worker: &mut Worker<M>) {
        for place in &self.places {
            let mut batch = place.lock().expect("no holder of the lock panics");
            batch.drain(..).for_each(|block| worker.retire(block));
        }
    }
}
