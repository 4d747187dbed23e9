//! The depot: batches of free blocks on their way from one thread to another, without a lock.
//!
//! ```text
//!   thread A's magazine, full ── oldest blocks ─▶ shelf of the class ─▶ thread B's, empty
//!                                                  │ batches that nobody wanted for a while
//!                                                  ▼
//!                                                 spans
//! ```
//!
//! Each class has a few shelves. A shelf is a stack of batches (R. K. Treiber, "Systems Programming: Coping with Parallelism",
//! 1986), linked by number; each change of its head also counts, so that a head which comes back is
//! told from one that stayed. What a batch holds is outside the blocks, as in a magazine (the idea
//! of a depot is from J. Bonwick and J. Adams, "Magazines and Vmem", USENIX 2001).

use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64};

use refpage::sys::vm;
use rustix::io::Result;

use crate::classes::{self, COUNT};

/// Blocks that a batch holds at most.
pub const BATCH: usize = 64;

/// Batches that there may be: 260,000 blocks, and 2 MiB for their addresses.
pub const BATCHES: u32 = 4096;

#[derive(Debug)]
struct Batch {
    /// Number of the batch below plus one, 0 at the bottom.
    next: AtomicU32,
    len: AtomicU32,
    /// Whoever has taken the batch off its stack has it alone.
    blocks: UnsafeCell<[*mut u8; BATCH]>,
}

/// The head of a stack: in the lower half the number of the topmost batch plus one, in the upper
/// half how often it has changed.
#[derive(Debug)]
struct Stack(AtomicU64);

const CHANGE: u64 = 1 << 32;

/// Shelves of each class: a thread uses one before the others, so that blocks which lie side by side, and what
/// is noted of them, mostly stay with one thread and in one processor's cache.
pub const SIDES: usize = 4;

/// Batches of one class.
#[derive(Debug)]
#[repr(align(64))]
struct Shelf {
    stack: Stack,
    /// Batches on it, and the fewest that there were since the last [`Depot::is_idle`]. Both may
    /// lag behind.
    count: AtomicU32,
    fewest: AtomicU32,
}

/// All shelves of a heap.
#[derive(Debug)]
pub struct Depot {
    batches: *mut Batch,
    /// Batches that were in use at least once.
    made: AtomicU32,
    unused: [Shelf; SIDES],
    shelves: [[Shelf; SIDES]; COUNT],
}

// SAFETY: all of it is atomics, or one's who has popped it, in a mapping that lives as long as the depot.
unsafe impl Sync for Depot {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for Depot {}

impl Depot {
    /// Room for all batches, none of it touched.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve() -> Result<Self> {
        let batches = vm::reserve_for_later(LEN, vm::page_size())?.cast();
        let shelf = || Shelf {
            stack: Stack(AtomicU64::new(0)),
            count: AtomicU32::new(0),
            fewest: AtomicU32::new(0),
        };
        Ok(Self {
            batches,
            made: AtomicU32::new(0),
            unused: core::array::from_fn(|_| shelf()),
            shelves: core::array::from_fn(|_| core::array::from_fn(|_| shelf())),
        })
    }

    /// Keeps free blocks of `class`, at most [`BATCH`] of them, for whoever wants some, those of that side
    /// first: false if there is no room.
    pub fn give(&self, class: usize, side: usize, blocks: &[*mut u8]) -> bool {
        let Some(number) = self.unused(side) else { return false };
        let batch = self.batch(number);
        let len = blocks.len().min(BATCH);
        // SAFETY: the batch is on no stack, so it is this thread's, and has room for that many.
        unsafe { batch.blocks.get().cast::<*mut u8>().copy_from(blocks.as_ptr(), len) };
        batch.len.store(len as u32, Relaxed);
        let shelf = &self.shelves[class][side % SIDES];
        self.push(&shelf.stack, number);
        shelf.count.fetch_add(1, Relaxed);
        true
    }

    /// Free blocks of `class`, as many as fit in `out`, from the batch that came last, of that side if it has
    /// any: how many.
    pub fn take(&self, class: usize, side: usize, out: &mut [*mut u8]) -> usize {
        let shelves = &self.shelves[class];
        let mut sides = (side..side + SIDES).map(|side| side % SIDES);
        sides.find_map(|side| self.take_from(&shelves[side], side, out)).unwrap_or(0)
    }

    fn take_from(&self, shelf: &Shelf, side: usize, out: &mut [*mut u8]) -> Option<usize> {
        let number = self.pop(&shelf.stack)?;
        let count = shelf.count.fetch_sub(1, Relaxed).wrapping_sub(1);
        if count < shelf.fewest.load(Relaxed) {
            shelf.fewest.store(count, Relaxed);
        }
        let batch = self.batch(number);
        let len = batch.len.load(Relaxed) as usize;
        let left = len.saturating_sub(out.len());
        // SAFETY: as in `give`; so many blocks lie in the batch, and have room in `out`.
        unsafe {
            let blocks = batch.blocks.get().cast::<*mut u8>();
            out.as_mut_ptr().copy_from_nonoverlapping(blocks.add(left), len - left);
        }
        if left > 0 {
            batch.len.store(left as u32, Relaxed);
            self.push(&shelf.stack, number);
            shelf.count.fetch_add(1, Relaxed);
        } else {
            self.push(&self.unused[side].stack, number);
        }
        Some(len - left)
    }

    /// Whether there were batches of `class` that nobody has wanted since this was asked last.
    pub fn is_idle(&self, class: usize) -> bool {
        let mut any = false;
        for shelf in &self.shelves[class] {
            // Counts lag behind: what was counted out before it was counted in is no batch.
            let count = shelf.count.load(Relaxed) as i32;
            let fewest = shelf.fewest.swap(count.max(0) as u32, Relaxed) as i32;
            any |= fewest.min(count) > 0;
        }
        any
    }

    /// Whether nothing is on any shelf.
    pub fn is_empty(&self) -> bool {
        self.shelves.iter().flatten().all(|shelf| shelf.stack.0.load(Relaxed) as u32 == 0)
    }

    /// Bytes in the blocks of all shelves, for statistics: batches change hands meanwhile.
    pub fn bytes(&self) -> usize {
        (0..COUNT).map(|class| self.blocks(class) * classes::size(class)).sum()
    }

    /// Blocks of `class`, for statistics too.
    pub fn blocks(&self, class: usize) -> usize {
        self.shelves[class].iter().map(|shelf| self.blocks_on(shelf)).sum()
    }

    fn blocks_on(&self, shelf: &Shelf) -> usize {
        let (mut sum, mut link) = (0, shelf.stack.0.load(Acquire) as u32);
        // No more than there are: a stack that changes meanwhile may lead in a circle.
        for _ in 0..self.made.load(Relaxed).min(BATCHES) {
            let Some(number) = link.checked_sub(1) else { break };
            let batch = self.batch(number);
            sum += batch.len.load(Relaxed) as usize;
            link = batch.next.load(Relaxed);
        }
        sum
    }

    /// A batch on no stack.
    fn unused(&self, side: usize) -> Option<u32> {
        self.pop(&self.unused[side % SIDES].stack).or_else(|| self.make()).or_else(|| {
            // The last resort: those of the other sides.
            self.unused.iter().find_map(|shelf| self.pop(&shelf.stack))
        })
    }

    fn make(&self) -> Option<u32> {
        let mut made = self.made.load(Relaxed);
        loop {
            if made == BATCHES {
                return None;
            }
            match self.made.compare_exchange_weak(made, made + 1, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => made = now,
            }
        }
        // SAFETY: the batch lies in the reservation.
        let usable = unsafe {
            vm::make_writable(self.batches.add(made as usize).cast(), size_of::<Batch>())
        };
        // One that cannot be used is lost: so little memory is left then that it does not matter.
        usable.is_ok().then_some(made)
    }

    fn batch(&self, number: u32) -> &Batch {
        debug_assert!(number < BATCHES);
        // SAFETY: numbers come from `make`, and zeros, as the kernel gives them, are a batch.
        unsafe { &*self.batches.add(number as usize) }
    }

    fn push(&self, stack: &Stack, number: u32) {
        let mut head = stack.0.load(Relaxed);
        loop {
            self.batch(number).next.store(head as u32, Relaxed);
            let new = (head & !(CHANGE - 1)).wrapping_add(CHANGE) | u64::from(number + 1);
            match stack.0.compare_exchange_weak(head, new, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self, stack: &Stack) -> Option<u32> {
        let mut head = stack.0.load(Acquire);
        loop {
            let number = (head as u32).checked_sub(1)?;
            // Somebody may pop it and use it again meanwhile: then the head has changed.
            let next = self.batch(number).next.load(Relaxed);
            let new = (head & !(CHANGE - 1)).wrapping_add(CHANGE) | u64::from(next);
            match stack.0.compare_exchange_weak(head, new, AcqRel, Acquire) {
                Ok(_) => return Some(number),
                Err(now) => head = now,
            }
        }
    }
}

/// Bytes of all batches.
const LEN: usize = BATCHES as usize * size_of::<Batch>();

impl Drop for Depot {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.batches.cast(), LEN) };
    }
}

/// Room for the blocks of a batch.
pub const fn no_blocks() -> [*mut u8; BATCH] {
    [null_mut(); BATCH]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;
    use std::vec::Vec;

    fn block(number: usize) -> *mut u8 {
        without_provenance_mut(16 * (number + 1))
    }

    #[test]
    fn a_batch_may_leave_in_parts() {
        let depot = Depot::reserve().expect("address space");
        let blocks: Vec<_> = (0..BATCH).map(block).collect();
        assert!(depot.give(3, 0, &blocks));
        assert_eq!(depot.bytes(), BATCH * classes::size(3));
        let mut seen = Vec::new();
        for room in [1, 10, 64, 64] {
            let mut out = no_blocks();
            let count = depot.take(3, 0, &mut out[..room]);
            assert_eq!(count, room.min(BATCH - seen.len()));
            seen.extend_from_slice(&out[..count]);
        }
        seen.sort();
        assert_eq!(seen, blocks);
        assert_eq!(depot.bytes(), 0);
    }

    #[test]
    fn there_is_an_end_to_its_room() {
        let depot = Depot::reserve().expect("address space");
        for number in 0..BATCHES as usize {
            assert!(depot.give(number % COUNT, 0, &[block(number)]));
        }
        assert!(!depot.give(0, 0, &[block(0)]));
        assert_eq!(depot.take(5, 0, &mut no_blocks()), 1);
        assert!(depot.give(0, 0, &[block(0)]));
    }

    #[test]
    fn what_nobody_wanted_is_what_was_always_there() {
        let depot = Depot::reserve().expect("address space");
        (0..5).for_each(|n| assert!(depot.give(0, 0, &[block(n)])));
        assert!(!depot.is_idle(0), "there was a time with none");
        (0..5).for_each(|_| assert_eq!(depot.take(0, 0, &mut no_blocks()), 1));
        (0..5).for_each(|n| assert!(depot.give(0, 0, &[block(n)])));
        assert!(!depot.is_idle(0), "all of them were wanted");
        assert_eq!(depot.take(0, 0, &mut no_blocks()), 1);
        assert!(depot.is_idle(0) && depot.is_idle(0));
    }

    #[test]
    fn each_side_has_its_own_and_what_others_leave() {
        let depot = Depot::reserve().expect("address space");
        assert!(depot.give(2, 1, &[block(1)]) && depot.give(2, 3, &[block(3)]));
        let mut out = no_blocks();
        assert_eq!((depot.take(2, 3, &mut out), out[0]), (1, block(3)));
        assert_eq!((depot.take(2, 3, &mut out), out[0]), (1, block(1)));
        assert_eq!(depot.take(2, 3, &mut out), 0);
    }

    #[test]
    fn threads_lose_and_double_nothing() {
        const THREADS: usize = 4;
        const EACH: usize = 8;
        let depot = Depot::reserve().expect("address space");
        for number in 0..THREADS {
            let blocks: Vec<_> = (0..EACH).map(|n| block(number * EACH + n)).collect();
            assert!(depot.give(1, 0, &blocks));
        }
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut out = no_blocks();
                        let count = depot.take(1, 0, &mut out);
                        if count > 0 {
                            assert!(depot.give(1, count, &out[..count]));
                        }
                    }
                });
            }
        });
        let mut seen = Vec::new();
        loop {
            let mut out = no_blocks();
            let count = depot.take(1, 0, &mut out);
            if count == 0 {
                break;
            }
            seen.extend_from_slice(&out[..count]);
        }
        seen.sort();
        assert_eq!(seen, (0..THREADS * EACH).map(block).collect::<Vec<_>>());
    }
}
