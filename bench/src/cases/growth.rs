//! A block grows by realloc, and every new page of it is written to.

use super::{Case, KIB, MIB, Outcome, Scale, Work, short};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong};

const FIRST_BYTES: usize = 4 * KIB;

/// Growth by a constant factor.
struct Growth {
    last: usize,
    tenths: usize,
}

impl Work for Growth {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let meter = Meter::start();
        let mut len = FIRST_BYTES;
        let mut block = Block::new(memory, len);
        let mut touched = 0;
        loop {
            for page in touched..block.pages() {
                block.touch(page);
            }
            touched = block.pages();
            if len >= self.last {
                break;
            }
            len = (len / 10 * self.tenths).min(self.last);
            block.grow(len);
        }
        let cost = meter.stop();
        // Every page has been written in the block as it was then: what a realloc lost shows here.
        let checked_bytes = block.check(|_| true)?;
        Ok(Outcome { cost, operations: 1, checked_bytes })
    }
}

/// By doubling, as vectors do, and by a tenth.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    let last = scale.pick(256 * MIB, 64 * MIB, 2 * MIB);
    for (factor, tenths) in [("2", 20), ("1.1", 11)] {
        cases.push(Case {
            name: format!("realloc-{factor}x"),
            title: format!("realloc from 4K to {} by {factor}, touch all pages", short(last)),
            unit: "run",
            baselines: &[],
            with_large_pool: false,
            work: Box::new(Growth { last, tenths }),
        });
    }
}
