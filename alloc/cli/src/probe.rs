//! What can only be known by trying: each probe makes the call on something of its own, and undoes it.

use refpage::sys::vm;
use rustix::fd::AsFd;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::ffi::c_void;
use std::os::fd::{AsRawFd, RawFd};

/// `MADV_GUARD_INSTALL`, Linux 6.13.
const GUARD_INSTALL: i32 = 102;
/// `PAGEMAP_SCAN`, Linux 6.7, and its `PAGE_IS_PRESENT`.
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PRESENT: u64 = 1 << 3;

/// # Safety
/// `argument` is what the request takes.
unsafe fn control(file: RawFd, request: u32, argument: *mut c_void) -> Result<i32, Errno> {
    // SAFETY: the caller's promise.
    let answer = unsafe { libc::ioctl(file, request as _, argument) };
    if answer < 0 { Err(last_error()) } else { Ok(answer) }
}

fn last_error() -> Errno {
    let code = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(code.unwrap_or(libc::EIO))
}

/// Some fresh pages.
struct Scratch {
    start: *mut u8,
    len: usize,
}

impl Scratch {
    fn map(pages: usize) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        Ok(Self { start: vm::reserve(pages * page, page)?, len: pages * page })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping that nobody else knows.
        unsafe { vm::unmap(self.start, self.len) };
    }
}

/// Whether guard pages can be installed that need no mapping of their own. None if it cannot be tried.
pub fn guard_pages() -> Option<bool> {
    let scratch = Scratch::map(1).ok()?;
    // SAFETY: the page is the scratch's, and nobody touches it any more.
    let answer = unsafe { libc::madvise(scratch.start.cast(), scratch.len, GUARD_INSTALL) };
    Some(answer == 0)
}

/// Whether the page map can be scanned: one present page is to be found among three. None if there is
/// no page map to try it on.
pub fn pagemap_scan() -> Option<bool> {
    let file = std::fs::File::open("/proc/self/pagemap").ok()?;
    let scratch = Scratch::map(3).ok()?;
    let (start, page) = (scratch.start as u64, rustix::param::page_size() as u64);
    // SAFETY: the second page of the scratch.
    unsafe { scratch.start.add(page as usize).write_volatile(1) };
    // `struct page_region`, then `struct pm_scan_arg`, whose fields are all of 64 bits.
    let mut found = [0u64; 3];
    let end = start + scratch.len as u64;
    let (vector, capacity) = (found.as_mut_ptr() as u64, 1);
    let mut argument = [96, 0, start, end, 0, vector, capacity, 0, 0, PRESENT, 0, PRESENT];
    // SAFETY: the argument is as long as it says, and so is the vector that it names.
    let answer = unsafe { control(file.as_raw_fd(), PAGEMAP_SCAN, argument.as_mut_ptr().cast()) };
    Some(answer == Ok(1) && found[..2] == [start + page, start + 2 * page])
}

/// Whether a memory file can be sealed so that only a mapping from before can still change it: what
/// the service `cow` needs.
pub fn memfd_sealing() -> Result<(), Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(c"refpage-doctor", flags)?;
    let len = rustix::param::page_size();
    rustix::fs::ftruncate(&file, len as u64)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice, of a file as long.
    let start = unsafe { vm::map_shared(len, file.as_fd(), vm::Tags::Without)? };
    let _window = Scratch { start, len };
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    match rustix::io::write(&file, b"x") {
        Err(Errno::PERM) => Ok(()),
        Ok(_) => Err(Errno::IO),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refpage::sys::uffd::{Uffd, Way};

    #[test]
    fn probes_agree_with_the_kernels_version() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        // Filters and configurations may take away, but nothing is there before its time.
        assert!(guard_pages() != Some(true) || version >= (6, 13), "{release}");
        assert!(pagemap_scan() != Some(true) || version >= (6, 7), "{release}");
        if let Ok(uffd) = Uffd::open(Way::UserMode) {
            assert!(!uffd.features().has_move() || version >= (6, 8), "{release}");
        }
        assert!(memfd_sealing().is_err() || version >= (5, 1), "{release}");
    }

    #[test]
    fn scratch_pages_go_away_again() {
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = {
            let scratch = Scratch::map(2).unwrap();
            scratch.start as usize
        };
        assert!(!maps().lines().any(|line| line.starts_with(&format!("{start:x}-"))));
    }
}
