//! The same blocks, of which one share or another is touched: what fresh ones cost, and recycled ones.

use super::touched::Touched;
use super::{Case, MIB, Outcome, Scale, Work, cycles};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong, page_bytes};

/// Blocks that are all live at the end, so that none has the memory of another.
struct Fresh {
    size: usize,
    touched: Touched,
    blocks: usize,
}

impl Work for Fresh {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let order = self.touched.order(self.size.div_ceil(page_bytes()));
        let mut live = Vec::with_capacity(self.blocks);
        let meter = Meter::start();
        for number in 0..self.blocks {
            let mut block = Block::new(memory, self.size);
            for &page in order.of_use(number) {
                block.touch(page);
            }
            live.push(block);
        }
        let cost = meter.stop();
        let mut checked_bytes = 0;
        for (number, block) in live.iter().enumerate() {
            let mask = order.mask_of_use(number);
            checked_bytes += block.check(|page| mask[page])?;
        }
        Ok(Outcome { cost, operations: self.blocks, checked_bytes })
    }
}

/// A block, as programs have many.
const SIZE: usize = MIB;

/// The shares that are touched, in percent of the pages.
pub fn percents(scale: Scale) -> &'static [usize] {
    scale.pick(&[0, 5, 10, 25, 50, 75, 100], &[0, 10, 50, 100], &[0, 100])
}

/// The name of a case.
pub fn name(kind: &str, percent: usize) -> String {
    format!("share-{kind}-{percent}")
}

/// Fresh and recycled blocks of which the first pages are touched, as programs do.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    for &percent in percents(scale) {
        let touched = Touched::Prefix(percent);
        let mut add = |kind, title, work| {
            cases.push(Case {
                name: name(kind, percent),
                title: format!("{title}, touch the first {percent} % of the pages"),
                unit: "block",
                baselines: &[],
                with_large_pool: false,
                work,
            });
        };
        let blocks = scale.pick(128, 48, 4);
        let fresh = Fresh { size: SIZE, touched, blocks };
        add("fresh", format!("malloc {blocks} blocks of 1 MiB that stay"), Box::new(fresh));
        let cycles = cycles::of(SIZE, touched, scale.pick(512, 96, 4));
        add("recycled", "malloc 1 MiB, free it, again and again".into(), cycles);
    }
}
