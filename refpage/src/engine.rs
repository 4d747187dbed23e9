//! The engine: one Region, its pool and its fault channel, behind the calls an allocator makes.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use rustix::io::{Errno, Result};

use crate::backing::Backing;
use crate::bits::Pages;
use crate::blocks::Blocks;
use crate::compact::Compaction;
use crate::content::{Content, Pattern};
use crate::counters::{Cause, Counters};
use crate::guards::Marked;
use crate::huge::HUGE;
use crate::place::Sources;
use crate::pool::Pool;
use crate::region::Region;
use crate::runs::Runs;
use crate::service::{AtomicService, Attempts, Service};
use crate::sys::lock::Mutex;
use crate::sys::number::Number;
use crate::sys::pagemap::Pagemap;
use crate::sys::thread::Stack;
use crate::sys::uffd::{Channel, Features, Uffd, Way};
use crate::tag_files::TagFiles;

/// What [`Engine::new`] is made from.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The service to use; none: the best that works.
    pub service: Option<Service>,
    /// What free memory holds.
    pub pattern: Pattern,
    /// Bytes that wait in the pool at most.
    pub pool: usize,
    /// Bytes of them that stay there when nothing has happened for a while.
    pub pool_low: usize,
}

/// Why the service in force is the one it is.
#[derive(Clone, Copy, Debug, Default)]
pub enum Reason {
    /// It was asked for, or nothing is better.
    #[default]
    Chosen,
    /// No userfaultfd could be had.
    NoChannel(Attempts),
    /// The Region is too small to be divided.
    SmallRegion,
    /// The Region cannot be divided: it becomes writable step by step.
    SteppedRegion,
    /// Something on the way to the better service failed.
    Failed(Failure),
}

/// What failed, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The step, as it is told.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: Errno,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno } = *self;
        write!(f, "{step}: {} ({})", crate::service::name(errno), errno.raw_os_error())
    }
}

/// Why things are as they are: the service, and what it has to do without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reasons {
    /// Why the service is not a better one.
    pub service: Reason,
    /// Why pages cannot be moved under a service that needs no faults.
    pub no_mover: Option<Failure>,
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if let Some(failure) = &self.no_mover {
            write!(f, "; pages are not moved: {failure}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Chosen => f.write_str("as chosen"),
            Reason::NoChannel(attempts) => {
                write!(f, "no userfaultfd that sees faults in system calls ({attempts})")
            }
            Reason::SmallRegion => f.write_str("the Region is too small to be divided"),
            Reason::SteppedRegion => f.write_str(
                "the Region is not divided where reserving memory counts (vm.overcommit_memory=2, \
                 RLIMIT_DATA)",
            ),
            Reason::Failed(failure) => failure.fmt(f),
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
    pub(crate) service: AtomicService,
    pub(crate) wanted: Option<Service>,
    pub(crate) reasons: Mutex<Reasons>,
    pub(crate) supplies: Option<Supplies>,
    /// What lies under the content part with `cow`.
    pub(crate) backing: Backing,
    /// The same, where the Region's memory has tags.
    pub(crate) tag_files: TagFiles,
    pub(crate) channel: Number,
    pub(crate) features: AtomicU64,
    /// This very engine while `lazy` is asleep (see [`launch`](crate::launch)), else null.
    pub(crate) asleep: AtomicPtr<Engine>,
    /// Whether the handler has the channel to itself.
    pub(crate) handler_runs: AtomicBool,
    /// Held while another channel is opened.
    pub(crate) renewing: Mutex<()>,
    pub(crate) pagemap: Pagemap,
    /// The page whose fault the handler is answering, plus one; 0 between faults.
    serving: AtomicUsize,
    pub(crate) marked: Marked,
    counters: Counters,
}

/// What pages are put in place from, with all services that do so.
#[derive(Debug)]
pub(crate) struct Supplies {
    pub(crate) pool: Pool,
    sources: Sources,
    pub(crate) stack: Stack,
    pub(crate) blocks: Blocks,
    pub(crate) compaction: Compaction,
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
        let (service, content) = match config.service {
            Some(Service::Off) => (Service::Off, Content::Anything),
            // Until `launch` has found a better one.
            _ => (Service::Memset, Content::Pattern(config.pattern)),
        };
        let supplies = match config.service {
            Some(Service::Memset | Service::Off) => None,
            _ => Some(Supplies {
                pool: Pool::reserve(config.pool, config.pool_low, region.tags())?,
                sources: Sources::map(content)?,
                stack: Stack::map()?,
                blocks: Blocks::reserve(&region)?,
                compaction: Compaction::reserve()?,
            }),
        };
        Ok(Self {
            region,
            content,
            runs,
            service: AtomicService::new(service),
            wanted: config.service,
            reasons: Mutex::new(Reasons::default()),
            supplies,
            backing: Backing::new(),
            tag_files: TagFiles::new(),
            channel: Number::new(),
            features: AtomicU64::new(0),
            asleep: AtomicPtr::new(core::ptr::null_mut()),
            handler_runs: AtomicBool::new(false),
            renewing: Mutex::new(()),
            pagemap: Pagemap::new(),
            serving: AtomicUsize::new(0),
            marked: Marked::default(),
            counters: Counters::default(),
        })
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

    /// The service that the process has: `lazy` also while that is asleep.
    pub fn offered(&self) -> Service {
        if self.asleep.load(Ordering::Acquire).is_null() { self.service() } else { Service::Lazy }
    }

    /// Why it is not a better one.
    pub fn reasons(&self) -> Reasons {
        *self.reasons.lock()
    }

    /// Says why a lesser service was asked for than the program wants.
    pub fn explain(&self, reason: Reason) {
        self.reasons.lock().service = reason;
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts something that went a worse way.
    pub fn note(&self, cause: Cause) {
        self.counters.fall_backs.note(cause);
    }

    /// The same, `times` at once.
    pub fn note_many(&self, cause: Cause, times: usize) {
        self.counters.fall_backs.note_many(cause, times);
    }

    /// Whether the handler is between faults. It waits for nobody, so it will be.
    pub fn is_handler_idle(&self) -> bool {
        self.serving.load(Ordering::SeqCst) == 0
    }

    /// Pages that wait in the pool.
    pub fn pool_pages(&self) -> usize {
        self.supplies.as_ref().map_or(0, |supplies| supplies.pool.pages())
    }

    /// Whether the page shows a file's content while it is missing: the kernel itself then puts it
    /// in place when it is written, and tells nobody.
    #[inline]
    pub fn is_backed(&self, page: usize) -> bool {
        if self.has_tags() {
            let run = self.runs.run_at(page).filter(|run| run.backed() > 0);
            return run.is_some_and(|run| run.pages().prefix(run.backed()).contains(page));
        }
        self.backing.covers(page)
    }

    /// Those of `pages`, which belong together, for which that is so; the others lie behind them.
    pub(crate) fn covered(&self, pages: Pages) -> Pages {
        if self.has_tags() {
            let run = self.runs.run_at(pages.first);
            let end = run.map_or(0, |run| run.pages().prefix(run.backed()).end());
            return pages.prefix(end.saturating_sub(pages.first));
        }
        self.backing.covered(pages)
    }

    /// Mappings of files that the Region's content part consists of.
    pub fn pieces(&self) -> usize {
        self.backing.pieces() + self.tag_files.pieces()
    }

    /// Pages in 2 MiB, the size of a huge page and of the Region's blocks.
    #[inline]
    pub fn pages_per_block(&self) -> usize {
        HUGE >> self.region.page_shift()
    }

    pub(crate) fn set_serving(&self, page: Option<usize>) {
        self.serving.store(page.map_or(0, |page| page + 1), Ordering::SeqCst);
    }

    /// Whether it is this page for which a thread waits that the handler answers now.
    pub(crate) fn is_serving(&self, page: usize) -> bool {
        self.serving.load(Ordering::SeqCst) == page + 1
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

    /// Waits while the handler is at the answer that it is at now. Not for the handler itself.
    pub(crate) fn let_answer_finish(&self) {
        let serving = self.serving.load(Ordering::SeqCst);
        while serving != 0 && self.serving.load(Ordering::SeqCst) == serving {
            rustix::thread::sched_yield();
        }
    }

    pub(crate) fn runs(&self) -> &'static dyn Runs {
        self.runs
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.get().map_or(Channel::CLOSED, Channel::new)
    }

    pub(crate) fn features(&self) -> Features {
        Features(self.features.load(Ordering::Relaxed))
    }

    /// The pool, if pages can be moved: not every kernel and channel can.
    pub(crate) fn movable_pool(&self) -> Option<&Pool> {
        let pool = self.supplies.as_ref().map(|supplies| &supplies.pool);
        pool.filter(|_| self.features().moves())
    }

    /// The pool, if pages can be moved to and from the Region's `page`.
    pub(crate) fn movable_pool_at(&self, page: usize) -> Option<&Pool> {
        self.movable_pool().filter(|_| self.moves_at(page))
    }

    /// Whether the handler answers missing faults on the page.
    pub(crate) fn is_handled(&self, page: usize) -> bool {
        self.service() == Service::Lazy && !self.region.in_zero_part(page)
    }

    /// Whether pages can be moved to and from the Region's `page`.
    pub(crate) fn moves_at(&self, page: usize) -> bool {
        let anonymous = self.service() != Service::Cow
            || self.region.in_zero_part(page)
            || (self.has_tags() && !self.is_backed(page));
        anonymous && self.features().moves()
    }

    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.supplies.as_ref().map(|supplies| &supplies.sources)
    }

    /// What is known of the Region's blocks, where huge pages are moved to them.
    pub(crate) fn blocks(&self) -> Option<&Blocks> {
        self.supplies.as_ref().map(|supplies| &supplies.blocks)
    }

    /// Whether a huge page can be moved whole to the block at `page`.
    pub(crate) fn takes_huge(&self, page: usize) -> bool {
        let block = Pages { first: page, count: self.pages_per_block() };
        self.blocks().is_some_and(|blocks| blocks.takes_huge(page))
            && self.region.present().count(block) == 0
    }
}

/// Which way to a fault channel works for this process, for reports; opens and closes one.
pub fn probe_channel() -> (Option<(Way, Features)>, Attempts) {
    let (opened, attempts): (Option<(Way, Uffd)>, _) = Attempts::open();
    (opened.map(|(way, uffd)| (way, uffd.features())), attempts)
}
