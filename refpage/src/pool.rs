//! The page pool: pages that already hold their content, ready to be moved into the Region.
//!
//! ```text
//!   shards   [##.#####..####...] [...###....]    single pages: come back from freed runs, leave
//!                                                in windows; a thread deals with its CPU's shard
//!   huge     [ ready ][ empty ][ ready ]         2 MiB each, moved whole or not at all
//! ```
//!
//! Each is a VMA of its own: two threads that move out of one VMA slow each other down by five.
//! All are registered as move targets, so that pages can come back and a hole is plain memory
//! rather than a fault; and MADV_DONTFORK, so that no page of them is ever shared with a child,
//! which would make it immovable.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::io::Result;
use rustix::mm::Advice;

use crate::bits::{PageBits, Pages};
use crate::huge::{HUGE, HugeBlocks};
use crate::sys::lock::Mutex;
use crate::sys::uffd::{Channel, Watch};
use crate::sys::vm::{self, Tags};

/// Shards at most.
pub(crate) const SHARDS: usize = 8;

/// Huge blocks that even the smallest pool has room for: those on their way into the Region.
const LEAST_BLOCKS: usize = 8;

/// Bytes of the handler's tray: what is made of a window at a time.
const TRAY: usize = 128 << 10;

/// After this many milliseconds in which nothing happened, what waits in the pool goes back to the
/// kernel, but for its low watermark.
pub const IDLE: u64 = 4_000;

/// Pages holding their content, in VMAs of their own.
#[derive(Debug)]
pub struct Pool {
    shards: [Option<Shard>; SHARDS],
    /// Huge blocks.
    pub huge: HugeBlocks,
    /// Where the handler makes pages that have to be moved because of their tags, when there are none
    /// to take: its own, so that it waits for nobody.
    tray: Option<Shard>,
    /// Bytes that wait here at most.
    bytes: usize,
    /// Bytes that stay when the rest is given back.
    low: usize,
    /// What [`drain_if_idle`](Self::drain_if_idle) was told last, and when that was new.
    moves: AtomicU64,
    moved_at: AtomicU64,
}

impl Pool {
    /// An empty pool in which at most `bytes` wait, and of which `low` stay: with tags if the memory
    /// has them that its pages are moved to.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve(bytes: usize, low: usize, tags: Tags) -> Result<Self> {
        let count = vm::cpus().clamp(1, SHARDS);
        let mut shards = [const { None }; SHARDS];
        for shard in shards.iter_mut().take(count) {
            *shard = Some(Shard::reserve((bytes / count / vm::page_size()).max(1), tags)?);
        }
        let huge = HugeBlocks::reserve((bytes / HUGE).max(LEAST_BLOCKS), tags)?;
        let tray = match tags {
            Tags::With => Some(Shard::reserve((TRAY / vm::page_size()).max(1), tags)?),
            Tags::Without => None,
        };
        let (moves, moved_at) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { shards, huge, tray, bytes, low, moves, moved_at })
    }

    /// Prepares the VMAs and makes them move targets of `channel`.
    pub fn register(&self, channel: Channel) -> Result<()> {
        for shard in self.shards().chain(&self.tray) {
            prepare(channel, shard.range(), Advice::LinuxNoHugepage)?;
        }
        // A kernel with larger pages has larger huge pages too: one would populate many blocks with zeros.
        let fits = vm::page_size() * (vm::page_size() / 8) == HUGE;
        let pages = if fits { Advice::LinuxHugepage } else { Advice::LinuxNoHugepage };
        prepare(channel, self.huge.range(), pages)
    }

    /// In a child of fork, which has the VMAs, but none of their pages.
    pub fn empty_in_child(&self) {
        self.huge.empty();
        self.shards().for_each(Shard::empty);
    }

    /// Locks the books for the time of a fork.
    pub fn acquire(&self) {
        self.shards().for_each(|shard| shard.books.acquire());
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        for shard in self.shards() {
            // SAFETY: the caller's promise.
            unsafe { shard.books.release() }
        }
    }

    /// The handler's own pages: the first, and how many. For nobody else.
    pub fn tray(&self) -> Option<(*mut u8, usize)> {
        self.tray.as_ref().map(|tray| (tray.address(0), tray.filled.all().count))
    }

    /// The shards, this CPU's first.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        let count = self.shards.iter().flatten().count().max(1);
        let own = vm::this_cpu() % count;
        let (before, from_own) = self.shards.split_at(own);
        from_own.iter().chain(before).flatten()
    }

    /// Takes up to `count` consecutive filled pages out of the books; the caller moves them, then
    /// says which ones left ([`Shard::vacate`]) and which did not ([`Shard::deposit`]).
    pub fn take_filled(&self, count: usize) -> Option<(&Shard, Pages)> {
        self.shards().find_map(|shard| Some((shard, shard.claim(&shard.filled, count)?)))
    }

    /// Takes up to `count` consecutive holes of this CPU's shard out of the books, to move pages
    /// into, if the pool may have that many more.
    pub fn take_holes(&self, count: usize) -> Option<(&Shard, Pages)> {
        let count = count.min(self.room() / vm::page_size());
        let shard = self.shards().next().filter(|_| count > 0)?;
        Some((shard, shard.claim(&shard.holes, count)?))
    }

    /// Bytes that may still come to wait here.
    pub fn room(&self) -> usize {
        self.bytes.saturating_sub(self.pages() * vm::page_size())
    }

    /// Filled single pages.
    pub fn singles(&self) -> usize {
        self.shards.iter().flatten().map(|shard| shard.filled.total()).sum()
    }

    /// The numbers of filled single pages, as words.
    pub(crate) fn single_words(&self) -> [Option<&AtomicUsize>; SHARDS] {
        self.shards.each_ref().map(|shard| shard.as_ref().map(|shard| shard.filled.total_word()))
    }

    /// Filled pages, those of huge blocks included.
    pub fn pages(&self) -> usize {
        self.singles() + self.huge.ready() * (HUGE / vm::page_size())
    }

    /// Gives back to the kernel what is above the low watermark.
    pub fn drain_to_low(&self) -> usize {
        self.drain(self.pages().saturating_sub(self.low.div_ceil(vm::page_size())))
    }

    /// As [`drain_to_low`](Self::drain_to_low), if nothing was moved in or out for [`IDLE`]: to be
    /// told now and then how many pages were, in all, and the time.
    pub fn drain_if_idle(&self, moves: u64, now_ms: u64) {
        if self.moves.swap(moves, Ordering::Relaxed) != moves {
            self.moved_at.store(now_ms, Ordering::Relaxed);
        } else if now_ms.saturating_sub(self.moved_at.load(Ordering::Relaxed)) >= IDLE {
            self.drain_to_low();
        }
    }

    /// Gives up to `count` filled pages back to the kernel, huge blocks last and whole: how many it
    /// had.
    pub fn drain(&self, count: usize) -> usize {
        let mut given = 0;
        while given < count
            && let Some((shard, pages)) = self.take_filled(count - given)
        {
            let gone = shard.discard(pages);
            if gone == 0 {
                // Locked in memory: they stay, and are as good as before.
                shard.deposit(pages);
                break;
            }
            given += gone;
        }
        let per_block = HUGE / vm::page_size();
        given + self.huge.drain(count.saturating_sub(given) / per_block) * per_block
    }
}

/// Single pages in a VMA of their own.
#[derive(Debug)]
pub struct Shard {
    base: *mut u8,
    /// Present and holding the content.
    filled: PageBits,
    /// Absent, and in no one's hands. A page in neither map is on its way in or out.
    holes: PageBits,
    /// Makes finding a stretch and claiming it one step; never held across a system call.
    books: Mutex<()>,
}

// SAFETY: the mapping is shared on purpose; a page's bits say whose it is, under `books`.
unsafe impl Sync for Shard {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for Shard {}

impl Shard {
    fn reserve(pages: usize, tags: Tags) -> Result<Self> {
        // A page at the end that is never made accessible keeps two shards from being one VMA.
        let len = (pages + 1) * vm::page_size();
        let (filled, holes) = (PageBits::reserve(pages)?, PageBits::reserve(pages)?);
        let base = vm::reserve_as(len, vm::page_size(), tags)?;
        let shard = Self { base, filled, holes, books: Mutex::new(()) };
        // SAFETY: the last page of a mapping made just above.
        unsafe {
            let guard = base.add(len - vm::page_size()).cast();
            rustix::mm::mprotect(guard, vm::page_size(), rustix::mm::MprotectFlags::empty())?;
        }
        shard.empty();
        Ok(shard)
    }

    fn empty(&self) {
        self.filled.clear(self.filled.all());
        self.holes.set(self.holes.all());
    }

    fn range(&self) -> (*mut u8, usize) {
        (self.base, self.filled.all().count * vm::page_size())
    }

    /// A page's first byte.
    pub fn address(&self, page: usize) -> *mut u8 {
        // SAFETY: pages are indices into the shard's mapping.
        unsafe { self.base.add(page * vm::page_size()) }
    }

    /// Enters pages that hold their content.
    pub fn deposit(&self, pages: Pages) {
        self.filled.set(pages);
    }

    /// Enters holes.
    pub fn vacate(&self, pages: Pages) {
        self.holes.set(pages);
    }

    /// Gives claimed pages back to the kernel: how many, all or none.
    pub fn discard(&self, pages: Pages) -> usize {
        let (start, len) = (self.address(pages.first), pages.count * vm::page_size());
        // SAFETY: claimed pages are the caller's alone, and free.
        if unsafe { vm::drop_pages(start, len) }.is_err() {
            return 0;
        }
        self.vacate(pages);
        pages.count
    }

    fn claim(&self, bits: &PageBits, count: usize) -> Option<Pages> {
        if bits.total() == 0 {
            return None;
        }
        // Never waited for: the fault handler must not, since a signal handler may fault on the
        // thread that holds them; and everyone has a way on without the pool.
        let _books = self.books.try_lock()?;
        // The first stretch that is long enough, else the longest: a system call for each page or
        // two would cost more than the search.
        let mut longest = Pages { first: 0, count: 0 };
        for stretch in bits.stretches(bits.all(), true) {
            if stretch.count > longest.count {
                longest = stretch.prefix(count);
            }
            if longest.count == count {
                break;
            }
        }
        bits.clear(longest);
        (longest.count > 0).then_some(longest)
    }
}

fn prepare(channel: Channel, (start, len): (*mut u8, usize), pages: Advice) -> Result<()> {
    // SAFETY: advice on a whole mapping of ours, both of which keep its contents.
    unsafe {
        // A child gets none of the pages, so that they are not shared, and can still be moved.
        vm::advise(start, len, Advice::LinuxWipeOnFork)?;
        // A kernel without huge pages refuses; then small ones serve.
        let _ = vm::advise(start, len, pages);
    }
    channel.register(start, len, Watch::MoveTarget)
}

impl Drop for Shard {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, the guard page behind its range included, and its owner goes.
        unsafe { vm::unmap(self.base, self.range().1 + vm::page_size()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::huge::Settled;

    #[test]
    fn draining_stops_at_the_low_watermark_and_gives_small_pages_first() {
        let low = HUGE + 3 * vm::page_size();
        let pool = Pool::reserve(8 * HUGE, low, Tags::Without).expect("address space");
        for _ in 0..2 {
            let block = pool.huge.take_empty().expect("an empty block");
            pool.huge.settle(block, Settled::Filled);
        }
        let (shard, holes) = pool.take_holes(10).expect("holes");
        shard.deposit(holes);
        let per_block = HUGE / vm::page_size();
        assert_eq!(pool.pages(), 2 * per_block + 10);
        // Another block less would be below the mark.
        assert_eq!(pool.drain_to_low(), 10);
        assert_eq!((pool.singles(), pool.huge.ready()), (0, 2));
        assert_eq!(pool.drain_to_low(), 0);
        assert_eq!(pool.drain(usize::MAX), 2 * per_block);
        assert_eq!(pool.drain_to_low(), 0, "and nothing is left");
    }
}
