//! The engine: one Region, its pool and its fault channel, behind the calls an allocator makes.

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::io::{Errno, Result};

use crate::bits::{PageBits, Pages};
use crate::content::Content;
use crate::counters::Counters;
use crate::place::{Fresh, Sources};
use crate::pool::{HUGE, Pool};
use crate::region::Region;
use crate::runs::Runs;
use crate::service::{AtomicService, Attempts, Service};
use crate::sys::lock::Mutex;
use crate::sys::thread::Stack;
use crate::sys::uffd::{Channel, Features, Uffd, Watch, Way};
use crate::sys::vm::Pagemap;

/// Descriptor numbers from here on are seldom any program's business.
const CHANNEL_NUMBER: i32 = 1000;

/// What [`Engine::new`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The service to use; none: the best that works.
    pub service: Option<Service>,
    /// The byte that free memory holds.
    pub pattern: u8,
    /// Bytes of single pages that the pool keeps at most.
    pub pool: usize,
}

/// Why the service in force is the one it is.
#[derive(Debug, Default)]
pub enum Reason {
    /// It was asked for, or nothing is better.
    #[default]
    Chosen,
    /// No userfaultfd could be had.
    NoChannel(Attempts),
    /// Something on the way to the better service failed.
    Failed(&'static str, Errno),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Chosen => f.write_str("as chosen"),
            Reason::NoChannel(attempts) => {
                write!(f, "no userfaultfd that sees faults in system calls ({attempts})")
            }
            Reason::Failed(step, errno) => {
                write!(f, "{step}: {} ({})", crate::service::name(*errno), errno.raw_os_error())
            }
        }
    }
}

/// Memory whose missing pages hold a known content.
///
/// Lives in a `static`: the fault handler refers to it for as long as the process runs.
#[derive(Debug)]
pub struct Engine {
    region: Region,
    content: Content,
    runs: &'static dyn Runs,
    service: AtomicService,
    reason: Mutex<Reason>,
    lazy: Option<Lazy>,
    /// The descriptor's number in the program's table, and the inode that tells it from a number
    /// that the program used again.
    channel: AtomicI32,
    inode: AtomicU64,
    features: AtomicU64,
    counters: Counters,
}

/// What only the service `lazy` needs.
#[derive(Debug)]
pub(crate) struct Lazy {
    pool: Pool,
    sources: Sources,
    pub(crate) stack: Stack,
    /// A bit for each 2 MiB of the Region that may have a page table: a huge page cannot be moved
    /// there whole.
    tables: PageBits,
}

impl fmt::Debug for dyn Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runs")
    }
}

impl Engine {
    /// An engine over `region`, which is divided by `runs`. Serves nothing before
    /// [`launch`](Self::launch).
    ///
    /// # Errors
    /// ENOMEM where there is no address space for pool and bookkeeping.
    pub fn new(region: Region, config: &Config, runs: &'static dyn Runs) -> Result<Self> {
        let service = config.service.unwrap_or(Service::Lazy);
        let content = match service {
            Service::Off => Content::Anything,
            Service::Lazy | Service::Memset => Content::Pattern(config.pattern),
        };
        let lazy = match service {
            Service::Lazy => Some(Lazy {
                pool: Pool::reserve(config.pool)?,
                sources: Sources::map(content)?,
                stack: Stack::map()?,
                tables: PageBits::reserve(region.len().div_ceil(HUGE))?,
            }),
            Service::Memset | Service::Off => None,
        };
        Ok(Self {
            region,
            content,
            runs,
            service: AtomicService::new(service),
            reason: Mutex::new(Reason::Chosen),
            lazy,
            channel: AtomicI32::new(-1),
            inode: AtomicU64::new(0),
            features: AtomicU64::new(0),
            counters: Counters::default(),
        })
    }

    /// Opens the fault channel and starts the handler, if the service needs them. Where that
    /// cannot be, the service becomes `memset` and [`reason`](Self::reason) tells why: whatever
    /// is missing now has to be filled by the caller.
    pub fn launch(&'static self) {
        let Some(lazy) = &self.lazy else { return };
        let (opened, attempts) = Attempts::open();
        let Some((_, uffd)) = opened else {
            self.settle_for_memset(Reason::NoChannel(attempts));
            return;
        };
        let uffd = uffd.renumber(CHANNEL_NUMBER);
        let channel = uffd.channel();
        let (features, inode) = (uffd.features(), channel.inode());
        let setup = self.attach(lazy, channel, features);
        self.features.store(features.0, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Relaxed);
        self.channel.store(channel.0, Ordering::Release);
        // SAFETY: the handler keeps to `spawn`'s rules (see its module), `self` is static, and
        // the stack is used by no other handler: one process launches once, and a child of fork
        // has a copy of its own.
        let started = setup.and_then(|()| unsafe {
            crate::handler::start(self, &lazy.stack).map_err(|e| ("cannot start the handler", e))
        });
        match started {
            // The number now belongs to the process until it ends.
            Ok(()) => {
                let _ = uffd.into_channel();
            }
            // Dropping the descriptor takes every registration back.
            Err((step, errno)) => {
                self.channel.store(-1, Ordering::Release);
                self.settle_for_memset(Reason::Failed(step, errno));
            }
        }
    }

    fn attach(
        &self,
        lazy: &Lazy,
        channel: Channel,
        features: Features,
    ) -> core::result::Result<(), (&'static str, Errno)> {
        channel
            .register(self.region.address(0), self.region.len(), Watch::Missing)
            .map_err(|e| ("cannot register the Region", e))?;
        if features.has_move() && features.has_write_protect() {
            lazy.pool.register(channel).map_err(|e| ("cannot register the pool", e))?;
        }
        Ok(())
    }

    fn settle_for_memset(&self, reason: Reason) {
        self.service.set(Service::Memset);
        *self.reason.lock() = reason;
    }

    /// The memory it serves.
    #[inline]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// What free memory holds.
    #[inline]
    pub fn content(&self) -> Content {
        self.content
    }

    /// The service in force.
    pub fn service(&self) -> Service {
        self.service.get()
    }

    /// Calls `tell` with why it is not a better one.
    pub fn reason<R>(&self, tell: impl FnOnce(&Reason) -> R) -> R {
        tell(&self.reason.lock())
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Pages that wait in the pool.
    pub fn pool_pages(&self) -> usize {
        self.lazy.as_ref().map_or(0, |lazy| {
            lazy.pool.filled() + lazy.pool.ready_huge() * (HUGE >> self.region.page_shift())
        })
    }

    pub(crate) fn runs(&self) -> &'static dyn Runs {
        self.runs
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel(self.channel.load(Ordering::Acquire))
    }

    /// The pool, if this kernel can move pages.
    pub(crate) fn movable_pool(&self) -> Option<&Pool> {
        let features = Features(self.features.load(Ordering::Relaxed));
        let can = features.has_move() && features.has_write_protect();
        self.lazy.as_ref().filter(|_| can && self.service() == Service::Lazy).map(|l| &l.pool)
    }

    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.lazy.as_ref().map(|lazy| &lazy.sources)
    }

    /// Notes that the pages' 2 MiB blocks have page tables from now on.
    pub(crate) fn note_tables(&self, pages: Pages) {
        if let Some(lazy) = &self.lazy {
            lazy.tables.set(self.blocks_of(pages));
        }
    }

    /// Whether a huge page can be moved whole to the 2 MiB block at `page`.
    pub(crate) fn takes_huge(&self, page: usize) -> bool {
        let per_block = HUGE >> self.region.page_shift();
        let block = Pages { first: page, count: per_block };
        self.lazy.as_ref().is_some_and(|lazy| !lazy.tables.get(page / per_block))
            && self.region.present().count(block) == 0
    }

    fn blocks_of(&self, pages: Pages) -> Pages {
        let per_block = HUGE >> self.region.page_shift();
        Pages::span(pages.first / per_block, pages.end().div_ceil(per_block))
    }
}

/// What an allocator asks for. In all of it, `pages` belong to the caller: nobody else allocates
/// or frees them meanwhile.
impl Engine {
    /// Readies pages for being handed out: with `memset`, the missing ones are filled; with
    /// `lazy`, they stay missing until they are touched.
    pub fn provide(&self, pages: Pages) {
        match self.service() {
            Service::Lazy => {}
            Service::Memset => self.prefill(pages),
            // Not known, and taken for granted: what is counted is to be comparable.
            Service::Off => self.region.present().set(pages),
        }
    }

    /// Puts content under the missing ones of `pages` now: for memory that is about to be used.
    pub fn prefill(&self, pages: Pages) {
        let present = self.region.present();
        match self.service() {
            Service::Off => {}
            Service::Lazy => {
                for stretch in present.stretches(pages, false) {
                    self.place(self.channel(), stretch, Fresh::Content);
                }
            }
            Service::Memset => {
                for stretch in present.stretches(pages, false) {
                    present.set(stretch);
                    self.fill_pages(stretch);
                    self.counters.filled.add(stretch.count);
                }
            }
        }
    }

    /// With `lazy`: puts zeros under `pages`, all missing and about to be used.
    pub fn prefill_zeros(&self, pages: Pages) {
        if self.service() == Service::Lazy {
            for stretch in self.region.present().stretches(pages, false) {
                // A page from the pool, overwritten, is cheaper than a new one.
                if self.movable_pool().is_some_and(|pool| pool.filled() >= stretch.count) {
                    self.place(self.channel(), stretch, Fresh::Content);
                    self.zero_present(stretch);
                } else {
                    self.place(self.channel(), stretch, Fresh::Zero);
                }
            }
        }
    }

    /// Restores the content of the present ones of `pages`: after this, what the program left
    /// there is gone. About how many pages did not hold it any more; all present ones with `off`.
    pub fn refill(&self, pages: Pages) -> usize {
        if self.service() == Service::Off {
            return self.region.present().count(pages);
        }
        let bytes = 1 << self.region.page_shift();
        let mut dirty = 0;
        for stretch in self.region.present().stretches(pages, true) {
            for page in stretch.first..stretch.end() {
                let start = self.region.address(page);
                // SAFETY: the caller's page, which is present or will be served.
                dirty += usize::from(unsafe { self.content.seems_dirty(start, bytes) });
            }
            self.fill_pages(stretch);
            self.counters.refilled.add(stretch.count);
        }
        dirty
    }

    /// Zeroes the present ones of `pages`; what is missing is left to the run's zero pages.
    pub fn zero_present(&self, pages: Pages) {
        for stretch in self.region.present().stretches(pages, true) {
            let start = self.region.address(stretch.first);
            // SAFETY: the caller's pages, which lie in the Region.
            unsafe { start.write_bytes(0, stretch.count << self.region.page_shift()) };
        }
    }

    /// Gives up pages that hold their content: to the pool, else to the kernel.
    pub fn release(&self, pages: Pages) {
        match self.service() {
            Service::Lazy | Service::Memset => self.take_away(pages),
            Service::Off => self.discard(pages),
        }
    }

    /// As [`release`](Self::release), but straight to the kernel.
    pub fn drop_pages(&self, pages: Pages) {
        match self.service() {
            Service::Off => self.discard(pages),
            Service::Lazy | Service::Memset => {
                for stretch in self.region.present().stretches(pages, true) {
                    self.discard(stretch);
                }
            }
        }
    }

    /// Learns which of `pages` the kernel itself populated (zero pages under `memset`).
    pub fn learn_present(&self, pages: Pages) {
        // Not knowing is answered on the safe side.
        self.ask_kernel(pages, true, |page, populated| {
            if populated {
                self.region.present().set(page);
            }
        });
    }

    /// Learns which of `pages` are missing though somebody was about to put them in place: for a
    /// child, where that somebody is no more.
    pub fn learn_missing(&self, pages: Pages) {
        self.ask_kernel(pages, false, |page, populated| {
            if !populated {
                self.region.present().clear(page);
            }
        });
    }

    /// Calls `tell` for each page with whether it is populated, `unknown` if that cannot be read.
    fn ask_kernel(&self, pages: Pages, unknown: bool, tell: impl Fn(Pages, bool)) {
        const BATCH: usize = 1024;
        let pagemap = Pagemap::open();
        let mut rest = pages;
        while rest.count > 0 {
            let batch = rest.prefix(BATCH);
            let mut populated = [unknown; BATCH];
            let out = populated.get_mut(..batch.count).unwrap_or_default();
            let start = self.region.address(batch.first);
            let known = pagemap.as_ref().map_err(|e| *e).and_then(|map| map.populated(start, out));
            if known.is_err() {
                out.fill(unknown);
            }
            for (first, &mut populated) in (batch.first..).zip(out) {
                tell(Pages { first, count: 1 }, populated);
            }
            rest = rest.skip(batch.count);
        }
    }

    /// Takes what the present pages of `src` hold to the same places in `dst`, whose pages are
    /// missing, by moving the pages where that can be done. `src` holds garbage afterwards.
    pub fn relocate(&self, dst: Pages, src: Pages) {
        let shift = self.region.page_shift();
        self.note_tables(dst);
        for stretch in self.region.present().stretches(src, true) {
            let to = Pages { first: dst.first + (stretch.first - src.first), ..stretch };
            let (to_start, from) =
                (self.region.address(to.first), self.region.address(stretch.first));
            self.region.present().set(to);
            let moved = match self.movable_pool() {
                Some(_) => {
                    let holes = crate::sys::uffd::Holes::Skip;
                    let len = stretch.count << shift;
                    self.channel().move_pages(to_start, from, len, holes).done
                }
                None => 0,
            };
            self.counters.relocated.add(moved >> shift);
            self.region.present().clear(stretch.prefix(moved >> shift));
            // SAFETY: both ranges are the caller's and apart; a missing page of either is served
            // like any other.
            unsafe {
                to_start
                    .add(moved)
                    .copy_from_nonoverlapping(from.add(moved), (stretch.count << shift) - moved);
            }
        }
    }

    /// Gives up to `count` of the pool's pages back to the kernel: how many it had.
    pub fn drain_pool(&self, count: usize) -> usize {
        self.movable_pool().map_or(0, |pool| pool.drain(count))
    }

    fn fill_pages(&self, pages: Pages) {
        let start = self.region.address(pages.first);
        // SAFETY: the caller's pages, which lie in the Region.
        unsafe { self.content.fill(start, pages.count << self.region.page_shift()) };
    }
}

/// Fork: the caller brackets the system call with these, its own locks around them.
impl Engine {
    /// Before fork.
    pub fn fork_prepare(&self) {
        if let Some(lazy) = &self.lazy {
            lazy.pool.acquire();
        }
    }

    /// After fork, in the parent and in the child.
    pub fn fork_done(&self) {
        if let Some(lazy) = &self.lazy {
            // SAFETY: taken in `fork_prepare` by this thread, or the one that it is the image of.
            unsafe { lazy.pool.release() };
        }
    }

    /// In the child, after [`fork_done`](Self::fork_done): gives it a channel, a pool and a handler of its own. If the service is
    /// `memset` afterwards and was not before, whatever is missing has to be filled by the caller
    /// before anyone touches it.
    pub fn fork_child(&'static self) {
        let Some(lazy) = &self.lazy else { return };
        let inherited = self.channel();
        if self.service() != Service::Lazy {
            return;
        }
        if inherited.inode() == self.inode.load(Ordering::Relaxed) {
            inherited.close();
        }
        // Where pages cannot be moved, the pool is plain empty memory on both sides.
        let remapped = self.movable_pool().map_or(Ok(()), |_| lazy.pool.remap_in_child());
        match remapped {
            Ok(()) => self.launch(),
            Err(errno) => {
                self.settle_for_memset(Reason::Failed("cannot map the child's pool", errno));
            }
        }
    }
}

/// Which way to a fault channel works for this process, for reports; opens and closes one.
pub fn probe_channel() -> (Option<(Way, Features)>, Attempts) {
    let (opened, attempts): (Option<(Way, Uffd)>, _) = Attempts::open();
    (opened.map(|(way, uffd)| (way, uffd.features())), attempts)
}
