//! The Region: the one big VMA that heap memory comes from, and which of its pages are present.

use rustix::io::Result;
use rustix::mm::Advice;

use crate::bits::{PageBits, Pages};
use crate::sys::vm;

/// Reserved address space in OS pages, one VMA whatever happens.
#[derive(Debug)]
pub struct Region {
    base: usize,
    len: usize,
    page_shift: u32,
    present: PageBits,
}

impl Region {
    /// Reserves `len` bytes (a multiple of `align`, which is a power of two).
    ///
    /// # Errors
    /// ENOMEM where the address space or a limit does not allow it.
    pub fn reserve(len: usize, align: usize) -> Result<Self> {
        let page = vm::page_size();
        let base = vm::reserve(len, align)?;
        let present = match PageBits::reserve(len / page) {
            Ok(present) => present,
            Err(e) => {
                // SAFETY: reserved above, seen by nobody.
                unsafe { vm::unmap(base, len) };
                return Err(e);
            }
        };
        // Huge pages come by being moved in whole. Left to itself the kernel would, on each
        // missing fault, first clear one and then throw it away.
        // SAFETY: advice on our own mapping, and it discards nothing.
        let _ = unsafe { vm::advise(base, len, Advice::LinuxNoHugepage) };
        Ok(Self { base: base as usize, len, page_shift: page.trailing_zeros(), present })
    }

    /// First address.
    #[inline]
    pub fn base(&self) -> usize {
        self.base
    }

    /// Length in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a Region is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the address lies in the Region.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base) < self.len
    }

    /// Bytes in an OS page, as a shift.
    #[inline]
    pub fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// The page that holds `address`, which lies in the Region.
    #[inline]
    pub fn page_at(&self, address: usize) -> usize {
        (address - self.base) >> self.page_shift
    }

    /// The pages that `len` bytes from `start` touch.
    #[inline]
    pub fn pages_of(&self, start: usize, len: usize) -> Pages {
        let end = (start + len - self.base).next_multiple_of(1 << self.page_shift);
        Pages::span(self.page_at(start), end >> self.page_shift)
    }

    /// A page's first byte.
    #[inline]
    pub fn address(&self, page: usize) -> *mut u8 {
        (self.base + (page << self.page_shift)) as *mut u8
    }

    /// A bit for each page that may be present.
    ///
    /// It is set *before* a page is put in place and cleared *after* it was taken away, so a clear
    /// bit means that the page is missing. Whoever owns a run of pages may read its bits instead
    /// of asking the kernel.
    #[inline]
    pub fn present(&self) -> &PageBits {
        &self.present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_touch_the_pages_they_lie_on() {
        let region = Region::reserve(16 << 20, 2 << 20).expect("16 MiB of address space");
        let page = 1usize << region.page_shift();
        assert_eq!(region.pages_of(region.base() + page - 1, 2), Pages { first: 0, count: 2 });
        assert_eq!(region.pages_of(region.base() + page, page), Pages { first: 1, count: 1 });
        assert!(!region.contains(region.base() + region.len()));
    }
}
