//! A lane: one thread's random steps on its own blocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::*};

use crate::block::{Block, Source, size};
use crate::board::{Count, MAX_THREADS};
use crate::process::{self, Child};
use crate::random::{Random, mix};
use crate::signals::{self, Handlers};
use crate::world::{self, board, world};
use crate::{inject, system};

/// Blocks of a lane: more would make a step slow, not the test better.
const MOST_BLOCKS: usize = 400;
/// An OS page, or a part of one: where scattered touches go.
const PAGE: usize = 4096;

/// What a lane does, and how often in so many steps.
type Action = (&'static str, usize, fn(&mut Lane));

pub const ACTIONS: [Action; 16] = [
    ("allocate", 330, Lane::allocate),
    ("touch", 190, Lane::touch),
    ("check", 100, Lane::check_some),
    ("reallocate", 90, Lane::reallocate),
    ("free", 180, Lane::free),
    ("pass on", 30, Lane::pass_on),
    ("signal", 25, signals::send),
    ("handlers' memory", 10, signals::renew),
    ("timer", 2, signals::timer),
    ("trim", 2, Lane::trim),
    ("descriptors", 6, system::descriptors),
    ("thread", 5, process::thread),
    ("fork", 10, process::fork),
    ("spawn", 2, process::spawn),
    // No steps, but what a lane does at its end.
    ("end", 0, Lane::end),
    ("wait for others", 0, |_| ()),
];

pub const END: usize = 14;
pub const WAIT: usize = 15;

/// Blocks on their way to the threads of the first process, to be freed there.
static MAIL: [[AtomicPtr<Block>; 4]; MAX_THREADS] =
    [const { [const { AtomicPtr::new(null_mut()) }; 4] }; MAX_THREADS];

/// Who a lane is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The thread of the first process, and the forks (f), executions (e), orphans (o) and threads (t) since then,
    /// each with the step at which it was made.
    pub path: String,
    pub seed: u64,
    /// Steps that it takes.
    pub steps: u64,
    pub slot: usize,
    /// Forks and threads between the first process and it.
    pub depth: u32,
    /// Whose mail it opens.
    pub mailbox: Option<usize>,
}

pub struct Lane {
    pub who: Who,
    pub random: Random,
    pub step: u64,
    action: usize,
    blocks: VecDeque<Block>,
    live: usize,
    pub handlers: Handlers,
    pub children: Vec<Child>,
    pub threads: Vec<libc::pthread_t>,
}

impl Lane {
    pub fn new(who: Who) -> Self {
        let mut lane = Self {
            random: Random::new(who.seed),
            who,
            step: 0,
            action: 0,
            blocks: VecDeque::new(),
            live: 0,
            handlers: Handlers::default(),
            children: Vec::new(),
            threads: Vec::new(),
        };
        lane.take_slot();
        lane
    }

    /// Becomes another after a fork, on the same blocks.
    pub fn become_other(&mut self, who: Who) {
        self.random = Random::new(who.seed);
        self.who = who;
        self.step = 0;
        self.children.clear();
        self.threads.clear();
        self.take_slot();
    }

    pub fn take_slot(&mut self) {
        let slot = &board().slots[self.who.slot];
        slot.tid.store(world::thread_id(), Relaxed);
        slot.pid.store(std::process::id() as i32, Relaxed);
    }

    pub fn in_first_process(&self) -> bool {
        !self.who.path.contains(['f', 'e', 'o'])
    }

    /// Steps until they are done, or the time is over.
    pub fn run(&mut self) {
        while self.step < self.who.steps && !board().is_over() {
            self.step += 1;
            let mut drawn = self.random.below(ACTIONS.iter().map(|action| action.1).sum());
            let action = ACTIONS.iter().position(|&(_, weight, _)| {
                let found = drawn < weight;
                drawn = drawn.wrapping_sub(weight);
                found
            });
            self.perform(action.unwrap_or(0));
            self.open_mail();
            inject::perhaps(self);
            if self.step.is_multiple_of(16) {
                process::reap(self);
            }
        }
        self.perform(END);
    }

    /// Does one action, and shows it on the board.
    pub fn perform(&mut self, action: usize) {
        self.action = action;
        let slot = &board().slots[self.who.slot];
        slot.action.store(action as u32, Relaxed);
        slot.step.fetch_add(1, Relaxed);
        board().add(Count::Steps, 1);
        ACTIONS[action].2(self);
    }

    pub fn fail(&self, text: std::fmt::Arguments) -> ! {
        let Who { path, seed, depth, .. } = &self.who;
        world::fail(format_args!(
            "lane {path} (seed {seed:#x}, depth {depth}), step {}, action {}, process {}, thread {}:\n  {text}",
            self.step,
            ACTIONS[self.action].0,
            std::process::id(),
            world::thread_id(),
        ))
    }

    pub fn expect_length(&self, what: &str, done: isize, length: usize) {
        if done != length as isize {
            let error = world::errno();
            self.fail(format_args!("{what}: {done} of {length} bytes ({error})"));
        }
    }

    pub fn count(&self, count: Count, by: usize) {
        board().add(count, by);
    }

    /// Fails unless the range of the block holds what it should.
    pub fn check(&self, block: &Block, range: Range<usize>) {
        self.count(Count::CheckedKib, range.len().div_ceil(1024));
        let pattern = world().pattern;
        if let Err(wrong) = block.check(range, pattern) {
            self.fail(format_args!("{}", block.describe(&wrong, pattern)));
        }
    }

    /// A block that must be had.
    pub fn need(&mut self, source: Source, size: usize) -> Block {
        self.count(Count::Allocations, 1);
        let Some(block) = Block::from(source, size, self.step) else {
            self.fail(format_args!("{size} bytes of {source:?} were refused: {}", world::errno()));
        };
        block
    }

    pub fn discard(&self, block: Block) {
        self.count(Count::Frees, 1);
        block.free();
    }

    fn budget(&self) -> usize {
        board().budget.load(Relaxed) as usize
    }

    fn allocate(&mut self) {
        let most = self.budget() / 2;
        let size = size(&mut self.random, most);
        while self.live + size > self.budget() || self.blocks.len() >= MOST_BLOCKS {
            self.free();
        }
        self.count(Count::Allocations, 1);
        let Some(mut block) = Block::new(&mut self.random, size, self.step) else {
            self.fail(format_args!("{size} bytes were refused: {}", world::errno()));
        };
        if !block.is_aligned() {
            self.fail(format_args!(
                "a block of {size} bytes at {:?} is not aligned",
                block.start()
            ));
        }
        // Large blocks often stay as they are for a while.
        match self.random.below(6) {
            0 | 1 => self.check(&block, 0..size),
            2 => self.touch_block(&mut block),
            _ => {}
        }
        self.keep(block);
    }

    /// What a lane does while descriptors are scarce: no system call of its own.
    pub fn several_allocations(&mut self) {
        for _ in 0..6 {
            let size = size(&mut self.random, 2 << 20);
            self.count(Count::Allocations, 1);
            let Some(mut block) = Block::new(&mut self.random, size, self.step) else {
                self.fail(format_args!("{size} bytes were refused: {}", world::errno()));
            };
            let range = self.range(size);
            let tag = self.random.next();
            block.store(range, tag);
            self.check(&block, 0..size);
            self.discard(block);
        }
    }

    fn keep(&mut self, block: Block) {
        self.live += block.size();
        self.blocks.push_back(block);
    }

    fn take(&mut self) -> Option<Block> {
        if self.blocks.is_empty() {
            return None;
        }
        let at = self.random.below(self.blocks.len());
        let block = self.blocks.swap_remove_back(at)?;
        self.live -= block.size();
        Some(block)
    }

    /// A range of a block: all, its begin, or any.
    fn range(&mut self, size: usize) -> Range<usize> {
        match self.random.below(4) {
            0 => 0..size,
            1 => 0..1 + self.random.below(size),
            _ => {
                let from = self.random.below(size);
                let most = if self.random.one_in(2) { 2 * PAGE } else { size };
                from..from + 1 + self.random.below(most.min(size - from))
            }
        }
    }

    fn touch(&mut self) {
        if let Some(mut block) = self.take() {
            self.touch_block(&mut block);
            self.keep(block);
        }
    }

    fn touch_block(&mut self, block: &mut Block) {
        let size = block.size();
        let pages = size.div_ceil(PAGE);
        let tag = self.random.next();
        match self.random.below(8) {
            0..3 => {
                block.did(self.step, "stored");
                let range = self.range(size);
                block.store(range, tag);
            }
            // A word of each of some pages, upwards or downwards or anywhere.
            kind @ 3..6 => {
                block.did(self.step, "scattered stores");
                let stride = 1 + self.random.below(8);
                for index in 0..pages.div_ceil(stride).min(256) {
                    let page = match kind {
                        3 => index * stride,
                        4 => pages - 1 - index * stride,
                        _ => self.random.below(pages),
                    };
                    let at = (page * PAGE + self.random.below(PAGE)).min(size - 1);
                    block.store(at..size.min(at + 8), tag);
                }
            }
            6 if size > 64 => {
                block.did(self.step, "readv");
                system::scatter(self, block);
            }
            _ => {
                block.did(self.step, "written by a system call");
                let range = self.range(size);
                system::write(self, block, range);
            }
        }
    }

    fn check_some(&mut self) {
        let Some(block) = self.take() else { return };
        let size = block.size();
        let range = self.range(size);
        if self.random.one_in(4) {
            system::check(self, &block, range);
        } else if self.random.one_in(2) {
            for _ in 0..20 {
                let at = self.random.below(size);
                self.check(&block, at..size.min(at + 64));
            }
        } else {
            self.check(&block, range);
        }
        self.keep(block);
    }

    fn reallocate(&mut self) {
        let Some(mut block) = self.take() else { return };
        let old = block.size();
        let most = self.budget() / 2;
        let near = self.random.one_in(2);
        let new = if near {
            1 + old / 8 * (4 + self.random.below(10))
        } else {
            size(&mut self.random, most)
        };
        let new = new.min(most).min(self.budget() - self.live);
        self.count(Count::Reallocations, 1);
        block.did(self.step, if new > old { "grown" } else { "shrunk" });
        if new > 0 && !block.resize(new) {
            self.fail(format_args!(
                "a realloc from {old} to {new} was refused: {}",
                world::errno()
            ));
        }
        if self.random.one_in(2) {
            self.check(&block, 0..block.size());
        }
        self.keep(block);
    }

    fn free(&mut self) {
        let Some(block) = self.take() else { return };
        // Some of what is freed is not looked at: that would make all its pages present.
        if !self.random.one_in(3) {
            self.check(&block, 0..block.size());
        }
        self.discard(block);
    }

    /// Gives a block to another thread of the first process, which frees it; or frees it here.
    fn pass_on(&mut self) {
        let Some(mut block) = self.take() else { return };
        let threads = board().threads.load(Relaxed) as usize;
        let (to, place) = (self.random.below(threads), self.random.below(4));
        if Some(to) == self.who.mailbox || !self.in_first_process() {
            return self.discard(block);
        }
        block.did(self.step, "passed on");
        let letter = Box::into_raw(Box::new(block));
        if MAIL[to][place].compare_exchange(null_mut(), letter, AcqRel, Relaxed).is_err() {
            // SAFETY: it was made just now, and nobody else has seen it.
            let block = *unsafe { Box::from_raw(letter) };
            self.discard(block);
        }
    }

    fn open_mail(&mut self) {
        let Some(mailbox) = self.who.mailbox else { return };
        for place in &MAIL[mailbox] {
            let letter = place.swap(null_mut(), AcqRel);
            if letter.is_null() {
                continue;
            }
            // SAFETY: whoever takes it out of the place is the only one who has it.
            let mut block = *unsafe { Box::from_raw(letter) };
            block.did(self.step, "received");
            self.check(&block, 0..block.size());
            self.count(Count::ForeignFrees, 1);
            block.free();
        }
    }

    fn trim(&mut self) {
        // SAFETY: no precondition.
        unsafe { libc::malloc_trim(0) };
    }

    /// Fails unless every block is right.
    pub fn check_all(&self) {
        for block in &self.blocks {
            self.check(block, 0..block.size());
        }
    }

    /// Checks and frees all, some blocks a step.
    fn end(&mut self) {
        self.open_mail();
        let slot = &board().slots[self.who.slot];
        while let Some(block) = self.blocks.pop_back() {
            slot.step.fetch_add(1, Relaxed);
            self.live -= block.size();
            self.check(&block, 0..block.size());
            self.discard(block);
        }
        if let Some(block) = self.handlers.exchange_target(None) {
            self.check(&block, 0..block.size());
            self.discard(block);
        }
        if let Some(block) = self.handlers.exchange_stack(None) {
            self.discard(block);
        }
    }

    /// The seed of something that this lane makes at this step.
    pub fn derived_seed(&self, kind: u64) -> u64 {
        mix(self.who.seed ^ mix(self.step) ^ kind << 56)
    }
}
