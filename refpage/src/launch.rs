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
use crate::engine::{Engine, Reason, Supplies};
use crate::service::{Attempts, Service};
use crate::sys::uffd::{Channel, Features, Uffd, Watch, Way};
use crate::sys::vm;

/// Which step of setting a service up failed, and with what.
type Step<T> = core::result::Result<T, (&'static str, Errno)>;

impl Engine {
    /// Takes the best service that can be had, of those up to the one asked for, and sets it up;
    /// [`reason`](Self::reason) tells why it is not a better one.
    pub fn launch(&'static self) {
        let Some(supplies) = &self.supplies else { return };
        let wanted = self.wanted.unwrap_or(Service::Lazy);
        if wanted == Service::Lazy {
            match self.try_lazy(supplies) {
                Ok(()) => return self.settle_for(Service::Lazy, None),
                Err(why) => *self.reason.lock() = why,
            }
        }
        if matches!(wanted, Service::Lazy | Service::Cow) {
            match self.try_cow(supplies) {
                Ok(()) => return self.settle_for(Service::Cow, None),
                Err(why) => self.settle_for(Service::Memset, Some(why)),
            }
        }
        match self.try_mover(supplies, Service::Eager) {
            Ok(()) => self.settle_for(Service::Eager, None),
            Err((step, errno)) => {
                self.settle_for(Service::Memset, Some(Reason::Failed(step, errno)));
            }
        }
    }

    /// The service in force from now on; the first reason against a better one is kept.
    fn settle_for(&self, service: Service, why: Option<Reason>) {
        self.service.set(service);
        let mut reason = self.reason.lock();
        if let (Some(why), Reason::Chosen) = (why, &*reason) {
            *reason = why;
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
                pool.map_err(|e| ("cannot register the pool", e))?;
            }
            // SAFETY: the handler keeps to `spawn`'s rules (see its module), `self` is static, and
            // the stack is used by no other handler: one process launches once, and a child of
            // fork has a copy of its own.
            unsafe { crate::handler::start(self, &supplies.stack) }
                .map_err(|e| ("cannot start the handler", e))
        });
        attached.map_err(|(step, errno)| Reason::Failed(step, errno))
    }

    fn try_cow(&self, supplies: &Supplies) -> core::result::Result<(), Reason> {
        if self.region().zero_part().count == 0 {
            // Dense memory has to be anonymous, and in so small a Region it has no part of its own.
            return Err(Reason::SmallRegion);
        }
        let files = self.backing.open();
        files.map_err(|e| Reason::Failed("cannot make a sealed memory file", e))?;
        // Without it, dense memory is filled by hand.
        let _ = self.try_mover(supplies, Service::Cow);
        Ok(())
    }

    /// Opens a channel that puts pages in place, and sees no faults.
    fn try_mover(&self, supplies: &Supplies, service: Service) -> Step<()> {
        let uffd = Uffd::open(Way::UserMode).map_err(|e| (Way::UserMode.as_str(), e))?;
        if !uffd.features().moves() {
            return Err(("moving pages", Errno::NOSYS));
        }
        self.attach(uffd, |channel, _| {
            if service == Service::Eager {
                self.register(channel, self.region().content_part(), Watch::MoveTarget)?;
            }
            self.register(channel, self.region().zero_part(), Watch::MoveTarget)?;
            supplies.pool.register(channel).map_err(|e| ("cannot register the pool", e))
        })
    }

    /// Makes `uffd` the engine's channel if `setup` goes well.
    fn attach(&self, uffd: Uffd, setup: impl FnOnce(Channel, Features) -> Step<()>) -> Step<()> {
        let uffd = uffd.renumber(vm::OUT_OF_THE_WAY);
        let (channel, features) = (uffd.channel(), uffd.features());
        self.features.store(features.0, Ordering::Relaxed);
        self.inode.store(channel.inode(), Ordering::Relaxed);
        self.channel.store(channel.number(), Ordering::Release);
        match setup(channel, features) {
            // The number now belongs to the process until it ends.
            Ok(()) => {
                let _ = uffd.into_channel();
                Ok(())
            }
            // Dropping the descriptor takes every registration back.
            Err(failed) => {
                self.no_channel();
                Err(failed)
            }
        }
    }

    fn no_channel(&self) {
        self.features.store(0, Ordering::Relaxed);
        self.channel.store(-1, Ordering::Release);
    }

    fn register(&self, channel: Channel, pages: Pages, watch: Watch) -> Step<()> {
        if pages.count == 0 {
            return Ok(());
        }
        let len = pages.count << self.region().page_shift();
        let registered = channel.register(self.region().address(pages.first), len, watch);
        registered.map_err(|e| ("cannot register the Region", e))
    }
}

/// Fork: the caller brackets the system call with these, its own locks around them.
impl Engine {
    /// Before fork.
    pub fn fork_prepare(&self) {
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
        let inherited = self.channel();
        if inherited.number() < 0 {
            return false;
        }
        self.set_serving(None);
        if inherited.inode() == self.inode.load(Ordering::Relaxed) {
            inherited.close();
        }
        // Where pages cannot be moved, the pool is plain empty memory on both sides.
        let remapped = self.movable_pool().map_or(Ok(()), |_| supplies.pool.remap_in_child());
        self.no_channel();
        let remapped = remapped.map_err(|e| ("cannot map the child's pool", e));
        match self.service() {
            Service::Lazy => {
                let why = match remapped {
                    Ok(()) => self.try_lazy(supplies).err(),
                    Err((step, errno)) => Some(Reason::Failed(step, errno)),
                };
                let lost = why.is_some();
                if lost {
                    self.settle_for(Service::Memset, why);
                }
                lost
            }
            Service::Cow => {
                let _ = remapped.and_then(|()| self.try_mover(supplies, Service::Cow));
                false
            }
            _ => {
                let again = remapped.and_then(|()| self.try_mover(supplies, Service::Eager));
                if let Err((step, errno)) = again {
                    self.settle_for(Service::Memset, Some(Reason::Failed(step, errno)));
                }
                false
            }
        }
    }
}
