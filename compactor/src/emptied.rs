//! Pages of the from-arena whose objects are elsewhere: frames for other objects, or to be dropped.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use refpage::Pages;
use refpage::moves::{Arena, Refused};

/// First in, first out: pages that were emptied one after the other become neighbours again.
#[derive(Debug)]
pub struct Emptied<'a> {
    from: &'a Arena<'a>,
    pages: Mutex<VecDeque<usize>>,
    /// So many are dropped together, if nobody fills them.
    most: usize,
}

impl<'a> Emptied<'a> {
    /// None yet. As soon as there are `most`, all of them are dropped.
    pub fn new(from: &'a Arena<'a>, most: usize) -> Self {
        Self { from, pages: Mutex::default(), most }
    }

    /// Adds pages, whose content nobody needs any more.
    ///
    /// # Errors
    /// What the kernel says to dropping.
    pub fn add(&self, pages: Range<usize>) -> Result<(), Refused> {
        let mut all = self.lock();
        all.extend(pages);
        if all.len() < self.most {
            return Ok(());
        }
        let full = std::mem::take(&mut *all);
        drop(all);
        self.drop_pages(full)
    }

    /// A page to be filled, if there is one.
    pub fn take(&self) -> Option<usize> {
        self.lock().pop_front()
    }

    /// Drops those that are left.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drop_rest(&self) -> Result<(), Refused> {
        let rest = std::mem::take(&mut *self.lock());
        self.drop_pages(rest)
    }

    /// Neighbours in one system call.
    fn drop_pages(&self, pages: VecDeque<usize>) -> Result<(), Refused> {
        let mut pages = Vec::from(pages);
        pages.sort_unstable();
        let neighbours = pages.chunk_by(|page, next| page + 1 == *next);
        neighbours
            .map(|run| self.from.drop_pages(Pages { first: run[0], count: run.len() }))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<usize>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
