//! Random allocations against a shadow model of every byte, through the global allocator.

#[path = "common/model.rs"]
mod model;

use std::sync::mpsc;

use model::{Block, Mix, churn};
use refpage_alloc::{RefPage, service_name};

#[global_allocator]
static ALLOCATOR: RefPage = RefPage::new();

#[test]
fn blocks_hold_what_the_model_says() {
    let (sender, receiver) = mpsc::channel();
    churn(0x5EED, Mix::Programs, 6000, &sender, &receiver);
    drop(sender);
    receiver.into_iter().for_each(Block::free);
    println!("service {}", service_name());
}

#[test]
fn blocks_that_other_threads_free_hold_it_too() {
    const THREADS: usize = 4;
    let channels: Vec<_> = (0..THREADS).map(|_| mpsc::channel::<Block>()).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
    std::thread::scope(|scope| {
        for (i, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(i + 1) % THREADS].clone();
            scope.spawn(move || {
                churn(i as u64 + 1, Mix::Programs, 1500, &next, &receiver);
                drop(next);
                // Bounded: what still comes is freed when the channel goes with its blocks' owner.
                receiver.try_iter().for_each(Block::free);
            });
        }
    });
}
