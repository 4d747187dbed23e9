//! What the fault handler knows of a page run: its bounds, its content, and its own history.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use mte::Tag;

use crate::bits::Pages;
use crate::sys::uffd::Fault;

/// Whoever divides the Region into page runs, as the engine sees it.
///
/// All functions are called from the fault handler: they touch no heap memory, and wait for no
/// lock that anyone holds across such an access.
pub trait Runs: Sync {
    /// The run that the page belongs to, if it belongs to one.
    fn run_at(&self, page: usize) -> Option<&RunWindow>;

    /// Whether the access, which is to that page, is to end who made it, because the page belongs to
    /// nothing that is in use; it is told then.
    fn refuses(&self, page: usize, fault: Fault) -> bool {
        let _ = (page, fault);
        false
    }

    /// Gives back some of what has not been used for long enough. The milliseconds until the next
    /// call is worth making, or none if nothing waits.
    fn purge(&self, now_ms: u64) -> Option<u64>;
}

/// Pages that a first fault behind present pages is answered with at most.
const CONTINUED: usize = 64;
/// And at least: such a user seldom wants just one more.
const LEAST_CONTINUED: usize = 16;

/// Pages up to which a window doubles freely, and the share of the pages behind it that a larger
/// one may have: what a writer stops short of is to be little against what it has.
const FREELY: usize = 32;
const SHARE: usize = 4;

/// Scattered faults are answered with so many pages each once there was one for so many pages of
/// the run: few more will come then.
const SCATTERED: usize = 16;

/// Bounds, content and fault history of one page run.
///
/// The owner writes it while nobody can fault on the run; then the handler is its only writer.
/// Every field is an atomic because both are different threads.
#[derive(Debug, Default)]
pub struct RunWindow {
    first: AtomicUsize,
    count: AtomicUsize,
    /// Pages at the start that read as zero where they are missing; the rest reads as the
    /// content.
    zero: AtomicUsize,
    /// Where the next fault of a sequential user would be, as an offset into the run.
    next: AtomicUsize,
    /// Pages that the last fault was answered with; 0 before the first.
    window: AtomicU32,
    /// What the first fault is answered with, from what such runs were used for before.
    hint: AtomicU32,
    /// Faults so far.
    faults: AtomicU32,
    /// The tag that its memory carries, as far as the address.
    tag: AtomicU8,
    tagged_end: AtomicUsize,
    /// With `cow` and tags: pages at the start that show a file while they are missing, and mappings
    /// that this takes.
    backed: AtomicUsize,
    pieces: AtomicUsize,
    /// Whether somebody asks which pages were written to.
    watched: AtomicBool,
}

impl RunWindow {
    /// Sets up a run of `pages` whose first `zero` pages read as zero while missing. `hint` pages
    /// are moved in at the first fault if it is at the start.
    pub fn open(&self, pages: Pages, zero: usize, hint: usize) {
        self.first.store(pages.first, Ordering::Relaxed);
        self.count.store(pages.count, Ordering::Relaxed);
        self.zero.store(zero, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.window.store(0, Ordering::Relaxed);
        self.faults.store(0, Ordering::Relaxed);
        self.watched.store(false, Ordering::Relaxed);
        self.hint.store(hint.clamp(1, u32::MAX as usize) as u32, Ordering::Relaxed);
    }

    /// From now on, what the handler puts in place counts as not [written](crate::Engine::written) to.
    pub fn watch(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// The tag that the run's memory carries up to [`tagged_end`](Self::tagged_end); also the last
    /// one that it had, where nothing of it is tagged.
    pub fn tag(&self) -> Tag {
        Tag::new(self.tag.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// The address from which on the run's memory carries no tag: a multiple of a granule.
    pub fn tagged_end(&self) -> usize {
        self.tagged_end.load(Ordering::Relaxed)
    }

    /// Sets both. What is present keeps the tags it has until [`retag`](crate::Engine::retag).
    pub fn set_tag(&self, tag: Tag, end: usize) {
        self.tag.store(tag.get(), Ordering::Relaxed);
        self.tagged_end.store(end, Ordering::Relaxed);
    }

    /// Pages at the start that show the run's own file while they are missing.
    pub fn backed(&self) -> usize {
        self.backed.load(Ordering::Relaxed)
    }

    /// Mappings that this takes.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.load(Ordering::Relaxed)
    }

    /// Sets both.
    pub(crate) fn set_backed(&self, pages: usize, pieces: usize) {
        self.backed.store(pages, Ordering::Relaxed);
        self.pieces.store(pieces, Ordering::Relaxed);
    }

    /// The run's pages.
    pub fn pages(&self) -> Pages {
        Pages {
            first: self.first.load(Ordering::Relaxed),
            count: self.count.load(Ordering::Relaxed),
        }
    }

    /// Makes the run longer or shorter.
    pub fn resize(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }

    /// Pages at the start that read as zero where they are missing.
    pub fn zero_pages(&self) -> usize {
        self.zero.load(Ordering::Relaxed)
    }

    /// Changes [`zero_pages`](Self::zero_pages).
    pub fn set_zero_pages(&self, zero: usize) {
        self.zero.store(zero, Ordering::Relaxed);
    }

    /// The pages to answer a fault on `page` with, `limit` at most: they double while faults are
    /// sequential, but beyond [`FREELY`] to no more than a part of what lies behind, and are one
    /// page while faults are scattered, unless there were so many that the run is not sparse.
    ///
    /// A first fault right behind a present page (`continues`) is that of a user who went through
    /// what was there already: it gets as much again, within reason.
    pub fn window_at(&self, page: usize, limit: usize, continues: bool) -> Pages {
        let pages = self.pages();
        let offset = page.wrapping_sub(pages.first);
        if offset >= pages.count {
            return Pages { first: page, count: 1 };
        }
        let last = self.window.load(Ordering::Relaxed) as usize;
        let next = self.next.load(Ordering::Relaxed);
        let faults = self.faults.load(Ordering::Relaxed) as usize;
        self.faults.store(faults as u32 + 1, Ordering::Relaxed);
        let sequential = offset.wrapping_sub(next) < last.max(1);
        let window = match (last, sequential) {
            (0, _) if continues => offset.clamp(LEAST_CONTINUED, CONTINUED),
            (0, true) => self.hint.load(Ordering::Relaxed) as usize,
            (_, true) => (last * 2).min((offset / SHARE).max(FREELY)),
            (_, false) if faults * SCATTERED >= pages.count => SCATTERED,
            (_, false) => 1,
        };
        // A window that is cut short at the border of two contents goes on after it.
        let zero = self.zero_pages();
        let end = if offset < zero { zero } else { pages.count };
        let count = window.clamp(1, limit).min(end - offset);
        self.window.store(count as u32, Ordering::Relaxed);
        self.next.store(offset + count, Ordering::Relaxed);
        Pages { first: page, count }
    }

    /// Tells the history that pages up to `end` were put in place, further than asked for.
    pub fn advance_to(&self, end: usize) {
        let offset = end.saturating_sub(self.pages().first);
        self.next.store(offset, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(zero: usize, hint: usize) -> RunWindow {
        let run = RunWindow::default();
        run.open(Pages { first: 1000, count: 100 }, zero, hint);
        run
    }

    fn answer(run: &RunWindow, page: usize) -> (usize, usize) {
        let window = run.window_at(page, 64, false);
        (window.first, window.count)
    }

    #[test]
    fn the_window_doubles_while_faults_are_sequential_and_stays_within_the_run() {
        let run = run(0, 1);
        let mut page = 1000;
        for expected in [1, 2, 4, 8, 16, 32, 32, 5] {
            assert_eq!(answer(&run, page), (page, expected));
            page += expected;
        }
        assert_eq!(page, 1100);
    }

    #[test]
    fn scattered_faults_get_one_page_each() {
        let run = run(0, 1);
        for page in [1050, 1010, 1090, 1000] {
            assert_eq!(answer(&run, page), (page, 1));
        }
    }

    #[test]
    fn many_scattered_faults_end_with_larger_windows() {
        let run = run(0, 1);
        let mut page = 1099;
        for _ in 0..100usize.div_ceil(SCATTERED) {
            assert_eq!(answer(&run, page), (page, 1));
            page -= 7;
        }
        assert_eq!(answer(&run, 1010), (1010, SCATTERED));
    }

    #[test]
    fn the_first_fault_at_the_start_takes_the_hint() {
        assert_eq!(answer(&run(0, 32), 1000), (1000, 32));
        assert_eq!(answer(&run(0, 32), 1040), (1040, 1));
    }

    #[test]
    fn a_first_fault_behind_present_pages_gets_as_many_again() {
        assert_eq!(run(0, 1).window_at(1020, 64, true), Pages { first: 1020, count: 20 });
        assert_eq!(run(0, 1).window_at(1020, 64, false), Pages { first: 1020, count: 1 });
    }

    #[test]
    fn no_window_crosses_from_zero_to_content() {
        let run = run(10, 64);
        assert_eq!(answer(&run, 1000), (1000, 10));
        assert_eq!(answer(&run, 1010), (1010, 20));
    }

    #[test]
    fn a_page_outside_the_run_is_served_alone() {
        assert_eq!(answer(&run(0, 32), 5), (5, 1));
    }
}
