//! Failures on purpose: what the soak has to notice.

use std::sync::atomic::Ordering::*;

use clap::ValueEnum;

use crate::block::Source;
use crate::lane::Lane;
use crate::world::{board, nap};

/// The step, in the first thread, at which it is done.
const STEP: u64 = 100;

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Inject {
    Hang,
    WrongByte,
    Crash,
    Exit,
    Line,
}

/// Does what was asked for, if it is time.
pub fn perhaps(lane: &mut Lane) {
    let asked = board().inject.load(Relaxed);
    if asked == 0 || lane.step != STEP || lane.who.path != "0" {
        return;
    }
    match Inject::value_variants()[asked as usize - 1] {
        Inject::Hang => loop {
            nap(1000);
        },
        Inject::WrongByte => {
            let block = lane.need(Source::Malloc, 100_000);
            // SAFETY: a byte of the block, which this lane alone holds.
            unsafe { block.start().add(70_000).write_volatile(1) };
            lane.check(&block, 0..100_000);
            lane.discard(block);
        }
        // SAFETY: the signal has no handler, and ends the process.
        Inject::Crash => unsafe {
            libc::raise(libc::SIGKILL);
        },
        Inject::Exit => std::process::exit(3),
        Inject::Line => eprintln!("refpage: a line on stderr"),
    }
}
