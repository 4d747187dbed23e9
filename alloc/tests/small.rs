//! Small blocks through the global allocator, against a shadow model of every byte: all sizes around and below the
//! threshold at all alignments, among threads.

#[path = "common/model.rs"]
mod model;

use std::sync::mpsc;

use model::{Block, Mix, churn};
use refpage_alloc::options::Options;
use refpage_alloc::{RefPage, heap};

#[global_allocator]
// What is in quarantine takes addresses that are counted here.
static ALLOCATOR: RefPage = RefPage::with_options(Options::new().quarantine(0));

const THREADS: usize = 4;

/// Four threads that end one after another while the rest goes on: what they leave is freed by others.
fn threads(seed: u64, steps: usize) {
    let channels: Vec<_> = (0..THREADS).map(|_| mpsc::channel::<Block>()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
    let left: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(i, receiver)| {
                let next = senders[(i + 1) % THREADS].clone();
                scope.spawn(move || {
                    let steps = steps * (i + 1) / THREADS;
                    churn(seed + i as u64, Mix::Small, steps, &next, &receiver);
                    receiver
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("a thread ends well")).collect()
    });
    drop(senders);
    left.into_iter().flatten().for_each(Block::free);
}

/// One test: others would count in the same process.
#[test]
fn every_alignment_of_every_size_among_threads_leaves_nothing() {
    threads(0xA11, 24_000);
    let first = heap::stats();
    for round in 0..12 {
        threads(0xB0B + round * 10, 4000);
    }
    let last = heap::stats();
    // Threads that have ended hold nothing.
    assert!(
        last.small_live_bytes <= first.small_live_bytes + (2 << 20),
        "{first:?}, then {last:?}"
    );
    assert!(
        last.region_used_bytes <= first.region_used_bytes + (32 << 20),
        "{first:?}, then {last:?}"
    );
}
