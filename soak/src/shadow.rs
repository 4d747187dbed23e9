//! The shadow of one block: what each of its bytes has to read as, kept in intervals.

use std::ops::Range;

use crate::random::mix;

/// What a range of bytes holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The pattern: nobody has written there since it was handed out.
    Pattern,
    /// Zeros that calloc promised.
    Zero,
    /// What was written with this tag: each word is of the tag and of its place in the block, so that neither
    /// a byte of another block nor one of another place looks right.
    Tag(u64),
    /// This word.
    Word(u64),
    /// Something that cannot be foretold, such as the frame of a signal handler.
    Any,
}

impl Content {
    /// The word at this index of a block whose start is aligned to words; none where anything will do.
    pub fn word(self, index: usize, pattern: u64) -> Option<u64> {
        match self {
            Self::Pattern => Some(pattern),
            Self::Zero => Some(0),
            Self::Tag(tag) => Some(mix(tag ^ (index as u64) << 20)),
            Self::Word(word) => Some(word),
            Self::Any => None,
        }
    }

    fn byte(self, start: usize, offset: usize, pattern: u64) -> Option<u8> {
        // The pattern is a word at aligned addresses, which small blocks need not begin at.
        let (index, within) = match self {
            Self::Pattern => (0, (start + offset) % 8),
            _ => (offset / 8, offset % 8),
        };
        self.word(index, pattern).map(|word| word.to_ne_bytes()[within])
    }
}

/// A byte that is not what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub offset: usize,
    pub expected: u8,
    pub found: u8,
    pub content: Content,
}

/// The intervals of a block: each ends where the next begins, the last at the block's end.
#[derive(Clone, Debug)]
pub struct Shadow {
    ends: Vec<(usize, Content)>,
}

impl Shadow {
    /// Of `size` bytes that hold the same.
    pub fn new(size: usize, content: Content) -> Self {
        Self { ends: vec![(size, content)] }
    }

    pub fn size(&self) -> usize {
        self.ends.last().map_or(0, |&(end, _)| end)
    }

    /// The parts of a range and what they hold.
    pub fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, Content)> {
        let first = self.ends.partition_point(|&(end, _)| end <= range.start);
        let mut at = range.start;
        self.ends[first..].iter().map_while(move |&(end, content)| {
            let part = at..end.min(range.end);
            at = part.end;
            (!part.is_empty()).then_some((part, content))
        })
    }

    /// From now on the range holds `content`.
    pub fn set(&mut self, range: Range<usize>, content: Content) {
        if range.is_empty() {
            return;
        }
        let first = self.ends.partition_point(|&(end, _)| end <= range.start);
        let last = self.ends.partition_point(|&(end, _)| end < range.end);
        let begin = if first == 0 { 0 } else { self.ends[first - 1].0 };
        let mut new = Vec::with_capacity(3);
        if begin < range.start {
            new.push((range.start, self.ends[first].1));
        }
        new.push((range.end, content));
        let (end, behind) = self.ends[last];
        if range.end < end {
            new.push((end, behind));
        }
        self.ends.splice(first..=last, new);
    }

    /// A realloc: what is cut off is gone, what is new holds the pattern.
    pub fn resize(&mut self, size: usize) {
        let old = self.size();
        if size < old {
            let last = self.ends.partition_point(|&(end, _)| end < size);
            self.ends.truncate(last + 1);
            self.ends[last].0 = size;
        } else if size > old {
            self.ends.push((size, Content::Pattern));
        }
    }

    /// The first byte of the range that is not what it has to be.
    ///
    /// # Safety
    /// `start` is that of a block of this shadow's size, which nobody else writes to.
    pub unsafe fn check(
        &self,
        start: *const u8,
        range: Range<usize>,
        pattern: u64,
    ) -> Option<Wrong> {
        self.parts(range).find_map(|(part, content)| {
            // SAFETY: the part lies in the block; the rest is the caller's promise.
            unsafe { check_part(start, part, content, pattern) }
        })
    }
}

/// # Safety
/// As for `Shadow::check`.
unsafe fn check_part(
    start: *const u8,
    part: Range<usize>,
    content: Content,
    pattern: u64,
) -> Option<Wrong> {
    let base = start as usize;
    let mut offset = part.start;
    while offset < part.end {
        let whole = base.is_multiple_of(8) && offset.is_multiple_of(8) && part.end - offset >= 8;
        if whole {
            let expected = content.word(offset / 8, pattern)?;
            // SAFETY: eight bytes of the part, at an aligned address.
            if unsafe { start.add(offset).cast::<u64>().read_volatile() } == expected {
                offset += 8;
                continue;
            }
        }
        // SAFETY: a byte of the part.
        let found = unsafe { start.add(offset).read_volatile() };
        let expected = content.byte(base, offset, pattern)?;
        if found != expected {
            return Some(Wrong { offset, expected, found, content });
        }
        offset += 1;
    }
    None
}

/// Writes what `content` says to a range of a block, from its first byte to its last.
///
/// # Safety
/// The range lies in the block at `start`, which nobody else reads or writes.
pub unsafe fn write(start: *mut u8, range: Range<usize>, content: Content) {
    let mut offset = range.start;
    while offset < range.end {
        let index = offset / 8;
        let Some(word) = content.word(index, 0) else { return };
        let whole = (start as usize).is_multiple_of(8) && offset.is_multiple_of(8);
        if whole && range.end - offset >= 8 {
            // SAFETY: eight bytes of the range, at an aligned address.
            unsafe { start.add(offset).cast::<u64>().write_volatile(word) };
            offset += 8;
        } else {
            // SAFETY: a byte of the range.
            unsafe { start.add(offset).write_volatile(word.to_ne_bytes()[offset % 8]) };
            offset += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const PATTERN: u64 = 0x0123_4567_89ab_cdef;

    /// A block that holds what its shadow says, made by random writes and checked against a map of every byte.
    fn made(seed: u64) -> (Vec<u64>, usize, Shadow) {
        let mut random = Random::new(seed);
        let mut memory = vec![PATTERN; 128];
        let size = 1 + random.below(1000);
        let mut shadow = Shadow::new(size, Content::Pattern);
        let start = memory.as_mut_ptr().cast::<u8>();
        for tag in 0..random.below(40) as u64 {
            let from = random.below(size);
            let range = from..from + random.below(size - from + 1);
            let content = if tag % 3 == 0 { Content::Zero } else { Content::Tag(tag) };
            // SAFETY: the range lies in the memory.
            unsafe { write(start, range.clone(), content) };
            shadow.set(range, content);
        }
        (memory, size, shadow)
    }

    fn check(memory: &[u64], shadow: &Shadow, range: Range<usize>) -> Option<Wrong> {
        // SAFETY: the memory is longer than any shadow here.
        unsafe { shadow.check(memory.as_ptr().cast(), range, PATTERN) }
    }

    #[test]
    fn a_right_block_is_right_and_every_wrong_byte_is_noticed() {
        for seed in 0..300 {
            let (mut memory, size, shadow) = made(seed);
            assert_eq!(shadow.size(), size);
            assert_eq!(check(&memory, &shadow, 0..size), None, "seed {seed}: {shadow:?}");
            let offset = Random::new(seed).below(size);
            let right = memory[offset / 8];
            memory[offset / 8] ^= 0x80 << (offset % 8 * 8);
            let wrong = check(&memory, &shadow, 0..size).expect("a wrong byte");
            assert_eq!(wrong.offset, offset);
            assert_eq!(wrong.expected, right.to_ne_bytes()[offset % 8]);
            assert_eq!(check(&memory, &shadow, 0..offset), None);
            assert_eq!(check(&memory, &shadow, offset + 1..size), None);
        }
    }

    #[test]
    fn the_intervals_are_in_order_and_cover_the_block() {
        for seed in 0..300 {
            let (_, size, shadow) = made(seed);
            let mut at = 0;
            for (part, _) in shadow.parts(0..size) {
                assert_eq!(part.start, at);
                at = part.end;
            }
            assert_eq!(at, size, "seed {seed}: {shadow:?}");
        }
    }

    #[test]
    fn what_realloc_adds_holds_the_pattern_even_where_something_was_written_before() {
        let mut shadow = Shadow::new(100, Content::Zero);
        shadow.set(10..90, Content::Tag(1));
        shadow.resize(50);
        shadow.resize(200);
        let parts: Vec<_> = shadow.parts(0..200).collect();
        let expected =
            [(0..10, Content::Zero), (10..50, Content::Tag(1)), (50..200, Content::Pattern)];
        assert_eq!(parts, expected);
    }

    #[test]
    fn bytes_of_another_place_or_of_another_block_are_wrong() {
        let mut memory = vec![0u64; 16];
        let start = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: the range lies in the memory.
        unsafe { write(start, 0..128, Content::Tag(1)) };
        assert_eq!(check(&memory, &Shadow::new(128, Content::Tag(1)), 0..128), None);
        assert!(check(&memory, &Shadow::new(128, Content::Tag(2)), 0..128).is_some());
        memory.rotate_left(1);
        assert!(check(&memory, &Shadow::new(128, Content::Tag(1)), 0..128).is_some());
        assert_eq!(check(&memory, &Shadow::new(128, Content::Any), 0..128), None);
    }

    #[test]
    fn a_pattern_of_a_word_is_right_at_addresses_not_at_offsets() {
        let memory = [PATTERN; 4];
        let shadow = Shadow::new(20, Content::Pattern);
        // SAFETY: 3 + 20 bytes lie in the memory.
        let wrong = unsafe { shadow.check(memory.as_ptr().cast::<u8>().add(3), 0..20, PATTERN) };
        assert_eq!(wrong, None);
    }
}
