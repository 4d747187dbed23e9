//! The backing of the service `cow`: private mappings of files full of content.
//!
//! ```text
//!   content part   [piece][piece][   piece   ][   piece   ] ....... not used yet, anonymous
//!                     └──────┴───┬─────┴────────────┘
//!   memory file   [filled ......][       not filled yet ]           each piece maps it from its start
//! ```
//!
//! What is missing from a piece is read from its file's pages, and copied from there by the kernel
//! itself when it is written: in system calls, in children, without privilege. Pieces are laid one
//! behind the other as the addresses are first used, and stay; so recycling a run maps nothing. The
//! idea is Collingbourne's reference pages (2020), on a stock kernel.
//!
//! Each piece is a VMA, of which a process may have `vm.max_map_count`; what is filled of the file
//! is memory. So the pieces grow with the addresses in use, and after half of the allowed VMAs no
//! more are laid: from there on the memory is anonymous, and filled when it is allocated.

use core::sync::atomic::{AtomicUsize, Ordering};

use mte::Tag;
use rustix::io::{Errno, Result};

use crate::bits::Pages;
use crate::content::Content;
use crate::memory_file::{self, MemoryFile};
use crate::region::Region;
use crate::sys::lock::Mutex;
use crate::sys::vm::{self, Tags};

/// Bytes of a piece, and up to which addresses in use it is laid. A piece costs its length in memory
/// once, for the file, and each one a fifth of a microsecond whenever the kernel is asked for the
/// pages of a run that it lies in.
const SIZES: [(usize, usize); 5] = [
    (64 << 10, 1 << 20),
    (256 << 10, 64 << 20),
    (1 << 20, 512 << 20),
    (4 << 20, 2 << 30),
    (LARGEST, usize::MAX),
];

/// The largest of them: as long as the file.
const LARGEST: usize = memory_file::LEN;

/// How often laying a piece is tried again when the program closes the file's number meanwhile.
const TRIES: usize = 4;

/// The pieces of one Region.
#[derive(Debug)]
pub(crate) struct Backing {
    /// The page behind the last piece.
    end: AtomicUsize,
    laid: Mutex<Laid>,
}

#[derive(Debug)]
struct Laid {
    /// Pieces so far, and at most.
    pieces: usize,
    most: usize,
    /// The page behind the last one in use. Those that are in no piece never will be: whoever has
    /// them would lose what they hold.
    used: usize,
    file: Option<MemoryFile>,
}

impl Backing {
    /// No pieces yet, and none ever before [`open`](Self::open).
    pub const fn new() -> Self {
        let laid = Laid { pieces: 0, most: 0, used: 0, file: None };
        Self { end: AtomicUsize::new(0), laid: Mutex::new(laid) }
    }

    /// Allows pieces, if this process can make the file.
    ///
    /// # Errors
    /// What memfd_create, fcntl or mmap said.
    pub fn open(&self) -> Result<()> {
        let mut laid = self.laid.lock();
        laid.file = Some(MemoryFile::create(Tags::Without)?);
        laid.most = vm::max_map_count() / 2;
        Ok(())
    }

    /// Whether the page is in a piece.
    #[inline]
    pub fn covers(&self, page: usize) -> bool {
        page < self.end.load(Ordering::Acquire)
    }

    /// Those of `pages` that are in a piece; the others lie behind them.
    pub fn covered(&self, pages: Pages) -> Pages {
        pages.prefix(self.end.load(Ordering::Acquire).saturating_sub(pages.first))
    }

    /// Pieces so far.
    pub fn pieces(&self) -> usize {
        self.laid.lock().pieces
    }

    /// Lays pieces up to the page `upto` of the content part, none of which was used beyond the
    /// last piece: how many of the pages that come into use by this are in none. No more pieces
    /// are laid after there were some.
    ///
    /// # Errors
    /// As well as those pages, why it was: none if as many pieces are laid as there may be, else
    /// what the kernel said.
    pub fn extend(&self, region: &Region, content: Content, upto: usize) -> (usize, Option<Errno>) {
        if self.covers(upto - 1) {
            return (0, None);
        }
        let mut laid = self.laid.lock();
        let mut tries = 0;
        let mut failed = None;
        while laid.pieces < laid.most && !self.covers(upto - 1) {
            let end = self.end.load(Ordering::Relaxed);
            match laid.lay(region, content, end, upto) {
                Ok(pages) => self.end.store(end + pages, Ordering::Release),
                Err(Errno::BADF) if tries < TRIES => tries += 1,
                Err(errno) => {
                    laid.most = laid.pieces;
                    failed = Some(errno);
                }
            }
        }
        let known = laid.used.max(self.end.load(Ordering::Relaxed));
        laid.used = laid.used.max(upto);
        (upto.saturating_sub(known), failed)
    }

    /// For the time of a fork.
    pub fn acquire(&self) {
        self.laid.acquire();
    }

    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.laid.release() }
    }

    /// In a child of fork: the file is the parent's to fill. What is filled can be used.
    pub fn share(&self) {
        if let Some(file) = &mut self.laid.lock().file {
            file.share();
        }
    }
}

impl Laid {
    /// Lays one piece at the page `end`: its pages.
    fn lay(&mut self, region: &Region, content: Content, end: usize, upto: usize) -> Result<usize> {
        let shift = region.page_shift();
        let used = upto << shift;
        let size =
            SIZES.into_iter().find(|(_, upto)| used <= *upto).map_or(LARGEST, |(size, _)| size);
        let file = self.file_of(size.max(1 << shift), content)?;
        let room = (region.content_part().count - end) << shift;
        let len = size.max(1 << shift).min(room);
        let start = region.address(end);
        // SAFETY: nobody has used the addresses, and they are the Region's.
        unsafe { file.map_over(start, len)? };
        self.pieces += 1;
        Ok(len >> shift)
    }

    /// A file whose first `len` bytes are full of content.
    fn file_of(&mut self, len: usize, content: Content) -> Result<&MemoryFile> {
        let file = match self.file.take().filter(|file| file.is_usable(len)) {
            Some(file) => file,
            // What pieces show of another one stays.
            None => MemoryFile::create(Tags::Without)?,
        };
        let file = self.file.insert(file);
        file.fill(len, content, Tag::ZERO)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Pattern;
    use crate::sys::descriptor::Descriptor;

    const CONTENT: Content = Content::Pattern(Pattern::byte(0xAA));

    struct Fixture {
        region: Region,
        backing: Backing,
    }

    impl Fixture {
        fn new() -> Self {
            let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
            let backing = Backing::new();
            backing.open().expect("memfd_create");
            Self { region, backing }
        }

        fn extend(&self, bytes: usize) -> (usize, Option<Errno>) {
            self.backing.extend(&self.region, CONTENT, bytes / vm::page_size())
        }

        fn read(&self, at: usize) -> u8 {
            // SAFETY: the Region is this test's.
            unsafe { self.region.address(0).add(at).read() }
        }

        fn write(&self, at: usize, value: u8) {
            // SAFETY: as above.
            unsafe { self.region.address(0).add(at).write(value) };
        }

        fn number(&self) -> i32 {
            let laid = self.backing.laid.lock();
            laid.file.as_ref().and_then(MemoryFile::number).expect("a file")
        }
    }

    #[test]
    fn what_is_missing_from_a_piece_reads_as_the_content() {
        let f = Fixture::new();
        assert_eq!(f.extend(10 << 20), (0, None));
        assert!(f.backing.covers((10 << 20) / vm::page_size() - 1));
        assert!((0..10 << 20).step_by(vm::page_size() / 2).all(|at| f.read(at) == 0xAA));
        f.write(0, 1);
        // SAFETY: the Region is this test's.
        unsafe { vm::drop_pages(f.region.address(0), vm::page_size()).expect("our memory") };
        assert_eq!(f.read(0), 0xAA, "what was written is gone");
    }

    #[test]
    fn a_backing_that_was_not_opened_lays_nothing() {
        let f = Fixture { backing: Backing::new(), ..Fixture::new() };
        assert_eq!(f.extend(1 << 20), ((1 << 20) / vm::page_size(), None));
        assert_eq!(f.backing.pieces(), 0);
    }

    #[test]
    fn a_closed_number_is_replaced() {
        let f = Fixture::new();
        let number = f.number();
        assert_eq!(f.extend(vm::page_size()), (0, None));
        // SAFETY: the test plays the program that closes what it does not know.
        unsafe { rustix::io::close(number) };
        assert_eq!(f.extend(2 << 20), (0, None));
        assert_eq!(f.read((2 << 20) - 1), 0xAA);
    }

    #[test]
    fn no_more_pieces_than_allowed() {
        let f = Fixture::new();
        f.backing.laid.lock().most = 2;
        let (unbacked, failed) = f.extend(4 << 20);
        assert_eq!((f.backing.pieces(), failed), (2, None));
        let covered = f.backing.covered(Pages { first: 1, count: (4 << 20) / vm::page_size() });
        assert_eq!(unbacked, (4 << 20) / vm::page_size() - covered.end());
        assert_eq!(f.read(covered.end() * vm::page_size() - 1), 0xAA);
        assert_eq!(f.read(covered.end() * vm::page_size()), 0, "anonymous");
        assert_eq!(f.extend(4 << 20), (0, None), "counted once");
    }

    #[test]
    fn what_was_used_without_a_piece_never_gets_one() {
        let f = Fixture::new();
        assert_eq!(f.extend(1 << 20), (0, None));
        let used = f.backing.end.load(Ordering::Relaxed) * vm::page_size();
        // A file that cannot be mapped.
        let wrong = Descriptor::open(c"/dev/null", rustix::fs::OFlags::WRONLY);
        let wrong = MemoryFile::of(wrong.expect("/dev/null"));
        let right = f.backing.laid.lock().file.replace(wrong);
        let pages = (1 << 20) / vm::page_size();
        assert_eq!(f.extend(used + (1 << 20)), (pages, Some(Errno::ACCESS)));
        f.write(used, 5);
        // There is one again; but the page is somebody's.
        f.backing.laid.lock().file = right;
        assert_eq!(f.extend(used + (2 << 20)), (pages, None));
        assert_eq!(f.read(used), 5);
    }
}
