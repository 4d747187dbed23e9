//! The memory whose writes are told: private, anonymous, all pages there and none of them huge.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, anyhow};

use crate::memory::page_bytes;

/// So many OS pages.
pub struct Space {
    start: *mut u8,
    pages: usize,
}

impl Space {
    /// Maps and writes them.
    pub fn map(pages: usize) -> Result<Self> {
        let len = pages * page_bytes();
        let start = refpage::sys::vm::reserve(len, page_bytes());
        let start = start.map_err(|errno| anyhow!("{len} bytes of address space: {errno}"))?;
        // SAFETY: the mapping is this one's. A kernel without huge pages refuses what it would not do.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_NOHUGEPAGE) };
        let space = Self { start, pages };
        (0..pages).for_each(|page| space.word(page).store(0, Ordering::Relaxed));
        Ok(space)
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn bytes(&self) -> usize {
        self.pages * page_bytes()
    }

    /// The page that an address is in.
    pub fn page_of(&self, address: usize) -> usize {
        (address - self.start as usize) / page_bytes()
    }

    /// A word of a page, not the same line of the cache in all of them.
    pub fn word(&self, page: usize) -> &AtomicU64 {
        assert!(page < self.pages);
        let at = page * page_bytes() + page % (page_bytes() / 64) * 64;
        // SAFETY: within the mapping, aligned, and only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.start.add(at).cast()) }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's.
        unsafe { refpage::sys::vm::unmap(self.start, self.bytes()) };
    }
}
