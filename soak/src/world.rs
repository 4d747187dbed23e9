//! What is one for a process: the board, the pattern, and the lock of its descriptors.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::*};

use crate::board::Board;

/// The exit code of a process that has put a failure on the board.
pub const FAILED: i32 = 99;
/// How long who failed waits for its stacks to be taken.
const LAST_WAIT_MS: u32 = 120_000;

pub struct World {
    pub board: &'static Board,
    pub board_path: PathBuf,
    pub program: PathBuf,
    pub pattern: u64,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// Lanes of this process.
pub static LANES: AtomicU32 = AtomicU32::new(0);

/// How many use descriptors now, or `ALONE`.
static DESCRIPTORS: AtomicU32 = AtomicU32::new(0);
const ALONE: u32 = u32::MAX;

pub fn begin(world: World) {
    assert!(WORLD.set(world).is_ok(), "a process has one world");
}

pub fn world() -> &'static World {
    WORLD.get().expect("a worker begins with its world")
}

pub fn board() -> &'static Board {
    world().board
}

/// Use of descriptors that nobody closes meanwhile. Held by lanes, never by signal handlers.
pub struct Descriptors {
    alone: bool,
}

impl Descriptors {
    /// Among others that keep to their own ones.
    pub fn shared() -> Self {
        let one_more = |users| (users < ALONE - 1).then(|| users + 1);
        while DESCRIPTORS.fetch_update(Acquire, Relaxed, one_more).is_err() {
            nap(0);
        }
        Self { alone: false }
    }

    /// As the only one, who may close them all.
    pub fn alone() -> Self {
        while DESCRIPTORS.compare_exchange(0, ALONE, Acquire, Relaxed).is_err() {
            nap(0);
        }
        Self { alone: true }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if self.alone {
            DESCRIPTORS.store(0, Release);
        } else {
            DESCRIPTORS.fetch_sub(1, Release);
        }
    }
}

/// The first deed of a forked child: of all lanes, its own is left.
pub fn reborn() {
    DESCRIPTORS.store(0, Relaxed);
    LANES.store(1, Relaxed);
}

/// Sleeps, or with 0 lets others run.
pub fn nap(ms: u32) {
    if ms == 0 {
        // SAFETY: no precondition.
        unsafe { libc::sched_yield() };
        return;
    }
    let time =
        libc::timespec { tv_sec: (ms / 1000).into(), tv_nsec: i64::from(ms % 1000) * 1_000_000 };
    // A signal may cut it short: every caller loops.
    // SAFETY: the time is a valid one, and nobody asks for the rest.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

/// Puts a failure on the board and ends the process, once its stacks have been taken.
pub fn fail(text: std::fmt::Arguments) -> ! {
    let board = board();
    board.fail(text);
    for _ in 0..LAST_WAIT_MS / 10 {
        if board.seen.load(Acquire) != 0 {
            break;
        }
        nap(10);
    }
    // SAFETY: no precondition.
    unsafe { libc::_exit(FAILED) }
}

pub fn errno() -> std::io::Error {
    std::io::Error::last_os_error()
}

pub fn thread_id() -> i32 {
    // SAFETY: no precondition.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}
