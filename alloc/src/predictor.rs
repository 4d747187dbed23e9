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

use refpage::{Fresh, Pages, Service};

use crate::books::{Part, part_of};
use crate::cache::Memory;
use crate::extents::{BINS, bin_of};
use crate::page_map::Kind;

/// Pages to place before anything is known: hardly a run is not touched at all, and a fault costs as
/// much as dozens of pages.
pub const AT_FIRST: usize = 2;

/// What a fault costs, and what it costs to give a page up and get it back, both counted in pages
/// that are refilled in vain; and how many pages a fault brings back.
const FAULT: u32 = 600;
const REGAIN: u32 = 10;
const PER_FAULT: u32 = 32;

/// What it costs, by that measure, to give `pages` up and need them after all.
fn cost_of_thinning(pages: usize) -> u32 {
    FAULT * (1 + pages as u32 / PER_FAULT) + REGAIN * pages as u32
}

/// How often the price of giving pages up is doubled at most.
const MOST_REGRETS: u32 = 6;

/// A bin's average before there is one.
const UNKNOWN: u32 = u32::MAX;

/// The unit of averages: in whole pages, one would stick above what it should fall to.
const PART: usize = 16;

/// What is known of one bin.
#[derive(Debug)]
struct Bin {
    /// The expected prefix, in [`PART`]s of a page: a moving average.
    prefix: AtomicU32,
    /// The run allocated last, slot plus one; 0 if it was looked up or freed.
    last: AtomicU32,
    /// How many times runs that had given up pages came to miss them.
    regrets: AtomicU32,
}

impl Bin {
    const fn new() -> Self {
        Self {
            prefix: AtomicU32::new(UNKNOWN),
            last: AtomicU32::new(0),
            regrets: AtomicU32::new(0),
        }
    }

    fn prefix(&self) -> Option<usize> {
        let prefix = self.prefix.load(Relaxed);
        (prefix != UNKNOWN).then_some((prefix as usize + PART / 2) / PART)
    }

    fn set_prefix(&self, pages: usize) {
        self.prefix.store((pages * PART) as u32, Relaxed);
    }

    fn average_in(&self, pages: usize) {
        let old = match self.prefix.load(Relaxed) {
            UNKNOWN => pages * PART,
            old => old as usize,
        };
        self.prefix.store(((old * 3 + pages * PART) / 4) as u32, Relaxed);
    }
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
        Self { content: [const { Bin::new() }; BINS], zero: [const { Bin::new() }; BINS] }
    }

    /// Pages from the start that the next run of `slots` will have touched when it is freed; none
    /// if there was no such run yet.
    pub fn expected(&self, slots: usize, fresh: Fresh) -> Option<usize> {
        self.bin(slots, fresh)?.prefix()
    }

    /// A run was freed after `prefix` of its pages had been touched.
    pub fn learn(&self, slots: usize, fresh: Fresh, prefix: usize) {
        if let Some(bin) = self.bin(slots, fresh) {
            bin.average_in(prefix);
        }
    }

    /// A run is being allocated, with no page in place yet: looks at the one before it, if that
    /// lives and tells something.
    pub fn look(&self, memory: Memory<'_>, slots: usize, fresh: Fresh) {
        let Some(bin) = self.bin(slots, fresh).filter(|_| fresh == Fresh::Content) else { return };
        let Some(last) = (bin.last.swap(0, Relaxed) as usize).checked_sub(1) else { return };
        let run = memory.map.run(last);
        let pages = memory.pages(last);
        if run.kind() != Kind::Large
            || run.slots.load(Relaxed) as usize != slots
            || part_of(memory, last) == Part::Zero && memory.engine.service() == Service::Lazy
        {
            return;
        }
        let present = if memory.engine.is_backed(pages.first) {
            let Some(counts) = count_by_halves(memory, pages) else { return };
            dense_prefix(pages.count, |half| counts.get(half).copied().unwrap_or(0))
        } else {
            let present = memory.engine.region().present();
            dense_prefix(pages.count, |half| present.count(pages.prefix(pages.count >> half)))
        };
        let placed = run.placed.load(Relaxed) as usize;
        if present > placed {
            // Its user went beyond what was placed.
            bin.set_prefix(bin.prefix().unwrap_or(0).max(present));
        } else if placed > 0 && is_wasted(memory, last, placed) {
            bin.set_prefix(bin.prefix().unwrap_or(AT_FIRST) / 2);
        }
    }

    /// The run at `head` was allocated from fresh slots.
    pub fn allocated(&self, memory: Memory<'_>, head: usize, fresh: Fresh) {
        let slots = memory.map.run(head).slots.load(Relaxed) as usize;
        if let Some(bin) = self.bin(slots, fresh) {
            bin.last.store(head as u32 + 1, Relaxed);
        }
    }

    /// Pages that a run has to have had refilled in vain before it gives `spare` pages up: as much
    /// as it will cost if they are needed after all, and more where they were before.
    pub fn price(&self, slots: usize, fresh: Fresh, spare: usize) -> u32 {
        let regrets = self.bin(slots, fresh).map_or(0, |bin| bin.regrets.load(Relaxed));
        cost_of_thinning(spare).saturating_mul(1 << regrets)
    }

    /// A run that gave `pages` up needs them after all, or more can be given up; until now, `saved`
    /// pages were not refilled for that: what it cost, or less.
    pub fn thinned(&self, slots: usize, fresh: Fresh, pages: usize, saved: u32) {
        let Some(bin) = self.bin(slots, fresh) else { return };
        let regrets = bin.regrets.load(Relaxed);
        let paid = saved >= cost_of_thinning(pages);
        let regrets = if paid { regrets.saturating_sub(1) } else { regrets + 1 };
        bin.regrets.store(regrets.min(MOST_REGRETS), Relaxed);
    }

    fn bin(&self, slots: usize, fresh: Fresh) -> Option<&Bin> {
        match fresh {
            Fresh::Content => self.content.get(bin_of(slots)),
            Fresh::Zero => self.zero.get(bin_of(slots)),
        }
    }
}

/// Whether the pages that were placed under a live run, `placed` of them, seem to be used by less than half;
/// also if the kernel does not tell.
fn is_wasted(memory: Memory<'_>, head: usize, placed: usize) -> bool {
    let seen = memory.cache.look_at(memory, head, || {
        let placed = memory.used(head).prefix(placed);
        memory.engine.sample(placed)
    });
    seen.is_some_and(|dirty| dirty.is_none_or(|dirty| dirty * 2 < placed))
}

/// The number of pages in the longest prefix, among all and halves of halves of a run's pages, of
/// which half is present; `count` tells how many are in a prefix, by how often it was halved.
fn dense_prefix(pages: usize, count: impl Fn(usize) -> usize) -> usize {
    let halves = (0..=pages.checked_ilog2().unwrap_or(0)).map(|half| half as usize);
    // What lies beyond is missing, or not worth having.
    halves
        .map(|half| (pages >> half, count(half)))
        .find(|(all, here)| here * 2 >= *all)
        .map_or(0, |(_, here)| here)
}

/// How many pages of a run are populated, of all and of halves of halves from the start on. The
/// run is somebody else's: what the kernel says is noted nowhere, as it may be wrong by now. None
/// if that cannot be found out.
fn count_by_halves(memory: Memory<'_>, pages: Pages) -> Option<[usize; usize::BITS as usize]> {
    let mut counts = [0; usize::BITS as usize];
    let told = memory.engine.ask_kernel(pages, |page, populated| {
        let place = page.first - pages.first;
        let halves = counts.iter_mut().enumerate();
        if populated {
            halves.take_while(|(half, _)| place < pages.count >> half).for_each(|(_, n)| *n += 1);
        }
    });
    told.then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_falls_as_far_as_its_users() {
        let bin = Bin::new();
        assert_eq!(bin.prefix(), None);
        bin.average_in(16);
        assert_eq!(bin.prefix(), Some(16), "the first one is believed");
        (0..20).for_each(|_| bin.average_in(1));
        assert_eq!(bin.prefix(), Some(1));
        (0..20).for_each(|_| bin.average_in(0));
        assert_eq!(bin.prefix(), Some(0));
    }

    #[test]
    fn giving_up_pages_that_were_missed_becomes_dearer() {
        let predictor = Predictor::new();
        let price = || predictor.price(1, Fresh::Content, 10);
        let first = price();
        let (little, much) = (FAULT, cost_of_thinning(10));
        predictor.thinned(1, Fresh::Content, 10, little);
        assert_eq!(price(), first * 2);
        (0..10).for_each(|_| predictor.thinned(1, Fresh::Content, 10, little));
        assert_eq!(price(), first << MOST_REGRETS);
        (0..10).for_each(|_| predictor.thinned(1, Fresh::Content, 10, much));
        assert_eq!(price(), first);
        assert_eq!(predictor.price(1, Fresh::Zero, 10), first, "malloc's and calloc's apart");
    }
}
