//! Allocate, touch, free, again and again: what a recycled block costs.

use super::touched::Touched;
use super::{Case, KIB, MIB, Outcome, PATCH_BYTES, Scale, Work, short};
use crate::measure::Meter;
use crate::memory::{Baseline, Block, Memory, Wrong, page_bytes};

/// Cycles after the measured ones whose blocks are read before they are touched.
const CHECKED_CYCLES: usize = 4;

/// One block at a time.
struct Cycles {
    size: usize,
    touched: Touched,
    zeroed: bool,
    /// Cycles before the measured ones.
    warm_up: usize,
    cycles: usize,
}

impl Cycles {
    fn block<'m>(&self, memory: &'m dyn Memory) -> Block<'m> {
        if self.zeroed { Block::zeroed(memory, self.size) } else { Block::new(memory, self.size) }
    }
}

impl Work for Cycles {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let order = self.touched.order(self.size.div_ceil(page_bytes()));
        let cycle = |number: usize| {
            let mut block = self.block(memory);
            for &page in order.of_use(number) {
                block.touch(page);
            }
        };
        (0..self.warm_up).for_each(cycle);
        let meter = Meter::start();
        (0..self.cycles).for_each(cycle);
        let cost = meter.stop();
        let mut checked_bytes = 0;
        for number in 0..CHECKED_CYCLES {
            let mut block = self.block(memory);
            checked_bytes += block.check(|_| false)?;
            for &page in order.of_use(number) {
                block.touch(page);
            }
            let mask = order.mask_of_use(number);
            checked_bytes += block.check(|page| mask[page])?;
            // What comes back must have been cleaned where the program wrote, then everywhere.
            let whole = number % 2 == 1;
            (0..block.pages()).filter(|&page| whole || mask[page]).for_each(|p| block.soil(p));
        }
        Ok(Outcome { cost, operations: self.cycles, checked_bytes })
    }
}

/// Blocks of `size` bytes, used one after the other.
pub fn of(size: usize, touched: Touched, cycles: usize) -> Box<dyn Work> {
    let warm_up = (cycles / 16).max(2);
    Box::new(Cycles { size, touched, zeroed: false, warm_up, cycles })
}

/// The microbenchmark of the reference-page patch.
pub fn add_patch(cases: &mut Vec<Case>, scale: Scale) {
    let parts = [
        ("one", "one page", Touched::First),
        ("half", "the first half of the pages", Touched::Prefix(50)),
        ("all", "all pages", Touched::Prefix(100)),
    ];
    for (name, what, touched) in parts {
        cases.push(Case {
            name: format!("patch-{name}"),
            title: format!("allocate {PATCH_BYTES} bytes, touch {what}, free"),
            unit: "cycle",
            baselines: &[Baseline::MmapMemset],
            with_large_pool: false,
            work: Box::new(Cycles {
                size: PATCH_BYTES,
                touched,
                zeroed: false,
                warm_up: 0,
                cycles: scale.pick(100, 30, 3),
            }),
        });
    }
}

/// Cycles of several sizes.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    // What is touched, and how much more often: short cycles need more of them for the clock.
    let parts = [
        ("0", "nothing", Touched::Prefix(0), 8),
        ("10", "the first 10 % of the pages", Touched::Prefix(10), 4),
        ("10-random", "10 % of the pages at random", Touched::Scattered(10), 1),
        ("50", "the first 50 % of the pages", Touched::Prefix(50), 1),
        ("100", "all pages", Touched::Prefix(100), 1),
    ];
    let total = scale.pick(512 * MIB, 128 * MIB, 8 * MIB);
    for size in [64 * KIB, 256 * KIB, MIB, 4 * MIB] {
        for (name, what, touched, often) in parts {
            let (size_name, cycles) = (short(size), total / size * often);
            cases.push(Case {
                name: format!("cycle-{size_name}-{name}"),
                title: format!("malloc {size_name}, touch {what}, free"),
                unit: "cycle",
                baselines: &[Baseline::WarmMemset],
                with_large_pool: false,
                work: of(size, touched, cycles),
            });
        }
    }
    let total = scale.pick(350_000_000, 105_000_000, 8 * MIB);
    for (name, size) in [("1M", MIB), ("35MB", 35_000_000)] {
        cases.push(Case {
            name: format!("calloc-{name}"),
            title: format!("calloc {name}, touch all pages, free"),
            unit: "cycle",
            baselines: &[],
            with_large_pool: false,
            work: Box::new(Cycles {
                size,
                touched: Touched::Prefix(100),
                zeroed: true,
                warm_up: 2,
                cycles: (total / size).max(2),
            }),
        });
    }
}
