//! Descriptors that stay open in the program's table, under numbers that it does not know of.
//!
//! The program may close such a number, and use it again for something else: what is behind it is
//! told from that by its identity, before its answers are believed, and before it is closed.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::Stat;

use crate::sys::vm::KeepErrno;

/// Numbers from here on are seldom any program's business.
pub const OUT_OF_THE_WAY: RawFd = 1000;

const NONE: RawFd = -1;
const ON_ITS_WAY: RawFd = -2;

/// A descriptor that is kept, if there is one.
#[derive(Debug)]
pub struct Number {
    number: AtomicI32,
    identity: AtomicU64,
    /// How often something else came to be kept.
    changes: AtomicU64,
}

impl Number {
    /// Nothing is kept.
    #[allow(clippy::new_without_default, reason = "const, for a static")]
    pub const fn new() -> Self {
        Self {
            number: AtomicI32::new(NONE),
            identity: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// The number of what is kept.
    pub fn get(&self) -> Option<RawFd> {
        let number = self.number.load(Ordering::Acquire);
        (number >= 0).then_some(number)
    }

    /// Keeps the descriptor, unless another one is kept already; then it is closed.
    pub fn keep(&self, file: OwnedFd) {
        let identity = identity_of(file.as_fd());
        self.keep_known(file, identity);
    }

    /// The same, where the [identity](identity) of what was opened is known by other means: the
    /// number may be somebody else's already.
    pub fn keep_known(&self, file: OwnedFd, identity: u64) {
        let (free, taken) = (Ordering::Acquire, Ordering::Relaxed);
        if self.number.compare_exchange(NONE, ON_ITS_WAY, free, taken).is_err() {
            return close(file);
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.identity.store(identity, Ordering::Relaxed);
        self.number.store(file.into_raw_fd(), Ordering::Release);
    }

    /// Whether `number`, which [`get`](Self::get) told, is still what was kept.
    pub fn is_ours(&self, number: RawFd) -> bool {
        // SAFETY: borrowed for one call that changes nothing.
        let identity = identity_of(unsafe { BorrowedFd::borrow_raw(number) });
        identity != 0 && identity == self.identity.load(Ordering::Relaxed)
    }

    /// Calls `ask` with the number: none if nothing is kept, or what was asked may have been something
    /// else. It is not enough that the number is ours again: meanwhile it may have been closed, used
    /// for something else, and opened again by another thread of ours.
    pub fn ask<R>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        let changes = self.changes.load(Ordering::Acquire);
        let number = self.get()?;
        // SAFETY: borrowed for one call, which the caller has found to be harmless on a foreign
        // descriptor.
        let answer = ask(unsafe { BorrowedFd::borrow_raw(number) });
        let same = self.is_ours(number) && self.changes.load(Ordering::Acquire) == changes;
        same.then_some(answer)
    }

    /// Keeps nothing any more: what was kept is closed if its number is its own still.
    pub fn close(&self) {
        let number = self.number.swap(NONE, Ordering::Relaxed);
        if number >= 0 && self.is_ours(number) {
            let _errno = KeepErrno::new();
            // SAFETY: the number is ours, and nobody else knows it.
            unsafe { libc::close(number) };
        }
    }
}

/// The descriptor under a number that is out of the program's way; as it is, if there is no room.
pub fn out_of_the_way(file: OwnedFd) -> OwnedFd {
    match rustix::io::fcntl_dupfd_cloexec(&file, OUT_OF_THE_WAY) {
        Ok(copy) => {
            close(file);
            copy
        }
        Err(_) => file,
    }
}

/// Closes a descriptor that another thread of the program may have closed already: to rustix that
/// is an error of ours, and the end.
pub fn close(file: OwnedFd) {
    let _errno = KeepErrno::new();
    // SAFETY: the number was this descriptor's.
    unsafe { libc::close(file.into_raw_fd()) };
}

/// Tells a file from others: its inode and device. Not 0.
pub fn identity(stat: &Stat) -> u64 {
    (stat.st_ino ^ stat.st_dev.rotate_right(16)).max(1)
}

/// Of an open file; 0 if the number is closed.
fn identity_of(file: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(file).map_or(0, |stat| identity(&stat))
}

#[cfg(test)]
mod tests {
    use rustix::fd::AsRawFd;

    use super::*;

    fn file() -> OwnedFd {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        out_of_the_way(rustix::fs::memfd_create(c"test", flags).expect("memfd_create"))
    }

    #[test]
    fn a_number_that_is_used_again_is_told_apart_and_left_alone() {
        let kept = Number::new();
        kept.keep(file());
        let number = kept.get().expect("it was kept");
        assert!(kept.is_ours(number));
        // The program closes it, and opens something else under the number.
        let other = file();
        // SAFETY: the number is this test's.
        let again = unsafe { libc::dup2(other.as_raw_fd(), number) };
        assert_eq!(again, number);
        assert!(!kept.is_ours(number));
        kept.close();
        assert_eq!(kept.get(), None);
        // SAFETY: still open, as the program's.
        assert!(rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok());
        // SAFETY: opened above.
        unsafe { libc::close(number) };
    }

    #[test]
    fn the_first_one_is_kept() {
        let kept = Number::new();
        kept.keep(file());
        let number = kept.get().expect("it was kept");
        kept.keep(file());
        assert_eq!(kept.get(), Some(number));
        kept.close();
        assert!(!kept.is_ours(number));
    }
}
