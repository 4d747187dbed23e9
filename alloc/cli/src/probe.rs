//! What can only be known by trying: each probe makes the call on something of its own, and undoes it.

use rustix::fd::AsRawFd as _;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, RawFd};

use refpage::sys::uffd::Features;

/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: u32 = 1;
/// `UFFD_API`, and the features that are asked for: MOVE and write protection.
const API: u64 = 0xaa;
const WANTED: u64 = 1 << 16 | 1;
/// `UFFDIO_API`, which takes three words: the version, the features and the ioctls.
const UFFDIO_API: u32 = 0xc018_aa3f;
/// `MADV_GUARD_INSTALL`, Linux 6.13.
const GUARD_INSTALL: i32 = 102;
/// `PAGEMAP_SCAN`, Linux 6.7, and its `PAGE_IS_PRESENT`.
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PRESENT: u64 = 1 << 3;

/// A userfaultfd that sees no faults in system calls: no privilege, but the system call.
pub fn user_mode_only() -> Result<Features, Errno> {
    match handshake(WANTED) {
        // An older kernel refuses the handshake as a whole, and a descriptor has only one.
        Err(Errno::INVAL) => handshake(0),
        other => other,
    }
}

fn handshake(features: u64) -> Result<Features, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
    // SAFETY: the descriptor registers no memory, and is closed again.
    let uffd = unsafe { rustix::mm::userfaultfd(flags)? };
    let mut words = [API, features, 0];
    // SAFETY: UFFDIO_API reads and writes these three words.
    unsafe { control(uffd.as_raw_fd(), UFFDIO_API, words.as_mut_ptr().cast())? };
    Ok(Features(words[1]))
}

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
        let len = pages * rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE)?
        };
        Ok(Self { start: start.cast(), len })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody else knows it.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
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

/// Whether a memory file can be sealed against every change.
pub fn memfd_sealing() -> Result<(), Errno> {
    let file = rustix::fs::memfd_create(
        c"refpage-doctor",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    rustix::fs::ftruncate(&file, rustix::param::page_size() as u64)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    match rustix::io::write(&file, b"x") {
        Err(Errno::PERM) => Ok(()),
        Ok(_) => Err(Errno::IO),
        Err(errno) => Err(errno),
    }
}

/// Whether the processor tags memory. None where the architecture has no such thing.
pub fn memory_tagging() -> Option<bool> {
    #[cfg(target_arch = "aarch64")]
    {
        /// `HWCAP2_MTE`.
        const MTE: u64 = 1 << 18;
        // SAFETY: getauxval has no precondition.
        Some(unsafe { libc::getauxval(libc::AT_HWCAP2) } & MTE != 0)
    }
    #[cfg(not(target_arch = "aarch64"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_agree_with_the_kernels_version() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        // Filters and configurations may take away, but nothing is there before its time.
        assert!(guard_pages() != Some(true) || version >= (6, 13), "{release}");
        assert!(pagemap_scan() != Some(true) || version >= (6, 7), "{release}");
        if let Ok(features) = user_mode_only() {
            assert!(!features.has_move() || version >= (6, 8), "{release}");
        }
        assert_eq!(memory_tagging().is_some(), cfg!(target_arch = "aarch64"));
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
