//! Arenas, and what their pages do: move, come, go.

use core::ops::Range;

use rustix::io::Errno;
use rustix::mm::Advice;

use crate::bits::Pages;
use crate::huge::HUGE;
use crate::moves::mover::{Missing, Mover, Refused};
use crate::moves::outcome::{Moved, Stop};
use crate::sys::uffd::{Channel, Progress, Watch};
use crate::sys::{swap, vm};

/// How often a page is tried again that the kernel is busy with.
const TRIES: usize = 1000;

/// A private anonymous mapping whose pages move to and from other arenas of the same mover.
///
/// It hands out addresses, not references: a page may be moved away at any time, so that it is for the
/// owner to say who may touch what. Unmapped when it is dropped.
#[derive(Debug)]
pub struct Arena<'m> {
    mover: &'m Mover,
    start: *mut u8,
    pages: usize,
}

// SAFETY: the mapping belongs to the value, which only hands out addresses; moving is the kernel's, and
// atomic for each page.
unsafe impl Sync for Arena<'_> {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for Arena<'_> {}

impl<'m> Arena<'m> {
    pub(super) fn map(mover: &'m Mover, pages: usize, missing: Missing) -> Result<Self, Refused> {
        let refused = |step| move |errno| Refused { step, errno };
        let len = pages.checked_mul(vm::page_size()).filter(|&len| len > 0);
        let len = len.ok_or(Refused { step: "an arena of this size", errno: Errno::INVAL })?;
        let start = vm::reserve(len, HUGE).map_err(refused("mapping an arena"))?;
        let arena = Self { mover, start, pages };
        // A huge page would be cleared for each missing page that is touched, and end no wait.
        // SAFETY: a mapping made just above. A kernel without huge pages refuses.
        let _ = unsafe { vm::advise(start, len, Advice::LinuxNoHugepage) };
        let watch = match missing {
            Missing::Zeros => Watch::MoveTarget,
            Missing::Faults => mover.features().watch_missing(),
        };
        let registered = mover.channel().register(start, len, watch);
        registered.map_err(refused("registering an arena"))?;
        Ok(arena)
    }

    /// How many OS pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The first byte of a page.
    ///
    /// # Panics
    /// If the arena has no such page.
    pub fn address(&self, page: usize) -> *mut u8 {
        assert!(page < self.pages, "page {page} of an arena of {}", self.pages);
        // SAFETY: within the mapping.
        unsafe { self.start.add(page * vm::page_size()) }
    }

    /// The page that holds an address, if it is one of this arena's.
    pub fn page_at(&self, address: usize) -> Option<usize> {
        let page = address.checked_sub(self.start as usize)? / vm::page_size();
        (page < self.pages).then_some(page)
    }

    /// All its addresses.
    pub fn addresses(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.pages * vm::page_size()
    }

    /// A page as the place where something begins.
    ///
    /// # Panics
    /// If the arena has no such page.
    pub fn at(&self, page: usize) -> Place<'_> {
        Place { arena: self, address: self.address(page), left: self.pages - page }
    }

    /// Has the kernel use huge pages here where it puts pages in place itself: for arenas that are filled, and
    /// moved from, 2 MiB at a time. False on a kernel without.
    pub fn prefer_huge_pages(&self) -> bool {
        // SAFETY: the arena's own mapping, and nothing is discarded.
        unsafe { vm::advise(self.start, self.len(), Advice::LinuxHugepage) }.is_ok()
    }

    /// Keeps the pages out of the children that this process forks from now on. Pages that a child
    /// shares do not move, even after it has ended, until they are written to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn keep_from_children(&self) -> Result<(), Refused> {
        // SAFETY: the arena's own mapping; nobody relies on it in a child.
        let kept = unsafe { vm::advise(self.start, self.len(), Advice::LinuxDontFork) };
        kept.map_err(|errno| Refused { step: "keeping an arena from children", errno })
    }

    /// Drops pages, with what they hold: they are missing afterwards.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If the arena has not all of these pages.
    pub fn drop_pages(&self, pages: Pages) -> Result<(), Refused> {
        assert!(pages.end() <= self.pages, "{pages:?} of an arena of {}", self.pages);
        if pages.count == 0 {
            return Ok(());
        }
        let start = self.address(pages.first);
        // SAFETY: the arena's own mapping, and what is there is the caller's to give up.
        let dropped = unsafe { vm::drop_pages(start, pages.count * vm::page_size()) };
        dropped.map_err(|errno| Refused { step: "dropping pages", errno })
    }

    fn len(&self) -> usize {
        self.pages * vm::page_size()
    }
}

impl Drop for Arena<'_> {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and its owner goes; addresses of it are worth nothing any more.
        unsafe { vm::unmap(self.start, self.len()) };
    }
}

/// A page of an arena, where something begins.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    arena: &'a Arena<'a>,
    address: *mut u8,
    /// Pages from here to the arena's end.
    left: usize,
}

impl Place<'_> {
    /// The first byte.
    pub fn address(self) -> *mut u8 {
        self.address
    }

    /// Moves `count` pages here, up to the first that cannot be, and wakes who waits for them. Aligned 2 MiB that
    /// are a huge page are moved as one, if nothing was ever put in place here by smaller pages.
    ///
    /// Which is also how pages are taken out of memory that is in use: from there to a place that is
    /// not.
    ///
    /// # Panics
    /// If one of the arenas ends before.
    pub fn move_from(self, source: Place<'_>, count: usize) -> Moved {
        self.check(count);
        source.check(count);
        self.repeat(count, |channel, offset, len| {
            // SAFETY: both offsets lie in the mappings.
            let (to, from) = unsafe { (self.address.add(offset), source.address.add(offset)) };
            let mut progress = channel.move_pages(to, from, len);
            if progress == (Progress { done: 0, stop: Some(Errno::EXIST) })
                && !is_there(from)
                && is_there(to)
            {
                // No errno of the kernel's own: `repeat` makes `Uncounted` of it.
                progress.stop = Some(Errno::ALREADY);
            }
            progress
        })
    }

    /// As [`move_from`](Self::move_from), where all pages are known to be present at the source: those that the kernel does
    /// not [count](Stop::Uncounted) are counted.
    ///
    /// # Panics
    /// If one of the arenas ends before.
    pub fn move_present_from(self, source: Place<'_>, count: usize) -> Moved {
        let mut moved = self.move_from(source, count);
        while moved.stop == Some(Stop::Uncounted) {
            moved.pages += 1;
            moved.stop = None;
            if moved.pages < count {
                let rest = count - moved.pages;
                let more = self.skip(moved.pages).move_from(source.skip(moved.pages), rest);
                moved = Moved { pages: moved.pages + more.pages, stop: more.stop };
            }
        }
        moved
    }

    /// Copies pages here, where none may be present, and wakes who waits for them: `bytes` is a whole number of
    /// pages.
    ///
    /// # Panics
    /// If the arena ends before, or a page is cut.
    pub fn copy_from(self, bytes: &[u8]) -> Moved {
        let page = vm::page_size();
        assert!(bytes.len().is_multiple_of(page), "{} bytes are no whole pages", bytes.len());
        self.check(bytes.len() / page);
        self.repeat(bytes.len() / page, |channel, offset, len| {
            // SAFETY: within the mapping.
            let to = unsafe { self.address.add(offset) };
            let from = bytes.get(offset..).unwrap_or_default();
            channel.copy(to, from.as_ptr(), len)
        })
    }

    /// Has `count` missing pages read as zeros, and wakes who waits for them.
    ///
    /// # Panics
    /// If the arena ends before.
    pub fn zero(self, count: usize) -> Moved {
        self.check(count);
        self.repeat(count, |channel, offset, len| {
            // SAFETY: within the mapping.
            channel.zero(unsafe { self.address.add(offset) }, len)
        })
    }

    /// Wakes who waits for one of `count` pages, to look again: for pages that are there by other ways.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// If the arena ends before.
    pub fn wake(self, count: usize) -> Result<(), Refused> {
        self.check(count);
        let woken = self.arena.mover.channel().wake(self.address, count * vm::page_size());
        woken.map_err(|errno| Refused { step: "waking who waits for a page", errno })
    }

    fn check(self, count: usize) {
        assert!(count <= self.left, "{count} pages where the arena has {} left", self.left);
    }

    fn skip(self, count: usize) -> Self {
        // SAFETY: within the mapping, whose pages were checked.
        let address = unsafe { self.address.add(count * vm::page_size()) };
        Self { address, left: self.left - count, ..self }
    }

    /// Goes on until all is done, or what stops it shows: the kernel says so only of the first page that
    /// it is asked for.
    fn repeat(self, count: usize, step: impl Fn(Channel, usize, usize) -> Progress) -> Moved {
        let (page, len) = (vm::page_size(), count * vm::page_size());
        let (mut done, mut tries) = (0, 0);
        while done < len {
            let progress = step(self.arena.mover.channel(), done, len - done);
            done += progress.done;
            let stop = match progress.stop {
                Some(Errno::ALREADY) => Stop::Uncounted,
                Some(errno) if progress.done == 0 => Stop::of(errno),
                _ => continue,
            };
            tries += 1;
            if stop != Stop::Short || tries > TRIES {
                return Moved { pages: done / page, stop: Some(stop) };
            }
            rustix::thread::sched_yield();
        }
        Moved { pages: count, stop: None }
    }
}

/// Whether a page is in memory, or the kernel does not tell.
fn is_there(page: *mut u8) -> bool {
    let mut there = true;
    swap::read(page, 1, |_, in_memory| there = in_memory);
    there
}
