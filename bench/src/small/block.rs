//! Small blocks that carry a stamp, and the worker that allocates and frees them for one thread.

use std::hint::black_box;
use std::ptr::NonNull;

use crate::memory::{Memory, Wrong};
use crate::seed;
use refpage_compactor::Random;

/// The shortest block: its stamp is a word at either end.
pub const LEAST: usize = 8;
/// Of so many blocks that are left at the end, one outlives the measured part.
const SURVIVES: u64 = 1024;
const WORD: usize = size_of::<u32>();

/// A block with a stamp at its first and last bytes. It is freed by a worker, not when dropped.
pub struct Block {
    start: NonNull<u8>,
    len: u32,
    tag: u32,
}

// SAFETY: the block is its owner's alone, and memory may be freed by any thread.
unsafe impl Send for Block {}

impl Block {
    /// How many bytes were asked for.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Where its last word is.
    fn last(&self) -> *mut u32 {
        // SAFETY: every block is at least LEAST bytes long.
        unsafe { self.start.as_ptr().add(self.len() - WORD).cast() }
    }

    #[inline]
    fn stamp(&self) {
        // SAFETY: both words are inside the block, which is this value's alone.
        unsafe {
            self.start.as_ptr().cast::<u32>().write_unaligned(self.tag);
            self.last().write_unaligned(self.tag);
        }
    }

    /// The words at both ends.
    #[inline]
    fn ends(&self) -> [u32; 2] {
        // SAFETY: as in `stamp`, and both were written then.
        unsafe {
            [self.start.as_ptr().cast::<u32>().read_unaligned(), self.last().read_unaligned()]
        }
    }

    /// Writes every byte between the stamps, as a string is written.
    pub fn write(&mut self, byte: u8) {
        // SAFETY: the range lies between both words, which every block has.
        unsafe { self.start.as_ptr().add(WORD).write_bytes(byte, self.len() - 2 * WORD) }
    }
}

/// What one thread did.
#[derive(Default)]
pub struct Tally {
    /// Blocks that were allocated or grown.
    pub operations: usize,
    /// Bytes that were compared with what they should be.
    pub checked_bytes: u64,
    /// The first byte that was wrong.
    pub wrong: Option<Wrong>,
}

/// One thread's hands: it allocates, stamps, checks and frees.
pub struct Worker<'m, M> {
    memory: &'m M,
    /// Which thread of the case it is.
    pub number: usize,
    /// Its own numbers.
    pub random: Random,
    pub tally: Tally,
    tag: u32,
    retired: u64,
    survivors: Vec<Block>,
}

impl<'m, M: Memory> Worker<'m, M> {
    /// The hands of thread `number`.
    pub fn new(memory: &'m M, number: usize) -> Self {
        Self {
            memory,
            number,
            random: seed::random(number as u64),
            tally: Tally::default(),
            tag: (number as u32) << 24,
            retired: 0,
            survivors: Vec::with_capacity(1024),
        }
    }

    /// A block of `len` bytes.
    #[inline]
    pub fn allocate(&mut self, len: usize) -> Block {
        self.stamped(self.memory.allocate(len), len)
    }

    /// A block of `len` zeros, whose ends are looked at.
    #[inline]
    pub fn zeroed(&mut self, len: usize) -> Block {
        let start = hidden(self.memory.allocate_zeroed(len));
        self.check(&Block { start, len: len as u32, tag: 0 }, "calloc should have cleared");
        self.stamped(start.as_ptr(), len)
    }

    /// The block made longer; its content must have come along.
    #[inline]
    pub fn grow(&mut self, block: Block, len: usize) -> Block {
        // SAFETY: the block is live, and replaced by the one that it becomes.
        let start = unsafe { self.memory.grow(block.start.as_ptr(), block.len(), len) };
        self.check(&Block { start: hidden(start), ..block }, "written before realloc");
        self.stamped(start, len)
    }

    #[inline]
    fn stamped(&mut self, start: *mut u8, len: usize) -> Block {
        debug_assert!(len >= LEAST);
        // Neighbours in time differ in every byte of their tags, and so do threads.
        self.tag = self.tag.wrapping_add(0x9e37_79b1);
        let block = Block { start: hidden(start), len: len as u32, tag: self.tag };
        block.stamp();
        self.tally.operations += 1;
        block
    }

    /// Frees a block that must still carry its stamp.
    #[inline]
    pub fn free(&mut self, block: Block) {
        self.check(&block, "written before");
        // SAFETY: the block is live, and gone with this call.
        unsafe { self.memory.free(block.start.as_ptr(), block.len()) }
    }

    /// Frees a block at the end of the work, or keeps it beyond if its turn comes.
    pub fn retire(&mut self, block: Block) {
        self.retired += 1;
        if self.retired.is_multiple_of(SURVIVES) {
            self.survivors.push(block);
        } else {
            self.free(block);
        }
    }

    /// Adds one to the block's first word so many times, each time in memory.
    pub fn rewrite(&mut self, block: &mut Block, times: u32) {
        let word = block.start.as_ptr().cast::<u32>();
        for _ in 0..times {
            // SAFETY: the word is inside the block, which is the caller's alone, and was written.
            // malloc's blocks are aligned.
            unsafe { word.write_volatile(word.read_volatile().wrapping_add(1)) }
        }
        block.tag = block.tag.wrapping_add(times);
        // SAFETY: as above.
        unsafe { block.last().write_unaligned(block.tag) }
    }

    #[inline]
    fn check(&mut self, block: &Block, what: &str) {
        let ends = block.ends();
        self.tally.checked_bytes += 2 * WORD as u64;
        if (ends[0] ^ block.tag) | (ends[1] ^ block.tag) != 0 {
            self.note(block, ends, what);
        }
    }

    #[cold]
    fn note(&mut self, block: &Block, ends: [u32; 2], what: &str) {
        let end = usize::from(ends[0] == block.tag);
        let at = if end == 0 { 0 } else { block.len() - WORD };
        self.tally.wrong.get_or_insert_with(|| {
            Wrong(format!(
                "wrong content: the word at byte {at} of a block of {}, {what}, is {:#010x}, not {:#010x}",
                block.len(),
                ends[end],
                block.tag
            ))
        });
    }

    /// Frees what outlived the measured part.
    pub fn finish(mut self) -> Tally {
        for block in std::mem::take(&mut self.survivors) {
            self.free(block);
        }
        seed::note([self.number as u64, self.random.next()]);
        self.tally
    }
}

/// Hidden from the compiler, which knows malloc by name and may drop a block that is freed soon.
fn hidden(start: *mut u8) -> NonNull<u8> {
    NonNull::new(black_box(start)).expect("the machine has this much memory")
}
