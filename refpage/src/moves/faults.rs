//! Who waits for missing pages.

use rustix::fd::{AsFd, BorrowedFd};

use crate::moves::mover::{Mover, Refused};
use crate::sys::uffd::FaultBuffer;

/// A thread waits for a page of an arena whose missing pages are [faults](crate::moves::Missing::Faults).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingFault {
    /// What it touched: [`Arena::page_at`](crate::moves::Arena::page_at) tells the page. Before Linux 5.18, the page's
    /// first byte.
    pub address: usize,
    /// Whether it wanted to write.
    pub writes: bool,
    /// The thread's number.
    pub thread: u32,
}

impl Mover {
    /// Calls `answer` for each fault that is pending, after waiting for one for `timeout_ms` milliseconds at
    /// most (none: for ever). How many there were: 0 also after a signal.
    ///
    /// The thread goes on when a page is put in place there, or it is [woken](crate::moves::Place::wake), by whomever; a page
    /// that several threads wait for is told of several times. Any thread may ask, and several may
    /// at a time. Who answers must not touch missing pages itself.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn faults(
        &self,
        timeout_ms: Option<u64>,
        mut answer: impl FnMut(MissingFault),
    ) -> Result<usize, Refused> {
        let failed = |step| move |errno| Refused { step, errno };
        let channel = self.channel();
        if !channel.poll(timeout_ms).map_err(failed("waiting for faults"))? {
            return Ok(0);
        }
        let mut faults = FaultBuffer::default();
        // SAFETY: the descriptor is the mover's own, and open as long as that is.
        let count =
            unsafe { channel.read_faults(&mut faults) }.map_err(failed("reading faults"))?;
        for fault in (0..count).filter_map(|i| faults.fault(i)) {
            answer(MissingFault {
                address: fault.address,
                writes: fault.writes,
                thread: fault.thread,
            });
        }
        Ok(count)
    }
}

/// For poll, together with others: it is readable while a fault is pending.
impl AsFd for Mover {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor()
    }
}
