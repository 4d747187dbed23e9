//! Guards: pages that end who touches them, without a mapping of their own.
//!
//! ```text
//!   the handler serves the page ─▶ it is missing; touched, it is refused: marked now, never before
//!   else ─▶ marked ahead:  a guard marker (MADV_GUARD_INSTALL, Linux 6.13+; in files 6.15+): SIGSEGV
//!                          a poisoned page (UFFDIO_POISON, Linux 6.6+):                      SIGBUS
//!                          none: the page is like any other
//! ```
//!
//! A marker is an entry of the page table: it takes no memory but the table's, splits no VMA, and a child of
//! fork has it, too. Dropping pages leaves guard markers where they are, and takes poison away.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use rustix::mm::MprotectFlags;

use crate::bits::Pages;
use crate::counters::Cause;
use crate::engine::Engine;
use crate::sys::uffd::Channel;
use crate::sys::{report, vm};

/// How an access to a page that nobody has is made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The fault handler refuses it.
    Refused,
    /// A guard marker.
    Marker,
    /// A poisoned page.
    Poison,
    /// Not at all.
    None,
}

impl Guard {
    /// What it is called in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Refused => "refused by the fault handler",
            Guard::Marker => "guard markers (MADV_GUARD_INSTALL)",
            Guard::Poison => "poisoned pages (UFFDIO_POISON)",
            Guard::None => "none",
        }
    }
}

/// Which markers there may be in the Region.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// Put there ahead, in the content part and in the zero part.
    ahead: [AtomicBool; 2],
    /// Put there by a refusal: anywhere.
    refused: AtomicBool,
    poisoned: AtomicBool,
    /// Made inaccessible, by a mapping of their own.
    protected: AtomicBool,
}

impl Engine {
    /// How pages there are guarded: tried out on the page, which is the caller's and missing.
    pub fn guard_at(&self, page: usize) -> Guard {
        if self.is_handled(page) {
            return Guard::Refused;
        }
        let pages = Pages { first: page, count: 1 };
        let guard = self.mark(self.channel(), pages);
        self.unmark(pages);
        guard
    }

    /// Whether the fault handler guards what is missing there.
    pub fn refuses_at(&self, page: usize) -> bool {
        self.is_handled(page)
    }

    /// Has whoever touches one of `pages` end, which are the caller's: what they hold is gone. Where the
    /// handler is asked, it is for [`Runs::refuses`](crate::Runs::refuses) to say so; here nothing happens.
    pub fn guard(&self, pages: Pages) -> Guard {
        if pages.count == 0 || self.is_handled(pages.first) {
            return Guard::Refused;
        }
        let _taking = self.taking();
        self.marked_ahead(pages).store(true, Relaxed);
        let guard = self.mark(self.channel(), pages);
        match guard {
            Guard::None => self.note(Cause::GuardRefused),
            _ => self.region().present().clear(pages),
        }
        guard
    }

    /// Takes the guards among `pages` away, which are the caller's: those are missing afterwards.
    pub fn unguard(&self, pages: Pages) {
        if pages.count > 0 && self.marked_ahead(pages).load(Relaxed) {
            let _taking = self.taking();
            self.unmark(pages);
        }
    }

    /// To be called for pages that come into use, after it is said that they are: the handler may have
    /// refused them to somebody.
    pub fn admit(&self, pages: Pages) {
        self.let_handler_finish(pages);
        if self.marked.refused.load(Relaxed) {
            self.unmark(pages);
        }
    }

    /// For the handler: who waits for the page is to end. By a mapping of its own, if it must be.
    pub(crate) fn refuse(&self, channel: Channel, page: usize) {
        self.marked.refused.store(true, SeqCst);
        let pages = Pages { first: page, count: 1 };
        if self.mark(channel, pages) == Guard::None {
            self.marked.protected.store(true, SeqCst);
            let (start, len) = self.range(pages);
            // SAFETY: a page that nobody has; who touches it all the same is to end.
            let protected =
                unsafe { vm::protect(start, len, MprotectFlags::empty(), self.region().tags()) };
            if protected.is_err() {
                report::die_without_stderr(format_args!(
                    "an access to {start:p} cannot be refused; the process ends instead"
                ));
            }
        }
    }

    fn marked_ahead(&self, pages: Pages) -> &AtomicBool {
        let [content, zero] = &self.marked.ahead;
        if self.region().in_zero_part(pages.first) { zero } else { content }
    }

    fn mark(&self, channel: Channel, pages: Pages) -> Guard {
        let (start, len) = self.range(pages);
        // SAFETY: pages that nobody has.
        if unsafe { vm::install_guards(start, len) }.is_ok() {
            return Guard::Marker;
        }
        if self.features().has_poison() {
            // It takes missing pages only.
            // SAFETY: as above.
            let _ = unsafe { vm::drop_pages(start, len) };
            if channel.poison(start, len).done == len {
                self.marked.poisoned.store(true, Relaxed);
                return Guard::Poison;
            }
        }
        Guard::None
    }

    fn unmark(&self, pages: Pages) {
        let (start, len) = self.range(pages);
        // SAFETY: pages of the Region, which keep what they hold.
        let _ = unsafe { vm::remove_guards(start, len) };
        if self.marked.protected.load(Relaxed) {
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: as above; they become what the others are.
            let _ = unsafe { vm::protect(start, len, access, self.region().tags()) };
        }
        if self.marked.poisoned.load(Relaxed) {
            for missing in self.region().present().stretches(pages, false) {
                let (start, len) = self.range(missing);
                // SAFETY: nothing is there but poison.
                let _ = unsafe { vm::drop_pages(start, len) };
            }
        }
    }

    /// Drops the page tables of the whole blocks among `pages`, which are the caller's and missing.
    pub fn drop_tables(&self, pages: Pages) {
        let per_block = self.pages_per_block();
        let first = pages.first.next_multiple_of(per_block);
        let blocks = Pages::span(first, (pages.end() / per_block * per_block).max(first));
        let there =
            self.blocks().filter(|known| known.reclaims_tables() && known.any_table(blocks));
        if blocks.count > 0 && there.is_some() {
            self.discard(blocks);
        }
    }

    /// Whether [`drop_tables`](Self::drop_tables) gives anything back: the kernel keeps tables before
    /// Linux 6.14, and on Arm.
    pub fn gives_tables_back(&self) -> bool {
        self.blocks().is_some_and(|blocks| blocks.reclaims_tables())
    }

    fn range(&self, pages: Pages) -> (*mut u8, usize) {
        (self.region().address(pages.first), pages.count << self.region().page_shift())
    }
}
