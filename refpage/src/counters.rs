//! What the engine has done so far.

use core::sync::atomic::{AtomicU64, Ordering};

/// A count that any thread may add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The engine's counters; pages are OS pages.
#[derive(Debug, Default)]
pub struct Counters {
    /// Missing faults that the handler answered.
    pub faults: Count,
    /// Pages moved in from the pool, huge blocks included.
    pub moved: Count,
    /// Huge blocks moved in whole.
    pub huge_moved: Count,
    /// Pages copied in because the pool had none, or the move was refused.
    pub copied: Count,
    /// Missing pages of zero content put in place.
    pub zeroed: Count,
    /// Pages filled at allocation (service `memset`).
    pub filled: Count,
    /// Pages that came into use without a file under them, because the process has too many
    /// mappings (service `cow`).
    pub unbacked: Count,
    /// Present pages of freed runs whose content was restored.
    pub refilled: Count,
    /// Pages moved within the Region for realloc instead of being copied.
    pub relocated: Count,
    /// Pages that went from freed runs to the pool.
    pub pooled: Count,
    /// Pages given back to the kernel.
    pub purged: Count,
}
