//! What a program can read that never wrote it: in fresh memory, in memory that somebody used before, and in what
//! realloc adds.
//!
//! Other allocators promise nothing here, so that nothing can be wrong; the report shows what there is.

use serde::{Deserialize, Serialize};

use crate::cases::Outcome;
use crate::measure::Meter;
use crate::memory::{Malloc, Memory};

/// What the user before wrote: no allocator's pattern.
const SECRET: u8 = 0x5e;
/// So many of them in a row are no chance.
const ROW: usize = 8;
/// Sizes that are looked at: small, of some pages, and large.
const SIZES: [usize; 5] = [48, 1000, 20_000, 200_000, 4 << 20];
/// Blocks of a size at a time.
const BLOCKS: usize = 8;

/// Memory that a program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Situation {
    /// malloc, before anything of the size was freed.
    Fresh,
    /// malloc, after blocks of the size were written and freed.
    Recycled,
    /// What realloc adds, in memory that was written and freed.
    Grown,
    /// calloc, after blocks of the size were written and freed.
    Calloc,
}

impl Situation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Recycled, Self::Grown, Self::Calloc];

    /// The head of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Fresh => "fresh malloc",
            Self::Recycled => "malloc, used before",
            Self::Grown => "realloc's new part",
            Self::Calloc => "calloc",
        }
    }
}

/// What was read in one situation, over all sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The one byte that all of it was, if it was one.
    pub byte: Option<u8>,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// How many of them were what the user before had written.
    pub stale: u64,
}

/// A situation and what was read in it.
pub type Readings = Vec<(Situation, Reading)>;

/// Looks at all of them.
pub fn look(memory: &Malloc) -> (Outcome, Readings) {
    let meter = Meter::start();
    let mut readings = Vec::new();
    for situation in Situation::ALL {
        let mut sum = Sum::default();
        for size in SIZES {
            situation.read(memory, size, &mut sum);
        }
        readings.push((situation, sum.reading()));
    }
    let checked_bytes = readings.iter().map(|(_, reading)| reading.bytes).sum();
    let operations = readings.len() * SIZES.len() * BLOCKS;
    (Outcome { cost: meter.stop(), operations, checked_bytes }, readings)
}

impl Situation {
    fn read(self, memory: &Malloc, size: usize, sum: &mut Sum) {
        if self != Self::Fresh {
            // Of the new size too: what grows may take the memory of such a one.
            soil(memory, size);
            soil(memory, 2 * size);
        }
        let blocks: Vec<(*mut u8, usize)> = (0..BLOCKS)
            .map(|_| match self {
                Self::Fresh | Self::Recycled => {
                    let block = memory.allocate(size);
                    sum.add(block, 0, size);
                    (block, size)
                }
                Self::Calloc => {
                    let block = memory.allocate_zeroed(size);
                    sum.add(block, 0, size);
                    (block, size)
                }
                Self::Grown => {
                    let block = memory.allocate(size);
                    // SAFETY: the block has that size, is this function's alone, and is replaced.
                    let grown = unsafe {
                        block.write_bytes(0, size);
                        memory.grow(block, size, 2 * size)
                    };
                    sum.add(grown, size, 2 * size);
                    (grown, 2 * size)
                }
            })
            .collect();
        // SAFETY: all are live, and freed once.
        blocks.into_iter().for_each(|(block, size)| unsafe { memory.free(block, size) });
    }
}

/// Blocks of a user who leaves something behind.
fn soil(memory: &Malloc, size: usize) {
    let blocks: Vec<*mut u8> = (0..BLOCKS).map(|_| memory.allocate(size)).collect();
    for block in blocks {
        assert!(!block.is_null(), "the machine has this much memory");
        // SAFETY: the block is live, has that size, is this function's alone, and is freed once. It is hidden, so
        // that the compiler does not leave out a write that nobody reads.
        unsafe {
            std::hint::black_box(block).write_bytes(SECRET, size);
            memory.free(block, size);
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Sum {
    reading: Reading,
    mixed: bool,
}

impl Sum {
    /// Reads the bytes from `from` to `to` of a block.
    fn add(&mut self, block: *mut u8, from: usize, to: usize) {
        assert!(!block.is_null(), "the machine has this much memory");
        // SAFETY: the block is live and `to` bytes long; hidden, so that the compiler does not take it for undefined.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                std::hint::black_box(block).cast_const().add(from),
                to - from,
            )
        };
        let byte = *self.reading.byte.get_or_insert(bytes[0]);
        self.mixed |= bytes.iter().any(|&other| other != byte);
        self.reading.bytes += bytes.len() as u64;
        let rows = bytes.chunk_by(|one, next| one == next);
        let stale = rows.filter(|row| row[0] == SECRET && row.len() >= ROW);
        self.reading.stale += stale.map(|row| row.len() as u64).sum::<u64>();
    }

    fn reading(self) -> Reading {
        Reading { byte: self.reading.byte.filter(|_| !self.mixed), ..self.reading }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_before_wrote_is_found_and_a_pattern_is_told() {
        let read = |parts: &mut [&mut [u8]]| {
            let mut sum = Sum::default();
            parts.iter_mut().for_each(|part| sum.add(part.as_mut_ptr(), 0, part.len()));
            sum.reading()
        };
        let pattern = read(&mut [&mut [0xaa; 5], &mut [0xaa; 3]]);
        assert_eq!(pattern, Reading { byte: Some(0xaa), bytes: 8, stale: 0 });
        let stale = read(&mut [&mut [0, SECRET, 0], &mut [SECRET; 9]]);
        assert_eq!(stale, Reading { byte: None, bytes: 12, stale: 9 });
    }
}
