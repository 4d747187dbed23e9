//! The books of the run cache: which runs are cached, on which list, and how much memory that is.
//!
//! One lock guards them, taken once for a malloc and once for a free; so counting is cheap, too.

use core::sync::atomic::Ordering::Relaxed;

use refpage::{Fresh, Service};

use crate::cache::Memory;
use crate::extents::{BINS, List, bin_of};
use crate::page_map::Kind;

/// Bytes that freed memory may hold beyond what the program itself held at its peak.
const FLOOR: usize = 4 << 20;

/// Bytes of calloc from which its run comes from the zero part of the Region. Which pages were
/// touched there has to be asked of the kernel, which a smaller run is not worth.
const ZERO_PART_FROM: usize = 1 << 20;

/// Lists: for each bin one of large runs that hold the content and one of those that hold zeros,
/// then for each length one of spans with pages and one of spans without.
const ZEROS: usize = BINS;
const SPANS: usize = 2 * BINS;
const BARE_SPANS: usize = 3 * BINS;
const LISTS: usize = 4 * BINS;

/// Lists before this have pages to give back.
pub const WITH_PAGES: usize = BARE_SPANS;

/// Bins above its own that a run is looked for in, to take its beginning: up to twice the size.
const LARGER: usize = 4;

/// Cached runs that are compared when one is taken.
const CHOICE: usize = 4;

/// The parts of the Region, by what their missing pages read as without anyone's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The engine's content.
    Content,
    /// Zeros.
    Zero,
}

/// What large allocations have done, and hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes asked for and not yet freed.
    pub live_bytes: usize,
    /// Allocations.
    pub allocated: usize,
    /// Those that got a cached run.
    pub recycled: usize,
    /// Frees.
    pub freed: usize,
}

impl Usage {
    /// One more allocation of `size` bytes.
    pub fn add(&mut self, size: usize) {
        self.allocated += 1;
        self.live_bytes += size;
    }
}

/// What a large allocation asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes.
    pub size: usize,
    /// Slots of its run, a bin's size.
    pub slots: usize,
    /// What it has to read as.
    pub fresh: Fresh,
    /// Pages that are expected to be used.
    pub expected: usize,
}

/// What is cached.
#[derive(Debug)]
pub struct Books {
    lists: [List; LISTS],
    /// Present pages of cached runs.
    pages: usize,
    /// Present pages outside the cache and the pool, at most so far.
    peak: usize,
    /// What large allocations have done.
    pub usage: Usage,
}

impl Books {
    /// Nothing cached.
    pub fn new() -> Self {
        Self { lists: [List::EMPTY; LISTS], pages: 0, peak: 0, usage: Usage::default() }
    }

    /// Present pages of cached runs.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The same, as a word.
    pub fn pages_word(&self) -> &usize {
        &self.pages
    }

    /// Whether anything is cached that has pages to give back.
    pub fn any(&self) -> bool {
        self.lists.iter().take(WITH_PAGES).any(|list| list.newest().is_some())
    }

    /// The run of a list that has been cached longest.
    pub fn oldest_of(&self, list: usize) -> Option<usize> {
        self.lists.get(list)?.oldest()
    }

    /// The run with pages that has been cached longest.
    pub fn oldest(&self, memory: Memory<'_>) -> Option<usize> {
        let oldest = self.lists.iter().take(WITH_PAGES).filter_map(List::oldest);
        oldest.min_by_key(|&head| memory.map.run(head).since.load(Relaxed))
    }

    /// The empty span of a bin that was emptied last, one with pages if there is one.
    pub fn newest_span(&self, bin: usize) -> Option<usize> {
        let newest = |list: usize| self.lists.get(list)?.newest();
        newest(SPANS + bin).or_else(|| newest(BARE_SPANS + bin))
    }

    /// The cached run that serves best: one whose present pages hold what is wanted, else one that
    /// can be made to; else a larger one whose beginning is present, for a user of many pages.
    pub fn find_large(&self, memory: Memory<'_>, wanted: Wanted) -> Option<usize> {
        let Wanted { slots, fresh, expected, .. } = wanted;
        let bin = bin_of(slots);
        let (same, other) = match fresh {
            Fresh::Content => (bin, ZEROS + bin),
            Fresh::Zero => (ZEROS + bin, bin),
        };
        if let Some(head) = choose(memory, self.lists.get(same)?, expected) {
            return Some(head);
        }
        // A run of the zero part has to have its missing pages filled for malloc, and one that shows
        // a file's content for calloc.
        let converts = |&head: &usize| {
            let backed = memory.engine.is_backed(memory.pages(head).first);
            (fresh == Fresh::Zero && !backed)
                || (fresh == Fresh::Content && part_of(memory, head) == Part::Content)
                || memory.map.run(head).size.load(Relaxed) * 4 >= memory.pages(head).count * 3
        };
        if let Some(head) = self.lists.get(other)?.newest().filter(converts) {
            return Some(head);
        }
        if expected * 4 < memory.map.pages(0, slots).count {
            return None;
        }
        let mut larger = self.lists.get(same + 1..=same + LARGER)?.iter().filter_map(List::newest);
        larger.find(|&head| keeps_most(memory, head, slots))
    }

    /// Takes a run off its list.
    pub fn unlist(&mut self, memory: Memory<'_>, head: usize) {
        let run = memory.map.run(head);
        if let Some(list) = self.lists.get_mut(list_of(memory, head)) {
            list.remove(memory.map, head);
        }
        if run.kind() != Kind::BareSpan {
            self.pages -= run.size.load(Relaxed);
        }
        run.was_span.store(run.kind() != Kind::Cached, Relaxed);
        run.set_kind(Kind::Moving);
    }

    /// Puts a run of a cached kind on its list.
    pub fn enlist(&mut self, memory: Memory<'_>, head: usize) {
        let run = memory.map.run(head);
        if run.kind() != Kind::BareSpan {
            self.pages += run.size.load(Relaxed);
        }
        if let Some(list) = self.lists.get_mut(list_of(memory, head)) {
            list.push(memory.map, head);
        }
    }

    /// Present pages, the pool's and `more` to come among them, beyond what freed memory may
    /// bring the process to.
    pub fn excess(&mut self, memory: Memory<'_>, more: usize) -> usize {
        let present = memory.engine.region().present().total();
        let live = present.saturating_sub(self.pages);
        self.peak = self.peak.max(live);
        let floor = FLOOR >> memory.engine.region().page_shift();
        let allowed = self.peak.max(live + more) + floor;
        (present + memory.engine.pool_pages() + more).saturating_sub(allowed)
    }
}

/// The list that a cached run belongs on.
fn list_of(memory: Memory<'_>, head: usize) -> usize {
    let run = memory.map.run(head);
    let bin = bin_of(run.slots.load(Relaxed) as usize);
    match run.kind() {
        Kind::EmptySpan => SPANS + bin,
        Kind::BareSpan => BARE_SPANS + bin,
        _ if run.zeros.load(Relaxed) => ZEROS + bin,
        _ => bin,
    }
}

/// Whether of a run's first `slots` most pages are present: then its beginning is worth taking.
fn keeps_most(memory: Memory<'_>, head: usize, slots: usize) -> bool {
    let pages = memory.map.pages(head, slots);
    memory.engine.region().present().count(pages) * 4 >= pages.count * 3
}

/// The newest few of a list are as hot as each other: the one whose pages fit best.
fn choose(memory: Memory<'_>, list: &List, expected: usize) -> Option<usize> {
    let distance = |&head: &usize| memory.map.run(head).size.load(Relaxed).abs_diff(expected);
    list.newest_first(memory.map).take(CHOICE).min_by_key(distance)
}

/// The parts of the Region that fresh memory for `size` bytes is to come from, the better first.
/// `dense` says that most of it will be used.
pub fn parts_for(memory: Memory<'_>, fresh: Fresh, size: usize, dense: bool) -> [Part; 2] {
    let zero = match (memory.engine.service(), fresh) {
        // A file's content is for what is hardly used: it is dearer to write than plain memory.
        (Service::Cow, fresh) => dense || fresh == Fresh::Zero,
        (_, Fresh::Zero) => size >= ZERO_PART_FROM,
        (_, Fresh::Content) => false,
    };
    if zero { [Part::Zero, Part::Content] } else { [Part::Content, Part::Zero] }
}

/// The part of the Region that a run lies in.
pub fn part_of(memory: Memory<'_>, head: usize) -> Part {
    if memory.engine.region().in_zero_part(memory.map.pages(head, 1).first) {
        Part::Zero
    } else {
        Part::Content
    }
}
