//! What an allocator asks of the engine. In all of it, `pages` belong to the caller: nobody else
//! allocates or frees them meanwhile.

use rustix::io::Errno;

use crate::bits::Pages;
use crate::content::{Content, Pattern};
use crate::counters::Cause;
use crate::engine::Engine;
use crate::place::{Fresh, Supply};
use crate::service::Service;
use crate::sys::{swap, vm};

/// A whole block may be put in place for a part of it while it is at most this share of what is
/// present already.
const SHARE: usize = 16;

/// Missing pages from which it costs less to have the kernel put them in place together.
const POPULATED_FROM: usize = 4;

/// What a program did to the pages that [`Engine::refill`] restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// About how many did not hold their content any more; all present ones with `off`.
    pub pages: usize,
    /// The longest prefix of which at least half were such.
    pub prefix: usize,
}

impl Touched {
    /// One more of the pages, which the `length` first ones of the run end with.
    fn count(&mut self, length: usize) {
        self.pages += 1;
        if self.pages * 2 >= length {
            self.prefix = length;
        }
    }
}

impl Engine {
    /// With `cow`, to be called for addresses of the content part when they come into use: while
    /// they are missing they are to show a file's content. Where that cannot be, because there are
    /// too many mappings, they are filled when they are [provided](Self::provide).
    pub fn back(&self, pages: Pages) {
        let by_address = !self.has_tags() && !self.region().in_zero_part(pages.first);
        if self.service() == Service::Cow && by_address {
            let (unbacked, failed) =
                self.backing.extend(self.region(), self.content(), pages.end());
            self.counters().unbacked.add(unbacked);
            if failed.is_some() {
                self.note(Cause::PieceRefused);
            }
        }
    }

    /// Readies pages for being handed out. What would read as zero, or as nothing in particular,
    /// is filled; what is served when it is touched, by the handler or by a file, stays missing.
    pub fn provide(&self, pages: Pages) {
        match self.service() {
            Service::Lazy if self.region().in_zero_part(pages.first) => self.prefill(pages),
            Service::Lazy => {}
            Service::Cow | Service::Eager | Service::Memset => self.prefill(pages),
            // Not known, and taken for granted: what is counted is to be comparable.
            Service::Off => self.region().present().set(pages),
        }
    }

    /// As [`provide`](Self::provide), for pages that are to read as zero.
    pub fn provide_zeros(&self, pages: Pages) {
        let by_hand = match self.has_tags() {
            // A file would show the content.
            false => self.covered(pages),
            // The kernel's zeros have no tag; those of a run's own file have.
            true if self.service().fills_at_allocation() => pages.skip(self.covered(pages).count),
            true => return,
        };
        for stretch in self.region().present().stretches(by_hand, false) {
            self.note_present(stretch);
            self.fill_pages(stretch, self.value_of(Fresh::Zero));
            self.counters().zeroed.add(stretch.count);
        }
    }

    /// Puts content under the missing ones of `pages` now, by whole huge pages where they fit: for
    /// memory that is about to be used.
    pub fn prefill(&self, pages: Pages) {
        // What shows a file's content costs the program no more to touch than it would here.
        let pages = pages.skip(self.covered(pages).count);
        match self.service() {
            Service::Off => {}
            _ if self.serves(pages) => self.place_dense(self.channel(), pages, Fresh::Content),
            _ => self.fill_missing(pages, Fresh::Content),
        }
    }

    /// Puts the missing ones of `pages` in place by hand: for memory that nobody serves.
    pub fn fill_missing(&self, pages: Pages, fresh: Fresh) {
        for stretch in self.region().present().stretches(pages, false) {
            self.note_present(stretch);
            if stretch.count >= POPULATED_FROM {
                let start = self.region().address(stretch.first);
                // SAFETY: the caller's pages. What cannot be had is the fill's to find out.
                let _ =
                    unsafe { vm::try_populate(start, stretch.count << self.region().page_shift()) };
            }
            self.fill_pages(stretch, self.value_of(fresh));
            self.counters().filled.add(stretch.count);
        }
    }

    /// Whether the channel can put pages in place there: on a kernel that knows no move targets,
    /// only where the handler does.
    fn serves(&self, pages: Pages) -> bool {
        self.is_handled(pages.first) || self.moves_at(pages.first)
    }

    /// As [`prefill`](Self::prefill), for memory that is used page by page: the 2 MiB blocks that
    /// `pages` lie in, which are the caller's too, are put in place whole as long as what the
    /// process holds does not grow much by that.
    pub fn prefill_ahead(&self, pages: Pages) {
        let per_block = self.pages_per_block();
        let affordable = self.region().present().total() / SHARE >= per_block;
        if self.service() == Service::Lazy && affordable && pages.count > 0 {
            let block = pages.first / per_block * per_block;
            for block in (block..pages.end()).step_by(per_block) {
                if self.takes_huge(block) {
                    self.place_huge(self.channel(), block, Fresh::Content, Supply::Made);
                }
            }
        }
        self.prefill(pages);
    }

    /// Puts zeros under the missing ones of `pages`, which are about to be used, where that costs
    /// less than to leave it to the kernel.
    pub fn prefill_zeros(&self, pages: Pages) {
        if self.serves(pages) {
            self.place_dense(self.channel(), pages, Fresh::Zero);
        }
    }

    /// Has the kernel put the missing ones of `pages` in place as they read now, without asking
    /// the handler: for memory that it does not serve.
    pub fn populate(&self, pages: Pages) {
        for stretch in self.region().present().stretches(pages, false) {
            self.note_present(stretch);
            // SAFETY: the caller's pages, which lie in the Region.
            unsafe {
                vm::populate(
                    self.region().address(stretch.first),
                    stretch.count << self.region().page_shift(),
                );
            }
            self.retag(stretch);
        }
    }

    /// As [`populate`](Self::populate), for pages that others may use meanwhile: what the kernel cannot do at
    /// once (before Linux 5.14, or without memory) is left to whoever touches them.
    pub fn populate_in_use(&self, pages: Pages) {
        if pages.count > 0 {
            self.note_present(pages);
            let len = pages.count << self.region().page_shift();
            // SAFETY: the caller's pages, which lie in the Region; none of what they hold changes.
            let _ = unsafe { vm::try_populate(self.region().address(pages.first), len) };
        }
    }

    /// Drops those of `pages` that are swapped out, whatever they held: to be called before what they
    /// hold is given up, or they are read back only to be overwritten. Nothing, and at no cost, where
    /// the machine has swapped nothing.
    pub fn drop_swapped(&self, pages: Pages) {
        if self.service() == Service::Off || !swap::is_in_use() {
            return;
        }
        for stretch in self.region().present().stretches(pages, true) {
            let mut out = stretch.prefix(0);
            swap::read(self.region().address(stretch.first), stretch.count, |at, in_memory| {
                let page = stretch.first + at;
                if in_memory {
                    return;
                }
                if page != out.end() {
                    self.discard(out);
                    out = Pages { first: page, count: 0 };
                }
                out.count += 1;
            });
            self.discard(out);
        }
    }

    /// Restores the content of the present ones of `pages`, or zeros: after this, what the program
    /// left there is gone.
    pub fn refill(&self, pages: Pages, fresh: Fresh) -> Touched {
        if self.service() == Service::Off {
            let present = self.region().present().count(pages);
            return Touched { pages: present, prefix: present };
        }
        let content = self.value_of(fresh);
        let mut touched = Touched::default();
        for stretch in self.region().present().stretches(pages, true) {
            for page in stretch.first..stretch.end() {
                let start = self.region().address(page);
                // SAFETY: the caller's page, which is present or will be served.
                if unsafe { content.seems_dirty(start) } {
                    touched.count(page + 1 - pages.first);
                }
            }
            self.fill_pages(stretch, content);
            self.counters().refilled.add(stretch.count);
        }
        touched
    }

    /// What was done to pages of which only those are present that somebody wrote to.
    pub fn touched(&self, pages: Pages) -> Touched {
        let mut touched = Touched::default();
        for stretch in self.region().present().stretches(pages, true) {
            (stretch.first..stretch.end()).for_each(|page| touched.count(page + 1 - pages.first));
        }
        touched
    }

    /// About how many of `pages`, which are present and in use, hold something other than their
    /// content: looked up at a few of them, without touching what the program may have protected.
    /// None if that cannot be found out.
    pub fn sample(&self, pages: Pages) -> Option<usize> {
        const SAMPLES: usize = 8;
        let clean = self.content().pattern()?.as_word();
        let words: [usize; SAMPLES] = core::array::from_fn(|i| {
            self.region().address(pages.first + i * pages.count / SAMPLES) as usize
        });
        let Some(held) = vm::read_words(words) else {
            self.note(Cause::SampleRefused);
            return None;
        };
        Some(held.iter().filter(|&&word| word != clean).count() * pages.count / SAMPLES)
    }

    /// Overwrites the present ones of `pages` with the content or with zeros, whatever they held.
    pub fn convert(&self, pages: Pages, fresh: Fresh) {
        for stretch in self.region().present().stretches(pages, true) {
            self.fill_pages(stretch, self.value_of(fresh));
        }
    }

    /// Gives up pages that hold their content: to the pool, else to the kernel.
    pub fn release(&self, pages: Pages) {
        match self.service() {
            Service::Off => {
                self.discard(pages);
            }
            _ => self.take_away(pages),
        }
    }

    /// As [`release`](Self::release), but straight to the kernel, whatever they hold.
    pub fn drop_pages(&self, pages: Pages) {
        match self.service() {
            Service::Off => {
                self.discard(pages);
            }
            _ => {
                for stretch in self.region().present().stretches(pages, true) {
                    self.discard(stretch);
                }
            }
        }
    }

    /// Notes that small pages are in place, or about to be: by whoever writes to them.
    #[inline]
    pub fn note_present(&self, pages: Pages) {
        if let Some(blocks) = self.blocks() {
            blocks.note_tables(pages);
        }
        self.region().present().set(pages);
    }

    /// Learns which of `pages` the kernel itself populated. False if that cannot be found out:
    /// without /proc, or in a process that is not dumpable.
    pub fn learn_present(&self, pages: Pages) -> bool {
        /// Known pages are asked for, too, if there are so few that one question costs less than two.
        const FEW: usize = 32;
        let present = self.region().present();
        let mut rest = pages;
        while let Some(mut unknown) = present.next_stretch(rest, false) {
            while let Some(next) =
                present.next_stretch(Pages::span(unknown.end(), pages.end()), false)
                && next.first - unknown.end() < FEW
            {
                unknown = Pages::span(unknown.first, next.end());
            }
            let asked = self.ask_kernel(unknown, |page, populated| {
                if populated {
                    self.note_present(page);
                }
            });
            if !asked {
                return false;
            }
            rest = Pages::span(unknown.end(), pages.end());
        }
        true
    }

    /// Gives pages that the kernel itself may have put in place back, whether they are known or not.
    /// False if it would not have them.
    pub fn forget(&self, pages: Pages) -> bool {
        self.discard(pages)
    }

    /// Learns which of `pages` are missing though somebody was about to put them in place: for a
    /// child, where that somebody is no more.
    pub fn learn_missing(&self, pages: Pages) {
        // Without knowing better, what is noted is more likely right than wrong.
        let _ = self.ask_kernel(pages, |page, populated| {
            if !populated {
                self.region().present().clear(page);
            }
        });
    }

    /// Notes as present what of `pages` is in memory, for such a child. False where something may be swapped out, of
    /// which that cannot be told.
    pub fn note_in_memory(&self, pages: Pages) -> bool {
        if swap::is_in_use() {
            return false;
        }
        for stretch in self.region().present().stretches(pages, false) {
            swap::read(self.region().address(stretch.first), stretch.count, |at, in_memory| {
                if in_memory {
                    self.note_present(Pages { first: stretch.first + at, count: 1 });
                }
            });
        }
        true
    }

    /// In a child of fork or clone: what is asked about memory is to be about its own.
    pub fn forget_pagemap(&self) {
        self.pagemap.forget();
    }

    /// Calls `tell` for each page with whether it is populated, in order, and whoever the pages
    /// belong to. False if that cannot be read; then not all of them were told.
    pub fn ask_kernel(&self, pages: Pages, mut tell: impl FnMut(Pages, bool)) -> bool {
        let start = self.region().address(pages.first);
        let files = self.service() == Service::Cow;
        let told = self.pagemap.read(start, pages.count, files, |at, populated| {
            tell(Pages { first: pages.first + at, count: 1 }, populated);
        });
        if !told {
            self.note(Cause::PagemapRefused);
        }
        told
    }

    /// Takes what the present pages of `src` hold to the same places in `dst`, whose pages are
    /// missing, by moving the pages where that can be done, huge ones whole. `src` holds garbage
    /// afterwards.
    pub fn relocate(&self, dst: Pages, src: Pages) {
        let _taking = self.taking();
        let mut rest = src;
        while let Some(stretch) = self.region().present().next_stretch(rest, true) {
            let (piece, huge) =
                self.blocks().map_or((stretch, false), |blocks| blocks.first_piece(stretch));
            let to = Pages { first: dst.first + (piece.first - src.first), ..piece };
            self.relocate_piece(to, piece, huge);
            rest = Pages::span(piece.end(), src.end());
        }
    }

    fn relocate_piece(&self, dst: Pages, src: Pages, huge: bool) {
        let (to, from) = (self.region().address(dst.first), self.region().address(src.first));
        let shift = self.region().page_shift();
        let len = src.count << shift;
        let per_block = self.pages_per_block();
        let was_missing = self.region().present().count(dst) == 0;
        let whole = huge
            && src.count == per_block
            && dst.first.is_multiple_of(per_block)
            && self.takes_huge(dst.first);
        if whole {
            self.region().present().set(dst);
        } else {
            self.note_present(dst);
        }
        let moves = was_missing && self.moves_at(dst.first) && self.moves_at(src.first);
        let (mut done, mut moved_in_all) = (0, 0);
        while moves && done < len {
            // SAFETY: both addresses lie in the ranges, which are the caller's.
            let (to, from) = unsafe { (to.add(done), from.add(done)) };
            let moved = self.channel().move_pages(to, from, len - done);
            self.counters().fall_backs.note_move(moved.done, moved.stop);
            let gone = src.skip(done >> shift).prefix(moved.done >> shift);
            self.counters().relocated.add(gone.count);
            self.region().present().clear(gone);
            moved_in_all += moved.done;
            done += moved.done;
            if moved.done > 0 {
                // What stopped it is what the next one is told.
                continue;
            }
            if moved.stop != Some(Errno::EXIST) || !self.left(src.first + (done >> shift)) {
                break;
            }
            // Linux 6.18 forgets to count a page that it had to wait for because it was on its way
            // elsewhere, and then finds it at its destination. To copy over it what is missing here
            // now would lose it.
            self.region().present().clear(src.skip(done >> shift).prefix(1));
            done += 1 << shift;
        }
        if let Some(blocks) = self.blocks() {
            blocks.forget_huge(src);
            if whole && moved_in_all == len {
                blocks.note_huge(dst);
            } else {
                blocks.note_tables(dst);
            }
        }
        // SAFETY: both ranges are the caller's and apart; a missing page of either is served like
        // any other.
        unsafe { to.add(done).copy_from_nonoverlapping(from.add(done), len - done) };
    }

    /// Whether [`relocate`](Self::relocate) moves pages from there to others of the same part.
    pub fn can_relocate(&self, pages: Pages) -> bool {
        self.moves_at(pages.first)
    }

    /// Whether a page that was present, and is not swapped out, is missing now.
    pub(crate) fn left(&self, page: usize) -> bool {
        let mut left = true;
        swap::read(self.region().address(page), 1, |_, in_memory| left = !in_memory);
        left
    }

    /// Gives up to `count` of the pool's pages back to the kernel: how many it had.
    pub fn drain_pool(&self, count: usize) -> usize {
        self.movable_pool().map_or(0, |pool| pool.drain(count))
    }

    /// Where no handler does it, to be called now and then: gives back what the pool holds above its
    /// low watermark if nothing has happened there for a while.
    pub fn drain_idle_pool(&self, now_ms: u64) {
        if let Some(pool) = self.movable_pool() {
            pool.drain_if_idle(self.counters().moved.get() + self.counters().pooled.get(), now_ms);
        }
    }

    pub(crate) fn value_of(&self, fresh: Fresh) -> Content {
        match (fresh, self.content()) {
            (Fresh::Zero, Content::Pattern(_)) => Content::Pattern(Pattern::ZERO),
            (_, content) => content,
        }
    }

    pub(crate) fn fill_pages(&self, pages: Pages, content: Content) {
        // SAFETY: the caller's pages, which lie in the Region.
        unsafe { self.write(pages, self.region().address(pages.first), content) };
    }
}
