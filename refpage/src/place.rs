//! Putting pages in place: moved from the pool, else copied or made.
//!
//! Every MOVE can fail, and each failure has a way on that keeps the invariant "present with its
//! content, or missing": a page that is there already was put there by someone who did the same;
//! a page that will not move is copied, or made anew where it has to carry [tags](crate::tagged),
//! which only a move brings along.

use rustix::io::Errno;

use crate::bits::Pages;
use crate::content::Content;
use crate::counters::Cause;
use crate::engine::Engine;
use crate::huge::{HUGE, Settled};
use crate::pool::Pool;
use crate::service::Service;
use crate::sys::uffd::{Channel, Progress};
use crate::sys::{report, swap, vm};

/// Bytes of each source that UFFDIO_COPY reads from: small enough to stay in cache.
const SOURCE: usize = 16 << 10;

/// How often a page is tried again when the kernel says that it has no memory, or is busy.
const TRIES: u32 = 1000;

/// How often a page is made anew that will not be moved, before it is copied although it carries tags.
const MADE: u32 = 8;

/// Whether a page that is to carry tags will not be moved in, after so many tries, though there is none and
/// there is memory for one.
fn will_not_move(errno: Errno, tries: u32) -> bool {
    match errno {
        Errno::SRCH => false,
        Errno::AGAIN | Errno::INTR | Errno::BUSY | Errno::NOMEM => tries >= MADE,
        // INVAL: the program has locked or protected the place. EXIST: a copy tells whether it is there.
        _ => true,
    }
}

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
        // One mapping of both, so that there is nothing to undo if the second does not fit.
        let pattern = vm::reserve(2 * len, vm::page_size())?;
        // SAFETY: a mapping made just above, whose second half stays zero.
        let zero = unsafe {
            content.fill(pattern, len);
            pattern.add(len)
        };
        Ok(Self { pattern, zero, len })
    }

    /// Leaves the kernel some memory to open stderr with: nobody reads from here any more.
    fn give_up(&self) {
        // SAFETY: the mapping was made by `map`, and the process ends.
        let _ = unsafe { vm::drop_pages(self.pattern.cast_mut(), 2 * self.len) };
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and its owner goes.
        unsafe { vm::unmap(self.pattern.cast_mut(), 2 * self.len) };
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

/// Where the huge block of a placing may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Only from those that are filled already.
    Ready,
    /// Filled now if none is.
    Made,
}

impl Engine {
    /// Puts pages in place where they are missing: all of `pages` are present afterwards, unless
    /// the channel is gone, or there is no memory; then they are left to the handler, where there
    /// is one.
    pub(crate) fn place(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        self.note_present(pages);
        let mut rest = pages;
        let pool = self.movable_pool_at(pages.first).filter(|_| !channel.protects());
        if let Some(pool) = pool.filter(|_| fresh == Fresh::Content || self.has_tags()) {
            while rest.count > 0 {
                match self.move_in(pool, channel, rest, fresh) {
                    Some(done) => rest = rest.skip(done),
                    None => break,
                }
            }
        }
        // Elsewhere they are filled where they are, in a fault each instead of two.
        let makes = self.has_tags() && !channel.is_quiet() && self.is_handled(pages.first);
        if let Some(pool) = pool.filter(|_| makes) {
            while rest.count > 0 {
                match self.make_through(pool, channel, rest, fresh) {
                    Some(done) => rest = rest.skip(done),
                    None => break,
                }
            }
        }
        if !channel.is_quiet() {
            // The handler may have left them to whom they belong, and noted it.
            self.region().present().set(pages.prefix(pages.count - rest.count));
        }
        if rest.count > 0 {
            self.put_in(channel, rest, fresh);
        }
    }

    /// Moves pages from the pool to the start of `pages`: how many are settled, none if the pool
    /// is empty or the page at the start will not be moved to.
    fn move_in(&self, pool: &Pool, channel: Channel, pages: Pages, fresh: Fresh) -> Option<usize> {
        let Some((shard, taken)) = pool.take_filled(pages.count) else {
            self.note(Cause::PoolEmpty);
            return None;
        };
        let shift = self.region().page_shift();
        let dst = self.region().address(pages.first);
        let src = shard.address(taken.first);
        // SAFETY: claimed pages are this thread's alone.
        unsafe {
            match fresh {
                Fresh::Content => self.tag(pages.prefix(taken.count), src),
                Fresh::Zero => self.write(pages.prefix(taken.count), src, self.value_of(fresh)),
            }
        }
        let moved = channel.move_pages(dst, src, taken.count << shift);
        let done = (moved.done >> shift).min(taken.count);
        self.counters().moved.add(done);
        self.counters().fall_backs.note_move(done, moved.stop);
        shard.vacate(taken.prefix(done));
        let mut left = taken.skip(done);
        if done == 0 && matches!(moved.stop, Some(Errno::BUSY | Errno::NOENT)) {
            // Merged with others like it (KSM), for good; or it has left uncounted (see
            // `relocate`). It would be in everyone's way.
            left = left.skip(shard.discard(left.prefix(1)));
        }
        if fresh == Fresh::Zero {
            // Not what the next one expects. Locked in memory, they are nobody's from now on.
            shard.discard(left);
            left = left.prefix(0);
        }
        shard.deposit(left);
        match moved.stop {
            _ if done > 0 => Some(done),
            // Not to be noted as missing, which is what is left to the handler.
            Some(Errno::EXIST) if self.has_tags() && !channel.is_quiet() => {
                self.found_in_place(channel, pages.prefix(1), fresh);
                Some(1)
            }
            Some(Errno::EXIST) => {
                // If it is not there all the same, as behind a marker that only COPY replaces, who
                // waits for it would be woken in vain for ever.
                self.put_in(channel, pages.prefix(1), fresh);
                Some(1)
            }
            _ => None,
        }
    }

    /// Makes pages in holes of the pool, which are this thread's for that time, and moves them to the start
    /// of `pages`: how many are settled, none if there are no holes or nothing will be moved.
    fn make_through(
        &self,
        pool: &Pool,
        channel: Channel,
        pages: Pages,
        fresh: Fresh,
    ) -> Option<usize> {
        let (shard, holes) = pool.take_holes(pages.count)?;
        let made =
            self.make_in(channel, pages.prefix(holes.count), shard.address(holes.first), fresh);
        let done = (made.done >> self.region().page_shift()).min(holes.count);
        shard.vacate(holes);
        let count = match fresh {
            Fresh::Content => &self.counters().copied,
            Fresh::Zero => &self.counters().zeroed,
        };
        count.add(done);
        match made.stop {
            _ if done > 0 => Some(done),
            Some(Errno::EXIST) => {
                self.found_in_place(channel, pages.prefix(1), fresh);
                Some(1)
            }
            _ => None,
        }
    }

    /// A page is there that was thought to be missing. Where there is a handler, somebody else put
    /// it in place, and woke whoever waited for it before we came. Where there is none, the program
    /// touched memory that is not its own, and the kernel put zeros there: they are overwritten.
    fn found_in_place(&self, channel: Channel, page: Pages, fresh: Fresh) {
        if channel.is_quiet() || self.is_handled(page.first) {
            let _ = channel
                .wake(self.region().address(page.first), page.count << self.region().page_shift());
        } else {
            self.fill_pages(page, self.value_of(fresh));
        }
    }

    /// Puts the missing ones of `pages` in place without the pool: copied, or made and moved where they
    /// are to carry tags.
    fn put_in(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        let shift = self.region().page_shift();
        let Some(sources) = self.sources() else { return };
        let (source, count) = match fresh {
            Fresh::Content => (sources.pattern, &self.counters().copied),
            Fresh::Zero => (sources.zero, &self.counters().zeroed),
        };
        let made = if self.has_tags() {
            // Only the handler has a place of its own to make them in; others need not: these pages are
            // theirs, and nobody waits for them.
            let pool = self.movable_pool_at(pages.first).filter(|_| channel.is_quiet());
            let Some(tray) = pool.and_then(Pool::tray) else {
                return self.leave_to_handler(channel, pages, fresh);
            };
            Some(tray)
        } else {
            None
        };
        let mut rest = pages;
        let mut tries = 0;
        // Where the program locked or protected a part of the Region itself, the VMA has borders,
        // and no copy may cross one: then page by page.
        let mut most = made.map_or(sources.len, |(_, count)| count << shift);
        while rest.count > 0 {
            let dst = self.region().address(rest.first);
            let len = (rest.count << shift).min(most);
            let Progress { done, stop } = match made {
                Some((tray, _)) => {
                    let pages = rest.prefix(len >> shift);
                    let moved = self.make_in(channel, pages, tray, fresh);
                    match moved.stop {
                        Some(errno) if moved.done == 0 && will_not_move(errno, tries) => {
                            self.copy_and_tag(channel, pages.prefix(1), source)
                        }
                        _ => moved,
                    }
                }
                None => channel.copy(dst, source, len),
            };
            count.add(done >> shift);
            if !channel.is_quiet() {
                // See `place`.
                self.region().present().set(rest.prefix(done >> shift));
            }
            rest = rest.skip(done >> shift);
            tries = if done > 0 { 0 } else { tries + 1 };
            match stop {
                None => {}
                Some(_) if done > 0 => {}
                Some(Errno::EXIST) => {
                    self.note(Cause::CopyExists);
                    self.found_in_place(channel, rest.prefix(1), fresh);
                    rest = rest.skip(1);
                    tries = 0;
                }
                // The pages are the caller's, and no fault is waiting for them. (The handler may be at
                // work a moment before the service is `lazy`.)
                Some(errno) if self.service() != Service::Lazy && !channel.is_quiet() => {
                    self.note(Cause::of_copy(errno));
                    self.replace_mover(channel);
                    self.counters().filled.add(rest.count);
                    return self.fill_pages(rest, self.value_of(fresh));
                }
                Some(Errno::NOENT) if len > 1 << shift => {
                    self.note(Cause::CopyDivided);
                    most = 1 << shift;
                }
                Some(Errno::NOMEM) if !self.is_serving(rest.first) => {
                    self.note(Cause::CopyNoMemory);
                    return self.leave(channel, rest, fresh);
                }
                Some(errno @ (Errno::AGAIN | Errno::NOMEM | Errno::INTR | Errno::BUSY))
                    if tries < TRIES =>
                {
                    self.note(Cause::of_copy(errno));
                    if errno == Errno::NOMEM {
                        self.give_all_back();
                    }
                    rustix::thread::sched_yield();
                }
                // The process is going, or the program closed the number that was ours: faults
                // on these pages are still the handler's, but in the zero part there are none.
                Some(errno) if self.is_lost(channel, errno) => {
                    self.note(Cause::ChannelLost);
                    return self.leave(channel, rest, fresh);
                }
                Some(errno) => {
                    sources.give_up();
                    report::die_without_stderr(format_args!(
                        "cannot fill the page at {dst:p}: the kernel says {} ({})",
                        crate::service::name(errno),
                        errno.raw_os_error()
                    ))
                }
            }
        }
    }

    /// Makes `pages` in a place of the pool's, and moves them from there: nothing is left there.
    fn make_in(&self, channel: Channel, pages: Pages, tray: *mut u8, fresh: Fresh) -> Progress {
        let len = pages.count << self.region().page_shift();
        // SAFETY: the place is this thread's alone.
        let moved = unsafe {
            // With an error where there is no memory, and not by a fault.
            match vm::try_populate(tray, len) {
                Ok(()) => {
                    self.write(pages, tray, self.value_of(fresh));
                    channel.move_pages(self.region().address(pages.first), tray, len)
                }
                Err(errno) => Progress { done: 0, stop: Some(errno) },
            }
        };
        if moved.done < len {
            // SAFETY: as above. What cannot be dropped is written over the next time.
            let _ = unsafe { vm::drop_pages(tray, len) };
        }
        moved
    }

    /// Leaves pages missing that the handler serves; elsewhere they are filled by hand.
    fn leave_to_handler(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        if self.is_handled(pages.first) {
            self.note_left(channel, pages);
        } else {
            self.counters().filled.add(pages.count);
            self.fill_pages(pages, self.value_of(fresh));
        }
    }

    /// Leaves pages missing that nobody waits for yet: they may be had when somebody does. Where they
    /// would not be served then, it is now that they are needed, and the kernel that says what happens.
    fn leave(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        if fresh == Fresh::Content && self.region().in_zero_part(pages.first) {
            self.fill_pages(pages, self.content());
        } else {
            self.note_left(channel, pages);
        }
    }

    /// Notes pages as missing again that could not be put in place, but for those that another one has put there
    /// meanwhile: the handler for a window that reaches here, or for a thread that was handed a part of a span
    /// before that was ready; a thread, for what it readies, while the handler leaves it. Were such a page noted as
    /// missing, what the program writes there would be taken for the content.
    fn note_left(&self, channel: Channel, pages: Pages) {
        let present = self.region().present();
        present.clear(pages);
        if !channel.is_quiet() {
            // What the handler is at now, it may have noted before.
            self.let_answer_finish();
        }
        swap::read(self.region().address(pages.first), pages.count, |at, in_memory| {
            if in_memory {
                present.set(Pages { first: pages.first + at, count: 1 });
            }
        });
    }

    /// A thread waits for a page that there is no memory for: gives back all that is only kept for
    /// later use. By the handler, as it is done when it is time.
    fn give_all_back(&self) {
        while self.runs().purge(u64::MAX) == Some(0) {}
        self.drain_pool(usize::MAX);
    }

    /// Whether a channel that answered with `errno` is none any more. What else may be behind its number
    /// answers as it likes.
    fn is_lost(&self, channel: Channel, errno: Errno) -> bool {
        // The handler's is in its own table: another answer than that the process is going is a
        // filter's, and who waits for the page would wait for ever.
        if channel.is_quiet() {
            return errno == Errno::SRCH;
        }
        matches!(errno, Errno::SRCH | Errno::BADF | Errno::NOTTY)
            || !self.channel.is_ours(channel.number())
    }

    /// Puts pages in place where they are missing, as [`place`](Self::place) does, but by whole huge
    /// blocks wherever one fits: for memory that is about to be used.
    pub(crate) fn place_dense(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        let per_block = self.pages_per_block();
        let mut small_from = pages.first;
        let mut block = pages.first.next_multiple_of(per_block);
        while block + per_block <= pages.end() {
            if self.takes_huge(block) && self.place_huge(channel, block, fresh, Supply::Made) {
                self.place_missing(channel, Pages::span(small_from, block), fresh);
                small_from = block + per_block;
            }
            block += per_block;
        }
        self.place_missing(channel, Pages::span(small_from, pages.end()), fresh);
    }

    fn place_missing(&self, channel: Channel, pages: Pages, fresh: Fresh) {
        for stretch in self.region().present().stretches(pages, false) {
            self.place(channel, stretch, fresh);
        }
    }

    /// Moves a whole huge block to the 2 MiB at `page`, which [take one](Self::takes_huge). False
    /// if there was none to move, and nothing happened.
    pub(crate) fn place_huge(
        &self,
        channel: Channel,
        page: usize,
        fresh: Fresh,
        supply: Supply,
    ) -> bool {
        let Some(pool) = self.movable_pool_at(page) else { return false };
        let huge = &pool.huge;
        let block = match (fresh, supply) {
            (Fresh::Zero, Supply::Made) => huge.make_zeroed(),
            (Fresh::Zero, Supply::Ready) => None,
            (Fresh::Content, Supply::Ready) => huge.take_ready(),
            (Fresh::Content, Supply::Made) => {
                huge.take_ready().or_else(|| huge.make(self.content()))
            }
        };
        let Some(block) = block else {
            if supply == Supply::Made {
                self.note(Cause::NoHugePage);
            }
            return false;
        };
        let pages = Pages { first: page, count: self.pages_per_block() };
        self.region().present().set(pages);
        let dst = self.region().address(page);
        // SAFETY: the block is in this thread's hands.
        unsafe { self.tag(pages, block.start) };
        let moved = channel.move_pages(dst, block.start, HUGE);
        let done = moved.done >> self.region().page_shift();
        self.counters().moved.add(done);
        self.counters().fall_backs.note_move(done, moved.stop);
        if moved.done == HUGE {
            huge.settle(block, Settled::Gone);
            self.counters().huge_moved.add(1);
            if let Some(blocks) = self.blocks() {
                blocks.note_huge(pages);
            }
        } else {
            huge.settle(block, Settled::Broken);
            self.place(channel, pages.skip(done), fresh);
        }
        true
    }
}
