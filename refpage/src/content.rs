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

    /// The byte that memory in this content reads as, if it is defined.
    pub fn byte(self) -> Option<u8> {
        match self {
            Content::Pattern(byte) => Some(byte),
            Content::Anything => None,
        }
    }
}
