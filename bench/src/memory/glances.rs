//! What a measured loop can afford to do with blocks: pages written whole, a few words of each looked at.

use std::hint::black_box;

use super::{Block, Wrong};

const WORD: usize = size_of::<u64>();

impl Block<'_> {
    /// Writes `byte` to all of a page.
    pub fn fill(&mut self, page: usize, byte: u8) {
        let at = page * self.page;
        assert!(at < self.len);
        // SAFETY: as in `touch`, up to the block's end.
        unsafe { self.start.as_ptr().add(at).write_bytes(byte, self.page.min(self.len - at)) }
    }

    /// Looks at four words of a page, but not at its first byte: each must hold what was promised. Returns how many
    /// bytes there was something to compare with.
    #[inline]
    pub fn glance(&self, page: usize) -> Result<u64, Wrong> {
        let Some(promise) = self.promise else { return Ok(0) };
        let last = self.content(page).len().saturating_sub(WORD);
        self.compare(page, [1, last / 3, last / 3 * 2, last], promise, "never written")
    }

    /// Looks at a word at either end, in a block whose pages were filled with `byte`.
    #[inline]
    pub fn glance_at_ends(&self, byte: u8) -> Result<u64, Wrong> {
        let page = self.pages() - 1;
        let last = self.content(page).len().saturating_sub(WORD);
        Ok(self.compare(0, [0], byte, "written before")?
            + self.compare(page, [last], byte, "written before")?)
    }

    /// Reads every byte of a block whose pages were filled with `byte`.
    pub fn check_filled(&self, byte: u8) -> Result<u64, Wrong> {
        for page in 0..self.pages() {
            let content = self.content(page);
            if content.iter().fold(0, |differences, found| differences | (found ^ byte)) != 0 {
                let at = content.iter().position(|&found| found != byte).unwrap_or_default();
                return Err(self.wrong(page, at, content, byte, "written before"));
            }
        }
        Ok(self.len as u64)
    }

    /// A page's bytes, fewer of the last one perhaps.
    #[inline]
    fn content(&self, page: usize) -> &[u8] {
        let at = page * self.page;
        assert!(at < self.len);
        let len = self.page.min(self.len - at);
        // SAFETY: the range is inside the block, which is live; black_box hides that malloc left it undefined.
        unsafe { std::slice::from_raw_parts(black_box(self.start.as_ptr().add(at)), len) }
    }

    #[inline]
    fn compare<const N: usize>(
        &self,
        page: usize,
        places: [usize; N],
        expected: u8,
        what: &str,
    ) -> Result<u64, Wrong> {
        let content = self.content(page);
        let mut checked = 0;
        for at in places {
            // A last page shorter than a word is not looked at.
            let Some(word) = content.get(at..).and_then(|rest| rest.first_chunk::<WORD>()) else {
                continue;
            };
            if *word != [expected; WORD] {
                let first = word.iter().position(|&byte| byte != expected).unwrap_or_default();
                return Err(self.wrong(page, at + first, content, expected, what));
            }
            checked += WORD as u64;
        }
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Baseline, Malloc, Mapped, page_bytes};

    #[test]
    fn a_glance_sees_the_ends_and_the_middle_of_a_page_but_not_what_was_touched() {
        let memory = Mapped::new(Baseline::SmallMemset);
        let mut block = Block::new(&memory, 2 * page_bytes() + 3);
        block.touch(0);
        assert_eq!(block.glance(0).unwrap(), 4 * WORD as u64);
        assert_eq!(block.glance(1).unwrap(), 4 * WORD as u64);
        assert_eq!(block.glance(2).unwrap(), 0, "three bytes are no word");
        block.fill(1, 1);
        let wrong = block.glance(1).unwrap_err();
        assert!(wrong.0.contains("is 0x01, not 0xaa"), "{wrong}");
    }

    #[test]
    fn what_was_filled_must_stay() {
        let memory = Malloc { promise: None };
        let mut block = Block::new(&memory, 2 * page_bytes() + 16);
        (0..3).for_each(|page| block.fill(page, 7));
        assert_eq!(block.glance(1).unwrap(), 0, "nothing was promised");
        assert_eq!(block.glance_at_ends(7).unwrap(), 2 * WORD as u64);
        assert_eq!(block.check_filled(7).unwrap(), 2 * page_bytes() as u64 + 16);
        block.fill(2, 8);
        assert!(block.glance_at_ends(7).unwrap_err().0.contains("written before"));
        assert!(block.check_filled(7).is_err());
    }
}
