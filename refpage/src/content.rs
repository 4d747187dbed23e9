//! What an untouched byte reads as.

/// The content of free and fresh memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Every byte has this value.
    Pattern(u8),
    /// Whatever the memory held: no guarantee, and no work.
    Anything,
}

impl Content {
    /// Writes the content over `len` bytes.
    ///
    /// # Safety
    /// The range is writable and nobody else uses it meanwhile.
    #[inline]
    pub unsafe fn fill(self, start: *mut u8, len: usize) {
        if let Content::Pattern(byte) = self {
            // SAFETY: the caller's promise. libc's memset uses the widest stores the CPU has.
            unsafe { start.write_bytes(byte, len) };
        }
    }

    /// As [`fill`](Self::fill), for a block of whole 16-byte granules: a short one is written
    /// here, in less time than it takes to call memset.
    ///
    /// # Safety
    /// As for [`fill`](Self::fill); `start` is aligned to 16, `len` a multiple of 16.
    #[inline]
    pub unsafe fn fill_granules(self, start: *mut u8, len: usize) {
        const SHORT: usize = 256;
        if len > SHORT {
            // SAFETY: the caller's promise.
            return unsafe { self.fill(start, len) };
        }
        let Content::Pattern(byte) = self else { return };
        let granule = u128::from_ne_bytes([byte; 16]);
        for at in (0..len).step_by(16) {
            // SAFETY: the granule lies in the caller's block, aligned as promised.
            unsafe { start.add(at).cast::<u128>().write(granule) };
        }
    }

    /// Whether a page seems to hold something else, by its first word: an estimate, for statistics
    /// and predictions only.
    ///
    /// # Safety
    /// A `u64` is readable and initialised at `start`.
    pub unsafe fn seems_dirty(self, start: *const u8) -> bool {
        let Content::Pattern(byte) = self else { return true };
        // SAFETY: the caller's promise.
        unsafe { start.cast::<u64>().read() != u64::from_ne_bytes([byte; 8]) }
    }

    /// The byte that memory in this content reads as, if it is defined.
    pub fn byte(self) -> Option<u8> {
        match self {
            Content::Pattern(byte) => Some(byte),
            Content::Anything => None,
        }
    }
}
