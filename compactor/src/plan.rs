//! What comes where: decided before anything moves.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel};

use refpage::moves::Arena;
use refpage::sys::vm::page_size;

use crate::heap::{Heap, Places};
use crate::object::WORD;

/// Live words that make a page populated, in percent: more than it is worth to gather.
const POPULATED_PERCENT: usize = 70;
/// The destination of a page whose objects go to several.
const SCATTERED: u32 = u32::MAX;

/// Where the content of a page of the to-arena comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A populated page, as it is.
    Whole {
        /// Its number in the from-arena.
        from: usize,
    },
    /// Objects of fragmented pages.
    Gathered,
}

/// A live object on its way, in words from the beginnings of both arenas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where it is.
    pub from: u32,
    /// Where it goes to.
    pub to: u32,
    /// Its length.
    pub words: u32,
}

/// The whole compaction.
#[derive(Debug)]
pub struct Plan {
    /// Where the objects will be.
    pub places: Places,
    /// The pages of the from-arena that hold no live object.
    pub empty: Vec<usize>,
    /// What each page of the to-arena is made of, and which of the passages end there.
    destinations: Vec<(Source, Range<usize>)>,
    /// By destination.
    passages: Vec<Passage>,
    forwarding: Forwarding,
    /// Live objects that a fragmented page still holds.
    remaining: Vec<AtomicU32>,
}

/// From old addresses to new ones.
#[derive(Debug)]
struct Forwarding {
    start: usize,
    places: usize,
    /// Words of a page, as a power of two: this is asked for each reference.
    page_shift: u32,
    /// By page of the from-arena: which page it becomes, or [`SCATTERED`].
    whole: Vec<u32>,
    /// By page of the from-arena: the first of its objects in `scattered`; and the end.
    first: Vec<u32>,
    /// Old and new word of the objects of fragmented pages, by the old one.
    scattered: Vec<(u32, u32)>,
}

impl Plan {
    /// Populated pages go whole, the objects of the others are slid together, both in the order of their addresses.
    pub fn new(heap: &Heap, from: &Arena<'_>, to: &Arena<'_>, pages: usize) -> Self {
        let page_words = page_size() / WORD;
        let count = heap.headers.len();
        let mut sources = Vec::new();
        let mut passages = Vec::with_capacity(count);
        let mut forwarding = Forwarding {
            start: from.addresses().start,
            places: to.addresses().start,
            page_shift: page_words.ilog2(),
            whole: Vec::with_capacity(pages),
            first: Vec::with_capacity(pages + 1),
            scattered: Vec::new(),
        };
        let (mut empty, mut remaining) = (Vec::new(), Vec::with_capacity(pages));
        let mut places = vec![0; count];
        // The page that is gathered, and how many of its words are taken.
        let mut open = (0, page_words);
        let mut next = 0;
        for page in 0..pages {
            let first = next;
            while next < count && heap.places.word(next as u32) / page_words == page {
                next += 1;
            }
            let live: usize = heap.headers[first..next].iter().map(|header| header.words).sum();
            let whole = live * 100 >= page_words * POPULATED_PERCENT;
            forwarding.first.push(forwarding.scattered.len() as u32);
            forwarding.whole.push(if whole { sources.len() as u32 } else { SCATTERED });
            remaining.push(AtomicU32::new(if whole { 0 } else { (next - first) as u32 }));
            if live == 0 {
                empty.push(page);
            }
            for (id, place) in places.iter_mut().enumerate().take(next).skip(first) {
                let (old, words) = (heap.places.word(id as u32), heap.headers[id].words);
                let new = if whole {
                    sources.len() * page_words + old % page_words
                } else {
                    if open.1 + words > page_words {
                        open = (sources.len(), 0);
                        sources.push(Source::Gathered);
                    }
                    open.1 += words;
                    open.0 * page_words + open.1 - words
                };
                *place = new as u32;
                passages.push(Passage { from: old as u32, to: new as u32, words: words as u32 });
                if !whole {
                    forwarding.scattered.push((old as u32, new as u32));
                }
            }
            if whole {
                sources.push(Source::Whole { from: page });
            }
        }
        forwarding.first.push(forwarding.scattered.len() as u32);
        passages.sort_unstable_by_key(|passage| passage.to);
        let destinations = ranges(sources, &passages, page_words);
        let places = Places::new(to.addresses().start, places);
        Self { places, empty, destinations, passages, forwarding, remaining }
    }

    /// Pages of the to-arena that come into use.
    pub fn pages(&self) -> usize {
        self.destinations.len()
    }

    /// Where the content of a page comes from.
    ///
    /// # Panics
    /// If it is not one of the plan's.
    pub fn source(&self, page: usize) -> Source {
        self.destinations[page].0
    }

    /// The objects that a page will hold, in their order there.
    ///
    /// # Panics
    /// If it is not one of the plan's.
    pub fn passages(&self, page: usize) -> &[Passage] {
        &self.passages[self.destinations[page].1.clone()]
    }

    /// The new address of a live object.
    ///
    /// # Panics
    /// If there was none at the old one.
    pub fn forward(&self, old: usize) -> usize {
        self.forwarding.forward(old)
    }

    /// One of a fragmented page's objects was taken: whether it was the last.
    pub fn took_one(&self, from_page: usize) -> bool {
        // All of them were read before the page is used for others.
        self.remaining[from_page].fetch_sub(1, AcqRel) == 1
    }
}

impl Forwarding {
    fn forward(&self, old: usize) -> usize {
        let word = old.checked_sub(self.start).expect("an address of the from-arena") / WORD;
        let page = word >> self.page_shift;
        let new = match self.whole[page] {
            SCATTERED => {
                let objects = self.first[page] as usize..self.first[page + 1] as usize;
                let objects = &self.scattered[objects];
                let found = objects.binary_search_by_key(&(word as u32), |object| object.0);
                objects[found.expect("a live object")].1 as usize
            }
            whole => ((whole as usize) << self.page_shift) + (word - (page << self.page_shift)),
        };
        self.places + new * WORD
    }
}

/// With each source, which of the passages, that are in order, end in its page.
fn ranges(
    sources: Vec<Source>,
    passages: &[Passage],
    page_words: usize,
) -> Vec<(Source, Range<usize>)> {
    let mut end = 0;
    let of_page = |(page, source)| {
        let first = end;
        while passages.get(end).is_some_and(|passage| passage.to as usize / page_words == page) {
            end += 1;
        }
        (source, first..end)
    };
    sources.into_iter().enumerate().map(of_page).collect()
}
