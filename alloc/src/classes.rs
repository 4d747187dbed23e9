//! Size classes of small blocks.
//!
//! Multiples of 16 up to 128, then four to a doubling: a request wastes less than a fifth of its
//! block beyond 128 bytes, and less than 16 bytes below. (Requests that are equally likely waste a
//! tenth.) Every class is a multiple of 16, and
//! blocks lie at multiples of their class from a slot's border, so a class that is a multiple of
//! an alignment gives that alignment.

use crate::page_map::SLOT;

/// Bytes that every block is a multiple of, and aligned to.
pub const GRANULE: usize = 16;

/// Number of classes.
pub const COUNT: usize = 44;

/// Bytes in a block of the largest class.
pub const LARGEST: usize = 64 << 10;

/// Classes whose blocks are filled without a call.
pub const SHORT: usize = {
    let mut class = 0;
    while SIZES[class] as usize <= refpage::SHORT {
        class += 1;
    }
    class
};

/// Classes of which several blocks may share a cache line.
pub const SHARING: usize = {
    let mut class = 0;
    while SIZES[class] < 64 {
        class += 1;
    }
    class
};

/// Threads that are told apart by the states of the blocks that share cache lines.
pub const COLOURS: usize = 64;

/// States below this tell the class alone.
const COLOURED: usize = 256 - SHARING * COLOURS;

/// The state of a live block of `class`, as the page map notes it: never 0. That of a class whose blocks share
/// cache lines also tells the colour of the thread that it was handed out to.
pub const fn state(class: usize, colour: usize) -> u8 {
    (if class < SHARING { COLOURED + class * COLOURS + colour % COLOURS } else { class + 1 }) as u8
}

/// The class of each state.
static OF_STATE: [u8; 256] = {
    let mut classes = [0; 256];
    let mut class = 0;
    while class < COUNT {
        let mut colour = 0;
        while colour < COLOURS {
            classes[state(class, colour) as usize] = class as u8;
            colour += 1;
        }
        class += 1;
    }
    classes
};

/// The class of a live block whose state this is.
#[inline(always)]
pub fn of_state(state: u8) -> usize {
    let class = OF_STATE[usize::from(state)] as usize;
    // SAFETY: the table holds classes.
    unsafe { core::hint::assert_unchecked(class < COUNT) };
    class
}

const STEPS: usize = 4;
const LINEAR: usize = 128 / GRANULE;

/// Bytes in a block of each class.
pub const SIZES: [u32; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] = if class < LINEAR {
            (class + 1) * GRANULE
        } else {
            let doubling = (class - LINEAR) / STEPS;
            let step = (class - LINEAR) % STEPS;
            (STEPS + 1 + step) * ((128 / STEPS) << doubling)
        } as u32;
        class += 1;
    }
    sizes
};

/// The class of each size up to this comes from a table, in one load.
pub const TABLED: usize = 1024;

static TABLE: [u8; TABLED / GRANULE + 1] = {
    let mut table = [0; TABLED / GRANULE + 1];
    let mut i = 0;
    while i < table.len() {
        table[i] = computed(i * GRANULE) as u8;
        i += 1;
    }
    table
};

/// The smallest class whose blocks hold `size` bytes, at most [`LARGEST`].
#[inline(always)]
pub fn of(size: usize) -> usize {
    if size <= TABLED {
        // The index is at most the table's last by the line above.
        TABLE[size.div_ceil(GRANULE)] as usize
    } else {
        computed(size)
    }
}

const fn computed(size: usize) -> usize {
    if size <= 128 {
        return size.saturating_sub(1) / GRANULE;
    }
    let last = size - 1;
    let doubling = last.ilog2() as usize - 7;
    LINEAR + doubling * STEPS + ((last >> (doubling + 5)) & (STEPS - 1))
}

/// The smallest class that holds `size` bytes at a multiple of `align`, if there is one.
pub fn aligned(size: usize, align: usize) -> Option<usize> {
    let size = size.max(align);
    if size > LARGEST {
        return None;
    }
    (of(size)..COUNT).find(|&class| self::size(class).is_multiple_of(align))
}

/// Bytes in a block of `class`.
#[inline]
pub fn size(class: usize) -> usize {
    SIZES[class] as usize
}

/// Slots in a span of `class`: enough for seven blocks at least.
pub fn span_slots(class: usize) -> usize {
    (size(class) * 8).div_ceil(SLOT)
}

/// What a multiplication divides by, instead of by a block's size: offsets in a span are short.
const RECIPROCALS: [u64; COUNT] = {
    let mut reciprocals = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        reciprocals[class] = (1 << RECIPROCAL_SHIFT as u64) / SIZES[class] as u64 + 1;
        class += 1;
    }
    reciprocals
};

const RECIPROCAL_SHIFT: u32 = 40;

/// Which block of its span of `class` the byte at `offset` belongs to.
#[inline]
pub fn index_of(offset: usize, class: usize) -> usize {
    ((offset as u64 * RECIPROCALS[class]) >> RECIPROCAL_SHIFT) as usize
}

/// Blocks in a span of `class`. The arena keeps a word at the end of each span.
pub fn span_blocks(class: usize) -> usize {
    (span_slots(class) * SLOT - ARENA_WORD) / size(class)
}

/// What the arena keeps at the end of a span: talc's tag.
pub const ARENA_WORD: usize = size_of::<usize>();

/// Blocks of `class` that a thread keeps at most: 128, or fewer where that were more than 32 KiB.
pub const fn magazine(class: usize) -> usize {
    let fit = (32 << 10) / SIZES[class] as usize;
    if fit > 128 {
        128
    } else if fit < 2 {
        2
    } else {
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        let mut expected = 0;
        for bytes in 0..=LARGEST {
            if bytes > size(expected) {
                expected += 1;
            }
            assert_eq!(of(bytes), expected, "{bytes} bytes");
        }
        assert_eq!(expected, COUNT - 1);
        assert_eq!(size(COUNT - 1), LARGEST);
    }

    #[test]
    fn a_state_tells_the_class_and_the_colour() {
        let mut seen = std::collections::HashSet::new();
        for class in 0..COUNT {
            for colour in 0..if class < SHARING { COLOURS } else { 1 } {
                let state = state(class, colour);
                assert!(state != 0 && seen.insert(state));
                assert_eq!(of_state(state), class);
            }
        }
    }

    #[test]
    fn waste_is_bounded() {
        for bytes in 129..=LARGEST {
            assert!((size(of(bytes)) - bytes) * 5 < size(of(bytes)), "{bytes} bytes");
        }
    }

    #[test]
    fn a_byte_belongs_to_the_block_that_a_division_finds() {
        for class in 0..COUNT {
            for offset in 0..span_slots(class) * SLOT {
                assert_eq!(
                    index_of(offset, class),
                    offset / size(class),
                    "class {class}, {offset}"
                );
            }
        }
    }

    #[test]
    fn alignment_is_kept_by_the_class() {
        for shift in 4..=16 {
            let align = 1 << shift;
            for bytes in [1, 17, 100, 1000, 5000, 40_000] {
                let class = aligned(bytes, align).expect("up to 64 KiB");
                assert!(size(class) >= bytes && size(class).is_multiple_of(align));
            }
        }
        assert_eq!(aligned(1, 128 << 10), None);
    }
}
