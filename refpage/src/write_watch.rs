//! Which pages were written to, asked of the kernel.

use core::marker::PhantomData;
use core::ops::Range;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::bits::Pages;
use crate::engine::Engine;
use crate::moves::{Mover, Refused};
use crate::service::Service;
use crate::sys::pagemap::Pagemap;
use crate::sys::scan::{Query, States, Stretch};
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
    most: 0,
};

/// The same where pages may be a file's that nobody wrote to.
const WRITTEN_COPIES: Query = Query { none: States::ZERO_PAGE.or(States::FILE), ..WRITTEN };

/// As many pages as there are, wherever a number of them can be asked for.
const ALL: usize = usize::MAX;

/// What the kernel has to know.
const ASYNC: &str = "write protection that the kernel resolves (Linux 6.7)";

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
    pagemap: Pagemap,
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
        Self::with(uffd.features(), Some(uffd.out_of_the_way()))
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
            return Err(Refused { step: ASYNC, errno: Errno::NOSYS });
        }
        let process = rustix::process::getpid();
        let watch = Self { uffd, pagemap: Pagemap::new(), process, mover: PhantomData };
        let opened = watch.pagemap.open();
        opened.map_err(|errno| Refused { step: "/proc/self/pagemap", errno })?;
        Ok(watch)
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
        self.written_upto(start, len, reset, ALL)
    }

    /// As [`written`](Self::written), but only the first `most` pages of them; and only those are reset.
    ///
    /// # Errors
    /// As there.
    pub fn written_upto(
        &self,
        start: *const u8,
        len: usize,
        reset: Reset,
        most: usize,
    ) -> Result<Written<'_>, Refused> {
        self.check_process()?;
        Written::look(&self.pagemap, pages_of(start, len), WRITTEN, reset, most)
    }

    /// Whether it is this process's, and not that of the one that it was forked from.
    pub fn is_own(&self) -> bool {
        rustix::process::getpid() == self.process
    }

    /// Whether its userfaultfd is still what was opened: whoever has closed the number has ended all watches.
    pub fn is_intact(&self) -> bool {
        self.uffd.as_ref().is_none_or(Uffd::is_intact)
    }

    fn check_process(&self) -> Result<(), Refused> {
        if !self.is_own() {
            let step = "watching the memory of a child of fork";
            return Err(Refused { step, errno: Errno::SRCH });
        }
        Ok(())
    }
}

impl Drop for WriteWatch<'_> {
    fn drop(&mut self) {
        self.pagemap.forget();
    }
}

/// Writes to the Region's memory. All of it is registered for that, where the channel can it, but for what shows a file.
impl Engine {
    /// The written ones of `pages`, `most` of them at most, as [`WriteWatch::written_upto`] has it. Pages that were put in
    /// place since they were reset count as written, but for those of a [watched](crate::RunWindow::watch) run.
    ///
    /// # Errors
    /// NOSYS: there is no channel, or the kernel cannot tell. PERM: the program has closed the channel. In a child of fork,
    /// everything present counts as written.
    pub fn written(&self, pages: Pages, reset: Reset, most: usize) -> Result<Written<'_>, Refused> {
        let features = self.features();
        if features == Features(0) {
            let step = "watching writes without a userfaultfd";
            return Err(Refused { step, errno: Errno::NOSYS });
        }
        if !features.has_async_write_protect() {
            return Err(Refused { step: ASYNC, errno: Errno::NOSYS });
        }
        let start = self.region().address(pages.first) as usize;
        let addresses = start..start + (pages.count << self.region().page_shift());
        if self.service() != Service::Cow || self.region().in_zero_part(pages.first) {
            return Written::look(&self.pagemap, addresses, WRITTEN, reset, most);
        }
        self.watch_files(addresses.clone())?;
        Written::look(&self.pagemap, addresses, WRITTEN_COPIES, reset, most)
    }

    /// With `cow`, pieces of files are not registered before somebody asks.
    fn watch_files(&self, addresses: Range<usize>) -> Result<(), Refused> {
        let mut looked = Written::look(&self.pagemap, addresses, WRITTEN, Reset::No, ALL);
        // Any of it may be another piece, which is not.
        let all = looked.as_mut().map_err(|refused| *refused);
        match all.and_then(|found| found.try_for_each(|found| found.map(drop))) {
            // In memory with tags, what shows a file comes and goes.
            Err(Refused { errno: Errno::PERM, .. }) if !self.has_tags() => {
                let content = self.region().content_part();
                let len = content.count << self.region().page_shift();
                let start = self.region().address(content.first);
                let registered = self.channel().register(start, len, Watch::MoveTarget);
                registered.map_err(|errno| Refused { step: "registering what is watched", errno })
            }
            other => other,
        }
    }

    /// Has pages that were reset count as written again, those among them that are present; the next who writes to
    /// them does not pay for being watched.
    ///
    /// # Errors
    /// What the kernel says; then they may be as they were.
    pub fn unwatch(&self, pages: Pages) -> Result<(), Refused> {
        let start = self.region().address(pages.first);
        let gone = self.channel().unprotect(start, pages.count << self.region().page_shift());
        gone.map_err(|errno| Refused { step: "ending a write watch", errno })
    }
}

/// The pages that hold any of these bytes, as addresses.
fn pages_of(start: *const u8, len: usize) -> Range<usize> {
    let page = vm::page_size();
    let first = start as usize / page * page;
    first..(start as usize).saturating_add(len).div_ceil(page) * page
}

/// Ranges of written pages, as [`WriteWatch::written`] tells them: addresses. They are looked up, and
/// reset, a batch at a time: what an iterator that is dropped early has not told may have been reset.
#[derive(Debug)]
pub struct Written<'a> {
    pagemap: &'a Pagemap,
    query: Query,
    /// What was not looked at yet.
    rest: Range<usize>,
    /// So many more pages are asked for.
    most: usize,
    found: [Stretch; BATCH],
    /// Those of `found` that are still to be told.
    untold: Range<usize>,
}

impl<'a> Written<'a> {
    /// The written ones of `pages`, which are asked for once, to see that they can be.
    pub(crate) fn look(
        pagemap: &'a Pagemap,
        pages: Range<usize>,
        query: Query,
        reset: Reset,
        most: usize,
    ) -> Result<Self, Refused> {
        let query = Query { protect: reset == Reset::Yes, ..query };
        let found = [Stretch::default(); BATCH];
        let mut written = Self { pagemap, query, rest: pages, most, found, untold: 0..0 };
        written.find()?;
        Ok(written)
    }

    /// Finds the next batch, if there is any more.
    fn find(&mut self) -> Result<(), Refused> {
        while self.untold.is_empty() && !self.rest.is_empty() && self.most > 0 {
            // To the kernel, none is all.
            let most = if self.most == ALL { 0 } else { self.most };
            let query = Query { most, ..self.query };
            match self.pagemap.scan(self.rest.clone(), query, &mut self.found) {
                Ok((count, end)) => {
                    self.untold = 0..count;
                    // A kernel that does not say how far it came would be asked for ever.
                    self.rest.start = end.max(self.rest.start + vm::page_size());
                    if self.most != ALL {
                        let found =
                            self.found.iter().take(count).map(|found| found.addresses().len());
                        self.most =
                            self.most.saturating_sub(found.sum::<usize>() / vm::page_size());
                    }
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
        loop {
            if let Err(refused) = self.find() {
                return Some(Err(refused));
            }
            let found = self.found.get(self.untold.next()?)?.addresses();
            // Where a number of pages was asked for, the kernel may end with a stretch of none.
            if !found.is_empty() {
                return Some(Ok(found));
            }
        }
    }
}
