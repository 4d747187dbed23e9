//! The ladder: which service the process gets, at its start and again in a child of fork.
//!
//! ```text
//!   lazy     a userfaultfd that sees all faults ─▶ parts and pool registered ─▶ asleep
//!    │ no                                            first large allocation: handler started
//!   cow      a sealed memfd, a Region of two parts ─┐
//!    │ no                                           ├─▶ mover, if it can be had
//!   eager    ───────────────────────────────────────┘   (needed by eager)
//!    │ no
//!   memset   nothing
//! ```
//!
//! **Asleep**, `lazy` is served as `eager` is: memory is filled when it is allocated, nothing is watched
//! for missing faults, and the process has no thread that it did not start. Programs that make no
//! large allocation stay so, and so do the children of programs in whose live memory nothing is
//! missing.
//!
//! The **mover** is a userfaultfd for user mode only, which needs no privilege. Nothing is ever
//! registered with it for missing faults: taken inside system calls, those would fail.

use core::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::bits::Pages;
use crate::engine::{Engine, Failure, Reason, Supplies};
use crate::service::{Attempts, Service};
use crate::sys::uffd::{Channel, Features, Uffd, Watch, Way};
use crate::sys::{thread, vm};

/// How often it is tried to start the handler again when the program closes the channel meanwhile.
const TRIES: usize = 8;

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
            match self.try_asleep(supplies) {
                Ok(()) => return,
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

    /// Opens a channel that sees all faults, and registers what can wait for the handler with it.
    fn try_asleep(&'static self, supplies: &Supplies) -> core::result::Result<(), Reason> {
        let (opened, attempts) = Attempts::open();
        let Some((_, uffd)) = opened else { return Err(Reason::NoChannel(attempts)) };
        // Where nothing moves, memory that is filled when it is allocated is copied.
        let moves = uffd.features().moves();
        if self.has_tags() && !moves {
            return Err(Reason::Failed(failed("moving pages with their tags")(Errno::NOSYS)));
        }
        let attached = self.attach(uffd, |channel, _| match moves {
            true => self.register_to_move(channel, supplies, Service::Eager),
            false => self.start_handler(channel, supplies),
        });
        attached.map_err(Reason::Failed)?;
        if moves {
            self.service.set(Service::Eager);
            self.asleep.store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
        }
        Ok(())
    }

    /// Starts the handler, if `lazy` is still asleep: to be called before memory is handed out
    /// whose pages may be missing. False, once, if that failed, and the service stays `eager`.
    #[inline]
    pub fn wake(&self) -> bool {
        self.asleep.load(Ordering::Relaxed).is_null() || self.wake_up()
    }

    #[cold]
    fn wake_up(&self) -> bool {
        let Some(supplies) = &self.supplies else { return false };
        let _renewing = self.renewing.lock();
        // SAFETY: null, or this very engine as `launch` was given it.
        let Some(engine) = (unsafe { self.asleep.load(Ordering::Acquire).as_ref() }) else {
            return true;
        };
        let woken = engine.try_wake(supplies);
        woken.map_err(|why| self.explain(why)).is_ok()
    }

    fn try_wake(&'static self, supplies: &Supplies) -> core::result::Result<(), Reason> {
        let mut woken = self.open_and_start(supplies);
        // Other threads may close what they do not know at any moment.
        for _ in 0..TRIES {
            if woken.is_ok() || self.has_channel() {
                break;
            }
            // A child may have it still, which lets go of it.
            rustix::thread::sched_yield();
            woken = self.open_and_start(supplies);
        }
        self.asleep.store(core::ptr::null_mut(), Ordering::Release);
        woken
    }

    fn open_and_start(&'static self, supplies: &Supplies) -> core::result::Result<(), Reason> {
        // With the channel, the program has closed all that was registered.
        if !self.has_channel() {
            self.no_channel();
            self.try_asleep(supplies)?;
        }
        if self.service() == Service::Lazy {
            return Ok(());
        }
        self.start_handler(self.channel(), supplies).map_err(Reason::Failed)
    }

    fn has_channel(&self) -> bool {
        self.channel.get().is_some_and(|number| self.channel.is_ours(number))
    }

    /// Has missing faults told, and starts the handler, which answers them: from now on, the
    /// service is `lazy`.
    fn start_handler(&'static self, channel: Channel, supplies: &Supplies) -> Step<()> {
        self.watch_content(channel, self.features().watch_missing())?;
        let rings = supplies.compaction.register(channel);
        rings.map_err(failed("cannot register what calls the handler"))?;
        // Other threads of the program may close the channel's number before the handler has it.
        let alone = thread::count() == Some(1);
        // SAFETY: the handler keeps to `spawn`'s rules (see its module), `self` is static, and
        // the stack is used by no other handler: a process starts one, and a child of fork has a
        // copy of its own.
        let started = unsafe { crate::handler::start(self, &supplies.stack) };
        if let Err(errno) = started {
            // Nobody would answer.
            self.watch_content(channel, Watch::MoveTarget).inspect_err(|_| self.no_channel())?;
            return Err(failed("cannot start the handler")(errno));
        }
        while !alone && !self.handler_runs.load(Ordering::Acquire) {
            rustix::thread::sched_yield();
        }
        self.service.set(Service::Lazy);
        Ok(())
    }

    /// Changes how the content part is registered. Meanwhile it is not, and what is put in place there
    /// is filled by hand. (Newer kernels refuse to change it in one step; 6.18 does not.)
    fn watch_content(&self, channel: Channel, watch: Watch) -> Step<()> {
        let content = self.region().content_part();
        let len = content.count << self.region().page_shift();
        // Where it was not registered, that says so, or nothing.
        let _ = channel.unregister(self.region().address(content.first), len);
        self.register(channel, content, watch)
    }

    /// For the handler, which found the channel closed: one of its own, with all registrations.
    /// What the program has for a number is worth nothing any more.
    pub(crate) fn reopen(&self) -> Option<Uffd> {
        let (opened, _) = Attempts::open();
        let (uffd, supplies) = (opened?.1, self.supplies.as_ref()?);
        let watch = uffd.features().watch_missing();
        self.register(uffd.channel(), self.region().content_part(), watch).ok()?;
        supplies.compaction.register(uffd.channel()).ok()?;
        if uffd.features().moves() {
            self.register_to_move(uffd.channel(), supplies, Service::Lazy).ok()?;
        }
        Some(uffd)
    }

    fn try_cow(&self) -> core::result::Result<(), Reason> {
        if self.has_tags() {
            let files = self.tag_files.open();
            return files
                .map_err(failed("cannot make a memory file with tags"))
                .map_err(Reason::Failed);
        }
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
        self.attach(uffd, |channel, _| self.register_to_move(channel, supplies, service))
    }

    /// Registers what pages are moved between under `service`.
    fn register_to_move(
        &self,
        channel: Channel,
        supplies: &Supplies,
        service: Service,
    ) -> Step<()> {
        if service == Service::Eager {
            self.register(channel, self.region().content_part(), Watch::MoveTarget)?;
        }
        self.register(channel, self.region().zero_part(), Watch::MoveTarget)?;
        supplies.pool.register(channel).map_err(failed("cannot register the pool"))
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
        // Asleep, it is replaced with one that sees faults, when there is a need.
        if !self.asleep.load(Ordering::Relaxed).is_null() {
            return;
        }
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
        self.tag_files.acquire();
        if let Some(supplies) = &self.supplies {
            supplies.compaction.acquire();
            supplies.pool.acquire();
        }
    }

    /// After fork, in the parent and in the child.
    pub fn fork_done(&self) {
        // SAFETY: taken in `fork_prepare` by this thread, or the one that it is the image of.
        unsafe {
            if let Some(supplies) = &self.supplies {
                supplies.pool.release();
                supplies.compaction.release();
            }
            self.tag_files.release();
            self.backing.release();
            self.reasons.release();
            self.renewing.release();
        }
    }

    /// In the child: lets go of the parent's channel. As long as anybody has that, the parent can
    /// register its memory with no other.
    pub fn leave_channel(&self) {
        self.channel.close();
    }

    /// In the child, after [`fork_done`](Self::fork_done), before anything else is asked of the
    /// engine: gives it a channel and a pool of its own, as far as its service needs them, and a
    /// handler if pages of live memory are `missing`. True if the caller has to fill those before
    /// anyone touches them, because nobody serves them any more.
    #[must_use]
    pub fn fork_child(&'static self, missing: bool) -> bool {
        self.forget_pagemap();
        let Some(supplies) = &self.supplies else { return false };
        self.backing.share();
        self.tag_files.share();
        if matches!(self.service(), Service::Memset | Service::Off) {
            return false;
        }
        self.set_serving(None);
        self.handler_runs.store(false, Ordering::Relaxed);
        supplies.pool.empty_in_child();
        supplies.compaction.forget_takers();
        self.no_channel();
        let again = match self.offered() {
            Service::Lazy if missing => self.try_wake(supplies),
            Service::Lazy => self.try_asleep(supplies),
            Service::Eager => self.try_mover(supplies, Service::Eager).map_err(Reason::Failed),
            _ => {
                self.open_mover(supplies);
                return false;
            }
        };
        again.is_err_and(|why| {
            self.asleep.store(core::ptr::null_mut(), Ordering::Relaxed);
            self.service.set(Service::Memset);
            self.explain(why);
            missing
        })
    }
}
