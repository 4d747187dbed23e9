//! The backing of the service `cow`: private mappings of files full of content.
//!
//! ```text
//!   content part   [piece][piece][   piece   ][   piece   ] ....... not used yet, anonymous
//!                     │      │         │            │
//!   sealed files    256 KiB  ┘       1 MiB ─────────┘               each piece maps one from its start
//! ```
//!
//! What is missing from a piece is read from its file's pages, and copied from there by the kernel
//! itself when it is written: in system calls, in children, without privilege. Pieces are laid one
//! behind the other as the addresses are first used, and stay; so recycling a run maps nothing. The
//! idea is Collingbourne's reference pages (2020), on a stock kernel.
//!
//! Each piece is a VMA, of which a process may have `vm.max_map_count`; each file is memory. So the
//! pieces grow with the addresses in use, and after half of the allowed VMAs no more are laid:
//! from there on the memory is anonymous, and filled when it is allocated.

use core::sync::atomic::{AtomicUsize, Ordering};

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};

use crate::content::Content;
use crate::region::Region;
use crate::sys::lock::Mutex;
use crate::sys::vm;

/// Bytes of the files.
const SIZES: [usize; 4] = [256 << 10, 1 << 20, 4 << 20, 16 << 20];

/// A piece is at most this share of the addresses in use, or the file would weigh too much; and so
/// many pieces of a size are laid at most before the next size's turn.
const SHARE: usize = 256;

/// What a file is filled from at once.
const CHUNK: usize = 64 << 10;

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
    /// Why there will be no more of them.
    closed: Option<Errno>,
    file: Option<Source>,
}

/// A file full of content: the number may be closed by the program, and used again for something
/// else, which the inode tells.
#[derive(Clone, Copy, Debug)]
struct Source {
    number: i32,
    inode: u64,
    len: usize,
}

impl Backing {
    /// No pieces yet, and none ever before [`open`](Self::open).
    pub const fn new() -> Self {
        let laid = Laid { pieces: 0, most: 0, closed: Some(Errno::NOSYS), file: None };
        Self { end: AtomicUsize::new(0), laid: Mutex::new(laid) }
    }

    /// Allows pieces, if this process can make the files.
    ///
    /// # Errors
    /// What memfd_create said.
    pub fn open(&self) -> Result<()> {
        create()?;
        let mut laid = self.laid.lock();
        laid.most = vm::max_map_count() / 2;
        laid.closed = None;
        Ok(())
    }

    /// Whether the page is in a piece.
    #[inline]
    pub fn covers(&self, page: usize) -> bool {
        page < self.end.load(Ordering::Acquire)
    }

    /// Pieces so far.
    pub fn pieces(&self) -> usize {
        self.laid.lock().pieces
    }

    /// Lays pieces up to the page `upto` of the content part, none of which was used beyond the
    /// last piece. An error if that was not possible, or is not any more.
    pub fn extend(&self, region: &Region, content: Content, upto: usize) -> Result<()> {
        if self.covers(upto - 1) {
            return Ok(());
        }
        let mut laid = self.laid.lock();
        loop {
            let end = self.end.load(Ordering::Relaxed);
            if end >= upto {
                return Ok(());
            }
            if let Some(errno) = laid.closed {
                return Err(errno);
            }
            match laid.lay(region, content, end, upto) {
                Ok(pages) => self.end.store(end + pages, Ordering::Release),
                Err(errno) => laid.closed = Some(errno),
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
}

impl Laid {
    /// Lays one piece at the page `end`: its pages.
    fn lay(
        &mut self,
        region: &Region,
        content: Content,
        end: usize,
        upto: usize,
    ) -> Result<usize> {
        if self.pieces >= self.most {
            return Err(Errno::NOMEM);
        }
        let shift = region.page_shift();
        let used = upto << shift;
        let size = SIZES.into_iter().find(|size| size * SHARE >= used);
        let [.., largest] = SIZES;
        let file = self.file_of(size.unwrap_or(largest).max(1 << shift), content)?;
        let room = (region.content_part().count - end) << shift;
        let len = file.len.min(room);
        // SAFETY: nobody has used the addresses, and they are the Region's.
        unsafe { vm::map_over(region.address(end), len, file.fd())? };
        if !file.is_ours() {
            // Closed between the two looks by another thread of the program.
            // SAFETY: as above.
            unsafe { vm::map_anonymous_over(region.address(end), len)? };
            self.file = None;
            return Err(Errno::BADF);
        }
        self.pieces += 1;
        Ok(len >> shift)
    }

    /// The file of `len` bytes.
    fn file_of(&mut self, len: usize, content: Content) -> Result<Source> {
        if let Some(file) = self.file.filter(Source::is_ours) {
            if file.len == len {
                return Ok(file);
            }
            // The pieces that map it keep it.
            // SAFETY: the number is still the file's, and nobody else knows it.
            unsafe { rustix::io::close(file.number) };
        }
        self.file = None;
        let file = filled(len, content)?;
        self.file = Some(file);
        Ok(file)
    }
}

impl Source {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: borrowed for one call; whether the number is still the file's is checked around it.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }

    fn is_ours(&self) -> bool {
        rustix::fs::fstat(self.fd())
            .is_ok_and(|stat| stat.st_ino == self.inode && stat.st_size as usize == self.len)
    }
}

fn create() -> Result<OwnedFd> {
    rustix::fs::memfd_create(c"refpage", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
}

/// A new file full of `content` that nobody can change any more.
fn filled(len: usize, content: Content) -> Result<Source> {
    let file = create()?;
    let chunk = vm::reserve(CHUNK, vm::page_size())?;
    // SAFETY: a mapping made just above.
    let bytes = unsafe {
        content.fill(chunk, CHUNK);
        core::slice::from_raw_parts(chunk, CHUNK)
    };
    let mut written = 0;
    let mut result = Ok(());
    while written < len && result.is_ok() {
        // The content is the same at every multiple of eight.
        let from = written % CHUNK;
        let part = bytes.get(from..CHUNK.min(from + len - written)).unwrap_or_default();
        match rustix::io::write(&file, part) {
            Ok(n) => written += n,
            Err(Errno::INTR) => {}
            Err(errno) => result = Err(errno),
        }
    }
    // SAFETY: nothing refers to the chunk any more.
    unsafe { vm::unmap(chunk, CHUNK) };
    result?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let inode = rustix::fs::fstat(&file)?.st_ino;
    let file = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), vm::OUT_OF_THE_WAY).unwrap_or(file);
    Ok(Source { number: file.into_raw_fd(), inode, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_from_a_piece_reads_as_the_content() {
        let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
        let backing = Backing::new();
        assert!(backing.extend(&region, Content::Pattern(0xAA), 1).is_err(), "not opened");
        backing.open().expect("memfd_create");
        let page = vm::page_size();
        backing.extend(&region, Content::Pattern(0xAA), (10 << 20) / page).expect("mappings");
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
    fn a_closed_number_is_noticed() {
        let file = filled(256 << 10, Content::Pattern(1)).expect("memfd_create");
        assert!(file.is_ours());
        // SAFETY: nobody else knows the number.
        unsafe { rustix::io::close(file.number) };
        assert!(!file.is_ours());
    }

    #[test]
    fn no_more_pieces_than_allowed() {
        let region = Region::reserve(64 << 20, 2 << 20).expect("address space");
        let backing = Backing::new();
        backing.open().expect("memfd_create");
        backing.laid.lock().most = 2;
        let page = vm::page_size();
        let all = (4 << 20) / page;
        assert_eq!(backing.extend(&region, Content::Pattern(7), all), Err(Errno::NOMEM));
        assert_eq!(backing.pieces(), 2);
        assert!(backing.covers((512 << 10) / page - 1) && !backing.covers((512 << 10) / page));
        // SAFETY: the Region is this test's.
        assert_eq!(unsafe { region.address((512 << 10) / page).read() }, 0, "anonymous");
    }
}
