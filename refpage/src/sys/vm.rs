//! Address space: reservations, advice, residency.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Size of an OS page in bytes: 4, 16 or 64 KiB. Read once, at run time.
#[inline]
pub fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf has no precondition, and _SC_PAGESIZE cannot fail.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// Reserves `len` bytes of private anonymous memory, aligned to `align` (a power of two, at
/// least one OS page). Nothing is committed until it is touched.
///
/// # Errors
/// What mmap said: ENOMEM under RLIMIT_AS, strict overcommit, or a full address space.
pub fn reserve(len: usize, align: usize) -> Result<*mut u8> {
    let slack = align.saturating_sub(page_size());
    let total = len.checked_add(slack).ok_or(Errno::NOMEM)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            core::ptr::null_mut(),
            total,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    } as usize;
    let start = base.next_multiple_of(align);
    trim(base, start - base);
    trim(start + len, base + total - (start + len));
    Ok(start as *mut u8)
}

fn trim(start: usize, len: usize) {
    if len > 0 {
        // SAFETY: called only on the unused ends of a mapping that `reserve` just made.
        let _ = unsafe { rustix::mm::munmap(start as *mut c_void, len) };
    }
}

/// Unmaps what [`reserve`] gave.
///
/// # Safety
/// The range is a whole reservation, and nobody uses it any more.
pub unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise is munmap's precondition.
    let _ = unsafe { rustix::mm::munmap(start.cast(), len) };
}

/// Tells the kernel how the range is to be treated.
///
/// # Safety
/// The range lies in a mapping of ours, and for advice that discards contents nobody needs them.
pub unsafe fn advise(start: *mut u8, len: usize, advice: Advice) -> Result<()> {
    // SAFETY: the caller's promise is madvise's precondition.
    unsafe { rustix::mm::madvise(start.cast(), len, advice) }
}

/// One byte for each OS page of the range is written to `out`, odd where the page is present.
/// Used where the kernel, not refpage, populated the pages.
///
/// # Errors
/// What mincore said; `out` is then unspecified.
pub fn residency(start: *mut u8, out: &mut [u8]) -> Result<()> {
    let len = out.len() * page_size();
    // SAFETY: mincore writes one byte for each page of `len`, which is `out.len()` bytes. libc's
    // wrapper is the only one there is; callers are on paths that keep errno themselves.
    let rc = unsafe { libc::mincore(start.cast(), len, out.as_mut_ptr()) };
    if rc == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

/// The soft limit on address space in bytes, if there is one.
pub fn address_space_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// Keeps what the caller's code does to `errno` from the program: made at the entry of a path
/// that calls libc, it puts the old value back when dropped.
#[derive(Debug)]
pub struct KeepErrno(i32);

impl KeepErrno {
    /// Remembers errno.
    #[allow(clippy::new_without_default, reason = "making one is an effect, not a default value")]
    pub fn new() -> Self {
        // SAFETY: __errno_location always returns this thread's valid errno.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

/// Milliseconds of the coarse monotonic clock: a vDSO read, a few nanoseconds.
pub fn now_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}
