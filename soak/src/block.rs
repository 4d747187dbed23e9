//! One allocation and its shadow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::fmt;
use std::hint::black_box;
use std::ops::Range;

use crate::random::Random;
use crate::shadow::{Content, Shadow, Wrong, write};

/// Deeds that a block remembers.
const DEEDS: usize = 6;

/// Where a block came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Malloc,
    Calloc,
    /// realloc of no block.
    Realloc,
    /// posix_memalign, or with `true` aligned_alloc.
    Aligned(usize, bool),
    /// Rust's own System allocator, with zeros or without.
    Rust(usize, bool),
}

/// What one lane at a time holds.
pub struct Block {
    start: *mut u8,
    source: Source,
    pub shadow: Shadow,
    /// What was done with it at which step, the last of it.
    deeds: [(u64, &'static str); DEEDS],
}

// SAFETY: a block is plain memory that one thread at a time holds.
unsafe impl Send for Block {}

/// Sizes as programs ask for them: mostly small, some around the threshold of large runs, a few large.
pub fn size(random: &mut Random, most: usize) -> usize {
    let size = match random.below(1000) {
        0..560 => 1 + random.below(1024),
        560..780 => 1 + random.below(32 << 10),
        780..880 => (60 << 10) + random.below(16 << 10),
        880..960 => (64 << 10) + random.below(1 << 20),
        960..990 => (1 << 20) + random.below(3 << 20),
        _ => (2 << 20) + random.below(most),
    };
    size.min(most)
}

impl Block {
    /// Nothing if the memory is refused. The choices are the same in either case.
    pub fn new(random: &mut Random, size: usize, step: u64) -> Option<Self> {
        let align = 1 << if random.one_in(8) { random.below(22) } else { random.below(8) };
        let source = match random.below(20) {
            0..9 => Source::Malloc,
            9..14 => Source::Calloc,
            14 => Source::Realloc,
            15..17 => Source::Aligned(align.max(16), random.one_in(2)),
            _ => Source::Rust(align, random.one_in(2)),
        };
        Self::from(source, size, step)
    }

    pub fn from(source: Source, size: usize, step: u64) -> Option<Self> {
        let mut start = std::ptr::null_mut::<c_void>();
        // SAFETY: allocation functions of libc take any sizes; the alignments are powers of two, of a pointer's size
        // or more where that is asked for, and no Rust layout here is empty.
        unsafe {
            match source {
                Source::Malloc => start = libc::malloc(size),
                Source::Calloc if size.is_multiple_of(2) => start = libc::calloc(size / 2, 2),
                Source::Calloc => start = libc::calloc(1, size),
                Source::Realloc => start = libc::realloc(start, size),
                Source::Aligned(align, false) => {
                    // A refusal leaves the null pointer.
                    libc::posix_memalign(&mut start, align, size);
                }
                Source::Aligned(align, true) => start = libc::aligned_alloc(align, size),
                Source::Rust(align, zeroed) => {
                    let layout = Layout::from_size_align(size, align).ok()?;
                    let rust =
                        if zeroed { System.alloc_zeroed(layout) } else { System.alloc(layout) };
                    start = rust.cast();
                }
            }
        }
        if start.is_null() {
            return None;
        }
        let zero = matches!(source, Source::Calloc | Source::Rust(_, true));
        let content = if zero { Content::Zero } else { Content::Pattern };
        let shadow = Shadow::new(size, content);
        // To the compiler, fresh memory is undefined.
        let start = black_box(start.cast());
        let mut block = Self { start, source, shadow, deeds: [(0, ""); DEEDS] };
        block.did(step, "made");
        Some(block)
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn size(&self) -> usize {
        self.shadow.size()
    }

    pub fn is_aligned(&self) -> bool {
        let align = match self.source {
            Source::Aligned(align, _) | Source::Rust(align, _) => align,
            _ if self.size() >= 16 => 16,
            _ => 1,
        };
        (self.start as usize).is_multiple_of(align)
    }

    /// Remembers a deed.
    pub fn did(&mut self, step: u64, deed: &'static str) {
        self.deeds.rotate_left(1);
        self.deeds[DEEDS - 1] = (step, deed);
    }

    pub fn check(&self, range: Range<usize>, pattern: u64) -> Result<(), Wrong> {
        // SAFETY: the block is ours alone, and of its shadow's size.
        let wrong = unsafe { self.shadow.check(self.start, range, pattern) };
        wrong.map_or(Ok(()), Err)
    }

    /// Stores a new content in the range.
    pub fn store(&mut self, range: Range<usize>, tag: u64) {
        // SAFETY: the block is ours alone; callers keep to its size, which the shadow's `set` relies on as well.
        unsafe { write(self.start, range.clone(), Content::Tag(tag)) };
        self.shadow.set(range, Content::Tag(tag));
    }

    /// False, with the block as it was, if the memory is refused.
    pub fn resize(&mut self, size: usize) -> bool {
        let start = self.start.cast::<c_void>();
        // SAFETY: the block came from the same family of functions, with this layout in Rust's.
        let new = unsafe {
            match self.source {
                Source::Rust(align, _) => {
                    let layout = Layout::from_size_align(self.size(), align);
                    let layout = layout.expect("it was valid when the block was made");
                    System.realloc(self.start, layout, size).cast()
                }
                _ if size.is_multiple_of(4) => libc::reallocarray(start, size / 4, 4),
                _ => libc::realloc(start, size),
            }
        };
        if new.is_null() {
            return false;
        }
        // Of libc's functions, none keeps an alignment in a realloc.
        if let Source::Aligned(..) = self.source {
            self.source = Source::Realloc;
        }
        self.start = black_box(new.cast());
        self.shadow.resize(size);
        true
    }

    pub fn free(self) {
        // SAFETY: as above, and the block ends here.
        unsafe {
            match self.source {
                Source::Rust(align, _) => {
                    let layout = Layout::from_size_align(self.size(), align);
                    System.dealloc(self.start, layout.expect("it was valid before"));
                }
                _ => libc::free(self.start.cast()),
            }
        }
    }

    /// All there is to say about a wrong byte.
    pub fn describe<'a>(&'a self, wrong: &'a Wrong, pattern: u64) -> impl fmt::Display + 'a {
        Description { block: self, wrong, pattern }
    }
}

struct Description<'a> {
    block: &'a Block,
    wrong: &'a Wrong,
    pattern: u64,
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { block, wrong, pattern } = self;
        let &Wrong { offset, expected, found, content } = wrong;
        let (start, size) = (block.start, block.size());
        write!(
            out,
            "byte {offset} of a block of {size} bytes at {start:?} ({:?}): ",
            block.source
        )?;
        writeln!(out, "expected {expected:#04x} of {content:?}, found {found:#04x}")?;
        write!(out, "  done with it at steps:")?;
        for (step, deed) in block.deeds.iter().filter(|(_, deed)| !deed.is_empty()) {
            write!(out, " {step} {deed};")?;
        }
        write!(out, "\n  found there:")?;
        for at in offset..size.min(offset + 16) {
            // SAFETY: a byte of the block.
            write!(out, " {:02x}", unsafe { start.add(at).read_volatile() })?;
        }
        let (mut parts, mut wrongs) = (0, 0);
        for (part, content) in block.shadow.parts(0..size) {
            parts += 1;
            if let Err(wrong) = block.check(part.clone(), pattern) {
                wrongs += 1;
                if wrongs <= 8 {
                    write!(out, "\n  wrong from {} in {part:?}, {content:?}", wrong.offset)?;
                }
            }
        }
        write!(out, "\n  {wrongs} of {parts} intervals are wrong")
    }
}
