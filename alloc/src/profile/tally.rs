//! Counts by size class. Large allocations have four classes to a doubling, from 1 KiB on; small ones those of their
//! blocks.

use refpage::Count;

use crate::classes;
use crate::extents::{BINS, bin_of, bin_slots};

/// Shares written that are told apart.
pub const SHARES: usize = 8;

macro_rules! tallies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of one class, which any thread may add to.
        #[derive(Debug, Default)]
        pub struct Tally {
            $(pub $name: Count,)*
            share_written: [Count; SHARES],
        }

        impl Tally {
            const fn new() -> Self {
                Self {
                    $($name: Count::new(),)*
                    share_written: [const { Count::new() }; SHARES],
                }
            }

            fn clear(&self) {
                $(self.$name.set(0);)*
                self.share_written.iter().for_each(|count| count.set(0));
            }

            /// The counts of now.
            pub fn sum(&self) -> Sum {
                Sum {
                    $($name: self.$name.get(),)*
                    share_written: self.share_written.each_ref().map(Count::get),
                }
            }
        }

        /// Counts of one class, or several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Sum {
            $($(#[$doc])* pub $name: u64,)*
            /// Allocations by the share of their pages that was written to.
            pub share_written: [u64; SHARES],
        }

        impl Sum {
            /// Adds another one.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)*
                for (count, more) in self.share_written.iter_mut().zip(other.share_written) {
                    *count = count.saturating_add(more);
                }
            }

            /// Each count with its name.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

tallies! {
    /// Allocations by malloc and its like, `realloc` of nothing among them.
    mallocs,
    /// By calloc.
    callocs,
    /// Allocations freed.
    frees,
    /// Bytes asked for, and by realloc in addition.
    bytes_asked,
    /// Bytes among those by realloc.
    bytes_grown,
    /// Bytes among those by allocations that got a freed run.
    bytes_recycled,
    /// Allocations, freed or live, that got a freed run in place.
    recycled,
    /// How often realloc changed the size of one.
    reallocs,
    /// Allocations that came to be of this class by realloc.
    grown_in,
    /// Allocations that came to be of another one.
    grown_out,
    /// Allocations not freed when the process exits: mallocs, callocs and `grown_in` less frees and `grown_out`.
    live,
    /// Allocations of which it could not be found out which of their pages were there.
    unknown,
    /// Their pages.
    pages_unknown,
    /// Pages of all others, live ones among them: as many as they had when they were freed, and those cut off by realloc.
    pages_asked,
    /// Pages among those that were in place before they were handed out.
    pages_kept,
    /// Pages that were in place when they were freed, or at exit.
    pages_present,
    /// Pages that were written to.
    pages_written,
    /// As `pages_asked`, of live allocations alone.
    live_pages_asked,
    /// As `pages_present`, of these.
    live_pages_present,
    /// As `pages_written`, of these.
    live_pages_written,
    /// Allocations of which less than half was written to.
    sparse,
    /// Bytes of these, as many as each ever had.
    sparse_bytes,
}

impl Tally {
    /// One more allocation, of so many pages.
    pub fn note_share(&self, written: usize, asked: usize) {
        if let Some(count) = self.share_written.get(share(written, asked)) {
            count.add(1);
        }
    }
}

impl Sum {
    /// Allocations that were of this class when they were freed, or the process exited.
    pub fn ended(&self) -> u64 {
        self.frees.saturating_add(self.live)
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.entries().all(|(_, count)| count == 0)
    }
}

/// The place of a share: none, up to 1/16, 1/8, 1/4, 1/2, 3/4, less than all, all.
fn share(written: usize, asked: usize) -> usize {
    match written {
        0 => 0,
        _ if written >= asked => SHARES - 1,
        _ => {
            let bounds = [(1, 16), (1, 8), (1, 4), (1, 2), (3, 4)];
            let within = |&(part, whole): &(usize, usize)| written * whole <= asked * part;
            bounds.iter().position(within).map_or(SHARES - 2, |place| place + 1)
        }
    }
}

/// Small blocks, by the class of their block.
pub static SMALL: [Tally; classes::COUNT] = [const { Tally::new() }; classes::COUNT];

/// Large allocations of malloc's and of calloc's. What no allocation is of stays untouched memory.
static LARGE: [[Tally; BINS]; 2] = [const { [const { Tally::new() }; BINS] }; 2];

/// Bytes of the unit that the classes of large allocations are counted in.
const UNIT: usize = 1 << 10;

/// The class of so many bytes. (The last one has no end: no address space has room for it.)
pub fn class_of(bytes: usize) -> usize {
    bin_of(bytes / UNIT).min(BINS - 1)
}

/// The fewest and the most bytes of a class of large allocations.
pub fn bounds(class: usize) -> (usize, usize) {
    (bin_slots(class) * UNIT, bin_slots(class + 1) * UNIT - 1)
}

/// Where a large allocation of so many bytes counts.
pub fn large(bytes: usize, zeroed: bool) -> &'static Tally {
    &LARGE[usize::from(zeroed)][class_of(bytes)]
}

/// Forgets everything.
pub fn clear() {
    // What was never written to stays so: a child is to get no pages of its own for that.
    let used = SMALL.iter().chain(LARGE.iter().flatten()).filter(|tally| !tally.sum().is_empty());
    used.for_each(Tally::clear);
}

/// One line of the profile.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Fewest and most bytes.
    pub bytes: (usize, usize),
    /// Whether they are large allocations.
    pub large: bool,
    /// Of calloc's; small ones are told together.
    pub zeroed: bool,
    /// How many, and what became of them.
    pub sum: Sum,
}

/// All rows with anything in them: small ones, then large ones, the smallest first.
pub fn rows() -> impl Iterator<Item = Row> {
    let small = SMALL.iter().enumerate().map(|(class, tally)| {
        let least = class.checked_sub(1).map_or(0, |below| classes::size(below) + 1);
        let mut sum = tally.sum();
        // Those that a child of fork has from its parent are freed without having been counted.
        sum.live = (sum.mallocs + sum.callocs).saturating_sub(sum.frees);
        Row { bytes: (least, classes::size(class)), large: false, zeroed: false, sum }
    });
    let large = (0..BINS).flat_map(|class| {
        [false, true].map(|zeroed| {
            let sum = LARGE[usize::from(zeroed)][class].sum();
            Row { bytes: bounds(class), large: true, zeroed, sum }
        })
    });
    small.chain(large).filter(|row| !row.sum.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_a_quarter_of_a_doubling_each_and_leave_no_gap() {
        for class in 0..BINS - 1 {
            let (least, most) = bounds(class);
            assert_eq!((class_of(least), class_of(most)), (class, class));
            assert_eq!(bounds(class + 1).0, most + 1);
        }
        assert_eq!(bounds(class_of(64 << 10)), (64 << 10, (80 << 10) - 1));
        assert_eq!(bounds(class_of(1 << 20)), (1 << 20, (1280 << 10) - 1));
        assert_eq!(bounds(class_of((1 << 20) - 1)), (896 << 10, (1 << 20) - 1));
        assert_eq!(class_of(usize::MAX >> 1), BINS - 1);
    }

    #[test]
    fn shares_are_told_apart_at_their_bounds() {
        let places = [
            (0, 0),
            (1, 1),
            (16, 1),
            (17, 2),
            (32, 2),
            (33, 3),
            (64, 3),
            (65, 4),
            (128, 4),
            (129, 5),
            (192, 5),
            (193, 6),
            (255, 6),
            (256, 7),
        ];
        for (written, place) in places {
            assert_eq!(share(written, 256), place, "{written} of 256");
        }
        assert_eq!((share(0, 1), share(1, 1)), (0, 7));
    }

    #[test]
    fn sums_add_up() {
        let tally = Tally::default();
        tally.mallocs.add(2);
        tally.pages_asked.add(7);
        tally.note_share(1, 2);
        let mut sum = tally.sum();
        sum.add(&tally.sum());
        assert_eq!((sum.mallocs, sum.pages_asked, sum.share_written[4]), (4, 14, 2));
        tally.clear();
        assert!(tally.sum().is_empty() && !sum.is_empty());
    }
}
