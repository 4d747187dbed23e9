//! The fault handler: the thread that answers missing faults.
//!
//! It runs without libc's knowledge ([`sys::thread`](crate::sys::thread)): it touches no heap
//! memory and no thread-local storage, allocates nothing, waits for no lock that is held across a
//! heap access, and does not end before all other threads have. Its descriptor table holds the channel
//! and nothing else, so the program may close what it likes.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use rustix::io::Result;

use crate::bits::Pages;
use crate::engine::Engine;
use crate::huge::{HUGE, Settled};
use crate::patience::Patience;
use crate::place::{Fresh, Supply};
use crate::pool;
use crate::runs::RunWindow;
use crate::sys::thread::{self, Stack};
use crate::sys::uffd::{Channel, FaultBuffer};
use crate::sys::{errno, report, vm};

/// Milliseconds until the handler looks again for something to give back, when there was nothing:
/// it doubles up to a minute. An idle process is to sleep, and a freed run must not wait for ever.
const FIRST_LOOK: u64 = 250;
const LAST_LOOK: u64 = 60_000;

/// A sequential writer gets one huge page ahead of it for so many that it has written, and as many
/// again are filled in the meantime.
const AHEAD: usize = 4;

/// Blocks moved ahead in one answer at most: those that are filled already, and those that are
/// filled while the writer waits.
const MOST_READY: usize = 16;
const MOST_MADE: usize = 4;

/// How often a block is tried to be compacted while threads take pages away: one that takes so long may be
/// stopped.
const MOST_TRIES: u32 = 10_000;

/// How often another channel is tried to be opened.
const REOPENED: u32 = 10_000;

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
    // It writes to memory under all tags, by addresses with none.
    let _unchecked = engine.has_tags().then(mte::without_checks);
    let channel = own_channel(engine);
    engine.handler_runs.store(true, Ordering::Release);
    // A program that gives up its rights (setuid) does not reach this thread: it has none.
    let none = rustix::thread::CapabilitySet::empty();
    let _ = rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none },
    );
    // Not to keep a file system busy that the program leaves.
    let _ = rustix::process::chdir(c"/");
    let mut handler =
        Handler { engine, channel, wanted: 0, patience: Patience::new(), to_compact: None };
    let mut look = FIRST_LOOK;
    let mut due = vm::now_ms() + look;
    loop {
        if handler.answer_while_they_come(due) {
            look = FIRST_LOOK;
        }
        let now = vm::now_ms();
        if now >= due {
            look = handler.give_back(now, look);
            due = now + look;
            // The last thread of the program's ended by the system call itself, or was killed alone:
            // the process is to end with it.
            if let Some(code) = thread::left_alone() {
                return code;
            }
        }
        handler.sleep(due.saturating_sub(now));
    }
}

/// The channel, in this thread's private table and alone in it.
fn own_channel(engine: &Engine) -> Channel {
    let number = engine.channel().number();
    if engine.channel.is_ours(number) {
        thread::close_all_but(number);
        return Channel::new(number);
    }
    // The program closed it before this thread had it.
    thread::close_all_but(-1);
    // A child that was forked just now may have the old one still, which it lets go of.
    let reopened = (0..REOPENED).find_map(|tries| {
        if tries > 0 {
            rustix::thread::sched_yield();
        }
        engine.reopen()
    });
    match reopened {
        Some(uffd) => uffd.keep_open(),
        None => report::die_without_stderr(format_args!(
            "the program closed the userfaultfd, and another one cannot be had; memory could not be \
             served"
        )),
    }
}

struct Handler {
    engine: &'static Engine,
    channel: Channel,
    /// Huge blocks to keep filled ahead: what the last answer that took any took.
    wanted: usize,
    patience: Patience,
    /// What is still to be compacted, if somebody waits for it, and how often the first block of it was
    /// tried.
    to_compact: Option<(Pages, u32)>,
}

impl Handler {
    /// Answers what is pending, and what comes while it is worth waiting awake, until `due` in
    /// milliseconds: memory is given back also while there is no rest. Whether there was anything.
    fn answer_while_they_come(&mut self, due: u64) -> bool {
        let mut any = false;
        loop {
            let compacts = self.compact_next();
            if self.answer() {
                any = true;
                self.patience.fault_came();
                if vm::now_ms() >= due {
                    return any;
                }
            } else if compacts || self.fill_ahead() {
                // A block takes as long as ten faults: look again after each.
            } else if !self.patience.wait() {
                return any;
            }
        }
    }

    /// Sleeps until there is a fault, unless there is work left.
    fn sleep(&mut self, timeout_ms: u64) {
        if self.to_compact.is_some() {
            return;
        }
        let before = vm::thread_cpu_ns();
        self.engine.counters().handler_cpu_ns.set(before);
        match self.channel.poll(Some(timeout_ms)) {
            Ok(true) => self.patience.woken(vm::thread_cpu_ns() - before),
            Ok(false) => {}
            Err(errno) => report::die_without_stderr(format_args!(
                "cannot wait for faults: {}; memory could no longer be served",
                errno::name(errno)
            )),
        }
    }

    /// Fills one more of the blocks that are wanted: false if all are, or there is no room.
    fn fill_ahead(&mut self) -> bool {
        let Some(pool) = self.engine.movable_pool() else { return false };
        if pool.huge.ready() >= self.wanted || pool.room() < HUGE {
            self.wanted = 0;
            return false;
        }
        let Some(block) = pool.huge.make(self.engine.content()) else {
            self.wanted = 0;
            return false;
        };
        pool.huge.settle(block, Settled::Filled);
        true
    }

    /// Compacts one more block of what is to be: false if there is nothing to do.
    fn compact_next(&mut self) -> bool {
        let (Some((rest, tries)), Some(supplies)) = (self.to_compact, &self.engine.supplies) else {
            return false;
        };
        let channel = self.channel.quiet();
        match supplies.blocks.next_huge(rest) {
            Some(block) => {
                let done = self.engine.compact_block(channel, block) || tries == MOST_TRIES;
                let (first, tries) = if done { (block.end(), 0) } else { (block.first, tries + 1) };
                self.to_compact = Some((Pages::span(first, rest.end()), tries));
            }
            None => {
                self.to_compact = None;
                supplies.compaction.answer(channel);
            }
        }
        true
    }

    /// Reads the pending faults and serves them: false if there was none.
    fn answer(&mut self) -> bool {
        let mut faults = FaultBuffer::default();
        // SAFETY: this thread's descriptor table is its own, and nothing in it closes the channel.
        let count = match unsafe { self.channel.read_faults(&mut faults) } {
            Ok(count) => count,
            Err(errno) => report::die_without_stderr(format_args!(
                "cannot read faults: {}; memory could no longer be served",
                errno::name(errno)
            )),
        };
        let mut served = [Pages { first: 0, count: 0 }; FaultBuffer::CAPACITY];
        for i in 0..count {
            let Some(fault) = faults.fault(i) else { continue };
            let supplies = self.engine.supplies.as_ref();
            if supplies.is_some_and(|supplies| supplies.compaction.is_bell(fault.address)) {
                let [content, _] = self.engine.region().used();
                self.to_compact = Some((content, 0));
                continue;
            }
            self.engine.counters().faults.add(1);
            let page = self.engine.region().page_at(fault.address);
            // What an answer before it has put in place has also woken who waited there, and the
            // run may have been freed and become another one meanwhile.
            if served.iter().any(|pages| pages.contains(page)) {
                continue;
            }
            if let Some(place) = served.get_mut(i) {
                self.engine.set_serving(Some(page));
                let refused = self.engine.runs().refuses(page, fault);
                *place = if refused { self.refuse(page) } else { self.serve(page) };
                self.engine.set_serving(None);
            }
        }
        count > 0
    }

    /// Puts a window in place around the page: what was put in place.
    fn serve(&mut self, page: usize) -> Pages {
        let engine = self.engine;
        let present = engine.region().present();
        let per_block = engine.pages_per_block();
        let run = engine.runs().run_at(page);
        let (mut window, zero) = match run {
            Some(run) => {
                let offset = page.wrapping_sub(run.pages().first);
                let continues = offset > 0 && present.get(page - 1);
                (run.window_at(page, per_block, continues), offset < run.zero_pages())
            }
            None => (Pages { first: page, count: 1 }, false),
        };
        // A sequential writer stops at the border of a 2 MiB block, where huge pages can take over.
        let dense = window.count >= per_block - page % per_block;
        if dense {
            window = window.prefix(per_block - page % per_block);
        }
        // The faulting page is served even if its bit says that somebody is about to.
        let missing = present
            .next_stretch(window, false)
            .filter(|stretch| stretch.first == page)
            .unwrap_or(window.prefix(1));
        let fresh = if zero { Fresh::Zero } else { Fresh::Content };
        // What the program only reads, and what it does not touch, is not to count as written. Tags come by
        // moves alone.
        let watched = !engine.has_tags() && run.is_some_and(RunWindow::is_watched);
        if watched {
            engine.place(self.channel.quiet().protecting(), missing, fresh);
        } else if missing.count == per_block && engine.drop_empty_table(missing) {
            engine.place_dense(self.channel.quiet(), missing, fresh);
        } else {
            engine.place(self.channel.quiet(), missing, fresh);
        }
        let mut end = missing.end();
        if let (Some(run), true, false) = (run, dense && !watched, zero) {
            end = self.place_ahead(run.pages(), end);
            run.advance_to(end);
        }
        // Last of all: from now on, the run may be freed and become another.
        let placed = Pages::span(page, end);
        engine.counters().windows.add(placed.count);
        self.wake(placed);
        placed
    }

    /// Has who waits for the page end there: the page, which is not asked for again.
    fn refuse(&self, page: usize) -> Pages {
        let page = Pages { first: page, count: 1 };
        self.engine.refuse(self.channel.quiet(), page.first);
        self.wake(page);
        page
    }

    fn wake(&self, pages: Pages) {
        let region = self.engine.region();
        let len = pages.count << region.page_shift();
        if let Err(errno) = self.channel.wake(region.address(pages.first), len) {
            report::die_without_stderr(format_args!(
                "cannot wake who waits for memory: {}; memory could no longer be served",
                errno::name(errno)
            ));
        }
    }

    /// Moves huge pages ahead of a sequential writer that is about to reach `page`. Where they end.
    fn place_ahead(&mut self, run: Pages, page: usize) -> usize {
        let per_block = self.engine.pages_per_block();
        if !page.is_multiple_of(per_block) {
            return page;
        }
        let most = ((page - run.first) / per_block / AHEAD).min(MOST_READY);
        let mut taken = 0;
        while taken < most {
            let block = page + taken * per_block;
            let supply = if taken < MOST_MADE { Supply::Made } else { Supply::Ready };
            if block + per_block > run.end()
                || !self.engine.takes_huge(block)
                || !self.engine.place_huge(self.channel.quiet(), block, Fresh::Content, supply)
            {
                break;
            }
            taken += 1;
        }
        if taken > 0 {
            self.wanted = taken.min((run.end() - page) / per_block - taken);
        }
        page + taken * per_block
    }

    /// Gives back what has been idle, and says when to look again.
    fn give_back(&mut self, now_ms: u64, look: u64) -> u64 {
        let pool = self.engine.movable_pool();
        match self.engine.runs().purge(now_ms) {
            Some(delay) => delay,
            None => {
                if let Some(pool) = pool
                    && look >= pool::IDLE
                {
                    self.wanted = 0;
                    pool.drain_to_low();
                }
                (look.max(FIRST_LOOK) * 2).min(LAST_LOOK)
            }
        }
    }
}
