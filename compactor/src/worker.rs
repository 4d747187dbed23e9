//! What the compactor and who answers faults do with a page: prepare it, and send it on its way.

use refpage::moves::Batch;
use refpage::sys::vm::page_size;

use crate::carry::{Carrier, Run, Way};
use crate::object::{Object, WORD};
use crate::plan::{Passage, Plan, Source};

/// A thread that prepares pages.
#[derive(Debug)]
pub struct Worker<'a> {
    plan: &'a Plan,
    carrier: &'a Carrier<'a>,
    line: Line<'a>,
    /// What is gathered for copies, as many pages as go together.
    buffer: Vec<u64>,
    /// How many pages go together.
    most: usize,
}

/// Pages that are prepared, and wait for others to go with them.
#[derive(Debug)]
enum Line<'a> {
    Moves(Batch<'a>),
    Run(Option<Run>),
}

impl<'a> Worker<'a> {
    /// One whose pages go in groups of `most` at most.
    pub fn new(plan: &'a Plan, carrier: &'a Carrier<'a>, most: usize) -> Self {
        let line = match carrier.way {
            Way::Move => Line::Moves(Batch::new(carrier.to, carrier.from, most)),
            Way::Copy | Way::Mremap => Line::Run(None),
        };
        let buffer = vec![0; most * page_size() / WORD];
        Self { plan, carrier, line, buffer, most }
    }

    /// Prepares a page of the to-arena, and sends it on its way, now or with the next ones.
    ///
    /// # Safety
    /// It is this worker's alone to prepare, and done once. All that uses the heap goes by the new addresses.
    pub unsafe fn page(&mut self, to: usize) {
        let passages = self.plan.passages(to);
        match self.plan.source(to) {
            Source::Whole { from } => {
                let page = self.carrier.from.address(from);
                for passage in passages {
                    // SAFETY: a live object of a page that is this worker's.
                    unsafe { self.update(page, passage.from) };
                }
                self.push(Run { to, bytes: page, from: Some(from), count: 1 });
            }
            Source::Gathered => {
                let frame = match self.carrier.way {
                    Way::Move => self.carrier.emptied.take(),
                    Way::Copy | Way::Mremap => None,
                };
                let bytes = match frame {
                    Some(page) => self.carrier.from.address(page),
                    None => self.room(to),
                };
                // SAFETY: the frame has no live object any more, and is this worker's since it was taken; so is
                // the buffer.
                unsafe { self.gather(passages, bytes) };
                self.push(Run { to, bytes, from: frame, count: 1 });
            }
        }
    }

    /// Sends all on their way that wait.
    pub fn flush(&mut self) {
        match &mut self.line {
            Line::Moves(batch) => {
                if let Err(unmoved) = batch.flush() {
                    // SAFETY: the pages were prepared by this worker.
                    unsafe { self.carrier.settle(unmoved) };
                }
            }
            Line::Run(run) => {
                if let Some(run) = run.take() {
                    // SAFETY: as above.
                    unsafe { self.carrier.carry(run) };
                }
            }
        }
    }

    fn push(&mut self, next: Run) {
        match (&mut self.line, next.from) {
            (Line::Moves(batch), Some(from)) => {
                if let Err(unmoved) = batch.push(next.to, from) {
                    // SAFETY: the pages were prepared by this worker.
                    unsafe { self.carrier.settle(unmoved) };
                }
                if batch.waiting() == self.most {
                    self.flush();
                }
            }
            (Line::Moves(_), None) => {
                self.flush();
                // SAFETY: the buffer's first page. It is used again for the next one.
                unsafe { self.carrier.carry(next) };
            }
            (Line::Run(waiting), _) => {
                match waiting {
                    Some(run) if run.is_followed_by(&next) => run.count += 1,
                    _ => {
                        self.flush();
                        self.line = Line::Run(Some(next));
                    }
                }
                if let Line::Run(Some(run)) = self.line
                    && run.count == self.most
                {
                    self.flush();
                }
            }
        }
    }

    /// Room for a page in the buffer: behind those that wait there, if it can go with them.
    fn room(&mut self, to: usize) -> *mut u8 {
        let slot = match self.line {
            Line::Run(Some(Run { to: first, from: None, count, .. })) if first + count == to => {
                count
            }
            Line::Run(Some(Run { from: None, .. })) => {
                self.flush();
                0
            }
            _ => 0,
        };
        let words = page_size() / WORD;
        assert!((slot + 1) * words <= self.buffer.len());
        // Of the whole buffer, as pages that go together are read at once.
        // SAFETY: within the buffer.
        unsafe { self.buffer.as_mut_ptr().add(slot * words).cast() }
    }

    /// Copies objects together, and what they refer to is by new addresses then.
    ///
    /// # Safety
    /// The page is this worker's, and the objects are alive and not yet taken.
    unsafe fn gather(&self, passages: &[Passage], page: *mut u8) {
        let page_words = page_size() / WORD;
        let from = self.carrier.from.address(0);
        let mut end = 0;
        for passage in passages {
            let Passage { from: old, to, words } = *passage;
            let place = to as usize % page_words;
            end = place + words as usize;
            // SAFETY: the object is within the from-arena, and does not cross the end of a page on either side.
            unsafe {
                let object = from.add(old as usize * WORD).cast::<u64>();
                let copy = page.cast::<u64>().add(place);
                object.copy_to_nonoverlapping(copy, words as usize);
                self.update(page, to);
            }
            let source = old as usize / page_words;
            if self.plan.took_one(source) {
                // A page that is not dropped is only kept too long.
                let _ = self.carrier.emptied.add(source..source + 1);
            }
        }
        // SAFETY: the rest of the page.
        unsafe { page.cast::<u64>().add(end).write_bytes(0, page_words - end) };
    }

    /// Has an object refer to new addresses.
    ///
    /// # Safety
    /// There is an object, in old addresses, as far into the page as `word` is into its own, and it is this worker's.
    unsafe fn update(&self, page: *mut u8, word: u32) {
        let address = page as usize + word as usize * WORD % page_size();
        // SAFETY: the caller's promise.
        let object = unsafe { Object::at(address) };
        // One that is none is left to verification.
        let Some(header) = object.header() else { return };
        for slot in 0..header.references {
            object.set_reference(slot, self.plan.forward(object.reference(slot)));
        }
    }
}

impl Run {
    fn is_followed_by(&self, next: &Run) -> bool {
        let bytes = self.bytes as usize + self.count * page_size();
        let from = self.from.map(|from| from + self.count);
        (self.to + self.count, bytes, from) == (next.to, next.bytes as usize, next.from)
    }
}
