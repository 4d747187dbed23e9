//! A few pages of a large fresh block are written to.

use super::touched::Touched;
use super::{Case, MIB, Outcome, Scale, Work, short};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong, page_bytes};

/// One block, the first large one of the process.
struct Sparse {
    size: usize,
    touched: Touched,
    zeroed: bool,
}

impl Work for Sparse {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let order = self.touched.order(self.size.div_ceil(page_bytes()));
        let meter = Meter::start();
        let mut block = if self.zeroed {
            Block::zeroed(memory, self.size)
        } else {
            Block::new(memory, self.size)
        };
        for &page in order.of_use(0) {
            block.touch(page);
        }
        let cost = meter.stop();
        let mask = order.mask_of_use(0);
        let checked_bytes = block.check(|page| mask[page])?;
        Ok(Outcome { cost, operations: 1, checked_bytes })
    }
}

/// In order and at random.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    let size = scale.pick(256 * MIB, 64 * MIB, 4 * MIB);
    let touches = [
        ("16", "malloc", "one page in 16", Touched::OneIn(16)),
        ("64", "malloc", "one page in 64", Touched::OneIn(64)),
        ("random-64", "malloc", "one page in 64 in random order", Touched::RandomOneIn(64)),
        ("random-64-calloc", "calloc", "one page in 64 in random order", Touched::RandomOneIn(64)),
    ];
    for (name, function, which, touched) in touches {
        cases.push(Case {
            name: format!("sparse-{name}"),
            title: format!("{function} {}, fresh; touch {which}", short(size)),
            unit: "run",
            baselines: &[],
            with_large_pool: false,
            work: Box::new(Sparse { size, touched, zeroed: function == "calloc" }),
        });
    }
}
