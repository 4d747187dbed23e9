//! A compiler's phases: nodes, strings, growing vectors, hash tables; most is gone when a phase ends.

use crate::cases::Scale;
use crate::memory::Memory;
use crate::small::block::{Block, Worker};
use crate::small::harness;

/// Sizes of the nodes of a syntax tree, the commonest ones more than once.
const NODES: [usize; 8] = [24, 32, 32, 40, 48, 48, 64, 96];
/// Nodes of a phase.
const BURST: usize = 12_000;
/// Of so many blocks one lives until its unit is compiled.
const LIVES_ON: usize = 24;
/// Phases of a unit.
const PHASES: usize = 6;
/// The largest a vector grows to.
const VECTOR: usize = 16 << 10;
/// The smallest and the largest hash table.
const TABLES: (usize, usize) = (512, 16 << 10);

/// Units that are compiled one after another.
pub struct Compiler {
    units: usize,
    burst: usize,
}

/// What a thread has in hand.
pub struct Ready {
    /// What is gone when the phase ends.
    phase: Vec<Block>,
    /// What is gone when the unit is compiled.
    unit: Vec<Block>,
}

impl Compiler {
    pub fn new(threads: usize, scale: Scale) -> Self {
        Self { units: scale.pick(64, 8, 8) / threads, burst: scale.pick(BURST, BURST / 3, 100) }
    }

    fn phase<M: Memory>(&self, worker: &mut Worker<M>, blocks: &mut Vec<Block>) {
        // Vectors and tables grow while nodes and strings come in between.
        let mut vector = worker.allocate(16);
        let mut table = worker.zeroed(TABLES.0);
        for number in 0..self.burst {
            let size = NODES[worker.random.below(NODES.len())];
            blocks.push(worker.allocate(size));
            if number % 4 == 0 {
                let size = 8 + worker.random.below(8) * worker.random.below(8);
                let mut string = worker.allocate(size);
                string.write(b'x');
                blocks.push(string);
            }
            // Few elements each time: a vector of VECTOR bytes is full after some dozens of nodes.
            if number % 8 == 7 {
                vector = if vector.len() < VECTOR && worker.random.below(8) > 0 {
                    let twice = vector.len() * 2;
                    worker.grow(vector, twice)
                } else {
                    blocks.push(vector);
                    worker.allocate(16)
                };
            }
            if number % 256 == 255 {
                // A table twice as large takes over from the last one.
                let size = if table.len() < TABLES.1 { table.len() * 2 } else { TABLES.0 };
                let larger = worker.zeroed(size);
                worker.free(std::mem::replace(&mut table, larger));
            }
        }
        blocks.extend([vector, table]);
    }
}

impl harness::Work for Compiler {
    type Ready = Ready;

    fn prepare<M: Memory>(&self, _: &mut Worker<M>) -> Ready {
        Ready {
            phase: Vec::with_capacity(2 * self.burst),
            unit: Vec::with_capacity(2 * self.burst * PHASES / LIVES_ON),
        }
    }

    fn work<M: Memory>(&self, worker: &mut Worker<M>, Ready { mut phase, mut unit }: Ready) {
        for number in 0..self.units {
            for _ in 0..PHASES {
                self.phase(worker, &mut phase);
                for (place, block) in phase.drain(..).enumerate() {
                    if place % LIVES_ON == 0 { unit.push(block) } else { worker.free(block) }
                }
            }
            if number + 1 < self.units {
                unit.drain(..).rev().for_each(|block| worker.free(block));
            }
        }
        unit.into_iter().for_each(|block| worker.retire(block));
    }
}
