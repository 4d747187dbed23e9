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

use rustix::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};

use crate::bits::Pages;
use crate::content::Content;
use crate::region::Region;
use crate::sys::lock::Mutex;
use crate::sys::vm;

/// Bytes of a piece: the first is large enough for those pieces that a process has laid up to
/// [`SHARE`] of.
const SIZES: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// The largest of them, and the file's length. Memory is what was filled of it.
const LARGEST: usize = 16 << 20;

/// The file is filled up to this share of the addresses in use, or it would weigh too much.
const SHARE: usize = 256;

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
    file: Option<Source>,
}

/// A file whose beginning is full of content. The program may close its number, and use it again
/// for something else, which the inode tells.
#[derive(Debug)]
struct Source {
    number: i32,
    inode: u64,
    /// The one place where the file can be written: nobody else can map it so. Null in a child.
    window: *mut u8,
    filled: usize,
}

// SAFETY: the window belongs to whoever holds the value; nothing here belongs to a thread.
unsafe impl Send for Source {}

impl Backing {
    /// No pieces yet, and none ever before [`open`](Self::open).
    pub const fn new() -> Self {
        let laid = Laid { pieces: 0, most: 0, file: None };
        Self { end: AtomicUsize::new(0), laid: Mutex::new(laid) }
    }

    /// Allows pieces, if this process can make the file.
    ///
    /// # Errors
    /// What memfd_create, fcntl or mmap said.
    pub fn open(&self) -> Result<()> {
        let mut laid = self.laid.lock();
        laid.file = Some(Source::create()?);
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
    /// last piece.
    ///
    /// # Errors
    /// NOMEM where there are as many mappings as there may be; what the kernel said. Then pieces
    /// may have been laid for a part.
    pub fn extend(&self, region: &Region, content: Content, upto: usize) -> Result<()> {
        if self.covers(upto - 1) {
            return Ok(());
        }
        let mut laid = self.laid.lock();
        let mut tries = 0;
        loop {
            let end = self.end.load(Ordering::Relaxed);
            if end >= upto {
                return Ok(());
            }
            match laid.lay(region, content, end, upto) {
                Ok(pages) => self.end.store(end + pages, Ordering::Release),
                Err(Errno::BADF) if tries < TRIES => tries += 1,
                Err(errno) => return Err(errno),
            }
        }
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
            file.window = core::ptr::null_mut();
        }
    }
}

impl Laid {
    /// Lays one piece at the page `end`: its pages.
    fn lay(&mut self, region: &Region, content: Content, end: usize, upto: usize) -> Result<usize> {
        if self.pieces >= self.most {
            return Err(Errno::NOMEM);
        }
        let shift = region.page_shift();
        let used = upto << shift;
        let size = SIZES.into_iter().find(|size| size * SHARE >= used).unwrap_or(LARGEST);
        let file = self.file_of(size.max(1 << shift), content)?;
        let room = (region.content_part().count - end) << shift;
        let len = size.max(1 << shift).min(room);
        let start = region.address(end);
        // SAFETY: nobody has used the addresses, and they are the Region's.
        unsafe { vm::map_over(start, len, file.fd())? };
        if !file.is_ours() {
            // Closed between the two looks by another thread of the program.
            // SAFETY: as above.
            unsafe { vm::map_anonymous_over(start, len)? };
            return Err(Errno::BADF);
        }
        self.pieces += 1;
        Ok(len >> shift)
    }

    /// A file whose first `len` bytes are full of content.
    fn file_of(&mut self, len: usize, content: Content) -> Result<&Source> {
        let usable =
            |file: &Source| file.is_ours() && (file.filled >= len || !file.window.is_null());
        let file = match self.file.take().filter(usable) {
            Some(file) => file,
            // What pieces show of another one stays.
            None => Source::create()?,
        };
        let file = self.file.insert(file);
        file.fill(len, content)?;
        Ok(file)
    }
}

impl Source {
    /// An empty file that can be written nowhere but in its window.
    fn create() -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = vm::out_of_the_way(rustix::fs::memfd_create(c"refpage", flags)?);
        match Self::prepare(file.as_fd()) {
            Ok((window, inode)) => {
                Ok(Self { number: file.into_raw_fd(), inode, window, filled: 0 })
            }
            Err(errno) => {
                vm::close(file);
                Err(errno)
            }
        }
    }

    /// Gives a new file its length and its seals: its window and its inode.
    fn prepare(file: BorrowedFd<'_>) -> Result<(*mut u8, u64)> {
        rustix::fs::ftruncate(file, LARGEST as u64)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice. Not the child's: it would
        // fill the parent's file with whatever it takes for the content.
        let window = unsafe {
            let window = vm::map_shared(LARGEST, file)?;
            vm::advise(window, LARGEST, rustix::mm::Advice::LinuxDontFork)?;
            window
        };
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
        let sealed =
            rustix::fs::fcntl_add_seals(file, seals).and_then(|()| rustix::fs::fstat(file));
        match sealed {
            Ok(stat) => Ok((window, stat.st_ino)),
            Err(errno) => {
                // SAFETY: mapped above, seen by nobody.
                unsafe { vm::unmap(window, LARGEST) };
                Err(errno)
            }
        }
    }

    /// Fills the file's first `len` bytes.
    fn fill(&mut self, len: usize, content: Content) -> Result<()> {
        if self.filled >= len {
            return Ok(());
        }
        // SAFETY: the window is this process's, and the file as long; pieces show only what was
        // filled before. What the file system has no room for is populated with an error here, not
        // with a signal below.
        unsafe {
            let start = self.window.add(self.filled);
            match vm::advise(start, len - self.filled, rustix::mm::Advice::LinuxPopulateWrite) {
                // Before Linux 5.14.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
            content.fill(start, len - self.filled);
        }
        self.filled = len;
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: borrowed for one call; whether the number is still the file's is checked around
        // it.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }

    fn is_ours(&self) -> bool {
        rustix::fs::fstat(self.fd())
            .is_ok_and(|stat| stat.st_ino == self.inode && stat.st_size as usize == LARGEST)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: the number is the file's, and nobody else knows it.
            vm::close(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
        if !self.window.is_null() {
            // SAFETY: the window is this process's, and goes with the value.
            unsafe { vm::unmap(self.window, LARGEST) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Pattern;

    #[test]
    fn what_is_missing_from_a_piece_reads_as_the_content() {
        let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
        let backing = Backing::new();
        assert!(
            backing.extend(&region, Content::Pattern(Pattern::byte(0xAA)), 1).is_err(),
            "not opened"
        );
        backing.open().expect("memfd_create");
        let page = vm::page_size();
        backing
            .extend(&region, Content::Pattern(Pattern::byte(0xAA)), (10 << 20) / page)
            .expect("mappings");
        assert!(backing.covers((10 << 20) / page - 1));
        for at in (0..10 << 20).step_by(page / 2) {
            // SAFETY: the Region is this test's.
            assert_eq!(unsafe { region.address(0).add(at).read() }, 0xAA);
        }
        // SAFETY: as above.
        unsafe {
            region.address(0).write(1);
            vm::drop_pages(region.address(0), page).expect("our memory");
            assert_eq!(region.address(0).read(), 0xAA, "what was written is gone");
        }
    }

    #[test]
    fn a_closed_number_is_replaced() {
        let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
        let backing = Backing::new();
        backing.open().expect("memfd_create");
        let page = vm::page_size();
        let number = backing.laid.lock().file.as_ref().expect("a file").number;
        backing.extend(&region, Content::Pattern(Pattern::byte(3)), 1).expect("a mapping");
        // SAFETY: the test plays the program that closes what it does not know.
        unsafe { rustix::io::close(number) };
        let end = (2 << 20) / page;
        backing.extend(&region, Content::Pattern(Pattern::byte(3)), end).expect("mappings");
        // SAFETY: the Region is this test's.
        assert_eq!(unsafe { region.address(end - 1).read() }, 3);
    }

    #[test]
    fn nobody_else_can_change_the_file() {
        let mut file = Source::create().expect("memfd_create");
        file.fill(64 << 10, Content::Pattern(Pattern::byte(1))).expect("memory");
        assert_eq!(rustix::io::pwrite(file.fd(), b"x", 0), Err(Errno::PERM));
        // SAFETY: the mapping is made nowhere in particular, and is not used.
        let shared = unsafe { vm::map_shared(LARGEST, file.fd()) };
        assert_eq!(shared, Err(Errno::PERM));
    }

    #[test]
    fn no_more_pieces_than_allowed() {
        let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
        let backing = Backing::new();
        backing.open().expect("memfd_create");
        backing.laid.lock().most = 2;
        let all = (4 << 20) / vm::page_size();
        assert_eq!(
            backing.extend(&region, Content::Pattern(Pattern::byte(7)), all),
            Err(Errno::NOMEM)
        );
        assert_eq!(backing.pieces(), 2);
        let covered = backing.covered(Pages { first: 1, count: all });
        assert!(covered.count < all);
        // SAFETY: the Region is this test's.
        unsafe {
            assert_eq!(region.address(covered.end() - 1).read(), 7);
            assert_eq!(region.address(covered.end()).read(), 0, "anonymous");
        }
    }
}
