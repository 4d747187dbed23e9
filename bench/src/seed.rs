//! The seed of a run: what all chance in the workloads comes from, and a record of what came of it.
//!
//! The same seed gives the same work, whoever provides the memory. Workloads [`note`] what chance has chosen, so that
//! two measurements of a case can be told to have done the same.

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use refpage_compactor::Random;

static SEED: AtomicU64 = AtomicU64::new(0);
static NOTED: AtomicU64 = AtomicU64::new(0);

/// Sets the seed of this process, before anything is chosen.
pub fn set(seed: u64) {
    SEED.store(seed, Relaxed);
}

/// The seed.
pub fn get() -> u64 {
    SEED.load(Relaxed)
}

/// Random numbers by the seed; another `stream` has others.
pub fn random(stream: u64) -> Random {
    // Any odd factor but the generator's own step, which would make one seed's numbers those of the next, a step on.
    Random::new(stream ^ get().wrapping_mul(0xd134_2543_de82_ef95))
}

/// Records what was chosen. In which order threads do that makes no difference.
pub fn note(choices: impl IntoIterator<Item = u64>) {
    let mut hasher = DefaultHasher::new();
    choices.into_iter().for_each(|choice| hasher.write_u64(choice));
    NOTED.fetch_add(hasher.finish(), Relaxed);
}

/// What was recorded so far: the same for the same work.
pub fn noted() -> String {
    format!("{:016x}", NOTED.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_does_not_depend_on_the_order_of_threads() {
        let noted_after = |parts: [u64; 2]| {
            NOTED.store(0, Relaxed);
            parts.iter().for_each(|&part| note([part, 7]));
            noted()
        };
        let both = noted_after([1, 2]);
        assert_eq!(both, noted_after([2, 1]));
        assert_ne!(both, noted_after([1, 3]));
    }
}
