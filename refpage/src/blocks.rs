//! What is known of each 2 MiB block of the Region: whether a huge page can be moved there, and
//! whether one was.

use rustix::io::Result;

use crate::bits::{PageBits, Pages};
use crate::huge::HUGE;
use crate::region::Region;
use crate::sys::vm;

/// Three bits for each block. All pages here are the Region's.
#[derive(Debug)]
pub struct Blocks {
    per_block: usize,
    /// The block may have a page table: a huge page cannot be moved there whole.
    tables: PageBits,
    /// The block may be a huge page: it goes whole, or to the kernel.
    huge: PageBits,
    /// The block was a huge page, and a part of it was dropped: the kernel keeps the memory of that.
    parted: PageBits,
    /// Whether dropping a whole block drops its table.
    reclaims_tables: bool,
}

impl Blocks {
    /// For `region`, nothing of which was used yet.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for the bits.
    pub fn reserve(region: &Region) -> Result<Self> {
        let count = region.len().div_ceil(HUGE);
        Ok(Self {
            per_block: HUGE >> region.page_shift(),
            tables: PageBits::reserve(count)?,
            huge: PageBits::reserve(count)?,
            parted: PageBits::reserve(count)?,
            reclaims_tables: vm::reclaims_tables(),
        })
    }

    /// Small pages are put in place: their blocks have tables from now on.
    #[inline]
    pub fn note_tables(&self, pages: Pages) {
        self.tables.set(self.touched_by(pages));
    }

    /// A huge page was moved to the block.
    pub fn note_huge(&self, block: Pages) {
        self.huge.set(self.touched_by(block));
        self.parted.clear(self.touched_by(block));
    }

    /// The block holds small pages, and nothing of a huge one.
    pub fn note_small(&self, block: Pages) {
        self.tables.set(self.touched_by(block));
        self.huge.clear(self.touched_by(block));
        self.parted.clear(self.touched_by(block));
    }

    /// Whether the block at `page` may be a huge page.
    pub fn is_huge(&self, page: usize) -> bool {
        self.huge.get(page / self.per_block)
    }

    /// The first block of `pages` that is, or was in part, a huge page.
    pub fn next_huge(&self, pages: Pages) -> Option<Pages> {
        let among = Pages::span(pages.first.div_ceil(self.per_block), pages.end() / self.per_block);
        let first = |bits: &PageBits| bits.next_stretch(among, true).map(|found| found.first);
        let block = [first(&self.huge), first(&self.parted)].into_iter().flatten().min()?;
        Some(Pages { first: block * self.per_block, count: self.per_block })
    }

    /// The pages' blocks are not huge pages any more, or not whole.
    pub fn forget_huge(&self, pages: Pages) {
        if self.huge.total() > 0 {
            self.huge.clear(self.touched_by(pages));
        }
    }

    /// The pages were dropped in one go, and the tables of whole blocks with them.
    pub fn note_dropped(&self, pages: Pages) {
        let touched = self.touched_by(pages);
        let whole = Pages::span(pages.first.div_ceil(self.per_block), pages.end() / self.per_block);
        if self.huge.total() > 0 {
            // Only those at the ends can be others.
            for block in [touched.first, touched.end().saturating_sub(1)] {
                if !whole.contains(block) && self.huge.get(block) {
                    self.parted.set(Pages { first: block, count: 1 });
                }
            }
            self.huge.clear(touched);
        }
        if self.parted.total() > 0 {
            self.parted.clear(whole);
        }
        if self.reclaims_tables {
            self.tables.clear(whole);
        }
    }

    /// Whether [`note_dropped`](Self::note_dropped) makes a block take a huge page again.
    pub fn reclaims_tables(&self) -> bool {
        self.reclaims_tables
    }

    /// Whether the block at `page` has no page table.
    pub fn takes_huge(&self, page: usize) -> bool {
        !self.tables.get(page / self.per_block)
    }

    /// Whether any of the blocks that `pages` touch has one.
    pub fn any_table(&self, pages: Pages) -> bool {
        self.tables.count(self.touched_by(pages)) > 0
    }

    /// The first of `pages` that belong together, and whether they are a huge page or part of one.
    pub fn first_piece(&self, pages: Pages) -> (Pages, bool) {
        if self.huge.total() == 0 {
            return (pages, false);
        }
        match self.huge.next_stretch(self.touched_by(pages), true) {
            Some(found) if found.first * self.per_block <= pages.first => {
                let end = (pages.first / self.per_block + 1) * self.per_block;
                (pages.prefix(end - pages.first), true)
            }
            Some(found) => (pages.prefix(found.first * self.per_block - pages.first), false),
            None => (pages, false),
        }
    }

    fn touched_by(&self, pages: Pages) -> Pages {
        Pages::span(pages.first / self.per_block, pages.end().div_ceil(self.per_block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_the_borders_of_huge_pages() {
        let region = Region::reserve(16 << 20, HUGE).expect("16 MiB of address space");
        let blocks = Blocks::reserve(&region).expect("a few pages");
        let n = blocks.per_block;
        let all = Pages { first: 3, count: 4 * n };
        assert_eq!(blocks.first_piece(all), (all, false));
        blocks.note_huge(Pages { first: n, count: n });
        blocks.note_huge(Pages { first: 2 * n, count: n });
        assert_eq!(blocks.first_piece(all), (Pages::span(3, n), false));
        let rest = all.skip(n - 3);
        assert_eq!(blocks.first_piece(rest), (Pages::span(n, 2 * n), true));
        let inside = Pages { first: 2 * n + 5, count: 9 };
        assert_eq!(blocks.first_piece(inside), (inside, true));
        blocks.forget_huge(inside);
        assert_eq!(blocks.first_piece(inside), (inside, false));
    }
}
