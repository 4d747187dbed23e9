//! Thread caches: a magazine of free blocks for each size class, outside the blocks themselves.
//!
//! ```text
//!   tops[class] ──────────────────┐
//!                                 ▼
//!   entries   | EMPTY | FULL | ... | EMPTY | b | b | b | old | old | FULL | ... | EMPTY | ...
//!               of classes not       this class's magazine         ▲             the next class's
//!               used yet                                           └─ its limit
//! ```
//!
//! A class whose blocks share cache lines has two magazines. In the second one is what this thread frees and
//! another has allocated: it is for the depot. Were it handed out here, two threads would go on writing to one
//! line for as long as they allocate and free (passive false sharing; E. Berger and others, "Hoard", ASPLOS
//! 2000).
//!
//! Blocks in a magazine hold the content, as all free memory does, so there is no link in them to
//! forge and nothing to clear when one is handed out. The marks at both ends make a pop and a push
//! one comparison each, with nothing to look up.

use core::ptr::{null_mut, without_provenance_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use refpage::sys::lock::Mutex;
use refpage::sys::vm;
use rustix::io::Result;

use crate::classes::{self, COUNT, SHARING};
use crate::depot::SIDES;

/// Below a magazine's first block.
const EMPTY: *mut u8 = null_mut();
/// Above the last block that a magazine may hold. No block is at this address.
const FULL: *mut u8 = without_provenance_mut(1);

/// Blocks that a magazine of a class may hold at first: half of them take so many bytes that what the page map
/// notes of them has a cache line of its own. Threads get fresh blocks by the half magazine.
fn first_limit(magazine: usize) -> usize {
    const LEAST: usize = 8;
    let noted_in_a_line = 64 * classes::GRANULE;
    (2 * noted_in_a_line / classes::size(class_of(magazine))).max(LEAST)
}

/// A magazine for each class, then those for other threads' blocks.
pub const MAGAZINES: usize = COUNT + SHARING;

/// The class of the blocks in a magazine.
pub const fn class_of(magazine: usize) -> usize {
    if magazine < COUNT { magazine } else { magazine - COUNT }
}

/// Room for all magazines of a cache, their marks included.
const ENTRIES: usize = START[MAGAZINES - 1] as usize + CAPACITY[MAGAZINES - 1] as usize + 2;

/// Where every magazine is that the thread has not used: empty, and full.
const UNUSED: usize = 0;

/// Where each magazine begins: at its EMPTY.
const START: [u16; MAGAZINES] = {
    let mut start = [2; MAGAZINES];
    let mut magazine = 1;
    while magazine < MAGAZINES {
        start[magazine] = start[magazine - 1] + CAPACITY[magazine - 1] + 2;
        magazine += 1;
    }
    start
};

/// Blocks that each magazine may hold at most.
const CAPACITY: [u16; MAGAZINES] = {
    let mut capacity = [0; MAGAZINES];
    let mut magazine = 0;
    while magazine < MAGAZINES {
        capacity[magazine] = classes::magazine(class_of(magazine)) as u16;
        magazine += 1;
    }
    capacity
};

#[cold]
fn seldom() {}

/// One thread's free blocks.
#[derive(Debug)]
#[repr(C)]
pub struct ThreadCache {
    /// The entry of each magazine's topmost block.
    tops: [u32; MAGAZINES],
    /// How many blocks each may hold; 0: it was not used yet.
    limits: [u16; MAGAZINES],
    /// The state of a live block of each class that this thread has allocated.
    states: [u8; COUNT],
    /// Which of the depot's shelves it uses first.
    pub side: usize,
    /// How often the depot's shelves had been emptied when the magazines were last.
    pub sweeps: u32,
    /// The next cache on the list of unused ones.
    next: usize,
    entries: [*mut u8; ENTRIES],
}

impl ThreadCache {
    /// Makes it an empty cache, of a thread of that colour.
    fn begin(&mut self, colour: usize) {
        self.tops = [UNUSED as u32; MAGAZINES];
        self.limits = [0; MAGAZINES];
        self.states = core::array::from_fn(|class| classes::state(class, colour));
        self.side = colour % SIDES;
        self.entries[UNUSED + 1] = FULL;
    }

    /// The state of a live block of `class` that this thread has allocated.
    #[inline(always)]
    pub fn state(&self, class: usize) -> u8 {
        debug_assert!(class < COUNT);
        // SAFETY: classes are less than COUNT.
        unsafe { *self.states.get_unchecked(class) }
    }

    /// The magazine for a block of `class` that this thread frees, whose state this was.
    #[inline(always)]
    pub fn magazine(&self, class: usize, state: u8) -> usize {
        if state == self.state(class) {
            return class;
        }
        // A branch: what follows need not wait for the comparison.
        seldom();
        class + COUNT
    }

    /// A free block of a magazine, null if there is none here.
    #[inline(always)]
    pub fn pop(&mut self, magazine: usize) -> *mut u8 {
        debug_assert!(magazine < MAGAZINES);
        // SAFETY: magazines are less than MAGAZINES, and a top is the place of a block or of an EMPTY,
        // below which no block is taken.
        unsafe {
            let top = self.tops.get_unchecked_mut(magazine);
            let block = *self.entries.get_unchecked(*top as usize);
            if block != EMPTY {
                *top -= 1;
            }
            block
        }
    }

    /// Keeps a free block: false if the magazine is full.
    #[inline(always)]
    pub fn push(&mut self, magazine: usize, block: *mut u8) -> bool {
        debug_assert!(magazine < MAGAZINES);
        // SAFETY: magazines are less than MAGAZINES, and above a top there is another entry of the
        // magazine or its FULL, which is not overwritten.
        unsafe {
            let top = self.tops.get_unchecked_mut(magazine);
            let above = self.entries.get_unchecked_mut(*top as usize + 1);
            if *above == FULL {
                return false;
            }
            *above = block;
            *top += 1;
        }
        true
    }

    /// Lets a magazine hold twice as many blocks, up to its capacity: how many it is
    /// to be filled with, or to be relieved of.
    pub fn widen(&mut self, magazine: usize) -> usize {
        let (start, old) = (START[magazine] as usize, self.limits[magazine] as usize);
        let capacity = CAPACITY[magazine] as usize;
        let limit = if old == 0 { first_limit(magazine) } else { old * 2 }.min(capacity);
        if limit != old {
            // What was on the way up is not to be taken for the mark, nor the mark for a block.
            self.entries[start + 1 + old..=start + limit].fill(null_mut());
            self.entries[start + 1 + limit] = FULL;
            self.limits[magazine] = limit as u16;
        }
        if old == 0 {
            self.entries[start] = EMPTY;
            self.tops[magazine] = start as u32;
        }
        limit.div_ceil(2)
    }

    /// Has `give` take up to `most` of the magazine's blocks, those that were freed first, if it says so:
    /// how many.
    pub fn relieve(
        &mut self,
        magazine: usize,
        most: usize,
        give: impl FnOnce(&[*mut u8]) -> bool,
    ) -> usize {
        if self.limits[magazine] == 0 {
            return 0;
        }
        let first = START[magazine] as usize + 1;
        let end = self.tops[magazine] as usize + 1;
        let count = most.min(end - first);
        let Some(oldest) = self.entries.get(first..first + count) else { return 0 };
        if count == 0 || !give(oldest) {
            return 0;
        }
        self.entries.copy_within(first + count..end, first);
        self.tops[magazine] -= count as u32;
        count
    }

    /// Moves the magazine's blocks to `out`, those first that were freed first: how many.
    pub fn take_oldest(&mut self, magazine: usize, out: &mut [*mut u8]) -> usize {
        self.relieve(magazine, out.len(), |blocks| {
            let room = out.get_mut(..blocks.len());
            room.is_some_and(|room| {
                room.copy_from_slice(blocks);
                true
            })
        })
    }

    /// Has `fill` put blocks into the magazine, `most` at most and as far as there is room: how many.
    pub fn fill(
        &mut self,
        magazine: usize,
        most: usize,
        fill: impl FnOnce(&mut [*mut u8]) -> usize,
    ) -> usize {
        let above = self.tops[magazine] as usize + 1;
        let end = START[magazine] as usize + 1 + self.limits[magazine] as usize;
        let end = end.min(above + most);
        let count = self.entries.get_mut(above..end).map_or(0, |room| fill(room).min(room.len()));
        self.tops[magazine] += count as u32;
        count
    }

    /// Exchanges the topmost block for one of the others, by chance.
    pub fn shuffle_top(&mut self, magazine: usize, chance: u64) {
        if self.limits[magazine] == 0 {
            return;
        }
        let (start, top) = (START[magazine] as usize, self.tops[magazine] as usize);
        let len = top - start;
        if len > 1 {
            self.entries.swap(top, start + 1 + (chance % len as u64) as usize);
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
        let cache = if *unused != 0 {
            let cache = *unused as *mut ThreadCache;
            // SAFETY: an unused cache is in nobody's hands but the list's.
            *unused = unsafe { (*cache).next };
            cache
        } else {
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
            cache.cast()
        };
        let colour = (cache.addr() - self.base.addr()) / stride();
        // SAFETY: writable memory of the size, which reads as zeros or as a cache, and is in
        // nobody else's hands.
        unsafe { (*cache).begin(colour) };
        Some(cache)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Addresses that are none of the marks.
    fn block(number: usize) -> *mut u8 {
        without_provenance_mut(16 * (number + 1))
    }

    fn with_cache(test: impl FnOnce(&mut ThreadCache)) {
        let pool = CachePool::reserve(2).expect("address space");
        let cache = pool.take().expect("the first");
        // SAFETY: the pool gave it to this test.
        test(unsafe { &mut *cache });
    }

    #[test]
    fn what_others_allocated_has_a_magazine_of_its_own() {
        with_cache(|cache| {
            for class in 0..COUNT {
                assert_eq!(cache.magazine(class, cache.state(class)), class);
            }
            for class in 0..SHARING {
                let others = cache.magazine(class, classes::state(class, 1));
                assert_eq!(class_of(others), class);
                cache.widen(others);
                assert!(cache.push(others, block(7)));
                assert!(cache.pop(class).is_null());
                assert_eq!(cache.pop(others), block(7));
            }
        });
    }

    #[test]
    fn an_unused_class_is_empty_and_full() {
        with_cache(|cache| {
            for class in 0..MAGAZINES {
                assert!(cache.pop(class).is_null());
                assert!(!cache.push(class, block(0)));
                assert_eq!(cache.take_oldest(class, &mut [null_mut(); 4]), 0);
            }
        });
    }

    #[test]
    fn what_was_freed_last_comes_first_and_the_limit_holds() {
        with_cache(|cache| {
            for class in 0..MAGAZINES {
                let mut limit = 0;
                for _ in 0..8 {
                    cache.widen(class);
                    let mut count = 0;
                    while cache.push(class, block(count)) {
                        count += 1;
                    }
                    assert!(count >= limit && count <= classes::magazine(class_of(class)));
                    limit = count;
                    for number in (0..count).rev() {
                        assert_eq!(cache.pop(class), block(number));
                    }
                    assert!(cache.pop(class).is_null());
                }
                assert_eq!(limit, classes::magazine(class_of(class)), "class {class}");
            }
        });
    }

    #[test]
    fn the_oldest_leave_first_and_classes_do_not_touch_each_other() {
        with_cache(|cache| {
            for class in 0..MAGAZINES {
                while cache.widen(class) < classes::magazine(class_of(class)).div_ceil(2) {}
                (0..).take_while(|&n| cache.push(class, block(100 * class + n))).count();
            }
            for class in 0..MAGAZINES {
                let all = classes::magazine(class_of(class));
                let mut out = [null_mut(); 128];
                let half = all / 2;
                assert_eq!(cache.take_oldest(class, &mut out[..half]), half);
                let expected: Vec<_> = (0..half).map(|n| block(100 * class + n)).collect();
                assert_eq!(out[..half], expected);
                assert_eq!(cache.pop(class), block(100 * class + all - 1));
                assert_eq!(cache.take_oldest(class, &mut out), all - half - 1);
                assert!(cache.pop(class).is_null());
            }
        });
    }

    #[test]
    fn shuffling_loses_and_doubles_nothing() {
        with_cache(|cache| {
            cache.widen(0);
            (0..8).for_each(|n| assert!(cache.push(0, block(n))));
            let mut seen: Vec<_> = (0..8)
                .map(|n| {
                    cache.shuffle_top(0, 0x9e37_79b9_7f4a_7c15 >> n);
                    cache.pop(0)
                })
                .collect();
            seen.sort();
            assert_eq!(seen, (0..8).map(block).collect::<Vec<_>>());
        });
    }
}
