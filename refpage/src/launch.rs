//! The ladder: which service the process gets, at its start and again in a child of fork.
//!
//! ```text
//!   lazy     a userfaultfd that sees all faults ─▶ parts and pool registered ─▶ handler started
//!    │ no
//!   cow      a sealed memfd, a Region of two parts ─┐
//!    │ no                                           ├─▶ mover, if it can be had
//!   eager    ───────────────────────────────────────┘   (needed by eager)
//!    │ no
//!   memset   nothing
//! ```
//!
//! The **mover** is a userfaultfd for user mode only, which needs no privilege. Nothing is ever
//! registered with it for missing faults: taken inside system calls, those would fail.

use core::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::bits::Pages;
use crate::engine::{Engine, Failure, Reason, Supplies};
use crate::service::{Attempts, Service};
use crate::sys::uffd::{Channel, Features, Uffd, Watch, Way};
use crate::sys::vm;

/// A step of setting a service up, which may have failed.
type Step<T> = core::result::Result<T, Failure>;

/// What a step's failure is told as.
fn failed(step: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure { step, errno }
}

impl Engine {
    /// Takes the best service that can be had, of those up to the one asked for, and sets it up;
    /// [`reasons`](Self::reasons) tells why it is not a better one.
    pub fn launch(&'static self) {
        let Some(supplies) = &self.supplies else { return };
        let wanted = self.wanted.unwrap_or(Service::Lazy);
        if wanted == Service::Lazy {
            match self.try_lazy(supplies) {
                Ok(()) => return self.service.set(Service::Lazy),
                Err(why) => self.explain(why),
            }
        }
        if matches!(wanted, Service::Lazy | Service::Cow) {
            match self.try_cow() {
                Ok(()) => {
                    self.service.set(Service::Cow);
                    // Without it, dense memory is filled by hand.
                    return self.open_mover(supplies);
                }
                Err(why) => self.explain_once(why),
            }
        }
        match self.try_mover(supplies, Service::Eager) {
            Ok(()) => self.service.set(Service::Eager),
            Err(failure) => self.explain_once(Reason::Failed(failure)),
        }
    }

    /// As [`explain`](Self::explain), unless there is a reason already: the first is why the best
    /// service is not to be had.
    fn explain_once(&self, why: Reason) {
        let mut reasons = self.reasons.lock();
        if let Reason::Chosen = reasons.service {
            reasons.service = why;
        }
    }

    fn try_lazy(&'static self, supplies: &Supplies) -> core::result::Result<(), Reason> {
        let (opened, attempts) = Attempts::open();
        let Some((_, uffd)) = opened else { return Err(Reason::NoChannel(attempts)) };
        let attached = self.attach(uffd, |channel, features| {
            self.register(channel, self.region().content_part(), Watch::Missing)?;
            if features.moves() {
                self.register(channel, self.region().zero_part(), Watch::MoveTarget)?;
                let pool = supplies.pool.register(channel);
                pool.map_err(failed("cannot register the pool"))?;
            }
            // SAFETY: the handler keeps to `spawn`'s rules (see its module), `self` is static, and
            // the stack is used by no other handler: one process launches once, and a child of
            // fork has a copy of its own.
            unsafe { crate::handler::start(self, &supplies.stack) }
                .map_err(failed("cannot start the handler"))
        });
        attached.map_err(Reason::Failed)
    }

    fn try_cow(&self) -> core::result::Result<(), Reason> {
        if self.region().zero_part().count == 0 {
            // Dense memory has to be anonymous, and in an undivided Region it has no part of its
            // own.
            let stepped = vm::reserving_costs();
            return Err(if stepped { Reason::SteppedRegion } else { Reason::SmallRegion });
        }
        let files = self.backing.open();
        files.map_err(failed("cannot make a sealed memory file")).map_err(Reason::Failed)
    }

    /// Opens a channel that puts pages in place, and sees no faults.
    fn try_mover(&self, supplies: &Supplies, service: Service) -> Step<()> {
        let uffd = Uffd::open(Way::UserMode).map_err(failed(Way::UserMode.as_str()))?;
        if !uffd.features().moves() {
            return Err(failed("moving pages")(Errno::NOSYS));
        }
        self.attach(uffd, |channel, _| {
            if service == Service::Eager {
                self.register(channel, self.region().content_part(), Watch::MoveTarget)?;
            }
            self.register(channel, self.region().zero_part(), Watch::MoveTarget)?;
            supplies.pool.register(channel).map_err(failed("cannot register the pool"))
        })
    }

    /// As [`try_mover`](Self::try_mover), for the service in force, which can do without.
    fn open_mover(&self, supplies: &Supplies) {
        let opened = self.try_mover(supplies, self.service());
        self.reasons.lock().no_mover = opened.err();
    }

    /// The program has closed the mover's number: opens another one, which needs no privilege. If
    /// it cannot be had, pages are filled by hand from now on.
    pub(crate) fn replace_mover(&self, lost: Channel) {
        let Some(supplies) = &self.supplies else { return };
        // Whoever comes while another thread is at it goes on by hand.
        let Some(_renewing) = self.renewing.try_lock() else { return };
        if self.channel().number() == lost.number() && !self.channel.is_ours(lost.number()) {
            self.no_channel();
            self.open_mover(supplies);
            if self.movable_pool().is_none() {
                supplies.pool.drain(usize::MAX);
            }
        }
    }

    /// Makes `uffd` the engine's channel if `setup` goes well.
    fn attach(&self, uffd: Uffd, setup: impl FnOnce(Channel, Features) -> Step<()>) -> Step<()> {
        let features = uffd.features();
        self.channel.keep(uffd.into_descriptor());
        self.features.store(features.0, Ordering::Release);
        // Closing the descriptor takes every registration back.
        setup(self.channel(), features).inspect_err(|_| self.no_channel())
    }

    fn no_channel(&self) {
        self.features.store(0, Ordering::Relaxed);
        self.channel.close();
    }

    fn register(&self, channel: Channel, pages: Pages, watch: Watch) -> Step<()> {
        if pages.count == 0 {
            return Ok(());
        }
        let len = pages.count << self.region().page_shift();
        let registered = channel.register(self.region().address(pages.first), len, watch);
        registered.map_err(failed("cannot register the Region"))
    }
}

/// Fork: the caller brackets the system call with these, its own locks around them.
impl Engine {
    /// Before fork.
    pub fn fork_prepare(&self) {
        self.renewing.acquire();
        self.reasons.acquire();
        self.backing.acquire();
        if let Some(supplies) = &self.supplies {
            supplies.pool.acquire();
        }
    }

    /// After fork, in the parent and in the child.
    pub fn fork_done(&self) {
        // SAFETY: taken in `fork_prepare` by this thread, or the one that it is the image of.
        unsafe {
            if let Some(supplies) = &self.supplies {
                supplies.pool.release();
            }
            self.backing.release();
            self.reasons.release();
            self.renewing.release();
        }
    }

    /// In the child, after [`fork_done`](Self::fork_done): gives it a channel, a pool and a handler
    /// of its own, as far as its service needs them. True if whatever is missing has to be filled
    /// by the caller before anyone touches it, because nobody serves it any more.
    #[must_use]
    pub fn fork_child(&'static self) -> bool {
        self.pagemap.forget();
        let Some(supplies) = &self.supplies else { return false };
        self.backing.share();
        if self.channel.get().is_none() {
            return false;
        }
        self.set_serving(None);
        // Where pages cannot be moved, the pool is plain empty memory on both sides.
        let remapped = self.movable_pool().map_or(Ok(()), |_| supplies.pool.remap_in_child());
        self.no_channel();
        let remapped = remapped.map_err(failed("cannot map the child's pool"));
        match self.service() {
            Service::Lazy => {
                let again = remapped.map_err(Reason::Failed).and_then(|()| self.try_lazy(supplies));
                again.is_err_and(|why| {
                    self.service.set(Service::Memset);
                    self.explain(why);
                    true
                })
            }
            Service::Eager => {
                let again = remapped.and_then(|()| self.try_mover(supplies, Service::Eager));
                if let Err(failure) = again {
                    self.service.set(Service::Memset);
                    self.explain(Reason::Failed(failure));
                }
                false
            }
            _ => {
                match remapped {
                    Ok(()) => self.open_mover(supplies),
                    Err(failure) => self.reasons.lock().no_mover = Some(failure),
                }
                false
            }
        }
    }
}
