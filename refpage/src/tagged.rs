//! Tags: what the granules of a page carry, and how they come there together with the content.
//!
//! ```text
//!   run      | page | page | page | page |        set by the run's owner: its tag, and where it ends
//!   tags      TTTT   TTTT   TTT0   0000
//!                               └ granules behind the bytes asked for carry 0, which no pointer has
//! ```
//!
//! Every present page of a run carries what its [window](crate::RunWindow) says; every missing one
//! gets it before it is in place. Only a page that is moved brings its tags with it: one that is
//! copied or populated carries 0 at first, and another thread of the program could see that.
//!
//! In memory without tags, and on any processor that has none, all of this is nothing.

use mte::{Granules, Tag};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use crate::bits::Pages;
use crate::content::Content;
use crate::engine::Engine;
use crate::sys::maps;
use crate::sys::uffd::{Channel, Progress};
use crate::sys::vm::{self, Tags};

impl Engine {
    /// Whether the Region's memory carries tags.
    #[inline]
    pub fn has_tags(&self) -> bool {
        mte::AVAILABLE && self.region().tags() == Tags::With
    }

    /// Writes `content`, and the tags that `pages` are to carry, to as many bytes from `at` on.
    ///
    /// # Safety
    /// The bytes are whole pages that can be written, of the Region or of the pool, and nobody else
    /// uses them meanwhile.
    pub(crate) unsafe fn write(&self, pages: Pages, at: *mut u8, content: Content) {
        let len = pages.count << self.region().page_shift();
        if !self.has_tags() {
            // SAFETY: the caller's promise.
            return unsafe { content.fill(at, len) };
        }
        // SAFETY: the caller's promise.
        unsafe {
            self.each_tag(pages, at, |granules, tag| content.write(granules, tag));
        }
    }

    /// Gives what is to be moved to `pages`, or lies there, its tags: the bytes stay.
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    pub(crate) unsafe fn tag(&self, pages: Pages, at: *mut u8) {
        if self.has_tags() {
            // SAFETY: the caller's promise.
            unsafe { self.each_tag(pages, at, |granules, tag| granules.tag(tag)) }
        }
    }

    /// Gives the present ones of `pages` the tags that their run has by now.
    pub fn retag(&self, pages: Pages) {
        if self.has_tags() {
            for stretch in self.region().present().stretches(pages, true) {
                // SAFETY: the caller's pages, which are present or will be served.
                unsafe { self.tag(stretch, self.region().address(stretch.first)) }
            }
        }
    }

    /// Puts a page in place where the program has locked or protected memory, to which none can be moved:
    /// copied, and tagged there. In between it carries 0; who sees that waits for the handler, whose
    /// business this is.
    pub(crate) fn copy_and_tag(
        &self,
        channel: Channel,
        page: Pages,
        source: *const u8,
    ) -> Progress {
        let (start, len) = (self.region().address(page.first), 1 << self.region().page_shift());
        let writable = MprotectFlags::READ | MprotectFlags::WRITE;
        let Some(access) = maps::access_at(start as usize) else {
            return Progress { done: 0, stop: Some(Errno::INVAL) };
        };
        let protected = !access.contains(writable);
        let protect = |access: MprotectFlags| {
            // SAFETY: a page of the Region that is about to be served; the program's own access to it is
            // put back.
            unsafe { vm::protect(start, len, access, Tags::With) }
        };
        if protected && let Err(errno) = protect(writable) {
            return Progress { done: 0, stop: Some(errno) };
        }
        let progress = channel.copy(start, source, len);
        if progress.done == len {
            // SAFETY: the page is in place, and nobody else's before it is tagged.
            unsafe { self.tag(page, start) };
        }
        if protected && let Err(errno) = protect(access) {
            return Progress { done: 0, stop: Some(errno) };
        }
        progress
    }

    /// Calls `set` for the granules of `pages` that carry their run's tag, and for those that carry none.
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    unsafe fn each_tag(&self, pages: Pages, at: *mut u8, set: impl Fn(Granules, Tag)) {
        let len = pages.count << self.region().page_shift();
        let (tag, tagged) = match self.runs().run_at(pages.first) {
            Some(run) => (run.tag(), self.tagged_bytes(run.tagged_end(), pages)),
            None => (Tag::ZERO, 0),
        };
        // SAFETY: the caller's promise; `tagged` is a multiple of a granule and at most `len`.
        unsafe {
            if tagged > 0 {
                set(Granules::new(at, tagged), tag);
            }
            if tagged < len {
                set(Granules::new(at.add(tagged), len - tagged), Tag::ZERO);
            }
        }
    }

    /// How many bytes of `pages` lie before the address.
    fn tagged_bytes(&self, end: usize, pages: Pages) -> usize {
        let start = self.region().address(pages.first) as usize;
        end.saturating_sub(start).min(pages.count << self.region().page_shift())
    }
}
