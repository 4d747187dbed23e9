//! Several threads allocate at once.

use std::sync::Barrier;
use std::thread;

use super::{Case, KIB, MIB, Outcome, Scale, Work};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong};
use crate::seed;
use refpage_compactor::Random;

const LEAST: usize = 256 * KIB;
const MOST: usize = MIB;
const DENSE_BYTES: usize = 4 * MIB;
/// Cycles of each thread after the measured ones whose blocks are read.
const CHECKED_CYCLES: usize = 8;

/// What each thread does.
#[derive(Clone, Copy)]
enum Each {
    /// Blocks of random size, of which the first half is touched, one at a time.
    Cycles(usize),
    /// So many blocks that stay live, all pages of them touched.
    Dense(usize),
}

/// Threads that begin at the same time.
struct Threads {
    threads: usize,
    each: Each,
}

fn touch(block: &mut Block, pages: usize) {
    for page in 0..pages {
        block.touch(page);
    }
}

fn random_block<'m>(memory: &'m dyn Memory, random: &mut Random) -> Block<'m> {
    Block::new(memory, LEAST + random.below(MOST - LEAST + 1))
}

impl Threads {
    /// The measured part of one thread; returns what is still live.
    fn work<'m>(&self, memory: &'m dyn Memory, number: usize) -> Vec<Block<'m>> {
        match self.each {
            Each::Cycles(cycles) => {
                let mut random = seed::random(number as u64);
                for _ in 0..cycles {
                    let mut block = random_block(memory, &mut random);
                    let half = block.pages() / 2;
                    touch(&mut block, half);
                }
                seed::note([number as u64, random.next()]);
                Vec::new()
            }
            Each::Dense(blocks) => {
                let mut live = Vec::with_capacity(blocks);
                for _ in 0..blocks {
                    let mut block = Block::new(memory, DENSE_BYTES);
                    let pages = block.pages();
                    touch(&mut block, pages);
                    live.push(block);
                }
                live
            }
        }
    }

    /// Reads what recycled blocks hold while other threads recycle theirs.
    fn check(memory: &dyn Memory, number: usize) -> Result<u64, Wrong> {
        let mut random = seed::random(number as u64);
        let mut checked = 0;
        for _ in 0..CHECKED_CYCLES {
            let mut block = random_block(memory, &mut random);
            checked += block.check(|_| false)?;
            (0..block.pages() / 2).for_each(|page| block.soil(page));
        }
        Ok(checked)
    }
}

impl Work for Threads {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let gate = Barrier::new(self.threads + 1);
        let work = |number| {
            gate.wait();
            self.work(memory, number)
        };
        let work = &work;
        let (cost, live) = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads).map(|number| scope.spawn(move || work(number))).collect();
            let meter = Meter::start();
            gate.wait();
            let live: Vec<_> = threads.into_iter().flat_map(joined).collect();
            (meter.stop(), live)
        });
        let mut checked_bytes = 0;
        for block in &live {
            checked_bytes += block.check(|_| true)?;
        }
        drop(live);
        checked_bytes += thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|number| scope.spawn(move || Self::check(memory, number)))
                .collect();
            threads.into_iter().map(joined).sum::<Result<u64, Wrong>>()
        })?;
        let (Each::Cycles(each) | Each::Dense(each)) = self.each;
        Ok(Outcome { cost, operations: each * self.threads, checked_bytes })
    }
}

/// What a thread returned; its panic is this one's.
fn joined<T>(thread: thread::ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// One, two and four threads; each does the same amount.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    let cycles = scale.pick(500, 100, 4);
    let blocks = scale.pick(128 * MIB, 32 * MIB, DENSE_BYTES) / DENSE_BYTES;
    let kinds = [
        ("cycles", "blocks of 256K to 1M, half touched, one at a time", Each::Cycles(cycles)),
        ("dense", "blocks of 4M, all pages touched, all live", Each::Dense(blocks)),
    ];
    for (name, what, each) in kinds {
        for threads in [1, 2, 4] {
            let s = if threads == 1 { "" } else { "s" };
            cases.push(Case {
                name: format!("threads-{threads}-{name}"),
                title: format!("{threads} thread{s}: {what}"),
                unit: "block",
                baselines: &[],
                with_large_pool: false,
                work: Box::new(Threads { threads, each }),
            });
        }
    }
}
