//! How far a move came.

use core::fmt;

use rustix::io::Errno;

use crate::sys::errno;

/// The outcome of a move, copy, or filling with zeros.
#[must_use = "what was not moved is still where it was"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Pages that are at their destination now: the first ones of those asked for.
    pub pages: usize,
    /// Why it is not all of them.
    pub stop: Option<Stop>,
}

impl Moved {
    /// Whether all that was asked for was done.
    pub fn is_done(self) -> bool {
        self.stop.is_none()
    }
}

/// What stands in the way of the first page that was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing that lasts: the kernel was busy with these pages for as long as it was tried. The rest may
    /// be tried again.
    Short,
    /// There is no page at the source.
    SourceHole,
    /// There is a page, or a guard, at the destination. The source is as it was.
    DestinationPresent,
    /// There is a page at the destination, and none at the source. If there was one at the source before, it
    /// was moved, and the kernel did not count it: Linux does so (seen on 6.18) when it had to wait for a page that was on
    /// its way elsewhere.
    Uncounted,
    /// The page does not belong to its place alone: it is shared with a child of fork, merged with others
    /// (KSM), or pinned by a device.
    NotMovable,
    /// There is no memory for the page, or for its page table.
    NoMemory,
    /// Both ranges are not whole pages of arenas, or the kernel has another objection.
    Failed(Errno),
}

impl Stop {
    pub(super) fn of(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN | Errno::INTR => Stop::Short,
            Errno::NOENT => Stop::SourceHole,
            Errno::EXIST => Stop::DestinationPresent,
            Errno::BUSY => Stop::NotMovable,
            Errno::NOMEM => Stop::NoMemory,
            errno => Stop::Failed(errno),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stop::Short => "the kernel is busy with these pages",
            Stop::SourceHole => "no page at the source",
            Stop::DestinationPresent => "a page at the destination",
            Stop::Uncounted => "no page at the source, and one at the destination",
            Stop::NotMovable => "the page is shared or pinned",
            Stop::NoMemory => "no memory",
            Stop::Failed(errno) => return write!(f, "{} ({errno})", errno::name(*errno)),
        })
    }
}

impl core::error::Error for Stop {}
