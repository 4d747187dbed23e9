//! Where the memory of a case comes from, and blocks of it that know what they should hold.
//!
//! Blocks are got from libc's malloc by name, not from Rust's allocator, so that what is measured is
//! what LD_PRELOAD put there.

mod glances;
mod guarded;

use std::fmt;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::OnceLock;

use clap::ValueEnum;

use guarded::Waiting;

/// The pattern that refpage promises, and that the baselines fill with.
pub const PATTERN: u8 = 0xaa;
/// Size of a transparent huge page on x86-64, and on aarch64 with 4 KiB pages.
const HUGE_BYTES: usize = 2 << 20;

/// The size of an OS page.
pub fn page_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    // SAFETY: sysconf only reads.
    *BYTES.get_or_init(|| unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize)
}

/// Hands out memory.
///
/// # Safety
/// What `allocate` and its like return is `size` bytes that nobody else uses until they are freed,
/// or null.
pub unsafe trait Memory: Sync {
    /// What every byte of a fresh block holds, if that is promised.
    fn promise(&self) -> Option<u8>;

    /// A block of `size` bytes.
    fn allocate(&self, size: usize) -> *mut u8;

    /// A block of `size` zeros.
    fn allocate_zeroed(&self, size: usize) -> *mut u8;

    /// A block of `new` bytes that begins with those of `block`, which is gone.
    ///
    /// # Safety
    /// `block` has `old` bytes, comes from here, and was not freed.
    unsafe fn grow(&self, block: *mut u8, old: usize, new: usize) -> *mut u8;

    /// Takes the block back.
    ///
    /// # Safety
    /// As for `grow`.
    unsafe fn free(&self, block: *mut u8, size: usize);
}

/// The process's malloc, whoever provides it.
pub struct Malloc {
    /// What the allocator promises.
    pub promise: Option<u8>,
}

// SAFETY: malloc's contract.
unsafe impl Memory for Malloc {
    fn promise(&self) -> Option<u8> {
        self.promise
    }

    fn allocate(&self, size: usize) -> *mut u8 {
        // SAFETY: malloc may be called with any size.
        unsafe { libc::malloc(size).cast() }
    }

    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        // SAFETY: calloc may be called with any size.
        unsafe { libc::calloc(1, size).cast() }
    }

    unsafe fn grow(&self, block: *mut u8, _: usize, new: usize) -> *mut u8 {
        // SAFETY: the caller hands over a live block of malloc's.
        unsafe { libc::realloc(block.cast(), new).cast() }
    }

    unsafe fn free(&self, block: *mut u8, _: usize) {
        // SAFETY: as above.
        unsafe { libc::free(block.cast()) }
    }
}

/// What a program could do without an allocator: the measure of what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// mmap, fill, munmap for each block, as in the patch's benchmark.
    MmapMemset,
    /// mmap and munmap, without huge pages; nothing is filled.
    SmallPages,
    /// The same, filled.
    SmallMemset,
    /// mmap and munmap, with huge pages; nothing is filled.
    Huge,
    /// The same, filled.
    HugeMemset,
    /// One block that is kept and filled again: the warm cache.
    WarmMemset,
    /// mmap and munmap, between two guard pages, as allocators do that map every large block.
    Guarded,
    /// The same; freed blocks wait without access before they are unmapped.
    GuardedQuarantine,
}

impl Baseline {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::MmapMemset => "mmap+memset",
            Self::SmallPages => "4K pages",
            Self::SmallMemset => "4K memset",
            Self::Huge => "THP",
            Self::HugeMemset => "THP memset",
            Self::WarmMemset => "warm memset",
            Self::Guarded => "mmap+mprotect",
            Self::GuardedQuarantine => "mmap+mprotect, quarantine",
        }
    }

    /// Whether it means nothing on a system without transparent huge pages.
    pub fn needs_huge_pages(self) -> bool {
        matches!(self, Self::Huge | Self::HugeMemset)
    }

    fn fills(self) -> bool {
        !matches!(self, Self::SmallPages | Self::Huge) && !self.is_guarded()
    }

    /// Whether it stands for an allocator, which promises nothing.
    fn is_guarded(self) -> bool {
        matches!(self, Self::Guarded | Self::GuardedQuarantine)
    }

    /// Advice and alignment of its mappings.
    fn mapping(self) -> (Option<i32>, usize) {
        match self {
            Self::MmapMemset | Self::WarmMemset | Self::Guarded | Self::GuardedQuarantine => {
                (None, page_bytes())
            }
            Self::SmallPages | Self::SmallMemset => (Some(libc::MADV_NOHUGEPAGE), page_bytes()),
            Self::Huge | Self::HugeMemset => (Some(libc::MADV_HUGEPAGE), HUGE_BYTES),
        }
    }
}

/// Memory by one of the baselines.
pub struct Mapped {
    baseline: Baseline,
    /// The one block of [`Baseline::WarmMemset`]: address and size.
    kept: OnceLock<(usize, usize)>,
    /// What was freed under [`Baseline::GuardedQuarantine`].
    waiting: Waiting,
}

impl Mapped {
    /// Memory by `baseline`.
    pub fn new(baseline: Baseline) -> Self {
        Self { baseline, kept: OnceLock::new(), waiting: Waiting::default() }
    }

    fn map(&self, size: usize) -> *mut u8 {
        if self.baseline.is_guarded() {
            return guarded::map(size);
        }
        let (advice, alignment) = self.baseline.mapping();
        let Some(start) = map_aligned(size, alignment) else { return std::ptr::null_mut() };
        if let Some(advice) = advice {
            // A kernel without huge pages refuses: then there are none, and the peer is not run if
            // it needs them.
            // SAFETY: the mapping was just made and is this function's alone.
            unsafe { libc::madvise(start.as_ptr().cast(), size, advice) };
        }
        start.as_ptr()
    }
}

/// `size` bytes of fresh memory at a multiple of `alignment`; what lies around them is unmapped.
fn map_aligned(size: usize, alignment: usize) -> Option<NonNull<u8>> {
    let size = size.next_multiple_of(page_bytes());
    let slack = alignment - page_bytes();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping where the kernel likes, and the unmapping of pieces of it alone.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), size + slack, protection, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = start.align_offset(alignment);
        if before > 0 {
            libc::munmap(start, before);
        }
        let start = start.add(before);
        if slack > before {
            libc::munmap(start.add(size), slack - before);
        }
        NonNull::new(start.cast())
    }
}

// SAFETY: mmap's contract; WarmMemset gives its block to the one user that cases with it have.
unsafe impl Memory for Mapped {
    fn promise(&self) -> Option<u8> {
        let byte = if self.baseline.fills() { PATTERN } else { 0 };
        (!self.baseline.is_guarded()).then_some(byte)
    }

    fn allocate(&self, size: usize) -> *mut u8 {
        let block = match self.baseline {
            Baseline::WarmMemset => {
                let &(address, kept) = self.kept.get_or_init(|| (self.map(size) as usize, size));
                assert!(size <= kept, "the warm block serves one size");
                address as *mut u8
            }
            _ => self.map(size),
        };
        if self.baseline.fills() && !block.is_null() {
            // SAFETY: the block has that size and is the caller's alone.
            unsafe { black_box(block).write_bytes(PATTERN, size) };
        }
        block
    }

    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        self.map(size)
    }

    unsafe fn grow(&self, _: *mut u8, _: usize, _: usize) -> *mut u8 {
        unreachable!("no case that grows blocks has a baseline")
    }

    unsafe fn free(&self, block: *mut u8, size: usize) {
        // SAFETY: the block is a mapping of this size that the caller gives up.
        unsafe {
            match self.baseline {
                Baseline::WarmMemset => {}
                Baseline::Guarded => guarded::unmap(block, size),
                Baseline::GuardedQuarantine => self.waiting.put(block, size),
                _ => _ = libc::munmap(block.cast(), size.next_multiple_of(page_bytes())),
            }
        }
    }
}

/// A block of memory that is freed when dropped.
pub struct Block<'m> {
    memory: &'m dyn Memory,
    start: NonNull<u8>,
    len: usize,
    page: usize,
    /// What its untouched bytes should hold.
    promise: Option<u8>,
}

// SAFETY: the block is its owner's alone, and memory may be freed by any thread.
unsafe impl Send for Block<'_> {}

impl<'m> Block<'m> {
    /// `len` bytes that should hold what `memory` promises.
    pub fn new(memory: &'m dyn Memory, len: usize) -> Self {
        Self::of(memory, memory.allocate(len), len, memory.promise())
    }

    /// `len` bytes that should be zero.
    pub fn zeroed(memory: &'m dyn Memory, len: usize) -> Self {
        Self::of(memory, memory.allocate_zeroed(len), len, Some(0))
    }

    fn of(memory: &'m dyn Memory, start: *mut u8, len: usize, promise: Option<u8>) -> Self {
        // Hidden from the compiler: it knows malloc by name, and may drop a block that is not used
        // or take its content for undefined.
        let start = NonNull::new(black_box(start)).expect("the machine has this much memory");
        Self { memory, start, len, page: page_bytes(), promise }
    }

    /// The pointer to it.
    pub fn pointer(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// How many pages long it is, the last one perhaps in part.
    pub fn pages(&self) -> usize {
        self.len.div_ceil(self.page)
    }

    /// Writes one byte to a page, counted from the block's start.
    #[inline]
    pub fn touch(&mut self, page: usize) {
        let at = page * self.page;
        assert!(at < self.len);
        // SAFETY: `at` is inside the block, which is this value's alone.
        unsafe { self.start.as_ptr().add(at).write_volatile(stamp(page)) }
    }

    /// Writes over every byte of a page, as programs do that leave nothing of what was there.
    pub fn soil(&mut self, page: usize) {
        self.fill(page, 0xdd);
    }

    /// Makes it longer.
    pub fn grow(&mut self, len: usize) {
        // SAFETY: the block is live, `len` long, and replaced by the one that it becomes.
        let start = unsafe { self.memory.grow(self.start.as_ptr(), self.len, len) };
        self.start = NonNull::new(black_box(start)).expect("the machine has this much memory");
        self.len = len;
    }

    /// Reads every byte: the pages that `touched` names must hold what [`touch`](Self::touch) wrote,
    /// all else what was promised. Returns how many bytes there was something to compare with.
    pub fn check(&self, touched: impl Fn(usize) -> bool) -> Result<u64, Wrong> {
        // SAFETY: the block is live and `len` long, and black_box hides that malloc left it undefined.
        let bytes = unsafe { std::slice::from_raw_parts(black_box(self.start.as_ptr()), self.len) };
        let mut checked = 0;
        for (page, content) in bytes.chunks(self.page).enumerate() {
            let written = usize::from(touched(page));
            if written == 1 && content[0] != stamp(page) {
                return Err(self.wrong(page, 0, content, stamp(page), "written before"));
            }
            checked += written;
            let Some(promise) = self.promise else { continue };
            let rest = &content[written..];
            // Without an early exit, which would keep it from being vectorised.
            if rest.iter().fold(0, |differences, byte| differences | (byte ^ promise)) != 0 {
                let at = rest.iter().position(|&byte| byte != promise).unwrap_or_default();
                return Err(self.wrong(page, at + written, content, promise, "never written"));
            }
            checked += rest.len();
        }
        Ok(checked as u64)
    }

    fn wrong(&self, page: usize, at: usize, content: &[u8], expected: u8, what: &str) -> Wrong {
        let (found, len) = (content[at], self.len);
        Wrong(format!(
            "wrong content: byte {} of a block of {len}, {what}, is {found:#04x}, not {expected:#04x}",
            page * self.page + at
        ))
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // SAFETY: the block is live, and freed once.
        unsafe { self.memory.free(self.start.as_ptr(), self.len) }
    }
}

/// What is written to a page: different for its neighbours, so that swapped pages show.
fn stamp(page: usize) -> u8 {
    (page as u8).wrapping_mul(31) ^ 0x5c
}

/// A byte that is not what it should be.
#[derive(Debug)]
pub struct Wrong(pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}
