//! A shadow model of every byte of random allocations, through an allocator of the test's choice.
//!
//! Each block must hold the pattern (or zeros) when it is handed out, must keep what was written
//! to it until it is freed, and must read as the pattern where a realloc made it longer.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc;

use refpage_alloc::RefPage;

/// A second value would do as well: the heap is one.
static ALLOCATOR: RefPage = RefPage::new();

const PATTERN: u8 = 0xAA;

/// xorshift64*: the same seed gives the same test.
pub struct Random(pub u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }

    fn size(&mut self, mix: Mix) -> usize {
        match (mix, self.below(100)) {
            (Mix::Programs, 0..60) => 1 + self.below(1024),
            (Mix::Programs, 60..80) => 1 + self.below(32 << 10),
            (Mix::Programs, 80..92) => (60 << 10) + self.below(16 << 10),
            (Mix::Programs, 92..99) => (64 << 10) + self.below(1 << 20),
            (Mix::Programs, _) => (1 << 20) + self.below(8 << 20),
            (Mix::Small, 0..20) => 1 + self.below(70_000),
            (Mix::Small, _) => {
                let most = 70_000.min(1 << self.below(18));
                1 + self.below(most)
            }
        }
    }

    fn align(&mut self, mix: Mix) -> usize {
        match mix {
            Mix::Programs if self.below(10) == 0 => 1 << self.below(22),
            Mix::Small if self.below(2) == 0 => 1 << self.below(17),
            _ => 8,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "each test file is a crate of its own and uses one of these")]
pub enum Mix {
    /// Sizes as programs ask for them: mostly small, some around the threshold, a few large; few alignments.
    Programs,
    /// Sizes up to 70,000, as many below each power of two, and half of them at alignments up to 65,536.
    Small,
}

/// A block and what it must hold: `tag` in its first `written` bytes, zeros behind them up to
/// `zero_to`, if it came from calloc, and the pattern in the rest.
pub struct Block {
    start: *mut u8,
    size: usize,
    align: usize,
    tag: u8,
    written: usize,
    zero_to: usize,
}

// SAFETY: a block is plain memory that one thread at a time holds.
unsafe impl Send for Block {}

impl Block {
    fn new(random: &mut Random, mix: Mix) -> Self {
        let (size, align) = (random.size(mix), random.align(mix));
        let layout = Layout::from_size_align(size, align).expect("a valid layout");
        let zeroed = random.below(4) == 0;
        // SAFETY: the size is not zero.
        let start = unsafe {
            if zeroed { ALLOCATOR.alloc_zeroed(layout) } else { ALLOCATOR.alloc(layout) }
        };
        assert!(!start.is_null() && (start as usize).is_multiple_of(align), "{layout:?}");
        let zero_to = if zeroed { size } else { 0 };
        let mut block = Self { start, size, align, tag: 0, written: 0, zero_to };
        if random.below(3) > 0 {
            block.check();
        }
        block.write(random);
        block
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the block holds `size` bytes, all initialised: that is what is tested here.
        unsafe { std::slice::from_raw_parts(self.start, self.size) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.size) }
    }

    /// Writes a tag over a part from the start: large blocks mostly stay untouched.
    fn write(&mut self, random: &mut Random) {
        self.tag = 1 + random.below(100) as u8;
        let most = if random.below(2) == 0 { self.size } else { self.size / 8 + 1 };
        let length = self.written.max(1 + random.below(most));
        self.written = length;
        let tag = self.tag;
        self.bytes_mut()[..length].fill(tag);
    }

    fn check(&self) {
        let (written, rest) = self.bytes().split_at(self.written);
        let (zeros, rest) = rest.split_at(self.zero_to.saturating_sub(self.written));
        for (part, value) in [(written, self.tag), (zeros, 0), (rest, PATTERN)] {
            let other = part.iter().position(|&byte| byte != value);
            let Self { size, written, zero_to, .. } = *self;
            assert_eq!(
                other.map(|at| (at, part[at])),
                None,
                "{value} of {size} bytes, {written} written, {zero_to} zero"
            );
        }
    }

    fn reallocate(&mut self, random: &mut Random, mix: Mix) {
        let near = random.below(2) == 0;
        let new = if near { 1 + self.size / 8 * (4 + random.below(10)) } else { random.size(mix) };
        let layout = Layout::from_size_align(self.size, self.align).expect("a valid layout");
        // SAFETY: the block came from this allocator with this layout.
        self.start = unsafe { ALLOCATOR.realloc(self.start, layout, new) };
        assert!(!self.start.is_null() && (self.start as usize).is_multiple_of(self.align));
        self.size = new;
        self.written = self.written.min(new);
        self.zero_to = self.zero_to.min(new);
        if random.below(2) == 0 {
            self.check();
        }
    }

    /// Checks and frees it.
    pub fn free(self) {
        self.check();
        let layout = Layout::from_size_align(self.size, self.align).expect("a valid layout");
        // SAFETY: the block came from this allocator with this layout, and ends here.
        unsafe { ALLOCATOR.dealloc(self.start, layout) };
    }
}

/// Takes `steps` random steps; blocks are passed on to, and taken from, other threads.
pub fn churn(
    seed: u64,
    mix: Mix,
    steps: usize,
    pass_on: &mpsc::Sender<Block>,
    from: &mpsc::Receiver<Block>,
) {
    let mut random = Random(seed);
    let mut blocks: Vec<Block> = Vec::new();
    for _ in 0..steps {
        match random.below(10) {
            0..4 => blocks.push(Block::new(&mut random, mix)),
            4..6 if !blocks.is_empty() => {
                let at = random.below(blocks.len());
                blocks[at].reallocate(&mut random, mix);
            }
            6 if !blocks.is_empty() => {
                let at = random.below(blocks.len());
                let _ = pass_on.send(blocks.swap_remove(at));
            }
            _ if !blocks.is_empty() => {
                let at = random.below(blocks.len());
                blocks.swap_remove(at).free();
            }
            _ => {}
        }
        from.try_iter().for_each(Block::free);
        if blocks.len() > 200 {
            blocks.drain(..100).for_each(Block::free);
        }
    }
    blocks.into_iter().for_each(Block::free);
}
