//! Thread caches: a magazine of free blocks for each size class, outside the blocks themselves.
//!
//! Blocks in a magazine hold the content, as all free memory does, so there is no link in them to
//! forge and nothing to clear when one is handed out.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use refpage::sys::lock::Mutex;
use refpage::sys::vm;
use rustix::io::Result;

use crate::classes::{self, COUNT};

/// Room for all magazines of a cache.
const ENTRIES: usize = {
    let (mut sum, mut class) = (0, 0);
    while class < COUNT {
        sum += classes::magazine(class);
        class += 1;
    }
    sum
};

/// Where each class's magazine begins.
const START: [u16; COUNT] = {
    let mut start = [0; COUNT];
    let mut class = 1;
    while class < COUNT {
        start[class] = start[class - 1] + classes::magazine(class - 1) as u16;
        class += 1;
    }
    start
};

const CAPACITY: [u16; COUNT] = {
    let mut capacity = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        capacity[class] = classes::magazine(class) as u16;
        class += 1;
    }
    capacity
};

/// One thread's free blocks. All zeros is an empty cache.
#[derive(Debug)]
#[repr(C)]
pub struct ThreadCache {
    lens: [u16; COUNT],
    /// The next cache on the list of unused ones.
    next: usize,
    entries: [*mut u8; ENTRIES],
}

impl ThreadCache {
    /// A free block of `class`.
    #[inline]
    pub fn pop(&mut self, class: usize) -> Option<*mut u8> {
        let len = self.lens[class].checked_sub(1)?;
        self.lens[class] = len;
        // SAFETY: entries below a magazine's length are within its part of the array.
        Some(unsafe { *self.entries.get_unchecked(START[class] as usize + len as usize) })
    }

    /// Keeps a free block of `class`: false if the magazine is full.
    #[inline]
    pub fn push(&mut self, class: usize, block: *mut u8) -> bool {
        let len = self.lens[class];
        if len == CAPACITY[class] {
            return false;
        }
        // SAFETY: a length below the capacity is within the magazine's part of the array.
        unsafe {
            *self.entries.get_unchecked_mut(START[class] as usize + len as usize) = block;
        }
        self.lens[class] = len + 1;
        true
    }

    /// Fills the magazine of `class`, which is empty, half full by `take`.
    pub fn refill(&mut self, class: usize, take: impl FnOnce(&mut [*mut u8]) -> usize) {
        let half = CAPACITY[class].div_ceil(2) as usize;
        let start = START[class] as usize;
        let taken = take(self.entries.get_mut(start..start + half).unwrap_or_default());
        self.lens[class] = taken.min(half) as u16;
    }

    /// Gives the older half of the magazine of `class` to `give`, or all of it.
    pub fn flush(&mut self, class: usize, all: bool, give: impl FnOnce(&[*mut u8])) {
        let len = self.lens[class] as usize;
        let count = if all { len } else { len.div_ceil(2) };
        let start = START[class] as usize;
        if let Some(magazine) = self.entries.get_mut(start..start + len) {
            give(magazine.get(..count).unwrap_or_default());
            magazine.copy_within(count.., 0);
            self.lens[class] = (len - count) as u16;
        }
    }
}

/// Memory for thread caches: made once, used again when a thread has ended.
#[derive(Debug)]
pub struct CachePool {
    base: *mut u8,
    count: usize,
    used: AtomicUsize,
    /// Address of the first unused cache, 0 if there is none.
    unused: Mutex<usize>,
}

// SAFETY: caches are handed out once at a time, under the lock or the counter.
unsafe impl Sync for CachePool {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for CachePool {}

impl CachePool {
    /// Room for `count` caches, none of it touched.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve(count: usize) -> Result<Self> {
        let base = vm::reserve_for_later(count * stride(), vm::page_size().max(64))?;
        Ok(Self { base, count, used: AtomicUsize::new(0), unused: Mutex::new(0) })
    }

    /// An empty cache, or none if that many threads are alive at once.
    pub fn take(&self) -> Option<*mut ThreadCache> {
        let mut unused = self.unused.lock();
        if *unused != 0 {
            let cache = *unused as *mut ThreadCache;
            // SAFETY: an unused cache is in nobody's hands but the list's.
            *unused = unsafe { (*cache).next };
            return Some(cache);
        }
        let index = self.used.load(Relaxed);
        if index == self.count {
            return None;
        }
        // SAFETY: the index is below the number of caches that there is room for.
        let cache = unsafe {
            let cache = self.base.add(index * stride());
            vm::make_writable(cache, stride()).ok()?;
            cache
        };
        self.used.store(index + 1, Relaxed);
        Some(cache.cast())
    }

    /// Takes an emptied cache back.
    ///
    /// # Safety
    /// `take` gave it, and nobody uses it any more.
    pub unsafe fn give(&self, cache: *mut ThreadCache) {
        let mut unused = self.unused.lock();
        // SAFETY: the caller's promise.
        unsafe { (*cache).next = *unused };
        *unused = cache as usize;
    }

    /// Locks the pool for the time of a fork.
    pub fn acquire(&self) {
        self.unused.acquire();
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.unused.release() }
    }
}

impl Drop for CachePool {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.base, self.count * stride()) };
    }
}

/// Whole cache lines, so that two threads' caches share none.
fn stride() -> usize {
    size_of::<ThreadCache>().next_multiple_of(128)
}
