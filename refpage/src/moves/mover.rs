//! The userfaultfd that pages move through.

use core::fmt;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;

use crate::moves::arena::Arena;
use crate::service::Attempts;
use crate::sys::errno;
use crate::sys::uffd::{Channel, Features, Uffd, Way};

/// What it is to touch a missing page of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The kernel puts a page of zeros there.
    Zeros,
    /// The thread waits until a page is put there; [`Mover::faults`] tells who waits for what.
    Faults,
}

/// What pages move through: it outlives its arenas.
///
/// In a child of fork, which has its own memory, it moves nothing, and missing pages read as zeros there.
#[derive(Debug)]
pub struct Mover {
    uffd: Uffd,
}

impl Mover {
    /// A mover that needs no privilege. A system call that touches a [missing page that is a
    /// fault](Missing::Faults) fails with EFAULT.
    ///
    /// # Errors
    /// Why there is none: a kernel before 6.8, or a filter of system calls.
    pub fn new() -> Result<Self, Refused> {
        let failed = |errno| Refused { step: Way::UserMode.as_str(), errno };
        Self::over(Uffd::open(Way::UserMode).map_err(failed)?)
    }

    /// A mover whose faults are those of system calls, too: read(2) into a missing page waits as the program
    /// itself would.
    ///
    /// # Errors
    /// As [`new`](Self::new), and where the process may not: it needs access to `/dev/userfaultfd`, or
    /// CAP_SYS_PTRACE, or `vm.unprivileged_userfaultfd=1`.
    pub fn with_system_calls() -> Result<Self, Refused> {
        let (opened, attempts) = Attempts::open();
        let Some((_, uffd)) = opened else {
            let last = attempts.failed().last();
            let (way, errno) = last.unwrap_or((Way::Syscall, Errno::NOSYS));
            return Err(Refused { step: way.as_str(), errno });
        };
        Self::over(uffd)
    }

    fn over(uffd: Uffd) -> Result<Self, Refused> {
        match uffd.features().moves() {
            true => Ok(Self { uffd }),
            false => Err(Refused { step: "moving pages (Linux 6.8)", errno: Errno::NOSYS }),
        }
    }

    /// A fresh arena of so many OS pages, all missing, which begins at a multiple of 2 MiB.
    ///
    /// # Errors
    /// NOMEM: there is no address space for it, or a limit.
    pub fn arena(&self, pages: usize, missing: Missing) -> Result<Arena<'_>, Refused> {
        Arena::map(self, pages, missing)
    }

    pub(crate) fn features(&self) -> Features {
        self.uffd.features()
    }

    pub(super) fn channel(&self) -> Channel {
        self.uffd.channel()
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}

/// Something that this process or this kernel does not allow, and what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The step that failed, as it is told.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno } = *self;
        write!(f, "{step}: {} ({})", errno::name(errno), errno.raw_os_error())
    }
}

impl core::error::Error for Refused {}
