//! The most memory that large mallocs had at once, and the most of it that was in place.
//!
//! Pages come in place without anybody's being told, but go only when something is freed: so the most there ever
//! is, is before a free. To count them there takes a walk over all that is live; it is made where it may find more
//! than ever before, and for a share of the time.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::vm;

use super::{each_live, record};
use crate::cache::Memory;
use crate::unseen;

/// A walk is followed by so many times its own duration without one.
const PAUSE: u64 = 20;

/// Nanoseconds after which another thread's walk counts as over: that thread may be no more.
const LONGEST: u64 = 1_000_000_000;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST_LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST_PRESENT: AtomicUsize = AtomicUsize::new(0);
/// When the next walk may be made.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Live mallocs have so many pages more.
pub fn grow(pages: usize) {
    let live = LIVE.fetch_add(pages, Relaxed) + pages;
    MOST_LIVE.fetch_max(live, Relaxed);
}

/// Live mallocs have so many pages less.
pub fn shrink(pages: usize) {
    LIVE.fetch_sub(pages, Relaxed);
}

/// In a child of fork.
pub fn clear() {
    for count in [&LIVE, &MOST_LIVE, &MOST_PRESENT] {
        count.store(0, Relaxed);
    }
    NEXT.store(0, Relaxed);
}

/// Counts what is in place, if that may be more than ever and it is time.
pub fn look_if_due(memory: Memory<'_>) {
    if LIVE.load(Relaxed) <= MOST_PRESENT.load(Relaxed) {
        return;
    }
    let (now, next) = (vm::now_ns(), NEXT.load(Relaxed));
    if now >= next && NEXT.compare_exchange(next, now + LONGEST, Relaxed, Relaxed).is_ok() {
        look(memory);
        let end = vm::now_ns();
        NEXT.store(end + (end - now) * PAUSE, Relaxed);
    }
}

/// Counts what is in place.
pub fn look(memory: Memory<'_>) {
    let mut present = 0;
    each_live(memory, |head| {
        if !record::of(head).is_zeroed() {
            present += unseen::count_present(memory, head);
        }
    });
    MOST_PRESENT.fetch_max(present, Relaxed);
}

/// The most pages of live mallocs, and the most of them that were seen in place.
pub fn get() -> (usize, usize) {
    (MOST_LIVE.load(Relaxed), MOST_PRESENT.load(Relaxed))
}
