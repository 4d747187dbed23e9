//! The ways a page gets from one arena to the other, and the way on from each that fails.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use clap::ValueEnum;
use refpage::moves::{Arena, Stop, Unmoved};
use refpage::sys::vm::page_size;
use rustix::io::Errno;
use rustix::mm::MremapFlags;

use crate::emptied::Emptied;

/// How pages are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// UFFDIO_MOVE: the page itself, of what kind it may be.
    Move,
    /// UFFDIO_COPY into a page that the kernel allocates; the old ones are dropped, many at a time.
    Copy,
    /// mremap(2) of populated pages, as long as there may be mappings; copies of the others.
    Mremap,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Copy, Self::Move, Self::Mremap];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Move => "MOVE",
            Self::Copy => "COPY",
            Self::Mremap => "MREMAP",
        }
    }
}

/// What became of the pages, and what stood in the way of moving them.
#[derive(Debug, Default)]
pub struct Counts {
    /// Put in place by UFFDIO_COPY.
    pub copied: AtomicUsize,
    /// Put in place by mremap.
    pub remapped: AtomicUsize,
    /// Moves that stopped at a page that is shared or pinned.
    pub not_movable: AtomicUsize,
    /// Moves that stopped because the kernel was busy.
    pub short: AtomicUsize,
    /// Moves that stopped for any other reason.
    pub other: AtomicUsize,
    /// Pages that were there already, which nobody should have put there.
    pub present: AtomicUsize,
}

/// Pages that follow each other on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The first one's number in the to-arena.
    pub to: usize,
    /// Their content.
    pub bytes: *const u8,
    /// The first one's number in the from-arena, if that is where they are.
    pub from: Option<usize>,
    /// How many.
    pub count: usize,
}

/// Carries pages.
#[derive(Debug)]
pub struct Carrier<'a> {
    /// How.
    pub way: Way,
    /// Where to.
    pub to: &'a Arena<'a>,
    /// Where from.
    pub from: &'a Arena<'a>,
    /// What is left behind.
    pub emptied: &'a Emptied<'a>,
    /// What became of them.
    pub counts: Counts,
    /// Whether the kernel has refused a mapping.
    full: AtomicBool,
}

impl<'a> Carrier<'a> {
    /// None carried yet.
    pub fn new(way: Way, to: &'a Arena<'a>, from: &'a Arena<'a>, emptied: &'a Emptied<'a>) -> Self {
        let full = AtomicBool::new(false);
        Self { way, to, from, emptied, counts: Counts::default(), full }
    }

    /// Whether there came to be as many mappings as there may be, so that the rest was copied.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Carries what is not to be moved.
    ///
    /// # Safety
    /// The bytes are so many pages that nobody else uses, and if they are the from-arena's, nobody will.
    pub unsafe fn carry(&self, run: Run) {
        if let (Way::Mremap, Some(_), false) = (self.way, run.from, self.is_full()) {
            // SAFETY: the caller's promise.
            match unsafe { self.remap(run) } {
                Ok(()) => return,
                Err(Errno::NOMEM) => self.full.store(true, Relaxed),
                Err(errno) => no_page(run.to, &errno),
            }
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(run.bytes, run.count * page_size()) };
        self.copy(run.to, bytes);
        if let Some(from) = run.from {
            self.empty(from, run.count);
        }
    }

    /// Brings what a move has left where it was, page by page if need be.
    ///
    /// # Safety
    /// As for [`carry`](Self::carry).
    pub unsafe fn settle(&self, unmoved: Unmoved) {
        let Unmoved { mut to, mut from, mut count, stop } = unmoved;
        let mut stop = Some(stop);
        while let Some(why) = stop {
            let counter = match why {
                Stop::NotMovable => &self.counts.not_movable,
                Stop::Short => &self.counts.short,
                Stop::DestinationPresent => &self.counts.present,
                _ => &self.counts.other,
            };
            counter.fetch_add(1, Relaxed);
            match why {
                Stop::Short => std::thread::yield_now(),
                // Nobody else puts pages there. If somebody did, verification tells what it holds.
                Stop::DestinationPresent => {
                    self.wake(to, 1);
                    (to, from, count) = (to + 1, from + 1, count - 1);
                }
                _ => {
                    let bytes = self.from.address(from);
                    // SAFETY: the caller's promise.
                    unsafe { self.carry(Run { to, bytes, from: Some(from), count: 1 }) };
                    (to, from, count) = (to + 1, from + 1, count - 1);
                }
            }
            if count == 0 {
                return;
            }
            let moved = self.to.at(to).move_present_from(self.from.at(from), count);
            (to, from, count) = (to + moved.pages, from + moved.pages, count - moved.pages);
            stop = moved.stop;
        }
    }

    /// Puts copies in place, whatever it takes: threads may be waiting for them.
    fn copy(&self, to: usize, bytes: &[u8]) {
        let page = page_size();
        let (mut done, count) = (0, bytes.len() / page);
        while done < count {
            let copied = self.to.at(to + done).copy_from(&bytes[done * page..]);
            self.counts.copied.fetch_add(copied.pages, Relaxed);
            done += copied.pages;
            match copied.stop {
                None => {}
                Some(Stop::Short) => std::thread::yield_now(),
                Some(Stop::DestinationPresent) => {
                    self.counts.present.fetch_add(1, Relaxed);
                    self.wake(to + done, 1);
                    done += 1;
                }
                Some(stop) => no_page(to + done, &stop),
            }
        }
    }

    /// Moves page tables' entries to a mapping that replaces this part of the to-arena. It is not
    /// registered there: nobody is told of its faults, which it has none of, and nobody is woken.
    ///
    /// # Safety
    /// As for [`carry`](Self::carry).
    unsafe fn remap(&self, run: Run) -> Result<(), Errno> {
        let len = run.count * page_size();
        let to = self.to.address(run.to);
        assert!(run.to + run.count <= self.to.pages());
        // DONTUNMAP: a hole in the from-arena could become another thread's mapping, which the arena would
        // then unmap with its own. Whose pages went keeps its mapping, and reads as zeros.
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        // SAFETY: both ranges are whole pages of the arenas. There are no references to them: the source is the
        // caller's alone, and nobody has been at the destination, which is missing. Both are unmapped
        // with their arenas, by address, in however many mappings they are.
        unsafe {
            rustix::mm::mremap_fixed(run.bytes.cast_mut().cast(), len, len, flags, to.cast())?
        };
        self.counts.remapped.fetch_add(run.count, Relaxed);
        // After the pages are there: who waits was told of a fault in the mapping that is gone.
        self.wake(run.to, run.count);
        Ok(())
    }

    fn wake(&self, page: usize, count: usize) {
        if let Err(why) = self.to.at(page).wake(count) {
            no_page(page, &why);
        }
    }

    fn empty(&self, page: usize, count: usize) {
        // Pages that are not dropped are only kept too long.
        let _ = self.emptied.add(page..page + count);
    }
}

/// As with any page that the kernel cannot have a thread go on with, the process ends.
fn no_page(page: usize, why: &dyn std::fmt::Display) -> ! {
    eprintln!("error: nothing can be put in place at page {page}: {why}");
    std::process::abort();
}
