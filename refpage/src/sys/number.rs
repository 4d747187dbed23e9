//! Descriptors that stay open in the program's table, under numbers that it does not know of.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::fd::{BorrowedFd, RawFd};

use crate::sys::descriptor::{self, Descriptor};

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
    pub fn keep(&self, file: Descriptor) {
        let (free, taken) = (Ordering::Acquire, Ordering::Relaxed);
        if self.number.compare_exchange(NONE, ON_ITS_WAY, free, taken).is_ok() {
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.identity.store(file.known_as().1, Ordering::Relaxed);
            self.number.store(file.into_number(), Ordering::Release);
        }
    }

    /// Whether `number`, which [`get`](Self::get) told, is still what was kept.
    pub fn is_ours(&self, number: RawFd) -> bool {
        descriptor::is(number, self.identity.load(Ordering::Relaxed))
    }

    /// Calls `ask` with the number: none if nothing is kept, or what was asked may have been something
    /// else. It is not enough that the number is ours again: meanwhile it may have been closed, used
    /// for something else, and opened again by another thread of ours.
    ///
    /// What is asked must be harmless on a descriptor of somebody else.
    pub fn ask<R>(&self, ask: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        let changes = self.changes.load(Ordering::Acquire);
        let number = self.get()?;
        let answer = ask(descriptor::borrow(number));
        let same = self.is_ours(number) && self.changes.load(Ordering::Acquire) == changes;
        same.then_some(answer)
    }

    /// Keeps nothing any more: what was kept is closed if its number is its own still.
    pub fn close(&self) {
        let identity = self.identity.load(Ordering::Relaxed);
        let number = self.number.swap(NONE, Ordering::AcqRel);
        if number >= 0 {
            descriptor::close(number, identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::descriptor::tests::{file, is_open, replace};

    #[test]
    fn a_number_that_is_used_again_is_told_apart_and_left_alone() {
        let kept = Number::new();
        kept.keep(file());
        let number = kept.get().expect("it was kept");
        assert!(kept.is_ours(number));
        replace(number);
        assert!(!kept.is_ours(number));
        kept.close();
        assert_eq!(kept.get(), None);
        assert!(is_open(number));
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
