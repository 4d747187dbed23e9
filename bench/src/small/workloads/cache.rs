//! False sharing, after the benchmarks of Hoard (Berger and others, 2000).

use std::sync::Mutex;

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, LEAST, Worker};
use crate::small::harness;

/// How often a block is written before it is freed.
const WRITES: u32 = 200;

/// Blocks of a few bytes that are written again and again: slow if they share cache lines between threads.
pub struct Sharing {
    /// Whether each thread is given one of neighbouring blocks, whose place an allocator may then give to it again.
    passive: bool,
    /// Those neighbours.
    given: Mutex<Vec<Block>>,
    threads: usize,
    /// Blocks of each thread.
    blocks: usize,
}

impl Sharing {
    pub fn new(passive: bool, threads: usize, scale: Scale) -> Self {
        let blocks = scale.pick(6_000_000, 600_000, 4000) / threads;
        Self { passive, given: Mutex::default(), threads, blocks }
    }
}

impl harness::Work for Sharing {
    type Ready = Option<Block>;

    fn begin<M: Memory>(&self, worker: &mut Worker<M>) {
        if self.passive {
            let mut given = self.given.lock().expect("no holder of the lock panics");
            given.extend((0..self.threads).map(|_| worker.allocate(LEAST)));
        }
    }

    fn prepare<M: Memory>(&self, _: &mut Worker<M>) -> Option<Block> {
        self.given.lock().expect("no holder of the lock panics").pop()
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, given: Option<Block>) {
        given.into_iter().for_each(|block| worker.free(block));
        for _ in 0..self.blocks {
            let mut block = worker.allocate(LEAST);
            worker.rewrite(&mut block, WRITES);
            worker.free(block);
        }
    }
}
