//! One bit for each page of a range, kept outside the memory it describes.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::io::Result;

use crate::sys::vm;

/// A range of OS pages, by index into whatever range they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Index of the first page.
    pub first: usize,
    /// Number of pages.
    pub count: usize,
}

impl Pages {
    /// Pages `first..end`; none if `end` comes before `first`.
    #[inline]
    pub fn span(first: usize, end: usize) -> Self {
        Self { first, count: end.saturating_sub(first) }
    }

    /// One past the last page.
    #[inline]
    pub fn end(self) -> usize {
        self.first + self.count
    }

    /// The first `count` of these pages.
    #[inline]
    pub fn prefix(self, count: usize) -> Self {
        Self { first: self.first, count: self.count.min(count) }
    }

    /// All of these pages but the first `count`.
    #[inline]
    pub fn skip(self, count: usize) -> Self {
        Self::span(self.first + count.min(self.count), self.end())
    }

    /// Whether the page is one of these.
    #[inline]
    pub fn contains(self, page: usize) -> bool {
        page.wrapping_sub(self.first) < self.count
    }
}

/// A bitmap over pages, all clear at first; its own memory is untouched until a bit is set.
#[derive(Debug)]
pub struct PageBits {
    words: *mut AtomicU64,
    pages: usize,
    /// How many bits are set.
    set: AtomicUsize,
}

// SAFETY: the words are atomics in a mapping that lives as long as the process.
unsafe impl Sync for PageBits {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for PageBits {}

impl PageBits {
    /// A bitmap for `pages` pages.
    ///
    /// # Errors
    /// ENOMEM where the address space or a limit does not allow it.
    pub fn reserve(pages: usize) -> Result<Self> {
        let words = vm::reserve(bytes(pages), vm::page_size())?.cast();
        Ok(Self { words, pages, set: AtomicUsize::new(0) })
    }

    /// As [`reserve`](Self::reserve), but bits may be set only of pages that were made ready
    /// by [`make_ready`](Self::make_ready).
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_for_later(pages: usize) -> Result<Self> {
        let words = vm::reserve_for_later(bytes(pages), vm::page_size())?.cast();
        Ok(Self { words, pages, set: AtomicUsize::new(0) })
    }

    /// Has room for the bits of the first `pages` pages.
    ///
    /// # Errors
    /// ENOMEM where a limit does not allow it.
    pub fn make_ready(&self, pages: Pages) -> Result<()> {
        let (first, end) = (pages.first / 64, pages.end().div_ceil(64));
        // SAFETY: the words of pages of this bitmap lie in its reservation.
        unsafe { vm::make_writable(self.words.add(first).cast(), (end - first) * 8) }
    }

    /// How many bits are set in all.
    ///
    /// A bit may be cleared before the thread that set it has counted it: the count is below zero for that time.
    #[inline]
    pub fn total(&self) -> usize {
        usize::try_from(self.set.load(Ordering::Relaxed) as isize).unwrap_or(0)
    }

    /// The word that [`total`](Self::total) reads, which may be below zero as that says.
    pub(crate) fn total_word(&self) -> &AtomicUsize {
        &self.set
    }

    /// Every page the bitmap has.
    pub fn all(&self) -> Pages {
        Pages { first: 0, count: self.pages }
    }

    /// One page's bit.
    #[inline]
    pub fn get(&self, page: usize) -> bool {
        self.word(page / 64).load(Ordering::Acquire) >> (page % 64) & 1 == 1
    }

    /// Sets the bits of `pages`.
    pub fn set(&self, pages: Pages) {
        self.for_words(pages, |word, mask| {
            if word.load(Ordering::Relaxed) & mask != mask {
                let old = word.fetch_or(mask, Ordering::AcqRel);
                self.set.fetch_add((mask & !old).count_ones() as usize, Ordering::Relaxed);
            }
        });
    }

    /// Clears the bits of `pages`.
    pub fn clear(&self, pages: Pages) {
        self.for_words(pages, |word, mask| {
            if word.load(Ordering::Relaxed) & mask != 0 {
                let old = word.fetch_and(!mask, Ordering::AcqRel);
                self.set.fetch_sub((mask & old).count_ones() as usize, Ordering::Relaxed);
            }
        });
    }

    /// How many bits of `pages` are set.
    pub fn count(&self, pages: Pages) -> usize {
        let mut count = 0;
        self.for_words(pages, |word, mask| {
            count += (word.load(Ordering::Acquire) & mask).count_ones() as usize;
        });
        count
    }

    /// The first stretch of pages within `pages` whose bits all equal `value`.
    pub fn next_stretch(&self, pages: Pages, value: bool) -> Option<Pages> {
        let first = self.find(pages, value)?;
        let rest = Pages::span(first, pages.end());
        let end = self.find(rest, !value).unwrap_or(pages.end());
        Some(Pages::span(first, end))
    }

    /// All such stretches, lowest first.
    pub fn stretches(&self, pages: Pages, value: bool) -> impl Iterator<Item = Pages> + '_ {
        let mut rest = pages;
        core::iter::from_fn(move || {
            let found = self.next_stretch(rest, value)?;
            rest = Pages::span(found.end(), pages.end());
            Some(found)
        })
    }

    fn find(&self, pages: Pages, present: bool) -> Option<usize> {
        let (mut page, end) = (pages.first, pages.end());
        while page < end {
            let word = self.word(page / 64).load(Ordering::Acquire);
            let wanted = if present { word } else { !word } >> (page % 64);
            if wanted != 0 {
                let found = page + wanted.trailing_zeros() as usize;
                return (found < end).then_some(found);
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }

    fn for_words(&self, pages: Pages, mut visit: impl FnMut(&AtomicU64, u64)) {
        let (mut page, end) = (pages.first, pages.end());
        while page < end {
            let bits = (64 - page % 64).min(end - page);
            let mask = (u64::MAX >> (64 - bits)) << (page % 64);
            visit(self.word(page / 64), mask);
            page += bits;
        }
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index <= self.pages / 64);
        // SAFETY: pages are indices into this bitmap's range, and it has a word for each 64.
        unsafe { &*self.words.add(index) }
    }
}

impl Drop for PageBits {
    fn drop(&mut self) {
        // SAFETY: the reservation was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.words.cast(), bytes(self.pages)) };
    }
}

/// Bytes of the words for `pages` pages, in whole OS pages.
fn bytes(pages: usize) -> usize {
    (pages.div_ceil(64).max(1) * 8).next_multiple_of(vm::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_is_cleared_before_it_is_counted_makes_no_huge_total() {
        let bits = PageBits::reserve(64).expect("a page of address space");
        let page = Pages { first: 5, count: 1 };
        // `set` as far as it comes before another thread gets its turn.
        bits.for_words(page, |word, mask| {
            word.fetch_or(mask, Ordering::AcqRel);
        });
        bits.clear(page);
        assert_eq!(bits.total(), 0);
        bits.set.fetch_add(1, Ordering::Relaxed);
        assert_eq!(bits.total(), 0);
    }

    #[test]
    fn stretches_alternate_over_word_borders() {
        let bits = PageBits::reserve(4096).expect("a page of address space");
        bits.set(Pages { first: 60, count: 10 });
        bits.set(Pages { first: 128, count: 64 });
        bits.clear(Pages { first: 130, count: 1 });
        let all = Pages { first: 0, count: 256 };
        let set: [Option<Pages>; 4] = {
            let mut found = bits.stretches(all, true);
            core::array::from_fn(|_| found.next())
        };
        let expect = |first, count| Some(Pages { first, count });
        assert_eq!(set, [expect(60, 10), expect(128, 2), expect(131, 61), None]);
        assert_eq!(bits.next_stretch(all, false), expect(0, 60));
        assert_eq!(bits.count(all), 10 + 63);
        assert!(bits.get(69) && !bits.get(70));
        assert_eq!(bits.next_stretch(Pages { first: 192, count: 8 }, true), None);
    }
}
