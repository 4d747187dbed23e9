//! Descriptors in the program's table, where any thread of it may close what it does not know, or
//! put something else under its number, at any moment.
//!
//! So a descriptor here is a number and the identity of what was opened. To find it closed is no
//! error, as it would be to [`OwnedFd`], and what has become somebody else's is not closed.
//!
//! The program may be quicker than the first look at what was opened. Who opens something to rely
//! on it asks it afterwards for something that only it can answer: it did not come back, so the
//! look was at it too.

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use crate::sys::vm::KeepErrno;

/// Numbers from here on are seldom any program's business.
pub const OUT_OF_THE_WAY: RawFd = 1000;

/// An open file, which is closed with the value.
#[derive(Debug)]
pub struct Descriptor {
    number: RawFd,
    identity: u64,
}

impl Descriptor {
    /// What was opened just now.
    pub fn new(file: OwnedFd) -> Self {
        let number = file.into_raw_fd();
        Self { number, identity: identity_of(number) }
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// What open said.
    pub fn open(path: &CStr, flags: OFlags) -> Result<Self> {
        Self::make(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()))
    }

    /// What `open` opens. Where the program has used up all the descriptors that its soft limit allows,
    /// that is raised to the hard limit for the moment.
    ///
    /// # Errors
    /// What `open` said.
    pub fn make(open: impl Fn() -> Result<OwnedFd>) -> Result<Self> {
        match open() {
            Err(Errno::MFILE) => above_the_limit(open),
            opened => opened,
        }
        .map(Self::new)
    }

    /// Opens a file, and reads its beginning: bytes.
    ///
    /// # Errors
    /// What open or read said.
    pub fn read_from(path: &CStr, bytes: &mut [u8]) -> Result<usize> {
        rustix::io::read(Self::open(path, OFlags::RDONLY)?, bytes)
    }

    /// The number, and the [identity](identity) of what is behind it.
    pub fn known_as(&self) -> (RawFd, u64) {
        (self.number, self.identity)
    }

    /// Whether it still is behind the number.
    pub fn is_intact(&self) -> bool {
        is(self.number, self.identity)
    }

    /// The same file under a number that is out of the program's way; as it is, if there is no room.
    pub fn out_of_the_way(self) -> Self {
        match rustix::io::fcntl_dupfd_cloexec(&self, OUT_OF_THE_WAY).map(Self::new) {
            Ok(copy) if copy.identity == self.identity => copy,
            _ => self,
        }
    }

    /// The number, which the caller closes by [`close`].
    pub(super) fn into_number(self) -> RawFd {
        let number = self.number;
        core::mem::forget(self);
        number
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(self.number)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        close(self.number, self.identity);
    }
}

/// Runs `open` under the hard limit on descriptors. One thread at a time: another one would take what it
/// finds for the limit to be put back.
fn above_the_limit<T>(open: impl Fn() -> Result<T>) -> Result<T> {
    static RAISED: AtomicBool = AtomicBool::new(false);
    let _errno = KeepErrno::new();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // In a child of fork it may be set for good by a thread that is not there; then things are as they
    // were.
    if RAISED.swap(true, Ordering::Acquire) {
        return open();
    }
    // SAFETY: each call reads or writes a limit.
    let raised = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0
        && limit.rlim_cur < limit.rlim_max
        && set_limit(libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    let opened = open();
    if raised {
        set_limit(limit);
    }
    RAISED.store(false, Ordering::Release);
    opened
}

fn set_limit(limit: libc::rlimit) -> bool {
    // SAFETY: the call reads a limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 }
}

/// Closes the number if what is behind it is of this identity.
pub(super) fn close(number: RawFd, identity: u64) {
    if is(number, identity) {
        let _errno = KeepErrno::new();
        // SAFETY: the number is ours, and nobody else knows it.
        unsafe { libc::close(number) };
    }
}

/// Whether what is behind the number is of this identity.
pub(super) fn is(number: RawFd, identity: u64) -> bool {
    identity != CLOSED && identity_of(number) == identity
}

/// Tells a file from others: its inode and device.
pub fn identity(stat: &Stat) -> u64 {
    (stat.st_ino ^ stat.st_dev.rotate_right(16)).max(1)
}

/// The identity of no file.
const CLOSED: u64 = 0;

fn identity_of(number: RawFd) -> u64 {
    rustix::fs::fstat(borrow(number)).map_or(CLOSED, |stat| identity(&stat))
}

/// A number that may have been closed or become something else.
pub(super) fn borrow<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: not -1. It is borrowed for calls that say so where it is closed, and are harmless on
    // what is not ours.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[cfg(test)]
pub(super) mod tests {
    use rustix::fd::AsRawFd;

    use super::*;

    /// An empty file that nobody else has.
    pub fn file() -> Descriptor {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        Descriptor::new(rustix::fs::memfd_create(c"test", flags).expect("memfd_create"))
            .out_of_the_way()
    }

    /// Whether the number is open.
    pub fn is_open(number: RawFd) -> bool {
        rustix::io::fcntl_getfd(borrow(number)).is_ok()
    }

    /// Puts something else under the number, as a program would that does not know it.
    pub fn replace(number: RawFd) {
        let zero = Descriptor::open(c"/dev/zero", OFlags::RDONLY).expect("/dev/zero");
        // SAFETY: the number is the test's.
        assert_eq!(unsafe { libc::dup2(zero.as_fd().as_raw_fd(), number) }, number);
    }

    #[test]
    fn it_is_closed_with_the_value() {
        let (number, _) = file().known_as();
        assert!(!is_open(number));
    }

    #[test]
    fn a_soft_limit_is_no_obstacle() {
        let soft = || {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the call writes the limit.
            let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
            known.then_some(limit)
        };
        // The limit is a process's, and other tests open files.
        // SAFETY: the child makes system calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let lowered =
                soft().is_some_and(|limit| set_limit(libc::rlimit { rlim_cur: 0, ..limit }));
            let opened = Descriptor::open(c"/dev/zero", OFlags::RDONLY).is_ok();
            let is_low = soft().is_some_and(|limit| limit.rlim_cur == 0);
            // SAFETY: as above.
            unsafe { libc::_exit(if lowered && opened && is_low { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: the child is this test's.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 7);
    }

    #[test]
    fn it_may_have_been_closed_before() {
        let file = file();
        // SAFETY: the number is this test's.
        assert_eq!(unsafe { libc::close(file.known_as().0) }, 0);
    }

    #[test]
    fn what_somebody_else_has_put_there_is_left_alone() {
        let file = file();
        let (number, _) = file.known_as();
        replace(number);
        drop(file);
        assert!(is_open(number));
        // SAFETY: opened above.
        unsafe { libc::close(number) };
    }
}
