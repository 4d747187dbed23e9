//! Producers and consumers: what one thread allocates another one frees.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, Worker};
use crate::small::harness;

/// Blocks of a batch.
const BATCH: usize = 100;
/// Batches that a ring holds.
const DEPTH: usize = 16;

/// A bounded queue of batches that allocates nothing once it is there: batches are swapped with empty ones.
struct Ring {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    batches: Vec<Vec<Block>>,
    first: usize,
    count: usize,
}

/// One ring for two threads, or for one that is both.
pub struct Handoff {
    rings: Vec<Ring>,
    alone: bool,
    /// Batches that go through each ring.
    batches: usize,
}

impl Handoff {
    pub fn new(threads: usize, scale: Scale) -> Self {
        let pairs = (threads / 2).max(1);
        let batches = scale.pick(100_000, 12_000, 80) / pairs;
        let rings = (0..pairs).map(|_| Ring::new()).collect();
        Self { rings, alone: threads == 1, batches }
    }
}

impl harness::Work for Handoff {
    type Ready = Vec<Block>;

    fn prepare<M: Memory>(&self, _: &mut Worker<M>) -> Vec<Block> {
        Vec::with_capacity(BATCH)
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, mut batch: Vec<Block>) {
        let ring = &self.rings[worker.number / 2];
        let (produces, consumes) =
            (worker.number.is_multiple_of(2), self.alone || worker.number % 2 == 1);
        // Alone, a thread fills the ring before it begins to empty it.
        let lag = if self.alone { DEPTH } else { 0 };
        for turn in 0..self.batches + lag {
            if produces && turn < self.batches {
                for _ in 0..BATCH {
                    // The product prefers small ones.
                    let size = 16 + worker.random.below(23) * worker.random.below(23);
                    batch.push(worker.allocate(size));
                }
                ring.push(&mut batch);
            }
            if consumes && turn + 1 >= lag.max(1) && (turn + 1 - lag.max(1)) < self.batches {
                ring.pop(&mut batch);
                batch.drain(..).for_each(|block| worker.retire(block));
            }
        }
    }
}

impl Ring {
    fn new() -> Self {
        let batches = (0..DEPTH).map(|_| Vec::with_capacity(BATCH)).collect();
        let state = Mutex::new(State { batches, first: 0, count: 0 });
        Self { state, changed: Condvar::new() }
    }

    fn wait_until(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state.lock().expect("no holder of the lock panics");
        self.changed.wait_while(state, |state| !condition(state)).expect("as above")
    }

    /// Puts a batch in and leaves an empty one.
    fn push(&self, batch: &mut Vec<Block>) {
        let mut state = self.wait_until(|state| state.count < DEPTH);
        let at = (state.first + state.count) % DEPTH;
        std::mem::swap(batch, &mut state.batches[at]);
        state.count += 1;
        self.changed.notify_one();
    }

    /// Takes the oldest batch for an empty one.
    fn pop(&self, batch: &mut Vec<Block>) {
        let mut state = self.wait_until(|state| state.count > 0);
        let at = state.first;
        std::mem::swap(batch, &mut state.batches[at]);
        state.first = (at + 1) % DEPTH;
        state.count -= 1;
        self.changed.notify_one();
    }
}
