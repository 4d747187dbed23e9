//! What runs of a size are used for: how many pages from the start will be touched.
//!
//! ```text
//!   free ─────▶ touched prefix, found by refilling ──▶ learn ─┐
//!   allocate ─▶ what the run before it was used for ─▶ look ──┴▶ expected ─▶ pages placed now
//! ```
//!
//! A page placed in vain costs a fifth of a microsecond and its memory, a page missed a fault of
//! tens of microseconds; so what is learnt is a prefix of which half was touched, not a minimum.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use refpage::{Fresh, Pages};

use crate::cache::Memory;
use crate::extents::{BINS, bin_of};
use crate::page_map::Kind;

/// Runs of fewer pages are not looked up while they live: it costs a system call, as much as
/// placing some pages.
const LOOK_FROM: usize = 64;

/// What is known of one bin.
#[derive(Debug)]
struct Bin {
    /// The expected prefix in pages: a moving average.
    prefix: AtomicU32,
    /// The run allocated last, slot plus one; 0 if it was looked up or freed.
    last: AtomicU32,
}

/// What is known of all bins, for malloc and for calloc.
#[derive(Debug)]
pub struct Predictor {
    content: [Bin; BINS],
    zero: [Bin; BINS],
}

impl Predictor {
    /// Nothing known.
    pub const fn new() -> Self {
        const NEW: Bin = Bin { prefix: AtomicU32::new(0), last: AtomicU32::new(0) };
        Self { content: [NEW; BINS], zero: [NEW; BINS] }
    }

    /// Pages from the start that the next run of `slots` will have touched when it is freed.
    pub fn expected(&self, slots: usize, fresh: Fresh) -> usize {
        self.bin(slots, fresh).map_or(0, |bin| bin.prefix.load(Relaxed) as usize)
    }

    /// A run was freed after `prefix` of its pages had been touched.
    pub fn learn(&self, slots: usize, fresh: Fresh, prefix: usize) {
        let Some(bin) = self.bin(slots, fresh) else { return };
        let old = bin.prefix.load(Relaxed) as usize;
        bin.prefix.store(((old * 3 + prefix).div_ceil(4)) as u32, Relaxed);
    }

    /// A run is being allocated, with no page in place yet: looks at the one before it, if that
    /// lives and tells something.
    pub fn look(&self, memory: Memory<'_>, slots: usize, fresh: Fresh) {
        let Some(bin) = self.bin(slots, fresh).filter(|_| fresh == Fresh::Content) else { return };
        let Some(last) = (bin.last.swap(0, Relaxed) as usize).checked_sub(1) else { return };
        let run = memory.map.run(last);
        if run.kind() != Kind::Large || run.slots.load(Relaxed) as usize != slots {
            return;
        }
        let pages = memory.pages(last);
        let present = dense_prefix(memory, pages);
        let placed = run.placed.load(Relaxed) as usize;
        let old = bin.prefix.load(Relaxed) as usize;
        if present > placed {
            // Its user went beyond what was placed.
            bin.prefix.store(old.max(present) as u32, Relaxed);
        } else if placed >= LOOK_FROM
            && memory.engine.sample(pages.prefix(placed)).is_none_or(|dirty| dirty * 2 < placed)
        {
            bin.prefix.store(old as u32 / 2, Relaxed);
        }
    }

    /// The run at `head` was allocated, with `placed` of its pages put in place.
    pub fn allocated(&self, memory: Memory<'_>, head: usize, fresh: Fresh, placed: usize) {
        let run = memory.map.run(head);
        run.placed.store(placed as u32, Relaxed);
        if let Some(bin) = self.bin(run.slots.load(Relaxed) as usize, fresh) {
            bin.last.store(head as u32 + 1, Relaxed);
        }
    }

    fn bin(&self, slots: usize, fresh: Fresh) -> Option<&Bin> {
        match fresh {
            Fresh::Content => self.content.get(bin_of(slots)),
            Fresh::Zero => self.zero.get(bin_of(slots)),
        }
    }
}

/// The longest prefix, among all and halves of halves of the pages, of which half is present.
fn dense_prefix(memory: Memory<'_>, pages: Pages) -> usize {
    let present = memory.engine.region().present();
    let dense = |&count: &usize| present.count(pages.prefix(count)) * 2 >= count;
    let halves = core::iter::successors(Some(pages.count), |count| Some(count / 2));
    let longest = halves.take_while(|&count| count > 0).find(dense);
    // What lies beyond is missing, or not worth having.
    longest.map_or(0, |count| present.count(pages.prefix(count)))
}
