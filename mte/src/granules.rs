//! Memory that gets tags, and data with them.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::instructions::{self, st2g, stg, stgp, stz2g, stzg};
use crate::tags::{GRANULE, Tag, TagSet, choose, tag_of, with_tag};

/// A random tag that is not excluded, and not 0 unless no other is left.
#[inline]
pub fn random(excluded: TagSet) -> Tag {
    if !crate::AVAILABLE {
        return Tag::ZERO;
    }
    // SAFETY: it touches no memory.
    let tagged = unsafe { instructions::irg(core::ptr::null_mut(), excluded.mask()) };
    let tag = tag_of(tagged.addr() as u64);
    if tag == Tag::ZERO { random_otherwise(excluded) } else { tag }
}

/// What [`random`] gives where IRG gives 0: to a thread without tags enabled, or if it was the program's
/// choice, or if nothing else is left.
#[cold]
#[inline(never)]
fn random_otherwise(excluded: TagSet) -> Tag {
    /// Weyl's sequence of SplitMix64 (Steele, Lea, Flood 2014), begun where the loader happened to put us.
    static SEED: AtomicU64 = AtomicU64::new(0);
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let place = core::ptr::from_ref(&excluded).addr() ^ core::ptr::from_ref(&SEED).addr() << 20;
    let mut seed = SEED.fetch_add(STEP, Ordering::Relaxed) ^ place as u64;
    seed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ seed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    choose(seed ^ seed >> 31, excluded.insert(Tag::ZERO)).unwrap_or(Tag::ZERO)
}

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
        debug_assert!(start.addr() % GRANULE == 0 && len % GRANULE == 0);
        Self { start, len }
    }

    /// Tags the range; the data stays.
    #[inline]
    pub fn tag(self, tag: Tag) {
        if !crate::AVAILABLE {
            return;
        }
        let (mut at, end) = self.tagged(tag);
        // SAFETY: the range is the value's own, by the promise made to `new`.
        unsafe {
            if self.len % (2 * GRANULE) != 0 {
                stg(at);
                at = at.add(GRANULE);
            }
            while at != end {
                st2g(at);
                at = at.add(2 * GRANULE);
            }
        }
    }

    /// Zeroes the range and tags it.
    #[inline]
    pub fn zero_and_tag(self, tag: Tag) {
        let (mut at, end) = self.tagged(tag);
        // SAFETY: the range is the value's own, by the promise made to `new`.
        unsafe {
            if self.len % (2 * GRANULE) != 0 {
                stzg(at);
                at = at.add(GRANULE);
            }
            while at != end {
                stz2g(at);
                at = at.add(2 * GRANULE);
            }
        }
    }

    /// Writes `word` to every aligned 8 bytes of the range, and tags it.
    #[inline]
    pub fn fill_and_tag(self, word: u64, tag: Tag) {
        let (mut at, end) = self.tagged(tag);
        while at != end {
            // SAFETY: the range is the value's own, by the promise made to `new`.
            unsafe {
                stgp(at, word, word);
                at = at.add(GRANULE);
            }
        }
    }

    /// The start and the end, with `tag` in both.
    #[inline]
    fn tagged(self, tag: Tag) -> (*mut u8, *mut u8) {
        let start = if crate::AVAILABLE {
            self.start.map_addr(|address| with_tag(address as u64, tag) as usize)
        } else {
            self.start
        };
        (start, start.wrapping_add(self.len))
    }
}
