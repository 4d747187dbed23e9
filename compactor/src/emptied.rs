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

    /// Drops all of the arena, when nobody needs any of it any more: pages that are gone cost nothing, and what is left
    /// between them goes in one system call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drop_all(&self) -> Result<(), Refused> {
        self.lock().clear();
        self.from.drop_pages(Pages { first: 0, count: self.from.pages() })
    }

    /// Neighbours in one system call.
    fn drop_pages(&self, pages: VecDeque<usize>) -> Result<(), Refused> {
        let mut pages = Vec::from(pages);
        pages.sort_unstable();
        let mut neighbours = pages.chunk_by(|page, next| page + 1 == *next);
        neighbours
            .try_for_each(|run| self.from.drop_pages(Pages { first: run[0], count: run.len() }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<usize>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
