//! The engine's figures as the words that they are in memory, for who looks on from outside the process.
//!
//! Such a reader holds no lock and calls nothing: it reads each word as it is at that moment. So a figure
//! for it is one word, or a few of the same kind that it adds up.

use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

use crate::counters::{Cause, Count, Counters, FallBacks, Histogram};
use crate::engine::Engine;
use crate::pool::SHARDS;

/// Where the words are. They stay there for as long as the process runs.
#[derive(Debug)]
pub struct Words<'a> {
    /// The [`Service`](crate::Service) in force, as a number.
    pub service: &'a AtomicU64,
    /// Not null: it is `lazy`, asleep.
    pub asleep: &'a AtomicPtr<Engine>,
    /// For each part of the Region, the first page behind all that were ever in use.
    pub used: [&'a AtomicUsize; 2],
    /// Single pages that wait in each shard of the pool.
    pub pool_singles: [Option<&'a AtomicUsize>; SHARDS],
    /// Blocks of 2 MiB that wait in the pool.
    pub pool_blocks: Option<&'a AtomicUsize>,
}

impl Words<'_> {
    /// Shards that a pool may have.
    pub const SHARDS: usize = SHARDS;
}

impl Engine {
    /// Where the words are that are no [counters](Self::counters).
    pub fn words(&self) -> Words<'_> {
        let pool = self.supplies.as_ref().map(|supplies| &supplies.pool);
        Words {
            service: self.service.word(),
            asleep: &self.asleep,
            used: self.region().used_words(),
            pool_singles: pool.map_or([None; SHARDS], |pool| pool.single_words()),
            pool_blocks: pool.map(|pool| pool.huge.ready_word()),
        }
    }
}

// A row of counts is a row of words.
const _: () = assert!(size_of::<Count>() == size_of::<u64>());
const _: () = assert!(size_of::<Histogram>() == Histogram::PLACES * size_of::<u64>());
const _: () = assert!(size_of::<FallBacks>() == Cause::COUNT * size_of::<u64>());

impl Counters {
    /// The first of the [`Histogram::PLACES`] words of [`windows`](Self::windows).
    pub fn window_words(&self) -> *const u64 {
        (&raw const self.windows).cast()
    }

    /// The first of the [`Cause::COUNT`] words of [`fall_backs`](Self::fall_backs).
    pub fn fall_back_words(&self) -> *const u64 {
        (&raw const self.fall_backs).cast()
    }
}
