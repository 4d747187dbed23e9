//! Services: how content gets under the program's accesses in this process, and which can be had.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

pub(crate) use crate::sys::errno::name;
use crate::sys::uffd::{Uffd, Way};

/// How content gets under the program's accesses, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Service {
    /// Missing faults are answered by moving pages in.
    Lazy,
    /// Sparse memory is a private mapping of a file full of content, which the kernel itself copies
    /// on the first write; dense memory is filled when it is allocated.
    Cow,
    /// Memory is filled when it is allocated, by moving or copying pages in.
    Eager,
    /// Memory is filled when it is allocated.
    Memset,
    /// Nothing is filled: the baseline that the others are measured against.
    Off,
}

impl Service {
    /// Its name in options, statistics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Service::Lazy => "lazy",
            Service::Cow => "cow",
            Service::Eager => "eager",
            Service::Memset => "memset",
            Service::Off => "off",
        }
    }

    /// The service that a process has, by the word that says so.
    pub fn from_word(value: u64) -> Self {
        match value {
            0 => Service::Lazy,
            1 => Service::Cow,
            2 => Service::Eager,
            3 => Service::Memset,
            _ => Service::Off,
        }
    }

    /// Whether what is missing from anonymous memory reads as zero, so that it has to be filled
    /// before anyone may touch it.
    pub fn fills_at_allocation(self) -> bool {
        matches!(self, Service::Cow | Service::Eager | Service::Memset)
    }
}

/// The service in force: a child of fork may have to take a lesser one.
///
/// A whole word, which is also [read from outside](crate::Words) the process.
#[derive(Debug)]
pub(crate) struct AtomicService(AtomicU64);

impl AtomicService {
    pub(crate) const fn new(value: Service) -> Self {
        Self(AtomicU64::new(value as u64))
    }
    pub(crate) fn get(&self) -> Service {
        Service::from_word(self.0.load(Ordering::Relaxed))
    }
    pub(crate) fn set(&self, value: Service) {
        self.0.store(value as u64, Ordering::Relaxed);
    }
    pub(crate) fn word(&self) -> &AtomicU64 {
        &self.0
    }
}

/// What every way to a userfaultfd answered; the first that works ends the search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    failed: [Option<(Way, Errno)>; Way::ALL.len()],
}

impl Attempts {
    /// Tries the ways in order.
    pub fn open() -> (Option<(Way, Uffd)>, Self) {
        let mut attempts = Self::default();
        for (way, failed) in Way::ALL.into_iter().zip(&mut attempts.failed) {
            match Uffd::open(way) {
                Ok(uffd) => return (Some((way, uffd)), attempts),
                Err(errno) => *failed = Some((way, errno)),
            }
        }
        (None, attempts)
    }

    /// The ways that failed, and with what.
    pub fn failed(&self) -> impl Iterator<Item = (Way, Errno)> + '_ {
        self.failed.iter().flatten().copied()
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (way, errno)) in self.failed().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}: {}", way.as_str(), name(errno))?;
        }
        Ok(())
    }
}
