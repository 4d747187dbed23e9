//! A process of the tree that has begun with an exec: the first one, or one that a lane executes.

use std::path::PathBuf;
use std::sync::atomic::Ordering::*;

use anyhow::{Context, Result};
use clap::Args;

use crate::board::Board;
use crate::lane::{Lane, Who};
use crate::process::{end_of_threads, finish, start, wait_for_children};
use crate::random::mix;
use crate::signals;
use crate::world::{self, LANES, World, nap};

/// Descriptors that a process may have: few, so that using them all up takes no time.
const DESCRIPTORS: u64 = 128;

#[derive(Args)]
pub struct Worker {
    /// The board's file
    board: PathBuf,
    /// Who it is, if it is not the first process
    path: Option<String>,
    seed: Option<u64>,
    steps: Option<u64>,
    slot: Option<usize>,
    depth: Option<u32>,
}

impl Worker {
    pub fn run(self) -> Result<()> {
        let board = Board::open(&self.board).context("no board")?;
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let pattern = board.pattern.load(Relaxed);
        world::begin(World { board, board_path: self.board, program, pattern });
        limit_descriptors();
        signals::handle();
        if let (Some(path), Some(seed), Some(steps), Some(slot), Some(depth)) =
            (self.path, self.seed, self.steps, self.slot, self.depth)
        {
            live(Who { path, seed, steps, slot, depth, mailbox: None });
            board.release_process(slot);
            return Ok(());
        }
        let seed = board.seed.load(Relaxed);
        let steps = match board.steps.load(Relaxed) {
            0 => u64::MAX,
            steps => steps,
        };
        let who = |index: usize| {
            let slot = board.claim().context("no slot is free")?;
            let seed = mix(seed ^ (index as u64) << 32);
            let path = index.to_string();
            anyhow::Ok(Who { path, seed, steps, slot, depth: 0, mailbox: Some(index) })
        };
        for index in 1..board.threads.load(Relaxed) as usize {
            start(who(index)?).context("no thread can be made")?;
        }
        let main = who(0)?;
        let slot = main.slot;
        live(main);
        board.release(slot);
        Ok(())
    }
}

/// The lane of the process's first thread, to the end of all lanes.
fn live(who: Who) {
    LANES.fetch_add(1, AcqRel);
    let mut lane = Lane::new(who);
    lane.run();
    end_of_threads(&mut lane);
    wait_for_children(&mut lane);
    finish(&lane);
    while LANES.load(Acquire) > 1 {
        nap(1);
    }
    // What the others have sent meanwhile.
    lane.perform(crate::lane::END);
}

fn limit_descriptors() {
    // Above the soft limit, the heap finds a descriptor also while a lane has taken all there are.
    let limit = libc::rlimit { rlim_cur: DESCRIPTORS, rlim_max: 2 * DESCRIPTORS };
    // Without a limit, the soak is slower and as good.
    // SAFETY: the struct is read.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}
