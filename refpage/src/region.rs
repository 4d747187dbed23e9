//! The Region: the one reservation that heap memory comes from, and which of its pages are present.
//!
//! ```text
//!   | content part ............................ | zero part ......... |
//!     missing pages are the fault handler's       the kernel's: zeros
//!     (`lazy`), or a file's (`cow`)
//! ```
//!
//! The two parts are registered in different ways. Each is two VMAs, for good: what has been in use,
//! which core files have, and the rest, which they leave out; with `cow` the first of the content
//! part is one for each of its [pieces](crate::backing). A missing page of the zero part is what
//! calloc wants it to be without anyone's help: no handler, no wake-up.

use core::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Result;
use rustix::mm::Advice;

use crate::bits::{PageBits, Pages};
use crate::sys::vm::{self, Tags};

/// The zero part is a quarter of a Region of this many bytes or more. A smaller one has none: it
/// was made under a limit on address space, and each part could run out while the other has room.
const DIVIDED_FROM: usize = 64 << 30;

/// Reserved address space in OS pages, in a number of VMAs that does not depend on what the program
/// does with it, but with `cow` on how much of it is in use.
#[derive(Debug)]
pub struct Region {
    base: usize,
    len: usize,
    page_shift: u32,
    /// The first page of the zero part.
    zero_from: usize,
    /// The first page of each part that core files leave out, with all behind it.
    undumped: [AtomicUsize; 2],
    tags: Tags,
    present: PageBits,
}

/// By so many bytes the part that core files have grows at least, or by this share of it.
const DUMP_STEP: usize = 64 << 20;
const DUMP_SHARE: usize = 8;

impl Region {
    /// Reserves `len` bytes (a multiple of `align`, which is a power of two).
    ///
    /// # Errors
    /// ENOMEM where the address space or a limit does not allow it.
    pub fn reserve(len: usize, align: usize) -> Result<Self> {
        Self::reserve_as(len, align, Tags::Without)
    }

    /// As [`reserve`](Self::reserve), for memory with or without tags.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_as(len: usize, align: usize, tags: Tags) -> Result<Self> {
        let page = vm::page_size();
        let present = PageBits::reserve_for_later(len / page)?;
        // Without huge pages of the kernel's own: they come by being moved in whole, and on each missing
        // fault it would first clear one and then throw it away.
        let base = vm::reserve_for_later_as(len, align, tags)?;
        // Nor does a Region have one that becomes writable step by step, from its start on.
        // In memory with tags, what the kernel puts in place by itself would carry none.
        let undivided = len < DIVIDED_FROM || vm::reserving_costs() || tags == Tags::With;
        let content = if undivided { len } else { (len / 4 * 3).next_multiple_of(align) };
        Ok(Self {
            base: base as usize,
            len,
            page_shift: page.trailing_zeros(),
            zero_from: content / page,
            undumped: [AtomicUsize::new(0), AtomicUsize::new(content / page)],
            tags,
            present,
        })
    }

    /// To be called for pages that come into use: core files have them from now on. What never was
    /// in use of a [large reservation](vm::reserve) they leave out: it is a VMA of its own behind
    /// what was, in each part.
    pub fn note_used(&self, pages: Pages) {
        let zero = self.in_zero_part(pages.first);
        let [content, of_zeros] = &self.undumped;
        let (mark, part) = match zero {
            true => (of_zeros, self.zero_part()),
            false => (content, self.content_part()),
        };
        let step = DUMP_STEP >> self.page_shift;
        let more = ((pages.end() - part.first) / DUMP_SHARE).max(step);
        let mut old = mark.load(Ordering::Relaxed);
        while pages.end() > old {
            let new = (pages.end() + more).next_multiple_of(step).min(part.end());
            match mark.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let len = (new - old) << self.page_shift;
                    // SAFETY: pages of the Region, which keep what they hold. Refused, core files
                    // lack them, and nothing else.
                    let _ = unsafe { vm::advise(self.address(old), len, Advice::LinuxDoDump) };
                    return;
                }
                Err(now) => old = now,
            }
        }
    }

    /// The pages of each part that were ever in use, and some more.
    pub fn used(&self) -> [Pages; 2] {
        let [content, of_zeros] = &self.undumped;
        [(self.content_part(), content), (self.zero_part(), of_zeros)]
            .map(|(part, end)| Pages::span(part.first, end.load(Ordering::Relaxed)))
    }

    /// The ends of [`used`](Self::used), as words.
    pub(crate) fn used_words(&self) -> [&AtomicUsize; 2] {
        self.undumped.each_ref()
    }

    /// Makes pages usable. Where [`vm::reserving_costs`] none is before, and the Region, which has
    /// no zero part then, is two VMAs: what is usable, which must begin where the Region does and
    /// have no gaps, and the rest. Elsewhere there is nothing to do.
    ///
    /// # Errors
    /// ENOMEM where a limit does not allow it.
    pub fn make_usable(&self, pages: Pages) -> Result<()> {
        self.present.make_ready(pages)?;
        // SAFETY: pages of the Region lie in its reservation.
        unsafe {
            let len = pages.count << self.page_shift;
            vm::make_writable_as(self.address(pages.first), len, self.tags)
        }
    }

    /// The pages that read as the engine's content while they are missing, unless their run says
    /// otherwise.
    pub fn content_part(&self) -> Pages {
        Pages::span(0, self.zero_from)
    }

    /// The pages that read as zero while they are missing; none in a small Region.
    pub fn zero_part(&self) -> Pages {
        Pages::span(self.zero_from, self.len >> self.page_shift)
    }

    /// Whether the page belongs to the zero part.
    #[inline]
    pub fn in_zero_part(&self, page: usize) -> bool {
        page >= self.zero_from
    }

    /// Whether its memory can carry tags.
    #[inline]
    pub fn tags(&self) -> Tags {
        self.tags
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

    /// Pages that `len` bytes from a page's first byte on touch.
    #[inline]
    pub fn pages_in(&self, len: usize) -> usize {
        len.div_ceil(1 << self.page_shift)
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
    /// of asking the kernel. Not so where the kernel itself puts pages in place, in the zero part
    /// and with `cow`: there [`learn_present`](crate::Engine::learn_present) asks it.
    #[inline]
    pub fn present(&self) -> &PageBits {
        &self.present
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the reservation was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.base as *mut u8, self.len) };
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
