//! The page pool: pages that already hold their content, ready to be moved into the Region.
//!
//! ```text
//!   single pages   [##.#####..####...]   come back from freed runs, leave in windows
//!   huge blocks    [ ready ][ empty ]    2 MiB each, filled ahead, moved whole or not at all
//! ```
//!
//! Both are VMAs of their own. They are registered as move targets, so that pages can come back
//! and a hole is plain memory rather than a fault; and MADV_DONTFORK, so that no page of them is
//! ever shared with a child, which would make it immovable. Moving *part* of a huge page splits
//! it, at half a microsecond a page, hence the two kinds.

use core::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Result;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::bits::{PageBits, Pages};
use crate::content::Content;
use crate::sys::lock::Mutex;
use crate::sys::uffd::{Channel, Watch};
use crate::sys::vm;

/// Bytes in a huge block.
pub const HUGE: usize = 2 << 20;

/// Huge blocks that the pool has room for.
const HUGE_BLOCKS: usize = 8;

const EMPTY: u8 = 0;
const READY: u8 = 1;

/// Pages holding their content, in VMAs of their own.
#[derive(Debug)]
pub struct Pool {
    singles: *mut u8,
    pages: usize,
    page_shift: u32,
    /// Present and holding the content.
    filled: PageBits,
    /// Absent, and in no one's hands. A page in neither map is on its way in or out.
    holes: PageBits,
    /// Makes finding a stretch and claiming it one step; never held across a system call.
    books: Mutex<()>,
    huge: *mut u8,
    /// Only the fault handler deals in huge blocks, so their states need no lock.
    blocks: [AtomicU8; HUGE_BLOCKS],
}

// SAFETY: the mappings are shared on purpose; a page's bits say whose it is, under `books`.
unsafe impl Sync for Pool {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for Pool {}

impl Pool {
    /// An empty pool with room for `bytes` of single pages.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve(bytes: usize) -> Result<Self> {
        let page = vm::page_size();
        let pages = (bytes / page).max(1);
        let pool = Self {
            singles: vm::reserve(pages * page, page)?,
            pages,
            page_shift: page.trailing_zeros(),
            filled: PageBits::reserve(pages)?,
            holes: PageBits::reserve(pages)?,
            books: Mutex::new(()),
            huge: vm::reserve(HUGE_BLOCKS * HUGE, HUGE)?,
            blocks: [const { AtomicU8::new(EMPTY) }; HUGE_BLOCKS],
        };
        pool.empty();
        Ok(pool)
    }

    fn empty(&self) {
        self.filled.clear(self.filled.all());
        self.holes.set(self.holes.all());
        for block in &self.blocks {
            block.store(EMPTY, Ordering::Relaxed);
        }
    }

    /// Prepares the VMAs and makes them move targets of `channel`.
    pub fn register(&self, channel: Channel) -> Result<()> {
        let singles = self.pages << self.page_shift;
        let huge = HUGE_BLOCKS * HUGE;
        // SAFETY: advice on whole mappings of ours, all of which keeps their contents.
        unsafe {
            vm::advise(self.singles, singles, Advice::LinuxDontFork)?;
            vm::advise(self.huge, huge, Advice::LinuxDontFork)?;
            // A kernel without huge pages refuses both; then single pages serve.
            let _ = vm::advise(self.singles, singles, Advice::LinuxNoHugepage);
            let _ = vm::advise(self.huge, huge, Advice::LinuxHugepage);
        }
        channel.register(self.singles, singles, Watch::MoveTarget)?;
        channel.register(self.huge, huge, Watch::MoveTarget)
    }

    /// In a child of fork, where the VMAs are gone: maps them again, empty, at their addresses.
    pub fn remap_in_child(&self) -> Result<()> {
        self.empty();
        for (start, len) in
            [(self.singles, self.pages << self.page_shift), (self.huge, HUGE_BLOCKS * HUGE)]
        {
            // SAFETY: NOREPLACE maps only where nothing is.
            unsafe {
                rustix::mm::mmap_anonymous(
                    start.cast(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
                )?;
            }
        }
        Ok(())
    }

    /// Locks the books for the time of a fork.
    pub fn acquire(&self) {
        self.books.acquire();
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.books.release() }
    }

    /// A page's first byte.
    pub fn address(&self, page: usize) -> *mut u8 {
        // SAFETY: pages are indices into the single pages' mapping.
        unsafe { self.singles.add(page << self.page_shift) }
    }

    /// Takes up to `count` consecutive filled pages out of the books; the caller moves them, then
    /// says which ones left ([`vacate`](Self::vacate)) and which did not
    /// ([`deposit`](Self::deposit)).
    pub fn take_filled(&self, count: usize) -> Option<Pages> {
        self.claim(&self.filled, count)
    }

    /// Takes up to `count` consecutive holes out of the books, to move pages into.
    pub fn take_holes(&self, count: usize) -> Option<Pages> {
        self.claim(&self.holes, count)
    }

    fn claim(&self, bits: &PageBits, count: usize) -> Option<Pages> {
        // Never waited for: the fault handler must not, since a signal handler may fault on the
        // thread that holds them; and everyone has a way on without the pool.
        let _books = self.books.try_lock()?;
        let found = bits.next_stretch(bits.all(), true)?.prefix(count);
        bits.clear(found);
        Some(found)
    }

    /// Enters pages that hold their content.
    pub fn deposit(&self, pages: Pages) {
        self.filled.set(pages);
    }

    /// Enters holes.
    pub fn vacate(&self, pages: Pages) {
        self.holes.set(pages);
    }

    /// Filled single pages.
    pub fn filled(&self) -> usize {
        self.filled.total()
    }

    /// Gives up to `count` filled pages back to the kernel; how many it had.
    pub fn drain(&self, count: usize) -> usize {
        let mut given = 0;
        while given < count
            && let Some(pages) = self.take_filled(count - given)
        {
            // SAFETY: claimed pages are the caller's alone, and free.
            let _ = unsafe {
                vm::advise(
                    self.address(pages.first),
                    pages.count << self.page_shift,
                    Advice::LinuxDontNeed,
                )
            };
            self.vacate(pages);
            given += pages.count;
        }
        given
    }

    /// A filled huge block, filled now if none is ready. Handler only.
    pub fn take_huge(&self, content: Content) -> Option<(usize, *mut u8)> {
        let ready = self.blocks.iter().position(|b| b.load(Ordering::Relaxed) == READY);
        let index = match ready {
            Some(index) => index,
            None => self.fill_huge(content)?,
        };
        self.blocks.get(index)?.store(EMPTY, Ordering::Relaxed);
        Some((index, self.block(index)))
    }

    /// Fills one more huge block, if there is room: its index. Handler only.
    pub fn fill_huge(&self, content: Content) -> Option<usize> {
        let index = self.blocks.iter().position(|b| b.load(Ordering::Relaxed) == EMPTY)?;
        // SAFETY: an empty block is the handler's alone. The first store of the fill faults in a
        // whole huge page, if the kernel has one.
        unsafe { content.fill(self.block(index), HUGE) };
        self.blocks.get(index)?.store(READY, Ordering::Relaxed);
        Some(index)
    }

    /// Huge blocks that are filled.
    pub fn ready_huge(&self) -> usize {
        self.blocks.iter().filter(|b| b.load(Ordering::Relaxed) == READY).count()
    }

    /// Gives every ready huge block back to the kernel. Handler only.
    pub fn drain_huge(&self) {
        for (index, block) in self.blocks.iter().enumerate() {
            if block.load(Ordering::Relaxed) == READY {
                self.discard_huge(index);
                block.store(EMPTY, Ordering::Relaxed);
            }
        }
    }

    /// Drops what is left of a block that did not move as a whole. Handler only.
    pub fn discard_huge(&self, index: usize) {
        // SAFETY: the block is the handler's alone, and its content can be made again.
        let _ = unsafe { vm::advise(self.block(index), HUGE, Advice::LinuxDontNeed) };
    }

    fn block(&self, index: usize) -> *mut u8 {
        // SAFETY: indices come from `blocks`, for each of which the mapping has room.
        unsafe { self.huge.add(index * HUGE) }
    }
}
