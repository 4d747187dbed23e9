//! Huge blocks: 2 MiB each, whole huge pages that are moved whole or not at all.
//!
//! ```text
//!            claim                  fill                    MOVE to the Region
//!   EMPTY ──────────▶ in someone's ──────▶ READY ─▶ in someone's ─────────────▶ EMPTY
//!     ▲                  hands                         hands
//!     └──── MOVE back from a freed run: READY at once ──┘
//! ```
//!
//! A huge page costs the kernel one fault instead of 512, and moves in one step; but a part of one
//! does not move without being split, at half a microsecond a page.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use rustix::io::Result;

use crate::content::Content;
use crate::sys::vm::{self, Tags};

/// Bytes in a huge block.
pub const HUGE: usize = 2 << 20;

const EMPTY: u8 = 0;
const HELD: u8 = 1;
const READY: u8 = 2;

/// Nanoseconds above which a block was slow to make, slower than from small pages: memory that a
/// virtual machine has given back to its host costs milliseconds to get.
const SLOW: u64 = 1_000_000;

/// Attempts that are left out after the kernel gave small pages instead of a huge one, or was slow;
/// it doubles with each time that it happens again.
const FIRST_PAUSE: u32 = 2;
const LAST_PAUSE: u32 = 32;

/// A block in its holder's hands: it goes back with [`HugeBlocks::settle`].
#[derive(Debug)]
pub struct Block {
    index: usize,
    /// Its first byte.
    pub start: *mut u8,
}

/// What a block is when its holder lets go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its pages left, whole.
    Gone,
    /// Something is left that nobody wants: it goes back to the kernel.
    Broken,
    /// It is there and holds the content.
    Filled,
}

/// All huge blocks of a pool.
#[derive(Debug)]
pub struct HugeBlocks {
    base: *mut u8,
    states: *const AtomicU8,
    count: usize,
    ready: AtomicUsize,
    /// Attempts still to be left out, and how many it will be next time.
    paused: AtomicU32,
    pause: AtomicU32,
}

// SAFETY: both mappings live as long as the process, and a block belongs to whoever changed its
// state to HELD.
unsafe impl Sync for HugeBlocks {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for HugeBlocks {}

impl HugeBlocks {
    /// Room for `count` blocks, all empty, with or without tags.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve(count: usize, tags: Tags) -> Result<Self> {
        // Zeros, as the kernel gives them, are EMPTY.
        let states = vm::reserve(state_bytes(count), vm::page_size())?;
        let base = vm::reserve_as(count * HUGE, HUGE, tags).inspect_err(|_| {
            // SAFETY: reserved just above, seen by nobody.
            unsafe { vm::unmap(states, state_bytes(count)) };
        })?;
        Ok(Self {
            base,
            states: states.cast(),
            count,
            ready: AtomicUsize::new(0),
            paused: AtomicU32::new(0),
            pause: AtomicU32::new(FIRST_PAUSE),
        })
    }

    /// The whole mapping: address and bytes.
    pub fn range(&self) -> (*mut u8, usize) {
        (self.base, self.count * HUGE)
    }

    /// In a child of fork: nothing is there any more.
    pub fn empty(&self) {
        for state in self.states() {
            state.store(EMPTY, Ordering::Relaxed);
        }
        self.ready.store(0, Ordering::Relaxed);
    }

    /// Blocks that are filled.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Relaxed)
    }

    /// Their number, as a word.
    pub(crate) fn ready_word(&self) -> &AtomicUsize {
        &self.ready
    }

    /// A block that is filled already.
    pub fn take_ready(&self) -> Option<Block> {
        if self.ready() == 0 {
            return None;
        }
        let block = self.claim(READY)?;
        self.ready.fetch_sub(1, Ordering::Relaxed);
        Some(block)
    }

    /// A block without pages, for pages to be moved into.
    pub fn take_empty(&self) -> Option<Block> {
        self.claim(EMPTY)
    }

    /// A block that holds `content`, made now. None where there is no room, or where huge pages
    /// are not to be had at the moment.
    pub fn make(&self, content: Content) -> Option<Block> {
        self.make_by(|start| {
            // SAFETY: the block is in this thread's hands.
            unsafe { content.fill(start, HUGE) }
        })
    }

    /// A block of zeros, made now. None as for [`make`](Self::make).
    pub fn make_zeroed(&self) -> Option<Block> {
        // As the kernel gives them.
        self.make_by(|_| {})
    }

    fn make_by(&self, fill: impl FnOnce(*mut u8)) -> Option<Block> {
        let paused = self.paused.load(Ordering::Relaxed);
        if paused > 0 {
            self.paused.store(paused - 1, Ordering::Relaxed);
            return None;
        }
        let block = self.claim(EMPTY)?;
        let (faults, begin) = (vm::thread_faults(), vm::now_ns());
        // With an error where there is no memory: the fault handler, which makes blocks too, would wait
        // for it below if that is how the memory's control group wants it, and with it everyone.
        // SAFETY: the block is in this thread's hands.
        if unsafe { vm::try_populate(block.start, HUGE) }.is_err() {
            self.settle(block, Settled::Broken);
            self.paused.store(LAST_PAUSE, Ordering::Relaxed);
            return None;
        }
        fill(block.start);
        // One fault for a huge page; small pages serve as well, but cost more than they are worth.
        let small = vm::thread_faults() - faults > (HUGE / vm::page_size() / 2) as u64;
        let pause = if small || vm::now_ns() - begin > SLOW {
            let pause = self.pause.load(Ordering::Relaxed);
            self.paused.store(pause, Ordering::Relaxed);
            (pause * 2).min(LAST_PAUSE)
        } else {
            FIRST_PAUSE
        };
        self.pause.store(pause, Ordering::Relaxed);
        Some(block)
    }

    /// Lets go of a block.
    pub fn settle(&self, block: Block, settled: Settled) {
        let state = match settled {
            Settled::Gone => EMPTY,
            Settled::Broken => {
                // SAFETY: the block is in the caller's hands, and its content can be made again.
                if unsafe { vm::drop_pages(block.start, HUGE) }.is_err() {
                    // Locked in memory: what it holds must not be taken for anything else.
                    return;
                }
                EMPTY
            }
            Settled::Filled => {
                self.ready.fetch_add(1, Ordering::Relaxed);
                READY
            }
        };
        if let Some(place) = self.states().get(block.index) {
            place.store(state, Ordering::Release);
        }
    }

    /// Gives up to `count` filled blocks back to the kernel: how many it had.
    pub fn drain(&self, count: usize) -> usize {
        let mut given = 0;
        while given < count
            && let Some(block) = self.take_ready()
        {
            self.settle(block, Settled::Broken);
            given += 1;
        }
        given
    }

    fn claim(&self, from: u8) -> Option<Block> {
        let index = self.states().iter().position(|state| {
            state.load(Ordering::Relaxed) == from
                && state.compare_exchange(from, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        // SAFETY: there is room for `count` blocks, and as many states.
        Some(Block { index, start: unsafe { self.base.add(index * HUGE) } })
    }

    fn states(&self) -> &[AtomicU8] {
        // SAFETY: `reserve` made the mapping of at least this length, for good.
        unsafe { core::slice::from_raw_parts(self.states, self.count) }
    }
}

/// Bytes of the states of `count` blocks, in whole OS pages.
fn state_bytes(count: usize) -> usize {
    count.next_multiple_of(vm::page_size())
}

impl Drop for HugeBlocks {
    fn drop(&mut self) {
        let (start, len) = self.range();
        // SAFETY: both mappings were made by `reserve`, and their owner goes.
        unsafe {
            vm::unmap(start, len);
            vm::unmap(self.states.cast_mut().cast(), state_bytes(self.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Pattern;

    #[test]
    fn a_block_is_in_one_place_at_a_time() {
        let blocks = HugeBlocks::reserve(2, Tags::Without).expect("4 MiB of address space");
        assert!(blocks.take_ready().is_none());
        let one = blocks.make(Content::Pattern(Pattern::byte(0xAA))).expect("an empty block");
        let two = blocks.take_empty().expect("the other one");
        assert_ne!(one.start, two.start);
        assert!(blocks.take_empty().is_none(), "both are in hand");
        // SAFETY: the block is 2 MiB and in this thread's hands.
        assert!(unsafe { *one.start == 0xAA && *one.start.add(HUGE - 1) == 0xAA });
        blocks.settle(one, Settled::Filled);
        blocks.settle(two, Settled::Gone);
        assert_eq!(blocks.ready(), 1);
        assert_eq!(blocks.drain(5), 1);
        assert_eq!(blocks.ready(), 0);
        let zeroed = blocks.take_empty().expect("drained");
        // SAFETY: as above.
        assert_eq!(unsafe { *zeroed.start }, 0, "what was drained is gone");
        blocks.settle(zeroed, Settled::Gone);
    }
}
