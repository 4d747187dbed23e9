//! `std`'s descriptors for rustix, which knows them only with its feature `std`.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fd::BorrowedFd;

/// The descriptor, for as long as its owner lives.
pub fn lent(owner: &impl AsFd) -> BorrowedFd<'_> {
    // SAFETY: it is open for as long as the owner is borrowed.
    unsafe { BorrowedFd::borrow_raw(owner.as_fd().as_raw_fd()) }
}
