//! The profile of the allocations (option `profile`): how many there were of each size, how much of them was
//! written, and what memset would have cost.
//!
//! ```text
//!   Large ─ allocated, resized, moved, freed ─▶ Record of its run ─┐
//!                                                                  ├─▶ tallies, by class ─▶ report, at exit
//!   heap ── small blocks, on the slow path ────────────────────────┘        ▲
//!   live allocations at exit ─ looked at ───────────────────────────────────┘
//! ```
//!
//! **When it is off**, it costs a test on the slow paths, and nothing on malloc's and free's fast ones. When it is on,
//! small blocks take the slow path (see [`Heap::is_strict`](crate::heap::Heap)), and every present page of a large
//! allocation is read once, when it is freed.
//!
//! **Written** is a page that holds something else than it was handed out with when its allocation is freed, or
//! the process exits: by all of its bytes. With `off`, which hands out anything, it is a page that is in place,
//! whoever wrote to it.
//!
//! **realloc** does not end an allocation: it stays one, in the class of the most bytes that it ever had. What is
//! cut from its end is looked at then, and counts for it. From a small block to a large one or back, it is a
//! malloc and a free. With `guards=right`, where it copies, what it copies counts as written.
//!
//! **A child of fork** begins anew. What it has from its parent is in the parent's profile alone, but that small blocks
//! which the child frees count as freed by it.
//!
//! # The JSON
//!
//! Numbers, but for `service`, `written_by` and `program`, which are text, and `large` and `zeroed`. Pages are OS pages.
//!
//! - `process`, `program`: the number and the name of the process. `service`, `page_bytes`, `threshold_bytes`.
//! - `written_by`: how pages are known to be written: `content`, or `presence` with `off`.
//! - `classes`: what there was at all, by size, small blocks first. A class of large allocations has a row for those
//!   of malloc's and one for those of calloc's. Each has `least_bytes`, `most_bytes`, `large` and `zeroed`, true or false
//!   (`zeroed` is null for small blocks, which are told together), then the keys of [`Sum`](tally::Sum), which says what
//!   they are; for small blocks those after `bytes_asked` but `live` are 0.
//!   Last `share_written`, eight counts of allocations by the share of their pages that was written: none, up to 1/16,
//!   1/8, 1/4, 1/2, 3/4, less than all, all.
//! - `totals`: of large allocations `malloc` and `calloc`, and `small`: the same keys.
//! - `memset`: `bytes`, what memset would have written: all that large mallocs asked for and realloc added.
//!   `recycled_bytes`, those of them in memory that was in use before. `peak_pages`, the most that live large mallocs
//!   had at once, which memset would have put in place.
//! - `refpage`: of the same allocations `pages_placed`, those put in place; `pages_refilled`, those whose content was
//!   restored when they were freed; `peak_pages`, the most that were in place at once as far as it was looked
//!   at. Of the whole heap `faults`, those that the handler answered.
//! - `estimate`: `fresh_page_ns` and `warm_page_ns`, nanoseconds of CPU time to fill a page the first time and once
//!   more, tried as the process exits; `memset_us` and `refpage_us`, microseconds that filling would have taken
//!   and has taken at these prices, faults and moves left out. `null` where it could not be tried, or nothing was large.

mod estimate;
mod figures;
mod peak;
mod record;
mod report;
mod tally;

use core::ops::ControlFlow::Continue;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32};

use refpage::sys::errno;
use refpage::sys::report::warn;
use refpage::{Fresh, Pages, Service};

use crate::cache::Memory;
use crate::classes;
use crate::fork::{self, Inside};
use crate::heap::Heap;
use crate::options::{Options, ReportChoice};
use crate::page_map::Kind;
use crate::unseen;
use crate::written::{self, HandedOut};

pub(crate) use report::{write_block, write_json};
use tally::{SMALL, large};

static ON: AtomicBool = AtomicBool::new(false);

/// Which of the processes that fork has made of this one it is: what others recorded is not its own. Never 0, which is
/// no allocation's.
static GENERATION: AtomicU32 = AtomicU32::new(1);

/// Whether a profile is made.
#[inline]
pub fn is_on() -> bool {
    ON.load(Relaxed)
}

/// Has it made from now on, of a heap of so many slots, if the options ask for it: before anything is handed out.
pub fn start(options: &Options, slots: usize) {
    if options.profile == ReportChoice::Off {
        return;
    }
    match record::reserve(slots) {
        Ok(()) => ON.store(true, Relaxed),
        Err(errno) => warn(format_args!("profile: no room for it: {}", errno::name(errno))),
    }
}

/// Has room for what is known of runs at these slots; false where a limit does not allow it.
pub fn make_usable(first: usize, slots: usize) -> bool {
    !is_on() || record::make_usable(first, slots).is_ok()
}

/// In a child of fork, which has one thread: its own profile begins.
pub fn begin_anew() {
    if is_on() {
        GENERATION.fetch_add(1, Relaxed);
        tally::clear();
        peak::clear();
    }
}

/// A small block of `class` was handed out for a request of `size` bytes.
pub fn note_small(class: usize, size: usize, zeroed: bool) {
    if let Some(tally) = SMALL.get(class) {
        if zeroed { &tally.callocs } else { &tally.mallocs }.add(1);
        tally.bytes_asked.add(size);
    }
}

/// A small block of `class` was freed.
#[inline]
pub fn note_small_free(class: usize) {
    if is_on()
        && let Some(tally) = SMALL.get(class)
    {
        tally.frees.add(1);
    }
}

/// The run at `head`, in hand, is about to be opened for `size` bytes.
#[inline]
pub fn ready(memory: Memory<'_>, head: usize, size: usize, recycled: bool) {
    if is_on() {
        let region = memory.engine.region();
        let kept = region.present().count(memory.pages(head).prefix(region.pages_in(size)));
        record::of(head).ready(kept, recycled);
    }
}

/// The run at `head` is a new allocation.
#[inline]
pub fn note_allocation(memory: Memory<'_>, head: usize, fresh: Fresh) {
    if is_on() {
        allocated(memory, head, fresh);
    }
}

#[cold]
fn allocated(memory: Memory<'_>, head: usize, fresh: Fresh) {
    let run = memory.map.run(head);
    let size = run.size.load(Relaxed);
    let zeroed = fresh == Fresh::Zero;
    if run.sampled.load(Relaxed) {
        return note_small(classes::of(size), size, zeroed);
    }
    let tally = large(size, zeroed);
    if zeroed { &tally.callocs } else { &tally.mallocs }.add(1);
    tally.bytes_asked.add(size);
    if record::of(head).open(size, zeroed) {
        tally.bytes_recycled.add(size);
    }
    if !zeroed {
        peak::grow(memory.engine.region().pages_in(size));
    }
}

/// A large allocation is about to be freed, nothing is locked, and nothing in hand.
#[inline]
pub fn before_free(memory: Memory<'_>) {
    if is_on() {
        peak::look_if_due(memory);
    }
}

/// The run at `head`, in hand, is freed, and holds what the program left there. `known` says whether it is known
/// which of its pages are there.
#[inline]
pub fn note_free(memory: Memory<'_>, head: usize, known: bool) {
    if is_on() {
        freed(memory, head, known);
    }
}

#[cold]
fn freed(memory: Memory<'_>, head: usize, known: bool) {
    let run = memory.map.run(head);
    let size = run.size.load(Relaxed);
    if run.sampled.load(Relaxed) {
        return note_small_free(classes::of(size));
    }
    let record = record::of(head);
    if !record.is_own() {
        return;
    }
    let used = memory.used(head);
    let seen = if known { look(memory, head, used) } else { None };
    record.tally().frees.add(1);
    record.end(seen, used.count);
    if !record.is_zeroed() {
        peak::shrink(memory.engine.region().pages_in(size));
    }
    record.close();
}

/// The allocation at `from`, in hand, which still has the size that it had, gets `size` bytes at `to`, in hand too, or
/// the same. What is cut off lies where it lay.
#[inline]
pub fn note_realloc(memory: Memory<'_>, from: usize, to: usize, size: usize) {
    if is_on() {
        reallocated(memory, from, to, size);
    }
}

#[cold]
fn reallocated(memory: Memory<'_>, from: usize, to: usize, size: usize) {
    let (run, region) = (memory.map.run(from), memory.engine.region());
    let record = record::of(from);
    let old = run.size.load(Relaxed);
    if run.sampled.load(Relaxed) {
        if to != from {
            note_small_free(classes::of(old));
            record::of(to).ready(0, false);
            allocated(memory, to, Fresh::Content);
        }
        return;
    }
    if record.is_own() {
        let start = memory.start(from) as usize;
        let kept = region.pages_of(start, size.min(old));
        let tail = Pages::span(kept.end(), region.pages_of(start, old).end());
        if tail.count > 0 && size < old {
            let seen = if unseen::learn(memory, from) { look(memory, from, tail) } else { None };
            record.cut(seen, tail.count);
        }
        record.resize(old, size);
        if !record.is_zeroed() {
            peak::shrink(region.pages_in(old));
            peak::grow(region.pages_in(size));
        }
    }
    if to != from {
        record::of(to).take(record);
    }
}

/// Visits the live large allocations that this process made, each for as long as it is sure to stay one.
fn each_live(memory: Memory<'_>, mut visit: impl FnMut(usize)) {
    /// How often another thread's look at one is waited for.
    const TRIES: usize = 1000;
    let _ = memory.map.each_run(memory.engine.region(), |head| {
        let is_one = || memory.map.run(head).kind() == Kind::Large && record::of(head).is_own();
        for _ in 0..TRIES {
            if !is_one() || memory.cache.look_at(memory, head, || visit(head)).is_some() {
                break;
            }
            rustix::thread::sched_yield();
        }
        Continue(())
    });
}

/// Counts what is live as the process exits: to be called once.
fn count_live(heap: &'static Heap) {
    let _inside = Inside::enter();
    fork::settle(heap);
    let memory = heap.memory();
    peak::look(memory);
    each_live(memory, |head| {
        let record = record::of(head);
        let asked = memory.used(head).count;
        let seen =
            written::look(heap, head).map(|(present, written)| Seen { asked, present, written });
        let tally = record.tally();
        tally.live.add(1);
        if let Some(seen) = record.end(seen, asked) {
            tally.live_pages_asked.add(seen.asked);
            tally.live_pages_present.add(seen.present);
            tally.live_pages_written.add(seen.written);
        }
    });
}

/// What was seen of pages.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    asked: usize,
    present: usize,
    written: usize,
}

/// What was done to pages of the run at `head`, in hand; none if it cannot be found out.
fn look(memory: Memory<'_>, head: usize, pages: Pages) -> Option<Seen> {
    let mut seen = Seen { asked: pages.count, ..Seen::default() };
    if memory.engine.service() == Service::Off {
        let told = memory.engine.ask_kernel(pages, |_, populated| {
            seen.present += usize::from(populated);
        });
        seen.written = seen.present;
        return told.then_some(seen);
    }
    let region = memory.engine.region();
    let start = memory.start(head) as usize;
    let end = start + memory.map.run(head).size.load(Relaxed);
    for stretch in region.present().stretches(pages, true) {
        seen.present += stretch.count;
        for page in stretch.first..stretch.end() {
            let first = (region.address(page) as usize).max(start);
            let last = (region.address(page + 1) as usize).min(end);
            // SAFETY: bytes of an allocation in this thread's hands, on a page that is there, or served if it is not.
            let bytes = unsafe {
                core::slice::from_raw_parts(
                    core::ptr::with_exposed_provenance::<u8>(first),
                    last.saturating_sub(first),
                )
            };
            let handed_out = HandedOut::of_page(memory, head, page);
            seen.written += usize::from(handed_out.is_none_or(|mut it| it.differs(bytes)));
        }
    }
    Some(seen)
}
