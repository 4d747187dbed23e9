//! A private anonymous mapping of its own, as bytes.

use refpage::sys::vm;

/// The memory that a heap lives in. All zeros at first.
pub struct Memory {
    start: *mut u8,
    len: usize,
}

// SAFETY: it owns its mapping, which no thread of this process is special to.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps so many bytes, rounded up to OS pages.
    pub fn map(len: usize) -> Result<Self, String> {
        let len = len.next_multiple_of(vm::page_size());
        match vm::reserve(len, vm::page_size()) {
            Ok(start) => Ok(Self { start, len }),
            Err(errno) => Err(format!("{len} bytes of address space: {errno}")),
        }
    }

    /// Where it begins, for whoever watches it.
    pub fn start(&self) -> *const u8 {
        self.start
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is this one's, readable, and lives as long; writes go through `bytes_mut`.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and it is writable.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's.
        unsafe { vm::unmap(self.start, self.len) };
    }
}
