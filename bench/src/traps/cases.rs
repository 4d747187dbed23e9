//! The cases: large blocks that are allocated, touched and freed in turn.

use std::time::{Duration, Instant};

use crate::cases::{Outcome, Scale, short};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong};
use crate::seed;
use refpage_compactor::Random;

use super::space::{Space, Watch};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Sizes with a case of their own.
const SIZES: [usize; 6] = [64 * KIB, 256 * KIB, MIB, 2 * MIB, 4 * MIB, 16 * MIB];
/// Sparse: one page in so many.
const APART: usize = 8;
/// Sizes drawn at random are multiples of this.
const GRAIN: usize = 16;
/// How often the address space is looked at in one lap.
const LOOKS: usize = 16;
/// At most so many laps: they are for peers whose cycles are too short for the clock.
const LAPS: usize = 16;

/// What is done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touch {
    /// A few words of each page are looked at, then all of it is written.
    Dense,
    /// A byte in each eighth page is written, and words behind it looked at.
    Sparse,
}

/// A workload.
pub struct Case {
    /// A name for the command line.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// The size of its blocks; none if they differ.
    pub size: Option<usize>,
    touch: Touch,
    zeroed: bool,
    /// Least and greatest size.
    sizes: [usize; 2],
    /// How many blocks live at a time.
    slots: usize,
    /// Cycles before the measured ones, once all slots are filled.
    warm_up: usize,
    /// Cycles of a lap.
    cycles: usize,
    /// Laps are run until so much time has passed.
    least: Duration,
    /// Cycles after them whose blocks are read byte by byte.
    checked: usize,
}

/// All cases, in the order of the output.
pub fn all(scale: Scale) -> Vec<Case> {
    let total = scale.pick(2048 * MIB, 128 * MIB, 2 * MIB);
    let checked = scale.pick(4, 2, 2);
    let least = Duration::from_millis(scale.pick(150, 15, 0));
    let cycle = |size: usize, touch, zeroed| {
        // A page that is written costs more than one that is passed over.
        let often = if touch == Touch::Sparse { 4 } else { 1 };
        let cycles = (total / size * often).max(2);
        let (function, size_name) = (if zeroed { "calloc" } else { "malloc" }, short(size));
        let (name, what) = match touch {
            Touch::Dense => ("dense", "look at and write every page"),
            Touch::Sparse => ("sparse", "write one byte in each eighth page"),
        };
        let name = if zeroed { function } else { name };
        Case {
            name: format!("{name}-{size_name}"),
            title: format!("{function} {size_name}, {what}, free"),
            size: Some(size),
            touch,
            zeroed,
            sizes: [size; 2],
            slots: 1,
            warm_up: (cycles / 16).max(2),
            cycles,
            least,
            checked,
        }
    };
    let mut cases = Vec::new();
    for touch in [Touch::Dense, Touch::Sparse] {
        cases.extend(SIZES.map(|size| cycle(size, touch, false)));
    }
    let (sizes, slots) = ([64 * KIB, 2 * MIB], scale.pick(64, 64, 4));
    cases.push(Case {
        name: "random".into(),
        title: format!(
            "{slots} live blocks of {} to {}, replaced at random, every page looked at and written",
            short(sizes[0]),
            short(sizes[1])
        ),
        size: None,
        touch: Touch::Dense,
        zeroed: false,
        sizes,
        slots,
        warm_up: scale.pick(slots, 8, 2),
        cycles: (total / MIB).max(4),
        least,
        checked,
    });
    cases.push(cycle(MIB, Touch::Dense, true));
    cases
}

/// A live block, and what its pages were filled with.
struct Slot<'m> {
    block: Block<'m>,
    byte: u8,
}

/// What a run did so far.
#[derive(Default)]
struct Tally {
    touched_pages: u64,
    checked_bytes: u64,
}

impl Case {
    /// Runs it, then reads some more blocks byte by byte.
    pub fn run(&self, memory: &dyn Memory) -> Result<(Outcome, Space), Wrong> {
        let mut random = seed::random(2022);
        let mut tally = Tally::default();
        let mut slots = Vec::with_capacity(self.slots);
        for number in 0..self.slots {
            slots.push(Some(self.slot(memory, &mut random, number, &mut tally)?));
        }
        // How many more there will be is for the clock to say.
        seed::note([random.clone().next()]);
        let mut cycle = |number, tally: &mut Tally| {
            let slot = &mut slots[random.below(self.slots)];
            if let Some(old) = slot.take() {
                tally.checked_bytes += self.end(&old)?;
            }
            *slot = Some(self.slot(memory, &mut random, number, tally)?);
            Ok(())
        };
        for number in 0..self.warm_up {
            cycle(number, &mut tally)?;
        }
        tally.touched_pages = 0;
        let between = self.cycles.div_ceil(LOOKS);
        let mut watch = Watch::start();
        let meter = Meter::start();
        let begun = Instant::now();
        let mut laps = 0;
        while laps == 0 || (laps < LAPS && begun.elapsed() < self.least) {
            for number in 0..self.cycles {
                cycle(number, &mut tally)?;
                if (number + 1) % between == 0 || number + 1 == self.cycles {
                    watch.look();
                }
            }
            laps += 1;
        }
        let cost = meter.stop();
        let (cost, space) = watch.settle(cost, tally.touched_pages);
        for slot in slots.into_iter().flatten() {
            tally.checked_bytes += self.check_written(&slot)?;
        }
        for number in 0..self.checked {
            tally.checked_bytes += self.check(memory, &mut random, number)?;
        }
        let Tally { checked_bytes, .. } = tally;
        Ok((Outcome { cost, operations: laps * self.cycles, checked_bytes }, space))
    }

    fn block<'m>(&self, memory: &'m dyn Memory, random: &mut Random) -> Block<'m> {
        let [least, most] = self.sizes;
        let size = least + random.below((most - least) / GRAIN + 1) * GRAIN;
        if self.zeroed { Block::zeroed(memory, size) } else { Block::new(memory, size) }
    }

    /// A fresh block, looked at and touched.
    #[inline]
    fn slot<'m>(
        &self,
        memory: &'m dyn Memory,
        random: &mut Random,
        number: usize,
        tally: &mut Tally,
    ) -> Result<Slot<'m>, Wrong> {
        let mut slot = Slot { block: self.block(memory, random), byte: byte(number) };
        self.touch(&mut slot, tally)?;
        Ok(slot)
    }

    #[inline]
    fn touch(&self, Slot { block, byte }: &mut Slot, tally: &mut Tally) -> Result<(), Wrong> {
        match self.touch {
            Touch::Dense => {
                for page in 0..block.pages() {
                    tally.checked_bytes += block.glance(page)?;
                    block.fill(page, *byte);
                }
                tally.touched_pages += block.pages() as u64;
            }
            Touch::Sparse => {
                for page in (0..block.pages()).step_by(APART) {
                    block.touch(page);
                    tally.checked_bytes += block.glance(page)?;
                }
                tally.touched_pages += block.pages().div_ceil(APART) as u64;
            }
        }
        Ok(())
    }

    /// Before a block is freed: nobody else may have written to it.
    #[inline]
    fn end(&self, slot: &Slot) -> Result<u64, Wrong> {
        match self.touch {
            Touch::Dense => slot.block.glance_at_ends(slot.byte),
            Touch::Sparse => slot.block.glance(0),
        }
    }

    /// Reads all of a fresh block, touches it, reads it again, and leaves nothing of it.
    fn check(&self, memory: &dyn Memory, random: &mut Random, number: usize) -> Result<u64, Wrong> {
        let mut slot = Slot { block: self.block(memory, random), byte: byte(number) };
        let mut checked = slot.block.check(|_| false)?;
        let mut tally = Tally::default();
        self.touch(&mut slot, &mut tally)?;
        checked += tally.checked_bytes + self.check_written(&slot)?;
        (0..slot.block.pages()).for_each(|page| slot.block.soil(page));
        Ok(checked)
    }

    /// Reads all of a block that was touched.
    fn check_written(&self, slot: &Slot) -> Result<u64, Wrong> {
        match self.touch {
            Touch::Dense => slot.block.check_filled(slot.byte),
            Touch::Sparse => slot.block.check(|page| page % APART == 0),
        }
    }
}

/// What blocks are filled with: never zero, nor refpage's pattern.
fn byte(number: usize) -> u8 {
    number as u8 & 0x7f | 1
}

#[cfg(test)]
mod tests;
