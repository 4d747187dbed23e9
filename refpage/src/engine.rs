//! The engine: one Region, its pool and its fault channel, behind the calls an allocator makes.

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use rustix::io::{Errno, Result};

use crate::bits::Pages;
use crate::blocks::Blocks;
use crate::content::Content;
use crate::counters::Counters;
use crate::huge::HUGE;
use crate::place::Sources;
use crate::pool::Pool;
use crate::region::Region;
use crate::runs::Runs;
use crate::service::{AtomicService, Attempts, Service};
use crate::sys::lock::Mutex;
use crate::sys::thread::Stack;
use crate::sys::uffd::{Channel, Features, Uffd, Watch, Way};

/// Descriptor numbers from here on are seldom any program's business.
const CHANNEL_NUMBER: i32 = 1000;

/// What [`Engine::new`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The service to use; none: the best that works.
    pub service: Option<Service>,
    /// The byte that free memory holds.
    pub pattern: u8,
    /// Bytes that wait in the pool at most.
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
    /// The page whose fault the handler is answering, plus one; 0 between faults.
    serving: AtomicUsize,
    counters: Counters,
}

/// What only the service `lazy` needs.
#[derive(Debug)]
pub(crate) struct Lazy {
    pool: Pool,
    sources: Sources,
    pub(crate) stack: Stack,
    pub(crate) blocks: Blocks,
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
                blocks: Blocks::reserve(&region)?,
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
            serving: AtomicUsize::new(0),
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
        self.channel.store(channel.number(), Ordering::Release);
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
        let register = |pages: Pages, watch| {
            let len = pages.count << self.region.page_shift();
            let registered = channel.register(self.region.address(pages.first), len, watch);
            registered.map_err(|e| ("cannot register the Region", e))
        };
        register(self.region.content_part(), Watch::Missing)?;
        if features.has_move() && features.has_write_protect() {
            if self.region.zero_part().count > 0 {
                register(self.region.zero_part(), Watch::MoveTarget)?;
            }
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

    /// Says why a lesser service was asked for than the program wants.
    pub fn explain(&self, reason: Reason) {
        *self.reason.lock() = reason;
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Pages that wait in the pool.
    pub fn pool_pages(&self) -> usize {
        self.lazy.as_ref().map_or(0, |lazy| lazy.pool.pages())
    }

    /// Pages in 2 MiB, the size of a huge page and of the Region's blocks.
    #[inline]
    pub fn pages_per_block(&self) -> usize {
        HUGE >> self.region.page_shift()
    }

    pub(crate) fn set_serving(&self, page: Option<usize>) {
        self.serving.store(page.map_or(0, |page| page + 1), Ordering::SeqCst);
    }

    /// Waits while the handler answers a fault on one of `pages`, which the caller is about to make
    /// something else of. A thread that waits for a page may be gone before it is there: a signal
    /// handler can leave the place by longjmp. The handler waits for nobody, so this ends.
    pub fn let_handler_finish(&self, pages: Pages) {
        while let Some(page) = self.serving.load(Ordering::SeqCst).checked_sub(1)
            && pages.contains(page)
        {
            rustix::thread::sched_yield();
        }
    }

    pub(crate) fn runs(&self) -> &'static dyn Runs {
        self.runs
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::new(self.channel.load(Ordering::Acquire))
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

    /// What is known of the Region's blocks, where huge pages are moved to them.
    pub(crate) fn blocks(&self) -> Option<&Blocks> {
        self.lazy.as_ref().map(|lazy| &lazy.blocks)
    }

    /// Whether a huge page can be moved whole to the block at `page`.
    pub(crate) fn takes_huge(&self, page: usize) -> bool {
        let block = Pages { first: page, count: self.pages_per_block() };
        self.blocks().is_some_and(|blocks| blocks.takes_huge(page))
            && self.region.present().count(block) == 0
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
        self.set_serving(None);
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
