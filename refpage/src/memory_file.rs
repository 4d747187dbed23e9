//! A memory file whose beginning is full of content: what private mappings show while they are missing.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, Result};

use mte::{Granules, Tag};

use crate::content::Content;
use crate::sys::descriptor::Descriptor;
use crate::sys::number::Number;
use crate::sys::vm::{self, Tags};

/// The file's length in bytes. Memory is what was filled of it.
pub const LEN: usize = 16 << 20;

/// A file whose beginning is full of content, under one tag where it has tags.
#[derive(Debug)]
pub struct MemoryFile {
    number: Number,
    /// The one place where the file can be written: nobody else can map it so. Null in a child.
    window: *mut u8,
    filled: usize,
    tags: Tags,
}

// SAFETY: the window belongs to whoever holds the value; nothing here belongs to a thread.
unsafe impl Send for MemoryFile {}

impl MemoryFile {
    /// An empty file that can be written nowhere but in its window.
    ///
    /// # Errors
    /// What memfd_create, fcntl or mmap said.
    pub fn create(tags: Tags) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Where `vm.memfd_noexec` is 2, others are refused; before Linux 6.3, these.
        let create = |flags| Descriptor::make(|| rustix::fs::memfd_create(c"refpage", flags));
        let file = match create(flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => create(flags)?,
            created => created?,
        };
        let file = file.out_of_the_way();
        let window = Self::prepare(file.as_fd(), tags)?;
        let number = Number::new();
        number.keep(file);
        Ok(Self { number, window, filled: 0, tags })
    }

    /// Gives a new file its length and its seals: its window.
    fn prepare(file: BorrowedFd<'_>, tags: Tags) -> Result<*mut u8> {
        rustix::fs::ftruncate(file, LEN as u64)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice. Not the child's: it would
        // fill the parent's file with whatever it takes for the content.
        let window = unsafe {
            let window = vm::map_shared(LEN, file, tags)?;
            vm::advise(window, LEN, rustix::mm::Advice::LinuxDontFork)?;
            window
        };
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
        let sealed = rustix::fs::fcntl_add_seals(file, seals);
        sealed.and_then(|()| Self::recognise(window, file)).inspect_err(|_| {
            // SAFETY: mapped above, seen by nobody.
            unsafe { vm::unmap(window, LEN) };
        })?;
        Ok(window)
    }

    /// That the window shows this file, and not one that the program has put under its number.
    fn recognise(window: *mut u8, file: BorrowedFd<'_>) -> Result<()> {
        let sign = window.addr().to_ne_bytes();
        let mut read = [0; size_of::<usize>()];
        // SAFETY: the beginning of the window, which is this process's and holds nothing yet.
        unsafe { window.cast::<[u8; size_of::<usize>()]>().write(sign) };
        if rustix::io::pread(file, &mut read, 0)? == read.len() && read == sign {
            Ok(())
        } else {
            Err(Errno::BADF)
        }
    }

    /// An open file that is taken for one, and full.
    #[cfg(test)]
    pub fn of(file: Descriptor) -> Self {
        let number = Number::new();
        number.keep(file);
        Self { number, window: core::ptr::null_mut(), filled: LEN, tags: Tags::Without }
    }

    /// Its number, if it is open.
    #[cfg(test)]
    pub fn number(&self) -> Option<i32> {
        self.number.get()
    }

    /// Whether a mapping of the file's first `len` bytes can be made, or made possible.
    pub fn is_usable(&self, len: usize) -> bool {
        self.is_ours() && (self.filled >= len || !self.window.is_null())
    }

    /// In a child of fork: the file is the parent's to fill. What is filled can be used.
    pub fn share(&mut self) {
        self.window = core::ptr::null_mut();
    }

    /// Fills the file's first `len` bytes, under `tag` where it has tags; always with the same.
    ///
    /// # Errors
    /// What madvise said: NOMEM where the file system has no room.
    pub fn fill(&mut self, len: usize, content: Content, tag: Tag) -> Result<()> {
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
            match self.tags {
                Tags::Without => content.fill(start, len - self.filled),
                Tags::With => content.write(Granules::new(start, len - self.filled), tag),
            }
        }
        self.filled = len;
        Ok(())
    }

    /// Maps the file's beginning over `len` bytes, which stay as they were, or become anonymous, if that
    /// fails.
    ///
    /// # Errors
    /// BADF if the program has closed the file's number; else what mmap said.
    ///
    /// # Safety
    /// The range lies in a mapping of ours with the file's kind of tags, and nobody needs what it holds.
    pub unsafe fn map_over(&self, start: *mut u8, len: usize) -> Result<()> {
        let number = self.number.get().ok_or(Errno::BADF)?;
        // SAFETY: the caller's promise. The number is borrowed for one call, and looked at once more
        // behind it.
        unsafe { vm::map_over(start, len, BorrowedFd::borrow_raw(number), self.tags)? };
        if !self.is_ours() {
            // Closed between the two looks by another thread of the program.
            // SAFETY: as above.
            unsafe { vm::map_anonymous_over(start, len, self.tags)? };
            return Err(Errno::BADF);
        }
        Ok(())
    }

    fn is_ours(&self) -> bool {
        self.number.get().is_some_and(|number| self.number.is_ours(number))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.number.close();
        if !self.window.is_null() {
            // SAFETY: the window is this process's, and goes with the value.
            unsafe { vm::unmap(self.window, LEN) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Pattern;

    #[test]
    fn nobody_else_can_change_the_file() {
        let mut file = MemoryFile::create(Tags::Without).expect("memfd_create");
        file.fill(64 << 10, Content::Pattern(Pattern::byte(1)), Tag::ZERO).expect("memory");
        let number = file.number().expect("it is kept");
        // SAFETY: open as long as the file lives.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        assert_eq!(rustix::io::pwrite(fd, b"x", 0), Err(Errno::PERM));
        // SAFETY: the mapping is made nowhere in particular, and is not used.
        assert_eq!(unsafe { vm::map_shared(LEN, fd, Tags::Without) }, Err(Errno::PERM));
    }
}
