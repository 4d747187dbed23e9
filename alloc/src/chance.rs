//! Chance: for placing blocks where nobody foresees it, and links that nobody forges.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Numbers that nobody outside the process knows. Threads share it.
///
/// The generator is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014), begun with the 16 random bytes that the kernel gives every program
/// (AT_RANDOM, getauxval(3)): enough against who cannot read the process's memory, and no system call.
#[derive(Debug)]
pub struct Chance {
    state: AtomicU64,
    secret: u64,
}

impl Chance {
    /// Begun anew.
    pub fn new() -> Self {
        let mut seed = [0u64; 2];
        // SAFETY: getauxval has no precondition, and what it gives for AT_RANDOM is null or the address of
        // 16 bytes that stay.
        unsafe {
            let bytes = libc::getauxval(libc::AT_RANDOM) as *const [u64; 2];
            if !bytes.is_null() {
                seed = bytes.read_unaligned();
            }
        }
        let [state, other] = seed;
        // libc's own secrets are made of the same bytes: who learns one of ours shall not learn them.
        let this = Self { state: AtomicU64::new(state ^ other.rotate_left(32)), secret: 0 };
        Self { secret: this.next() ^ this.next().rotate_left(17), ..this }
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.state.fetch_add(STEP, Relaxed);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number of this process's that stays the same.
    pub fn secret(&self) -> usize {
        self.secret as usize
    }

    /// Brings `items` into an order by chance.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            items.swap(end - 1, (self.next() % end as u64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_about_equally_often() {
        let chance = Chance::new();
        let mut seen = [0; 6];
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            chance.shuffle(&mut items);
            seen[match items {
                [0, 1, 2] => 0,
                [0, 2, 1] => 1,
                [1, 0, 2] => 2,
                [1, 2, 0] => 3,
                [2, 0, 1] => 4,
                _ => 5,
            }] += 1;
        }
        // Seven standard deviations of 29.
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }
}
