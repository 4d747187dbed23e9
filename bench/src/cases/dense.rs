//! Every page of fresh memory is written to, once.

use std::thread::sleep;
use std::time::Duration;

use super::{Case, KIB, MIB, Outcome, Scale, Work, short};
use crate::measure::Meter;
use crate::memory::{Baseline, Block, Memory, Wrong};

/// Between warming up and measuring: what the allocator does in the background after a free is part
/// of the cycles' price, not of this one's.
const SETTLE: Duration = Duration::from_millis(100);

/// Blocks that all stay live.
struct Dense {
    /// The size of a block that was used and freed before.
    before: Option<usize>,
    size: usize,
    blocks: usize,
}

impl Work for Dense {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let use_block = |size| {
            let mut block = Block::new(memory, size);
            for page in 0..block.pages() {
                block.touch(page);
            }
            block
        };
        if let Some(size) = self.before {
            drop(use_block(size));
            sleep(SETTLE);
        }
        let mut live = Vec::with_capacity(self.blocks);
        let meter = Meter::start();
        for _ in 0..self.blocks {
            live.push(use_block(self.size));
        }
        let cost = meter.stop();
        let mut checked_bytes = 0;
        for block in &live {
            checked_bytes += block.check(|_| true)?;
        }
        Ok(Outcome { cost, operations: 1, checked_bytes })
    }
}

/// What memory costs without an allocator.
const BASELINES: &[Baseline] =
    &[Baseline::SmallPages, Baseline::SmallMemset, Baseline::HugeMemset, Baseline::Huge];

/// One block, cold and warm, and many small ones.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    let total = scale.pick(256 * MIB, 64 * MIB, 4 * MIB);
    let name = short(total);
    let mut add = |suffix: &str, title, baselines, work: Dense| {
        cases.push(Case {
            name: format!("dense-{suffix}"),
            title,
            unit: "run",
            baselines,
            with_large_pool: work.before.is_some(),
            work: Box::new(work),
        });
    };
    let title = format!("touch all pages of {name}, the first thing in the process");
    add("cold", title, BASELINES, Dense { before: None, size: total, blocks: 1 });
    let before = total / 4 * 5;
    let title = format!("touch all pages of {name}, after {} were used and freed", short(before));
    add("warm", title, BASELINES, Dense { before: Some(before), size: total, blocks: 1 });
    for (size, baselines) in [(4 * MIB, BASELINES), (64 * KIB, &BASELINES[..2])] {
        let (blocks, size_name) = (total / size, short(size));
        let title = format!("the same, cold, in {blocks} allocations of {size_name}");
        let suffix = format!("cold-{size_name}-blocks");
        add(&suffix, title, baselines, Dense { before: None, size, blocks });
    }
}
