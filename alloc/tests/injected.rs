//! Moves and copies that fail, as the kernel may let them: whatever becomes of them, every byte is as it should be.

mod common;
#[path = "common/model.rs"]
mod model;

use std::sync::mpsc;

use model::{Block, churn};
use refpage::sys::inject::{Failure, Site, fail, failed};
use refpage_alloc::{heap, service_name};
use rustix::io::Errno;

/// Random steps with failures of a kind: how many of these there were.
fn steps_with(site: Site, every: u32, failure: Failure) -> u64 {
    let before = failed();
    fail(site, every, failure);
    std::thread::scope(|scope| {
        for seed in [1, 2] {
            scope.spawn(move || {
                let (sender, receiver) = mpsc::channel();
                churn(u64::from(every) * 100 + seed, 700, &sender, &receiver);
                drop(sender);
                receiver.into_iter().for_each(Block::free);
            });
        }
    });
    // What is cached goes the way to the pool or the kernel, too.
    heap::trim(0);
    fail(site, 0, failure);
    failed() - before
}

/// What mm/userfaultfd.c answers to a MOVE, and a descriptor that is lost.
const MOVES: [Errno; 9] = [
    Errno::AGAIN,
    Errno::BUSY,
    Errno::EXIST,
    Errno::NOENT,
    Errno::INVAL,
    Errno::NOMEM,
    Errno::FAULT,
    Errno::NOTTY,
    Errno::BADF,
];

/// The same for a COPY, without what ends the process as it should: a page that cannot be filled.
const COPIES: [Errno; 5] = [Errno::AGAIN, Errno::EXIST, Errno::NOMEM, Errno::NOTTY, Errno::BADF];

/// Churns with each failure, and expects some of each where the process `uses` the call.
fn every_failure_at(site: Site, answers: &[Errno], uses: bool) {
    let refused = answers.iter().copied().map(Failure::Refused);
    for failure in refused.chain([Failure::Short]) {
        for every in [2, 7] {
            let times = steps_with(site, every, failure);
            assert!(times > 0 || !uses, "{site:?}, {failure:?}, every {every}: never");
        }
    }
}

#[test]
fn every_byte_is_right_whatever_fails() {
    let no_moves = common::no_moves();
    every_failure_at(Site::Move, &MOVES, no_moves.is_none());
    every_failure_at(Site::Copy, &COPIES, ["lazy", "eager"].contains(&service_name()));
    if let Some(reason) = no_moves {
        eprintln!("skipped in part: {reason}");
    }
}
