//! Which pages were written to, asked of the kernel.

use core::marker::PhantomData;
use core::ops::Range;

use rustix::fd::AsFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::moves::{Mover, Refused};
use crate::sys::descriptor::Descriptor;
use crate::sys::scan::{Query, States, Stretch, scan};
use crate::sys::uffd::{Features, Uffd, Watch, Way};
use crate::sys::vm;

/// Stretches that one system call tells of.
const BATCH: usize = 64;

/// Written pages, which are somewhere, and are not the zero page: who only read what nobody wrote to, got
/// that. Whether a page is a file's is not asked: the kernel would look at each page for that, not only at the page table,
/// and take ten times as long.
const WRITTEN: Query = Query {
    all: States::WRITTEN,
    any: States::PRESENT.or(States::SWAPPED),
    none: States::ZERO_PAGE,
    protect: false,
};

/// Whether pages count as not written to from the moment at which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// They are told again the next time.
    No,
    /// They are told again only if somebody writes to them after that. To look and to reset is one step: a
    /// write comes before both, or after.
    Yes,
}

/// Tells which OS pages of ranges of private anonymous memory were written to, by anyone: threads,
/// system calls, devices; since the range is [watched](Self::watch), or since the last
/// [reset](Reset::Yes).
///
/// The kernel write-protects the pages, and when somebody writes, takes the protection away by itself: there are no
/// signals, no handler, no waiting. (`PAGEMAP_SCAN` and userfaultfd with `UFFD_FEATURE_WP_ASYNC`, Linux 6.7; the idea is that
/// of Windows' `GetWriteWatch`.) A page that was moved counts as written, and one that was dropped does not: it
/// reads as zeros, and is no page any more. Nothing is left at places without a page, so that pages can be moved there.
/// (It is not for mappings of files: there, a page counts as written as soon as it is read, and if the mapping is shared, a
/// written page that the kernel drops for want of memory counts no more.)
///
/// ```
/// use refpage::{Reset, WriteWatch};
///
/// // Linux 6.7.
/// let Ok(watch) = WriteWatch::new() else { return Ok(()) };
/// let page = refpage::sys::vm::page_size();
/// let memory = refpage::sys::vm::reserve(8 * page, page).expect("address space");
/// watch.watch(memory, 8 * page)?;
/// // SAFETY: reserved above.
/// unsafe { memory.add(3 * page + 5).write(1) };
/// let start = memory as usize;
/// let mut written = watch.written(memory, 8 * page, Reset::Yes)?;
/// assert_eq!(written.next(), Some(Ok(start + 3 * page..start + 4 * page)));
/// assert_eq!(written.next(), None);
/// # Ok::<(), refpage::Refused>(())
/// ```
#[derive(Debug)]
pub struct WriteWatch<'m> {
    /// None: what is watched is a mover's.
    uffd: Option<Uffd>,
    pagemap: Descriptor,
    /// Both descriptors are about this process's memory, also in a child of fork.
    process: Pid,
    mover: PhantomData<&'m Mover>,
}

impl WriteWatch<'static> {
    /// For memory that no other userfaultfd watches. Needs no privilege.
    ///
    /// # Errors
    /// Why writes cannot be watched here: a kernel before 6.7, on Arm before 6.10 or so; a filter of
    /// system calls; no /proc.
    pub fn new() -> Result<Self, Refused> {
        let uffd = Uffd::open(Way::UserMode);
        let uffd = uffd.map_err(|errno| Refused { step: Way::UserMode.as_str(), errno })?;
        Self::with(uffd.features(), Some(uffd))
    }
}

impl<'m> WriteWatch<'m> {
    /// For the arenas of a mover.
    ///
    /// # Errors
    /// As [`new`](WriteWatch::new).
    pub fn of(mover: &'m Mover) -> Result<Self, Refused> {
        Self::with(mover.features(), None)
    }

    fn with(features: Features, uffd: Option<Uffd>) -> Result<Self, Refused> {
        if !features.has_async_write_protect() {
            let step = "write protection that the kernel resolves (Linux 6.7)";
            return Err(Refused { step, errno: Errno::NOSYS });
        }
        let pagemap = Descriptor::open(c"/proc/self/pagemap", OFlags::RDONLY);
        let pagemap = pagemap.map_err(|errno| Refused { step: "/proc/self/pagemap", errno })?;
        Ok(Self { uffd, pagemap, process: rustix::process::getpid(), mover: PhantomData })
    }

    /// Watches the pages that hold any of `len` bytes from `start` on. None counts as written to.
    ///
    /// # Errors
    /// INVAL: not all of it is memory that can be watched. BUSY: some of it belongs to another userfaultfd,
    /// as the heap of refpage's allocator does. PERM: it is no arena of the mover.
    pub fn watch(&self, start: *const u8, len: usize) -> Result<(), Refused> {
        let pages = pages_of(start, len);
        self.check_process()?;
        if let Some(uffd) = &self.uffd {
            let first = pages.start as *mut u8;
            let registered = uffd.channel().register(first, pages.len(), Watch::MoveTarget);
            registered.map_err(|errno| Refused { step: "registering what is watched", errno })?;
        }
        self.written(start, len, Reset::Yes)?.try_for_each(|found| found.map(drop))
    }

    /// Watches pages no more. (An arena's may be asked about all the same, as long as there is the arena.)
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unwatch(&self, start: *const u8, len: usize) -> Result<(), Refused> {
        let pages = pages_of(start, len);
        self.check_process()?;
        let Some(uffd) = &self.uffd else { return Ok(()) };
        let gone = uffd.channel().unregister(pages.start as *mut u8, pages.len());
        gone.map_err(|errno| Refused { step: "ending a write watch", errno })
    }

    /// The written ones of the pages that hold any of these bytes, as ranges of addresses, the lowest
    /// first.
    ///
    /// # Errors
    /// PERM: some of them are not watched. SRCH: this is a child of fork, whose memory nobody watches.
    pub fn written(
        &self,
        start: *const u8,
        len: usize,
        reset: Reset,
    ) -> Result<Written<'_>, Refused> {
        self.check_process()?;
        Written::look(&self.pagemap, pages_of(start, len), reset)
    }

    fn check_process(&self) -> Result<(), Refused> {
        if rustix::process::getpid() != self.process {
            let step = "watching the memory of a child of fork";
            return Err(Refused { step, errno: Errno::SRCH });
        }
        Ok(())
    }
}

/// The pages that hold any of these bytes, as addresses.
fn pages_of(start: *const u8, len: usize) -> Range<usize> {
    let page = vm::page_size();
    let first = start as usize / page * page;
    first..(start as usize).saturating_add(len).div_ceil(page) * page
}

/// Whom to ask for the states of pages.
pub(crate) trait Scan: core::fmt::Debug {
    /// As [`scan`].
    fn scan(
        &self,
        range: Range<usize>,
        query: Query,
        found: &mut [Stretch],
    ) -> rustix::io::Result<(usize, usize)>;
}

impl Scan for Descriptor {
    fn scan(
        &self,
        range: Range<usize>,
        query: Query,
        found: &mut [Stretch],
    ) -> rustix::io::Result<(usize, usize)> {
        scan(self.as_fd(), range, query, found)
    }
}

/// Ranges of written pages, as [`WriteWatch::written`] tells them: addresses. They are looked up, and
/// reset, a batch at a time: what an iterator that is dropped early has not told may have been reset.
#[derive(Debug)]
pub struct Written<'a> {
    pagemap: &'a dyn Scan,
    query: Query,
    /// What was not looked at yet.
    rest: Range<usize>,
    found: [Stretch; BATCH],
    /// Those of `found` that are still to be told.
    untold: Range<usize>,
}

impl<'a> Written<'a> {
    /// The written ones of `pages`, which are asked for once, to see that they can be.
    pub(crate) fn look(
        pagemap: &'a dyn Scan,
        pages: Range<usize>,
        reset: Reset,
    ) -> Result<Self, Refused> {
        let query = Query { protect: reset == Reset::Yes, ..WRITTEN };
        let found = [Stretch::default(); BATCH];
        let mut written = Self { pagemap, query, rest: pages, found, untold: 0..0 };
        written.find()?;
        Ok(written)
    }

    /// Finds the next batch, if there is any more.
    fn find(&mut self) -> Result<(), Refused> {
        while self.untold.is_empty() && !self.rest.is_empty() {
            match self.pagemap.scan(self.rest.clone(), self.query, &mut self.found) {
                Ok((count, end)) => {
                    self.untold = 0..count;
                    // A kernel that does not say how far it came would be asked for ever.
                    self.rest.start = end.max(self.rest.start + vm::page_size());
                }
                Err(errno) => {
                    self.rest.start = self.rest.end;
                    return Err(Refused { step: "looking for written pages", errno });
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Written<'_> {
    type Item = Result<Range<usize>, Refused>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(refused) = self.find() {
            return Some(Err(refused));
        }
        let found = self.found.get(self.untold.next()?)?;
        Some(Ok(found.addresses()))
    }
}
