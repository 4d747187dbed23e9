//! Single pages, moved many at a time.

use crate::moves::arena::Arena;
use crate::moves::outcome::Stop;

/// Moves from one arena to another that wait until no more can be put together with them: who moves page
/// after page needs a system call only where the order of either side breaks, or a batch is full.
///
/// What was not [flushed](Self::flush) when it is dropped stays where it is.
#[derive(Debug)]
pub struct Batch<'a> {
    to: &'a Arena<'a>,
    from: &'a Arena<'a>,
    most: usize,
    waiting: Waiting,
}

/// Pages that follow each other on both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Waiting {
    to: usize,
    from: usize,
    count: usize,
}

/// Pages of a batch that were not moved: by their numbers in the two arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmoved {
    /// Where the first of them was to go.
    pub to: usize,
    /// Where it is.
    pub from: usize,
    /// How many follow each other there.
    pub count: usize,
    /// What stands in the way of the first.
    pub stop: Stop,
}

impl<'a> Batch<'a> {
    /// Moves to `to` from `from`, at most `most` pages at a time.
    ///
    /// In a move of 64, a page costs about a tenth of what it costs alone; in a longer one, little less.
    pub fn new(to: &'a Arena<'a>, from: &'a Arena<'a>, most: usize) -> Self {
        Self { to, from, most: most.max(1), waiting: Waiting::default() }
    }

    /// Pages that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.count
    }

    /// Adds a page, which is present at the source, and moves those that wait if it does not continue
    /// them, or if they are as many as may be.
    ///
    /// # Errors
    /// Those of them that were not moved: none waits any more but the one that was added.
    ///
    /// # Panics
    /// If one of the arenas has no such page: when they are moved.
    pub fn push(&mut self, to: usize, from: usize) -> Result<(), Unmoved> {
        let Waiting { to: first, from: source, count } = self.waiting;
        if count < self.most && (first + count, source + count) == (to, from) {
            self.waiting.count += 1;
            return Ok(());
        }
        let outcome = self.flush();
        self.waiting = Waiting { to, from, count: 1 };
        outcome
    }

    /// Moves the pages that wait.
    ///
    /// # Errors
    /// Those of them that were not moved: none waits any more.
    ///
    /// # Panics
    /// As [`push`](Self::push).
    pub fn flush(&mut self) -> Result<(), Unmoved> {
        let Waiting { to, from, count } = core::mem::take(&mut self.waiting);
        if count == 0 {
            return Ok(());
        }
        let moved = self.to.at(to).move_present_from(self.from.at(from), count);
        match moved.stop {
            None => Ok(()),
            Some(stop) => Err(Unmoved {
                to: to + moved.pages,
                from: from + moved.pages,
                count: count - moved.pages,
                stop,
            }),
        }
    }
}
