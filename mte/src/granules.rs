//! Memory that gets tags, and data with them.
//!
//! A short range takes stores for one granule and for two. A long one takes whole blocks where the CPU
//! has them, and where it has not, or data other than zeros goes with the tags, stores by 256 bytes. What a
//! page of 4 KiB takes, in instructions:
//!
//! | | blocks of 64 bytes | of 512 (user-mode QEMU's `max`) | none |
//! |---|---|---|---|
//! | tag, zero and tag | 198 | 58 | 181: ST2G, STZ2G |
//! | fill and tag | 320: STGP | 320 | 320 |
//!
//! Blocks of 64 bytes are no fewer instructions, but half the stores, and each is a whole cache line, which
//! need not be read.

use crate::instructions;
use crate::tags::{GRANULE, Tag, tag_of, with_tag};

/// The allocation tag of the granule at `address`; 0 if the memory has no tags.
///
/// # Safety
/// The granule is readable. A tag in the address does not matter.
#[inline]
pub unsafe fn tag_at(address: *const u8) -> Tag {
    if !crate::AVAILABLE {
        return Tag::ZERO;
    }
    // SAFETY: the caller's promise.
    tag_of(unsafe { instructions::ldg(address) }.addr() as u64)
}

/// A range of whole granules, in memory that is mapped with `PROT_MTE`; in other memory data is written and
/// no tags.
///
/// Nothing here checks a tag: a tag in the address with which the range was made does not matter.
#[derive(Clone, Copy, Debug)]
pub struct Granules {
    start: *mut u8,
    len: usize,
}

impl Granules {
    /// `len` bytes from `start` on.
    ///
    /// # Safety
    /// Both are multiples of [`GRANULE`]. The range is writable, and nobody else uses it until the value is
    /// used for the last time.
    #[inline]
    pub unsafe fn new(start: *mut u8, len: usize) -> Self {
        debug_assert!(start.addr().is_multiple_of(GRANULE) && len.is_multiple_of(GRANULE));
        Self { start, len }
    }

    /// Tags the range; the data stays.
    #[inline]
    pub fn tag(self, tag: Tag) {
        if crate::AVAILABLE {
            self.store(Tags, tag);
        }
    }

    /// Zeroes the range and tags it.
    #[inline]
    pub fn zero_and_tag(self, tag: Tag) {
        self.store(Zeros, tag);
    }

    /// Writes `word` to every aligned 8 bytes of the range, and tags it.
    #[inline]
    pub fn fill_and_tag(self, word: u64, tag: Tag) {
        self.store(Words(word), tag);
    }

    #[inline]
    fn store(self, stores: impl Stores, tag: Tag) {
        let start = if crate::AVAILABLE {
            self.start.map_addr(|address| with_tag(address as u64, tag) as usize)
        } else {
            self.start
        };
        // SAFETY: the range is the value's own, by the promise made to `new`.
        unsafe {
            if self.len <= SHORT {
                short(stores, start, self.len)
            } else {
                long(stores, start, self.len)
            }
        }
    }
}

/// Bytes for which a call would cost more than it saves.
const SHORT: usize = 256;
/// What [`Stores::sixteen`] writes.
const SIXTEEN: usize = 16 * GRANULE;
/// Fewer blocks than these are not worth asking for their size.
const WORTHWHILE: usize = 4;

/// What is stored. All of it takes the tag from the address.
///
/// # Safety
/// Of all methods: the bytes are writable, whole granules, and nobody else's meanwhile.
trait Stores: Copy {
    /// Stores to one granule.
    unsafe fn one(self, at: *mut u8);
    /// Stores to two granules.
    unsafe fn two(self, at: *mut u8);
    /// Stores to sixteen granules.
    unsafe fn sixteen(self, at: *mut u8);
    /// The size of a block, if blocks can be had and are cheaper.
    fn block(self) -> Option<usize> {
        None
    }
    /// Stores to a block; aligned to its size.
    unsafe fn whole_block(self, _at: *mut u8) {
        unreachable!("there is no block");
    }
}

/// Tags alone.
#[derive(Clone, Copy)]
struct Tags;

impl Stores for Tags {
    #[inline(always)]
    unsafe fn one(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stg(at) }
    }

    #[inline(always)]
    unsafe fn two(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::st2g(at) }
    }

    #[inline(always)]
    unsafe fn sixteen(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::st2g_by_8(at) }
    }

    #[inline(always)]
    fn block(self) -> Option<usize> {
        instructions::block()
    }

    #[inline(always)]
    unsafe fn whole_block(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::dc_gva(at) }
    }
}

/// Zeros.
#[derive(Clone, Copy)]
struct Zeros;

impl Stores for Zeros {
    #[inline(always)]
    unsafe fn one(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stzg(at) }
    }

    #[inline(always)]
    unsafe fn two(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stz2g(at) }
    }

    #[inline(always)]
    unsafe fn sixteen(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stz2g_by_8(at) }
    }

    #[inline(always)]
    fn block(self) -> Option<usize> {
        instructions::block()
    }

    #[inline(always)]
    unsafe fn whole_block(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::dc_gzva(at) }
    }
}

/// A word, repeated. Blocks would have to be written a second time.
#[derive(Clone, Copy)]
struct Words(u64);

impl Stores for Words {
    #[inline(always)]
    unsafe fn one(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stgp(at, self.0) }
    }

    #[inline(always)]
    unsafe fn two(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stgp_by_2(at, self.0) }
    }

    #[inline(always)]
    unsafe fn sixteen(self, at: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { instructions::stgp_by_16(at, self.0) }
    }
}

/// Stores to a short range: a loop of three instructions, and none where the compiler knows the length.
///
/// # Safety
/// As for the methods of [`Stores`].
#[inline(always)]
unsafe fn short(stores: impl Stores, start: *mut u8, len: usize) {
    let odd = len & GRANULE;
    // SAFETY: every granule lies in the caller's range.
    unsafe {
        if odd != 0 {
            stores.one(start);
        }
        each(start.add(odd), len - odd, 2 * GRANULE, |at| stores.two(at));
    }
}

/// Stores to a long range.
///
/// # Safety
/// As for the methods of [`Stores`].
#[inline(never)]
unsafe fn long(stores: impl Stores, start: *mut u8, len: usize) {
    // SAFETY: the parts lie in the caller's range; the blocks are aligned and lie in it whole.
    unsafe {
        let Some(block) = stores.block().filter(|&block| len >= WORTHWHILE * block) else {
            let rest = len % SIXTEEN;
            short(stores, start, rest);
            return each(start.add(rest), len - rest, SIXTEEN, |at| stores.sixteen(at));
        };
        // A block's size is a power of two.
        let head = start.addr().wrapping_neg() & (block - 1);
        let tail = (len - head) & (block - 1);
        let middle = len - head - tail;
        let four = middle & !(4 * block - 1);
        short(stores, start, head);
        each(start.add(head), four, 4 * block, |at| {
            for nth in 0..4 {
                stores.whole_block(at.add(nth * block));
            }
        });
        each(start.add(head + four), middle - four, block, |at| stores.whole_block(at));
        short(stores, start.add(len - tail), tail);
    }
}

/// Calls `store` for each of the steps that `len` bytes from `start` on are.
///
/// # Safety
/// The bytes are the caller's, and a multiple of `step`.
#[inline(always)]
unsafe fn each(start: *mut u8, len: usize, step: usize, mut store: impl FnMut(*mut u8)) {
    let (mut at, end) = (start, start.wrapping_add(len));
    while at != end {
        store(at);
        // SAFETY: the next step, or the end.
        at = unsafe { at.add(step) };
    }
}
