//! What an untouched byte reads as.
//!
//! A pattern tiles the address space, not a block: which of its bytes memory reads as depends on
//! the address alone. So fills may begin and end anywhere, pages may be moved anywhere, and what
//! they hold still fits together.

use core::fmt;

use mte::{Granules, Tag};

/// What memory reads as: eight bytes, repeated, beginning at every address that is a multiple of
/// eight. A byte, or a word of 2 or 4 bytes, fills them by being repeated itself.
///
/// A word is a number in the machine's own byte order: a load of untouched memory, as wide as the
/// word and aligned to its size, gives the number, as a debugger prints it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pattern(u64);

impl Pattern {
    /// Zeros.
    pub const ZERO: Self = Self(0);

    /// Every byte is `byte`.
    pub const fn byte(byte: u8) -> Self {
        Self(u64::from_ne_bytes([byte; 8]))
    }

    /// Aligned 16-bit loads give `word`.
    pub const fn word16(word: u16) -> Self {
        Self(word as u64 * 0x0001_0001_0001_0001)
    }

    /// Aligned 32-bit loads give `word`.
    pub const fn word32(word: u32) -> Self {
        Self((word as u64) << 32 | word as u64)
    }

    /// Aligned 64-bit loads give `word`.
    pub const fn word64(word: u64) -> Self {
        Self(word)
    }

    /// What an aligned 64-bit load gives.
    #[inline]
    pub const fn as_word(self) -> u64 {
        self.0
    }

    /// The byte, if all are the same.
    #[inline]
    pub const fn as_byte(self) -> Option<u8> {
        let byte = self.0 as u8;
        if self.0 == Self::byte(byte).0 { Some(byte) } else { None }
    }

    /// The byte that memory at `address` reads as.
    #[inline]
    pub const fn byte_at(self, address: usize) -> u8 {
        self.0.to_ne_bytes()[address % 8]
    }

    /// The index of the first of `bytes` that is not what the pattern has at its address.
    pub fn find_other(self, bytes: &[u8]) -> Option<usize> {
        let first = |bytes: &[u8]| {
            let start = bytes.as_ptr().addr();
            (start..).zip(bytes).position(|(address, &byte)| byte != self.byte_at(address))
        };
        // SAFETY: any bytes are a word.
        let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
        // Without a branch, so that it is done many words at a time.
        let others = words.iter().fold(0, |others, &word| others | (word ^ self.0));
        if others == 0 && first(head).is_none() && first(tail).is_none() {
            return None;
        }
        first(bytes)
    }

    /// The eight bytes that memory holds from `address` on.
    #[inline]
    fn tile_at(self, address: usize) -> u64 {
        let bits = 8 * (address % 8) as u32;
        if cfg!(target_endian = "little") {
            self.0.rotate_right(bits)
        } else {
            self.0.rotate_left(bits)
        }
    }
}

/// As the option `pattern` takes it: in the fewest bytes that it repeats.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.0;
        if let Some(byte) = self.as_byte() {
            write!(f, "{byte:#04x}")
        } else if *self == Self::word16(word as u16) {
            write!(f, "{:#06x}", word as u16)
        } else if *self == Self::word32(word as u32) {
            write!(f, "{:#010x}", word as u32)
        } else {
            write!(f, "{word:#018x}")
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

/// The content of free and fresh memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Memory reads as this.
    Pattern(Pattern),
    /// Whatever the memory held: no guarantee, and no work.
    Anything,
}

impl Content {
    /// Writes the content over `len` bytes.
    ///
    /// # Safety
    /// The range is writable and nobody else uses it meanwhile.
    #[inline]
    pub unsafe fn fill(self, start: *mut u8, len: usize) {
        let Content::Pattern(pattern) = self else { return };
        match pattern.as_byte() {
            // SAFETY: the caller's promise. libc's memset uses the widest stores the CPU has.
            Some(byte) => unsafe { start.write_bytes(byte, len) },
            // SAFETY: the caller's promise.
            None => unsafe { tile(pattern, start, len) },
        }
    }

    /// As [`fill`](Self::fill), for a block of whole 16-byte granules, one at least: a short one is
    /// written here, in less time than it takes to call memset.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill); `start` is aligned to 16, `len` a multiple of 16 and not 0.
    #[inline(always)]
    pub unsafe fn fill_granules(self, start: *mut u8, len: usize) {
        if len > SHORT {
            // SAFETY: the caller's promise.
            return unsafe { self.fill(start, len) };
        }
        if let Content::Pattern(pattern) = self {
            // SAFETY: the caller's promise.
            unsafe { fill_short(pattern.0, start, len) };
        }
    }

    /// Writes the content over granules of memory with tags, and gives them `tag`.
    pub fn write(self, granules: Granules, tag: Tag) {
        match self {
            Content::Pattern(Pattern::ZERO) => granules.zero_and_tag(tag),
            Content::Pattern(pattern) => granules.fill_and_tag(pattern.0, tag),
            Content::Anything => granules.tag(tag),
        }
    }

    /// Whether a page seems to hold something else, by its first word: an estimate, for statistics
    /// and predictions only.
    ///
    /// # Safety
    /// A `u64` is readable and initialised at `start`, which is aligned to 8.
    pub unsafe fn seems_dirty(self, start: *const u8) -> bool {
        let Content::Pattern(pattern) = self else { return true };
        // SAFETY: the caller's promise.
        unsafe { start.cast::<u64>().read() != pattern.0 }
    }

    /// What memory in this content reads as, if it is defined.
    #[inline]
    pub fn pattern(self) -> Option<Pattern> {
        match self {
            Content::Pattern(pattern) => Some(pattern),
            Content::Anything => None,
        }
    }
}

/// Bytes up to which [`Content::fill_granules`] calls nobody.
pub const SHORT: usize = 256;

/// Fills granules with `word`, two of it in each, by stores that overlap where the length is none of 64,
/// 128 and 256: so no branch depends on more than that, and short blocks come in all lengths.
///
/// # Safety
/// `len` is a multiple of 16 from 16 to [`SHORT`]; so many bytes are writable from `start` on, which is
/// aligned to 16, and nobody else uses them meanwhile.
#[inline(always)]
unsafe fn fill_short(word: u64, start: *mut u8, len: usize) {
    // SAFETY: every granule lies in the caller's range: those of a group of 64 bytes within these, and
    // groups at the range's beginning and at its end.
    unsafe {
        if len <= 64 {
            let last = len - 16;
            let second = last.min(16);
            for at in [0, second, last - second, last] {
                write_granule(start.add(at), word);
            }
            return;
        }
        let group = |from: *mut u8, len: usize| {
            for at in (0..len).step_by(16) {
                write_granule(from.add(at), word);
            }
        };
        if len <= 128 {
            group(start, 64);
            group(start.add(len - 64), 64);
        } else {
            group(start, 128);
            group(start.add(len - 128), 128);
        }
    }
}

/// Writes `word` twice.
///
/// # Safety
/// 16 bytes are writable at `to`, which is aligned to that.
#[inline(always)]
unsafe fn write_granule(to: *mut u8, word: u64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; x86-64 has SSE2.
    unsafe {
        use core::arch::x86_64::{_mm_set1_epi64x, _mm_store_si128};
        _mm_store_si128(to.cast(), _mm_set1_epi64x(word as i64));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        to.cast::<[u64; 2]>().write([word; 2]);
    }
}

/// Fills with a pattern that memset cannot write: the beginning word by word, the rest with copies of
/// it, because libc's memcpy has wider stores than the compiler may use (twice as fast for 1 MiB).
///
/// # Safety
/// As for [`Content::fill`].
#[inline(never)]
unsafe fn tile(pattern: Pattern, start: *mut u8, len: usize) {
    // A multiple of 8, so that each copy goes on where the one before it ended.
    let first = len.min(COPIED);
    // SAFETY: the caller's range, or its beginning.
    unsafe { tile_by_words(pattern.tile_at(start.addr()), start, first) };
    for at in (COPIED..len).step_by(COPIED) {
        // SAFETY: both lie in the caller's range and are apart; the source was filled above.
        unsafe { start.add(at).copy_from_nonoverlapping(start, COPIED.min(len - at)) };
    }
}

/// Bytes that [`tile`] writes by itself: they stay in the nearest cache while they are copied.
const COPIED: usize = 4096;

/// Fills with `word`, from `start` on as it lies in memory.
///
/// # Safety
/// As for [`Content::fill`].
unsafe fn tile_by_words(word: u64, start: *mut u8, len: usize) {
    // So many words at once for the compiler to use the widest stores that it may.
    const WIDE: usize = 8;
    let mut at = 0;
    while len - at >= 8 * WIDE {
        // SAFETY: the range lies within the caller's.
        unsafe { start.add(at).cast::<[u64; WIDE]>().write_unaligned([word; WIDE]) };
        at += 8 * WIDE;
    }
    while len - at >= 8 {
        // SAFETY: as above.
        unsafe { start.add(at).cast::<u64>().write_unaligned(word) };
        at += 8;
    }
    let rest = word.to_ne_bytes();
    // SAFETY: fewer than 8 bytes are left, all of the caller's range; `rest` is a local.
    unsafe { start.add(at).copy_from_nonoverlapping(rest.as_ptr(), len - at) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    const WORD: Pattern = Pattern::word64(0x0123_4567_89ab_cdef);

    /// Every start within 32 bytes and every length up to past what one wide store takes, against
    /// one byte at a time.
    #[test]
    fn a_fill_is_the_pattern_at_every_phase_and_length() {
        #[repr(align(64))]
        struct Room([u8; 256]);
        let patterns = [
            Pattern::ZERO,
            Pattern::byte(0xaa),
            Pattern::word16(0x1234),
            Pattern::word32(0xdead_beef),
            WORD,
        ];
        for pattern in patterns {
            for first in 0..32 {
                for len in 0..200 {
                    let mut room = Room([0x77; 256]);
                    let start = room.0.as_mut_ptr();
                    // SAFETY: the range lies in the array.
                    unsafe { Content::Pattern(pattern).fill(start.add(first), len) };
                    for (at, &byte) in room.0.iter().enumerate() {
                        let filled = (first..first + len).contains(&at);
                        let expected =
                            if filled { pattern.as_word().to_ne_bytes()[at % 8] } else { 0x77 };
                        assert_eq!(byte, expected, "{pattern} from {first}, {len} bytes, at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn granules_are_filled_as_everything_else() {
        #[repr(align(16))]
        struct Room([u8; 1024]);
        for pattern in [Pattern::byte(0x5c), Pattern::word32(0xdead_beef), WORD] {
            for len in (16..=512).step_by(16) {
                let (mut one, mut other) = (Room([0x77; 1024]), Room([0x77; 1024]));
                // SAFETY: both ranges lie in their arrays, at a multiple of 16.
                unsafe {
                    Content::Pattern(pattern).fill_granules(one.0.as_mut_ptr().add(16), len);
                    Content::Pattern(pattern).fill(other.0.as_mut_ptr().add(16), len);
                }
                assert_eq!(one.0, other.0, "{pattern}, {len} bytes");
            }
        }
    }

    #[test]
    fn long_fills_that_begin_and_end_anywhere_fit_together() {
        let mut memory = vec![0u8; 3 << 20];
        let mut at = 0;
        for len in [1, 7, 4096, 9, 1_000_003, 65_536, 13, 1 << 20] {
            let piece = &mut memory[at..at + len];
            // SAFETY: the range is the piece.
            unsafe { Content::Pattern(WORD).fill(piece.as_mut_ptr(), len) };
            at += len;
        }
        assert_eq!(WORD.find_other(&memory[..at]), None);
        assert_eq!(WORD.find_other(&memory), Some(at), "and nothing beyond");
    }

    #[test]
    fn aligned_loads_give_the_number_itself() {
        let mut memory = [0u64; 4];
        let start = memory.as_mut_ptr();
        let filled_with = |pattern| {
            // SAFETY: the range is the array.
            unsafe { Content::Pattern(pattern).fill(start.cast(), 32) };
            // SAFETY: as above, and each load is aligned.
            unsafe { (start.read(), start.cast::<u32>().add(3).read(), start.cast::<u16>().read()) }
        };
        assert_eq!(filled_with(WORD).0, 0x0123_4567_89ab_cdef);
        assert_eq!(filled_with(Pattern::word32(0xdead_beef)).1, 0xdead_beef);
        assert_eq!(filled_with(Pattern::word16(0x1234)).2, 0x1234);
    }

    #[test]
    fn a_page_in_its_content_does_not_seem_dirty() {
        for pattern in [Pattern::byte(0xaa), WORD] {
            let mut page = [0u64; 512];
            let start = page.as_mut_ptr().cast::<u8>();
            // SAFETY: the range is the array, aligned to 8.
            unsafe {
                Content::Pattern(pattern).fill(start, 4096);
                assert!(!Content::Pattern(pattern).seems_dirty(start));
                start.write(!start.read());
                assert!(Content::Pattern(pattern).seems_dirty(start));
            }
        }
    }

    #[test]
    fn a_pattern_is_shown_in_the_fewest_bytes() {
        for (pattern, text) in [
            (Pattern::byte(5), "0x05"),
            (Pattern::word64(u64::from_ne_bytes([0x5c; 8])), "0x5c"),
            (Pattern::word16(0x00ab), "0x00ab"),
            (Pattern::word32(0xdead_beef), "0xdeadbeef"),
            (WORD, "0x0123456789abcdef"),
        ] {
            assert_eq!(pattern.to_string(), text);
        }
    }
}
