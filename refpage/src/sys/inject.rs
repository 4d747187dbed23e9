//! Failures on demand of the calls that put pages in place and take them away: for tests of what is
//! done about them. Only with the feature `inject`, which no build for use has.

use core::panic::Location;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use rustix::io::{Errno, Result};

use crate::sys::vm::page_size;

/// What is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// UFFDIO_MOVE.
    Move,
    /// UFFDIO_COPY.
    Copy,
    /// Giving pages back: MADV_DONTNEED.
    Drop,
    /// Getting pages for the pool: MADV_POPULATE_WRITE.
    Populate,
}

/// How many there are.
const SITES: usize = 4;

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
static EVERY: [AtomicU32; SITES] = [const { AtomicU32::new(0) }; SITES];
static FAILURE: [AtomicU32; SITES] = [const { AtomicU32::new(0) }; SITES];
static CALLS: [AtomicU64; SITES] = [const { AtomicU64::new(0) }; SITES];
static FAILED: AtomicU64 = AtomicU64::new(0);

/// The places in the code whose calls have failed, and how often.
static PLACES: [Place; 32] = [const { Place::new() }; 32];

struct Place {
    location: AtomicPtr<Location<'static>>,
    count: AtomicU64,
}

impl Place {
    const fn new() -> Self {
        Self { location: AtomicPtr::new(core::ptr::null_mut()), count: AtomicU64::new(0) }
    }

    fn location(&self) -> Option<&'static Location<'static>> {
        // SAFETY: null, or what `note` stored: a location is a constant.
        unsafe { self.location.load(Relaxed).as_ref() }
    }

    /// Whether it is, or now becomes, the place of this call.
    fn takes(&self, caller: &'static Location<'static>) -> bool {
        let new = core::ptr::from_ref(caller).cast_mut();
        let _ = self.location.compare_exchange(core::ptr::null_mut(), new, Relaxed, Relaxed);
        self.location() == Some(caller)
    }
}

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

/// Where calls have failed by this, and how many at each place.
pub fn places() -> impl Iterator<Item = (&'static Location<'static>, u64)> {
    PLACES.iter().map_while(|place| Some((place.location()?, place.count.load(Relaxed))))
}

fn note(caller: &'static Location<'static>) {
    FAILED.fetch_add(1, Relaxed);
    if let Some(place) = PLACES.iter().find(|place| place.takes(caller)) {
        place.count.fetch_add(1, Relaxed);
    }
}

/// What is to happen to a call for `len` bytes at `site`: how many it is made for, and its answer
/// if that is settled.
#[track_caller]
pub(super) fn at(site: Site, len: usize) -> (usize, Option<Errno>) {
    let every = EVERY[site as usize].load(Relaxed);
    if every == 0 || !CALLS[site as usize].fetch_add(1, Relaxed).is_multiple_of(u64::from(every)) {
        return (len, None);
    }
    match FAILURE[site as usize].load(Relaxed) {
        SHORT if len > page_size() => {
            note(Location::caller());
            (page_size(), Some(Errno::AGAIN))
        }
        SHORT => (len, None),
        code => {
            note(Location::caller());
            (0, Some(Errno::from_raw_os_error(code as i32)))
        }
    }
}

/// The same for a call that is made as a whole or not at all: its answer, if that is settled.
#[track_caller]
pub(super) fn refusal(site: Site) -> Result<()> {
    match at(site, 0) {
        (_, Some(errno)) => Err(errno),
        (_, None) => Ok(()),
    }
}
