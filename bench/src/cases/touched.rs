//! Which pages of a block are written to, and in which order.

use crate::seed;

/// A choice of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The first page.
    First,
    /// The first part, in percent of the pages, rounded up.
    Prefix(usize),
    /// As many, but anywhere, in random order.
    Scattered(usize),
    /// One page in so many, in order.
    OneIn(usize),
    /// As many, but anywhere, in random order.
    RandomOneIn(usize),
}

impl Touched {
    /// How many pages of `pages` that is.
    fn count(self, pages: usize) -> usize {
        match self {
            Self::First => 1,
            Self::Prefix(percent) | Self::Scattered(percent) => (pages * percent).div_ceil(100),
            Self::OneIn(step) | Self::RandomOneIn(step) => pages.div_ceil(step),
        }
    }

    /// The pages to write to, for one use of a block after the other.
    pub fn order(self, pages: usize) -> Order {
        let count = self.count(pages);
        let order = match self {
            Self::First | Self::Prefix(_) => (0..count).collect(),
            Self::OneIn(step) => (0..pages).step_by(step).collect(),
            Self::Scattered(_) | Self::RandomOneIn(_) => {
                let mut order = seed::random(2020).permutation(pages);
                // Twice, so that every use is one slice.
                order.extend_from_within(..count);
                order
            }
        };
        seed::note(order.iter().map(|&page| page as u64));
        Order { order, count, pages }
    }
}

/// The pages of each use.
pub struct Order {
    order: Vec<usize>,
    count: usize,
    pages: usize,
}

impl Order {
    /// The pages of the use with that number. Scattered ones are other pages each time.
    #[inline]
    pub fn of_use(&self, number: usize) -> &[usize] {
        let fixed = self.order.len() == self.count;
        let start = if fixed { 0 } else { number.wrapping_mul(self.count) % self.pages };
        &self.order[start..start + self.count]
    }

    /// Which pages of a block are among them.
    pub fn mask_of_use(&self, number: usize) -> Vec<bool> {
        let mut mask = vec![false; self.pages];
        for &page in self.of_use(number) {
            mask[page] = true;
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_up_to_pages() {
        assert_eq!(Touched::Prefix(10).order(16).of_use(3), [0, 1]);
        assert!(Touched::Prefix(0).order(16).of_use(0).is_empty());
        assert_eq!(Touched::OneIn(16).order(40).of_use(0), [0, 16, 32]);
        assert_eq!(Touched::First.order(1000).of_use(0), [0]);
    }

    #[test]
    fn scattered_pages_differ_from_use_to_use() {
        let order = Touched::Scattered(10).order(100);
        assert_ne!(order.of_use(0), order.of_use(1));
        for number in 0..100 {
            let mut pages = order.of_use(number).to_vec();
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len(), 10, "use {number}");
        }
    }
}
