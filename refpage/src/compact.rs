//! Compaction: huge pages of which little is used are given up for the pages that are.
//!
//! A huge page comes whole, ahead of a program that may never use most of it; and where a part of it was
//! dropped, the kernel keeps the memory until it has none left. On request, the fault handler takes
//! such blocks out of the Region, one at a time, and puts back what holds anything but the content:
//!
//! ```text
//!   Region   | a . . b . . . c | ── MOVE, whole ──▶ tray   | a . . b . . . c |
//!            | a ?  b ?  ?   c | ◀── MOVE ── pool: a b c ◀─── copy ┘   └──▶ the kernel, whole
//! ```
//!
//! Who touches the block meanwhile waits for the handler, as with any missing page; what is not put
//! back (`?`) is missing from then on, and reads as it did. Who is about to take pages away, which is
//! no touch, waits too ([`Engine::taking`]): the block has none for the moment. That is why only
//! `lazy` compacts, which has a handler, and only its content part, where that serves what is missing.

use core::sync::atomic::Ordering::{Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicUsize};

use rustix::io::{Errno, Result};

use crate::bits::Pages;
use crate::content::Content;
use crate::engine::Engine;
use crate::huge::{Block, HUGE, Settled};
use crate::place::Fresh;
use crate::pool::Pool;
use crate::runs::RunWindow;
use crate::service::Service;
use crate::sys::lock::Mutex;
use crate::sys::uffd::{Channel, Watch};
use crate::sys::{report, swap, vm};

/// How often the kernel is asked to put a page back that it is busy with.
const TRIES: u32 = 1000;

/// Who may take pages away, and who wants them compacted.
#[derive(Debug)]
pub(crate) struct Compaction {
    /// Threads that are taking pages away.
    takers: AtomicUsize,
    /// Whether the handler has taken a block out.
    works: AtomicBool,
    /// Held by who asks for it.
    asking: Mutex<()>,
    /// A page that is missing: who touches it calls the handler.
    bell: *mut u8,
}

// SAFETY: the page belongs to the value, and is touched by who holds the lock.
unsafe impl Sync for Compaction {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for Compaction {}

impl Compaction {
    /// Nobody has asked.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for a page.
    pub(crate) fn reserve() -> Result<Self> {
        Ok(Self {
            takers: AtomicUsize::new(0),
            works: AtomicBool::new(false),
            asking: Mutex::new(()),
            bell: vm::reserve(vm::page_size(), vm::page_size())?,
        })
    }

    /// Has touches of the bell told to the channel's handler.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn register(&self, channel: Channel) -> Result<()> {
        channel.register(self.bell, vm::page_size(), Watch::Missing)
    }

    /// Whether a fault there is a request.
    pub(crate) fn is_bell(&self, address: usize) -> bool {
        address & !(vm::page_size() - 1) == self.bell as usize
    }

    /// Lets who asked go on.
    pub(crate) fn answer(&self, channel: Channel) {
        let len = vm::page_size();
        // Where there is no memory for it, it is asked for again.
        let _ = (channel.zero(self.bell, len), channel.wake(self.bell, len));
    }

    /// Before fork: the child is to have all blocks in their place.
    pub(crate) fn acquire(&self) {
        self.asking.acquire();
        self.begin_taking();
    }

    /// After fork.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub(crate) unsafe fn release(&self) {
        self.takers.fetch_sub(1, Release);
        // SAFETY: the caller's promise.
        unsafe { self.asking.release() }
    }

    /// In a child of fork: there is nobody else.
    pub(crate) fn forget_takers(&self) {
        self.takers.store(0, SeqCst);
    }

    fn begin_taking(&self) {
        loop {
            self.takers.fetch_add(1, SeqCst);
            if !self.works.load(SeqCst) {
                return;
            }
            self.takers.fetch_sub(1, SeqCst);
            // The handler waits for nobody.
            while self.works.load(SeqCst) {
                rustix::thread::sched_yield();
            }
        }
    }

    /// The right to take a block out: none while somebody takes pages away.
    fn begin(&self) -> Option<Working<'_>> {
        self.works.store(true, SeqCst);
        let working = Working(self);
        (self.takers.load(SeqCst) == 0).then_some(working)
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.bell, vm::page_size()) };
    }
}

/// While it lives, the handler may have a block out.
struct Working<'a>(&'a Compaction);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.works.store(false, SeqCst);
    }
}

/// While it lives, no block is out, and its holder may take pages away.
pub(crate) struct Taking<'a>(&'a Compaction);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.0.takers.fetch_sub(1, Release);
    }
}

/// Pages of a block.
#[derive(Clone, Copy, Default)]
struct Marks([u64; 8]);

impl Marks {
    fn set(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

impl Engine {
    /// Has the handler give up huge pages of which at most half is used, and what the kernel keeps of
    /// those that were dropped in part: how many pages of the Region are missing for it. Waits until that is
    /// done; 0 where there is no handler, and with tags.
    pub fn compact(&self) -> usize {
        let Some(supplies) = &self.supplies else { return 0 };
        if self.service() != Service::Lazy || self.has_tags() {
            return 0;
        }
        let compaction = &supplies.compaction;
        let _asking = compaction.asking.lock();
        let before = self.counters().compacted.get();
        // SAFETY: the page is the holder's of the lock. Where nobody is told of it, it reads as zero.
        unsafe {
            let _ = vm::drop_pages(compaction.bell, vm::page_size());
            compaction.bell.read_volatile();
        }
        (self.counters().compacted.get() - before) as usize
    }

    /// To be held while pages are taken away from the Region.
    pub(crate) fn taking(&self) -> Option<Taking<'_>> {
        let compaction = &self.supplies.as_ref()?.compaction;
        compaction.begin_taking();
        Some(Taking(compaction))
    }

    /// For the handler: compacts a block, if it is worth it. False if it has to be asked again, because somebody
    /// takes pages away just now.
    pub(crate) fn compact_block(&self, channel: Channel, block: Pages) -> bool {
        let (Some(pool), Some(supplies), Some(blocks)) =
            (self.movable_pool(), &self.supplies, self.blocks())
        else {
            return true;
        };
        let whole = blocks.is_huge(block.first);
        // To be looked at, what is swapped out would be read back in.
        if (!whole && swap::is_in_use()) || self.region().in_zero_part(block.end() - 1) {
            return true;
        }
        let Some(tray) = pool.huge.take_empty() else { return true };
        let Some(_working) = supplies.compaction.begin() else {
            pool.huge.settle(tray, Settled::Gone);
            return false;
        };
        let taken = self.take_out(channel, block, &tray);
        if taken.count() == 0 {
            pool.huge.settle(tray, Settled::Gone);
            return true;
        }
        let mut used = Marks::default();
        for at in (0..block.count).filter(|&at| taken.get(at)) {
            if !self.is_as_good_as_missing(block.first + at, self.in_tray(&tray, at)) {
                used.set(at);
            }
        }
        let whole = whole && taken.count() == block.count;
        if whole && used.count() * 2 > block.count && self.put_back_whole(channel, block, &tray) {
            pool.huge.settle(tray, Settled::Gone);
        } else {
            self.put_back(channel, whole.then_some(pool), block, &tray, used);
            for at in (0..block.count).filter(|&at| taken.get(at) && !used.get(at)) {
                self.region().present().clear(Pages { first: block.first + at, count: 1 });
            }
            blocks.note_small(block);
            self.counters().compacted.add(taken.count() - used.count());
            pool.huge.settle(tray, Settled::Broken);
        }
        // Those who touched it meanwhile look again.
        let _ = channel.wake(self.region().address(block.first), HUGE);
        true
    }

    fn in_tray(&self, tray: &Block, at: usize) -> *mut u8 {
        // SAFETY: a page of the tray, which is as long as a block.
        unsafe { tray.start.add(at << self.region().page_shift()) }
    }

    /// Moves the present pages of the block to the tray: those that came.
    fn take_out(&self, channel: Channel, block: Pages, tray: &Block) -> Marks {
        let shift = self.region().page_shift();
        let mut taken = Marks::default();
        for stretch in self.region().present().stretches(block, true) {
            let mut rest = stretch;
            while rest.count > 0 {
                let to = self.in_tray(tray, rest.first - block.first);
                let from = self.region().address(rest.first);
                let moved = channel.move_pages(to, from, rest.count << shift);
                let uncounted =
                    moved.done == 0 && moved.stop == Some(Errno::EXIST) && self.left(rest.first);
                let done = if uncounted { 1 } else { moved.done >> shift };
                (0..done).for_each(|at| taken.set(rest.first - block.first + at));
                rest = rest.skip(done);
                if done == 0 {
                    // Shared, pinned, locked, or noted too early: it stays as it is.
                    rest = rest.skip(1);
                    if moved.stop != Some(Errno::NOENT) {
                        break;
                    }
                }
            }
        }
        taken
    }

    /// Whether a page may be missing: it holds what it would then, and nobody asks whether it was written to.
    fn is_as_good_as_missing(&self, page: usize, held: *const u8) -> bool {
        let run = self.runs().run_at(page);
        // Missing, it would not be told as written to.
        if run.is_some_and(RunWindow::is_watched) {
            return false;
        }
        let zero = run.is_some_and(|run| page.wrapping_sub(run.pages().first) < run.zero_pages());
        let fresh = if zero { Fresh::Zero } else { Fresh::Content };
        let Content::Pattern(pattern) = self.value_of(fresh) else { return false };
        // SAFETY: a page that is in the handler's hands alone.
        let bytes = unsafe { core::slice::from_raw_parts(held, 1 << self.region().page_shift()) };
        pattern.find_other(bytes).is_none()
    }

    /// Puts a huge page back as one: false if some of it is left.
    fn put_back_whole(&self, channel: Channel, block: Pages, tray: &Block) -> bool {
        channel.move_pages(self.region().address(block.first), tray.start, HUGE).done == HUGE
    }

    /// Puts those pages of the block back that are used, and are not there.
    fn put_back(
        &self,
        channel: Channel,
        pool: Option<&Pool>,
        block: Pages,
        tray: &Block,
        used: Marks,
    ) {
        for at in (0..block.count).filter(|&at| used.get(at)) {
            let (home, held) = (block.first + at, self.in_tray(tray, at));
            let moved = pool.is_some_and(|pool| self.put_on_another(channel, pool, home, held));
            if !moved {
                self.put_itself(channel, home, held);
            }
        }
    }

    /// Puts what a page holds on a page of the pool, and that in its place. False if there is none, or it did
    /// not go.
    fn put_on_another(&self, channel: Channel, pool: &Pool, home: usize, held: *mut u8) -> bool {
        let len = 1 << self.region().page_shift();
        let to = self.region().address(home);
        let Some((shard, taken)) = pool.take_filled(1) else {
            return channel.copy(to, held, len).done == len;
        };
        let page = shard.address(taken.first);
        // SAFETY: two pages in the handler's hands alone.
        unsafe { page.copy_from_nonoverlapping(held, len) };
        let moved = channel.move_pages(to, page, len).done == len;
        if moved {
            shard.vacate(taken);
        } else {
            // It holds the program's data.
            shard.discard(taken);
        }
        moved
    }

    /// Puts the page itself back in its place, by which a huge page is split.
    fn put_itself(&self, channel: Channel, home: usize, held: *mut u8) {
        let (to, len) = (self.region().address(home), 1 << self.region().page_shift());
        for _ in 0..TRIES {
            let moved = channel.move_pages(to, held, len);
            // It is there if it was moved or copied without being counted.
            if moved.done == len || !self.left(home) {
                return;
            }
            if channel.copy(to, held, len).done == len {
                return;
            }
            rustix::thread::sched_yield();
        }
        report::die_without_stderr(format_args!(
            "cannot put the page at {to:p} back in its place: no memory"
        ))
    }
}
