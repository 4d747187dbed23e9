//! The files of `cow` where memory has tags: one for each tag, so that what is missing from a run shows
//! its tag, too.
//!
//! ```text
//!   content part   [ run, tag 5 ]   [     run, tag 9        ]      anonymous elsewhere
//!                   └───┬──────┘     └────┬──────┘└───┬─────┘
//!   memory files   [5, content ]    [9, content ]                  each piece maps one from its start
//! ```
//!
//! A tag belongs to a run, not to an address: so a run that will hardly be used is mapped when it is
//! handed out, and again when it is freed and has another tag. Any other run is anonymous memory, which
//! is filled when it is allocated and tagged in place. Copying on write keeps the tags of what is copied.

use core::sync::atomic::{AtomicUsize, Ordering};

use mte::Tag;
use rustix::io::{Errno, Result};

use crate::bits::Pages;
use crate::content::Content;
use crate::counters::Cause;
use crate::engine::Engine;
use crate::memory_file::MemoryFile;
use crate::place::Fresh;
use crate::runs::RunWindow;
use crate::sys::lock::Mutex;
use crate::sys::vm::{self, Tags};

/// Bytes of a piece at most: there are as many files as tags, and what is filled of them is memory.
const LONGEST: usize = 1 << 20;

/// How often a piece is tried again when the program closes the file's number meanwhile.
const TRIES: usize = 4;

/// For each tag a file of the content, and one of zeros.
type Files = [[Option<MemoryFile>; Tag::COUNT as usize]; 2];

/// All files of one Region.
#[derive(Debug)]
pub(crate) struct TagFiles {
    files: Mutex<Files>,
    /// Mappings so far, and at most.
    pieces: AtomicUsize,
    most: AtomicUsize,
}

impl TagFiles {
    /// No files yet, and none ever before [`open`](Self::open).
    pub const fn new() -> Self {
        Self {
            files: Mutex::new([const { [const { None }; Tag::COUNT as usize] }; 2]),
            pieces: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }
    }

    /// Allows pieces, if this process can make such a file.
    ///
    /// # Errors
    /// What memfd_create, fcntl or mmap said.
    pub fn open(&self) -> Result<()> {
        let file = MemoryFile::create(Tags::With)?;
        let [content, _] = &mut *self.files.lock();
        if let Some(place) = content.get_mut(1) {
            *place = Some(file);
        }
        self.most.store(vm::max_map_count() / 2, Ordering::Relaxed);
        Ok(())
    }

    /// Mappings so far.
    pub fn pieces(&self) -> usize {
        self.pieces.load(Ordering::Relaxed)
    }

    /// For the time of a fork.
    pub fn acquire(&self) {
        self.files.acquire();
    }

    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.files.release() }
    }

    /// In a child of fork: the files are the parent's to fill.
    pub fn share(&self) {
        self.files.lock().iter_mut().flatten().flatten().for_each(MemoryFile::share);
    }

    /// Maps a file of `content` under `tag` over `len` bytes: the pieces that this took.
    ///
    /// # Errors
    /// What the kernel said; a part may be mapped then.
    ///
    /// # Safety
    /// The range lies in the Region, and nobody needs what it holds.
    unsafe fn map(
        &self,
        start: *mut u8,
        len: usize,
        tag: Tag,
        fresh: (Fresh, Content),
    ) -> Result<usize> {
        let (fresh, content) = fresh;
        let longest = len.min(LONGEST.max(vm::page_size()));
        let mut files = self.files.lock();
        let places = files.get_mut(usize::from(fresh == Fresh::Zero)).ok_or(Errno::INVAL)?;
        let place = places.get_mut(usize::from(tag.get())).ok_or(Errno::INVAL)?;
        let (mut at, mut tries) = (0, 0);
        while at < len {
            let file = match place.take().filter(|file| file.is_usable(longest)) {
                Some(file) => place.insert(file),
                None => place.insert(MemoryFile::create(Tags::With)?),
            };
            file.fill(longest, content, tag)?;
            // SAFETY: within the caller's range.
            match unsafe { file.map_over(start.add(at), longest.min(len - at)) } {
                Ok(()) => at += longest,
                Err(Errno::BADF) if tries < TRIES => tries += 1,
                Err(errno) => return Err(errno),
            }
        }
        Ok(len.div_ceil(longest))
    }
}

/// With `cow` and tags.
impl Engine {
    /// Has `pages`, the first ones of a run, show its tag while they are missing: all of them are
    /// missing then. False if they do not, because there are too many mappings; then they are as after
    /// [`unback_run`](Self::unback_run).
    pub fn back_run(&self, run: &RunWindow, pages: Pages, fresh: Fresh) -> bool {
        self.unback_run(run, fresh);
        let start = self.region().address(pages.first);
        let len = pages.count << self.region().page_shift();
        if self.tag_files.pieces() + len.div_ceil(LONGEST)
            > self.tag_files.most.load(Ordering::Relaxed)
        {
            self.counters().unbacked.add(pages.count);
            return false;
        }
        let content = (fresh, self.value_of(fresh));
        // SAFETY: the caller's pages, which it gives up.
        match unsafe { self.tag_files.map(start, len, run.tag(), content) } {
            Ok(pieces) => {
                run.set_backed(pages.count, pieces);
                self.tag_files.pieces.fetch_add(pieces, Ordering::Relaxed);
                self.forget_mapped(pages);
                self.retag_end(run, pages);
                true
            }
            Err(_) => {
                self.note(Cause::PieceRefused);
                self.counters().unbacked.add(pages.count);
                self.make_anonymous(pages, fresh);
                false
            }
        }
    }

    /// The pages of a run that show a file become anonymous memory, and are missing; if that cannot be,
    /// they are present, and hold what is `fresh`.
    pub fn unback_run(&self, run: &RunWindow, fresh: Fresh) {
        if run.backed() > 0 {
            self.make_anonymous(run.pages().prefix(run.backed()), fresh);
            self.tag_files.pieces.fetch_sub(run.pieces(), Ordering::Relaxed);
            run.set_backed(0, 0);
        }
    }

    /// The same for those behind the first `count`.
    pub fn shorten_backed(&self, run: &RunWindow, count: usize, fresh: Fresh) {
        let backed = run.pages().prefix(run.backed());
        if backed.count == 0 {
            return;
        }
        let behind = backed.skip(count);
        self.retag_end(run, backed.prefix(count));
        if behind.count > 0 {
            self.make_anonymous(behind, fresh);
            run.set_backed(backed.count - behind.count, run.pieces());
        }
    }

    fn make_anonymous(&self, pages: Pages, fresh: Fresh) {
        let start = self.region().address(pages.first);
        let len = pages.count << self.region().page_shift();
        // SAFETY: the caller's pages, which it gives up.
        if unsafe { vm::map_anonymous_over(start, len, self.region().tags()) }.is_ok() {
            return self.forget_mapped(pages);
        }
        // Too many mappings to divide one, or a limit that was set since: what is there is overwritten.
        self.note(Cause::PieceRefused);
        self.note_present(pages);
        self.fill_pages(pages, self.value_of(fresh));
    }

    /// What was mapped over is missing.
    fn forget_mapped(&self, pages: Pages) {
        self.region().present().clear(pages);
        if let Some(blocks) = self.blocks() {
            blocks.note_dropped(pages);
        }
    }

    /// The last page shows the tag to its end: where the run's ends before, it is put in place.
    fn retag_end(&self, run: &RunWindow, pages: Pages) {
        let end = self.region().address(pages.end()) as usize;
        if run.tagged_end() < end {
            let last = Pages::span(self.region().page_at(run.tagged_end()), pages.end());
            self.note_present(last);
            self.retag(last);
        }
    }
}
