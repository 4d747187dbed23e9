//! The fault handler: the thread that answers missing faults.
//!
//! It runs without libc's knowledge ([`sys::thread`](crate::sys::thread)): it touches no heap
//! memory and no thread-local storage, allocates nothing, waits for no lock that is held across a
//! heap access, and does not end while the Region lives. Its descriptor table holds the channel
//! and nothing else, so the program may close what it likes.

use core::ffi::{c_int, c_void};

use rustix::io::Result;

use crate::bits::Pages;
use crate::engine::Engine;
use crate::place::Fresh;
use crate::pool::HUGE;
use crate::sys::thread::{self, Stack};
use crate::sys::uffd::{Channel, Fault, FaultBuffer};
use crate::sys::{report, vm};

/// Milliseconds until the handler looks again for something to give back, when there was nothing:
/// it doubles up to a minute. An idle process is to sleep, and a freed run must not wait for ever.
const FIRST_LOOK: u64 = 250;
const LAST_LOOK: u64 = 60_000;

/// After this many idle milliseconds, what waits in the pool goes back to the kernel too.
const POOL_IDLE: u64 = 4_000;

/// A writer this many pages into its run has earned huge pages ahead of it: four blocks.
const HUGE_AFTER: usize = 4 * HUGE;

/// Starts the handler of `engine`.
///
/// # Safety
/// `stack` is used by no other thread of this process.
pub(crate) unsafe fn start(engine: &'static Engine, stack: &Stack) -> Result<()> {
    let arg = core::ptr::from_ref(engine).cast_mut().cast();
    // SAFETY: `run` keeps the rules of this module's head, and the caller vouches for the stack.
    unsafe { thread::spawn(stack, run, arg) }
}

extern "C" fn run(arg: *mut c_void) -> c_int {
    // SAFETY: `start` passed a `&'static Engine`.
    let engine = unsafe { &*arg.cast::<Engine>() };
    let channel = engine.channel();
    thread::close_all_but(channel.0);
    // A program that gives up its rights (setuid) does not reach this thread: it has none.
    let none = rustix::thread::CapabilitySet::empty();
    let _ = rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none },
    );
    // Not to keep a file system busy that the program leaves.
    let _ = rustix::process::chdir(c"/");
    let mut handler = Handler { engine, channel, huge_wanted: false };
    let mut faults = FaultBuffer::default();
    let mut look = FIRST_LOOK;
    let mut due = vm::now_ms() + look;
    loop {
        let now = vm::now_ms();
        if handler.wait(due.saturating_sub(now)) {
            handler.answer(&mut faults);
            look = FIRST_LOOK;
        }
        let now = vm::now_ms();
        if now >= due {
            look = handler.give_back(now, look);
            due = now + look;
        }
    }
}

struct Handler {
    engine: &'static Engine,
    channel: Channel,
    /// A huge block was used since the last round: keep one filled ahead.
    huge_wanted: bool,
}

impl Handler {
    fn wait(&mut self, timeout_ms: u64) -> bool {
        // Filling a block ahead takes as long as ten faults: only while nobody waits.
        if self.huge_wanted
            && let Ok(false) = self.channel.poll(Some(0))
            && let Some(pool) = self.engine.movable_pool()
            && pool.ready_huge() == 0
        {
            let _ = pool.fill_huge(self.engine.content());
        }
        match self.channel.poll(Some(timeout_ms)) {
            Ok(ready) => ready,
            Err(errno) => report::die_without_stderr(format_args!(
                "cannot wait for faults: {errno}; memory could no longer be served"
            )),
        }
    }

    fn answer(&mut self, faults: &mut FaultBuffer) {
        // SAFETY: this thread's descriptor table is its own, and nothing in it closes the channel.
        match unsafe { self.channel.read_faults(faults) } {
            Ok(count) => {
                for fault in (0..count).filter_map(|i| faults.fault(i)) {
                    self.serve(fault);
                }
            }
            Err(errno) => report::die_without_stderr(format_args!(
                "cannot read faults: {errno}; memory could no longer be served"
            )),
        }
    }

    fn serve(&mut self, fault: Fault) {
        let engine = self.engine;
        let region = engine.region();
        engine.counters().faults.add(1);
        let page = region.page_at(fault.address);
        let per_block = HUGE >> region.page_shift();
        let run = engine.runs().run_at(page);
        let (mut window, zero) = match run {
            Some(run) => {
                let offset = page.wrapping_sub(run.pages().first);
                let continues = offset > 0 && region.present().get(page - 1);
                (run.window_at(page, per_block, continues), offset < run.zero_pages())
            }
            None => (Pages { first: page, count: 1 }, false),
        };
        let dense = window.count == per_block;
        if dense {
            // Up to the border of a 2 MiB block, where huge pages can take over.
            window = window.prefix(per_block - page % per_block);
        }
        // The faulting page is served even if its bit says that somebody is about to.
        let missing = region
            .present()
            .next_stretch(window, false)
            .filter(|stretch| stretch.first == page)
            .unwrap_or(window.prefix(1));
        let fresh = if zero { Fresh::Zero } else { Fresh::Content };
        // Ahead first: the last page placed below wakes the thread that waits, and from then on
        // the run may be freed and become another.
        if let (Some(run), true, false) = (run, dense, zero) {
            let end = self.place_ahead(run.pages(), missing.end());
            run.advance_to(end);
        }
        engine.place(self.channel, missing, fresh);
    }

    /// Moves huge pages ahead of a sequential writer that is about to reach `page`: one for each
    /// eight that it has written. Where they end.
    fn place_ahead(&mut self, run: Pages, page: usize) -> usize {
        let shift = self.engine.region().page_shift();
        let per_block = HUGE >> shift;
        let behind = page - run.first;
        if behind << shift < HUGE_AFTER || !page.is_multiple_of(per_block) {
            return page;
        }
        let blocks = (behind / per_block / 8).max(1);
        let mut end = page;
        for _ in 0..blocks {
            if end + per_block > run.end()
                || !self.engine.takes_huge(end)
                || !self.engine.place_huge(self.channel, end)
            {
                break;
            }
            self.huge_wanted = true;
            end += per_block;
        }
        end
    }

    /// Gives back what has been idle, and says when to look again.
    fn give_back(&mut self, now_ms: u64, look: u64) -> u64 {
        let pool = self.engine.movable_pool();
        if let Some(pool) = pool
            && !core::mem::take(&mut self.huge_wanted)
        {
            pool.drain_huge();
        }
        match self.engine.runs().purge(now_ms) {
            Some(delay) => delay,
            None => {
                if let Some(pool) = pool
                    && look >= POOL_IDLE
                {
                    pool.drain(usize::MAX);
                }
                (look.max(FIRST_LOOK) * 2).min(LAST_LOOK)
            }
        }
    }
}
