//! Choices: a stream of numbers that depends on its seed alone, and a digest of those that were drawn.

/// splitmix64: any seed is as good as another.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One stream of choices.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    digest: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed), digest: 0 }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number from 0 to `bound` - 1. Digests what was asked for, too: a stream that is asked for other things
    /// belongs to a program that made other choices.
    pub fn below(&mut self, bound: usize) -> usize {
        let drawn = (self.next() >> 16) as usize % bound.max(1);
        self.digest = mix(self.digest ^ (bound as u64) << 32 ^ drawn as u64);
        drawn
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// What is the same if, and as good as only if, the choices were the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let choices = |seed| {
            let mut random = Random::new(seed);
            let drawn: Vec<_> = (1..100).map(|bound| random.below(bound)).collect();
            (drawn, random.digest())
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7).1, choices(8).1);
    }
}
