//! Putting pages in place: moved from the pool, else copied; and taking them away again.
//!
//! Every MOVE can fail, and each failure has a way on that keeps the invariant "present with its
//! content, or missing": a page that is there already was put there by someone who did the same;
//! a page that will not move is copied; a page that will not go back to the pool goes to the
//! kernel.

use rustix::io::Errno;
use rustix::mm::Advice;

use crate::bits::Pages;
use crate::content::Content;
use crate::engine::Engine;
use crate::pool::{HUGE, Pool};
use crate::sys::uffd::{Channel, Holes, Progress};
use crate::sys::{report, vm};

/// Bytes of each source that UFFDIO_COPY reads from: small enough to stay in cache.
const SOURCE: usize = 64 << 10;

/// How often a page is tried again when the kernel says that it has no memory, or is busy.
const TRIES: u32 = 1000;

/// Pages that COPY reads from: one range of the pattern, one of zeros.
#[derive(Debug)]
pub struct Sources {
    pattern: *const u8,
    zero: *const u8,
    len: usize,
}

// SAFETY: written once before anyone else sees them, then only read.
unsafe impl Sync for Sources {}
// SAFETY: as above.
unsafe impl Send for Sources {}

impl Sources {
    /// Maps and fills the sources.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for them.
    pub fn map(content: Content) -> rustix::io::Result<Self> {
        let len = SOURCE.max(vm::page_size());
        let pattern = vm::reserve(len, vm::page_size())?;
        let zero = vm::reserve(len, vm::page_size())?;
        // SAFETY: a mapping made just above.
        unsafe { content.fill(pattern, len) };
        Ok(Self { pattern, zero, len })
    }
}

/// What missing pages are to read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// The engine's content.
    Content,
    /// Zeros.
    Zero,
}

impl Engine {
    /// Puts pages in place where they are missing: all of `pages` are present afterwards, unless
    /// the channel is gone, in which case they are left to the handler.
    pub(crate) fn place(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        self.note_tables(pages);
        self.region().present().set(pages);
        let mut rest = pages;
        if let (Fresh::Content, Some(pool)) = (fresh, self.movable_pool()) {
            while rest.count > 0 {
                match self.move_in(pool, channel, rest) {
                    Some(done) => rest = rest.skip(done),
                    None => break,
                }
            }
        }
        if rest.count > 0 {
            self.copy_in(channel, rest, fresh);
        }
    }

    /// Moves pages from the pool to the start of `pages`: how many are settled, none if the pool
    /// is empty or the page at the start will not be moved to.
    fn move_in(&self, pool: &Pool, channel: Channel, pages: Pages) -> Option<usize> {
        let taken = pool.take_filled(pages.count)?;
        let shift = self.region().page_shift();
        let dst = self.region().address(pages.first);
        let moved =
            channel.move_pages(dst, pool.address(taken.first), taken.count << shift, Holes::Refuse);
        let done = (moved.done >> shift).min(taken.count);
        self.counters().moved.add(done);
        pool.vacate(taken.prefix(done));
        pool.deposit(taken.skip(done));
        match moved.stop {
            _ if done > 0 => Some(done),
            // Somebody else put the page in place, and woke whoever waited for it before we came.
            Some(Errno::EXIST) => {
                let _ = channel.wake(dst, 1 << shift);
                Some(1)
            }
            _ => None,
        }
    }

    /// Copies content into the missing ones of `pages`.
    fn copy_in(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        let shift = self.region().page_shift();
        let Some(sources) = self.sources() else { return };
        let (source, count) = match fresh {
            Fresh::Content => (sources.pattern, &self.counters().copied),
            Fresh::Zero => (sources.zero, &self.counters().zeroed),
        };
        let mut rest = pages;
        let mut tries = 0;
        // Where the program locked or protected a part of the Region itself, the VMA has borders,
        // and no copy may cross one: then page by page.
        let mut most = sources.len;
        while rest.count > 0 {
            let dst = self.region().address(rest.first);
            let len = (rest.count << shift).min(most);
            let Progress { done, stop } = channel.copy(dst, source, len);
            count.add(done >> shift);
            rest = rest.skip(done >> shift);
            tries = if done > 0 { 0 } else { tries + 1 };
            match stop {
                None => {}
                Some(_) if done > 0 => {}
                Some(Errno::EXIST) => {
                    let _ = channel.wake(dst, 1 << shift);
                    rest = rest.skip(1);
                    tries = 0;
                }
                Some(Errno::NOENT) if len > 1 << shift => most = 1 << shift,
                // The process is going, or the program closed the number that was ours: faults
                // on these pages are still the handler's.
                Some(Errno::SRCH | Errno::BADF | Errno::NOTTY) => return,
                Some(Errno::AGAIN | Errno::NOMEM | Errno::INTR) if tries < TRIES => {
                    rustix::thread::sched_yield();
                }
                Some(errno) => report::die_without_stderr(format_args!(
                    "cannot fill the page at {dst:p}: the kernel says {} ({})",
                    crate::service::name(errno),
                    errno.raw_os_error()
                )),
            }
        }
    }

    /// Moves a whole huge block to the 2 MiB at `page`, which are missing and never had a page
    /// table. False if it did not go as a whole.
    pub(crate) fn place_huge(&self, channel: Channel, page: usize) -> bool {
        let Some(pool) = self.movable_pool() else { return false };
        let Some((index, block)) = pool.take_huge(self.content()) else { return false };
        let shift = self.region().page_shift();
        let pages = Pages { first: page, count: HUGE >> shift };
        self.region().present().set(pages);
        let moved = channel.move_pages(self.region().address(page), block, HUGE, Holes::Refuse);
        self.counters().moved.add(moved.done >> shift);
        if moved.done == HUGE {
            self.counters().huge_moved.add(1);
            return true;
        }
        pool.discard_huge(index);
        self.place(channel, pages.skip(moved.done >> shift), Fresh::Content);
        false
    }

    /// Takes the present ones of `pages` away: into the pool as far as it has room, the rest to
    /// the kernel. They must hold their content and be nobody's.
    pub(crate) fn take_away(&self, pages: Pages) {
        for stretch in self.region().present().stretches(pages, true) {
            let mut rest = stretch;
            if let Some(pool) = self.movable_pool() {
                while rest.count > 0 {
                    match self.move_out(pool, self.channel(), rest) {
                        Some(done) => rest = rest.skip(done),
                        None => break,
                    }
                }
            }
            self.discard(rest);
        }
    }

    fn move_out(&self, pool: &Pool, channel: Channel, pages: Pages) -> Option<usize> {
        let holes = pool.take_holes(pages.count)?;
        let shift = self.region().page_shift();
        let src = self.region().address(pages.first);
        let moved =
            channel.move_pages(pool.address(holes.first), src, holes.count << shift, Holes::Refuse);
        let done = (moved.done >> shift).min(holes.count);
        self.counters().pooled.add(done);
        pool.deposit(holes.prefix(done));
        pool.vacate(holes.skip(done));
        self.region().present().clear(pages.prefix(done));
        match moved.stop {
            _ if done > 0 => Some(done),
            // A bit may be set for a page that never came.
            Some(Errno::NOENT) => {
                self.region().present().clear(pages.prefix(1));
                Some(1)
            }
            // Shared with a child, pinned, or no channel: this page goes to the kernel, and what
            // it has in common with its neighbours is not worth a system call each to find out.
            _ => None,
        }
    }

    /// Gives pages that hold their content back to the kernel.
    pub(crate) fn discard(&self, pages: Pages) {
        if pages.count == 0 {
            return;
        }
        self.counters().purged.add(pages.count);
        let shift = self.region().page_shift();
        let start = self.region().address(pages.first);
        // SAFETY: the pages belong to a free run; nobody needs what they hold.
        let dropped = unsafe { vm::advise(start, pages.count << shift, Advice::LinuxDontNeed) };
        // Locked memory cannot be dropped: it stays where it is, with its content.
        if dropped.is_ok() {
            self.region().present().clear(pages);
        }
    }
}
