//! Failures of MOVE and COPY on demand: for tests of what is done about them. Only with the feature
//! `inject`, which no build for use has.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rustix::io::Errno;

use crate::sys::vm::page_size;

/// Where something is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// UFFDIO_MOVE.
    Move,
    /// UFFDIO_COPY.
    Copy,
}

/// What is to happen there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The call is not made, and this is its answer.
    Refused(Errno),
    /// It is made for one page only, and answered as a short one.
    Short,
}

/// In place of an errno: a short call.
const SHORT: u32 = 0xFFFF;

/// Of how many calls one fails, by site; 0: none.
static EVERY: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static FAILURE: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static CALLS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// From now on, of `every` calls at `site` one fails so; none if that is 0.
pub fn fail(site: Site, every: u32, failure: Failure) {
    let code = match failure {
        Failure::Refused(errno) => errno.raw_os_error() as u32,
        Failure::Short => SHORT,
    };
    FAILURE[site as usize].store(code, Relaxed);
    EVERY[site as usize].store(every, Relaxed);
}

/// How many calls have failed by this.
pub fn failed() -> u64 {
    FAILED.load(Relaxed)
}

/// What is to happen to a call for `len` bytes at `site`: how many it is made for, and its answer
/// if that is settled.
pub(super) fn at(site: Site, len: usize) -> (usize, Option<Errno>) {
    let every = EVERY[site as usize].load(Relaxed);
    if every == 0 || !CALLS.fetch_add(1, Relaxed).is_multiple_of(u64::from(every)) {
        return (len, None);
    }
    match FAILURE[site as usize].load(Relaxed) {
        SHORT if len > page_size() => {
            FAILED.fetch_add(1, Relaxed);
            (page_size(), Some(Errno::AGAIN))
        }
        SHORT => (len, None),
        code => {
            FAILED.fetch_add(1, Relaxed);
            (0, Some(Errno::from_raw_os_error(code as i32)))
        }
    }
}
