//! The heap before it is compacted: populated pages and fragmented ones, by a seed.

use refpage::moves::Arena;
use refpage::sys::vm::page_size;

use crate::object::{DEAD, Header, LEAST_WORDS, MOST_REFERENCES, MOST_WORDS, Object, Shadow, WORD};
use crate::random::Random;

/// Live objects of a populated page, in percent.
const POPULATED_LIVE: usize = 95;
/// Live objects of a fragmented page, in percent.
const FRAGMENTED_LIVE: usize = 15;
/// A reference in this many percent of the cases leads to an object nearby ...
const NEAR_PERCENT: usize = 75;
/// ... which is one of so many before or behind.
const NEAR: usize = 256;

/// What a heap looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// OS pages.
    pub pages: usize,
    /// How many populated pages follow each other, on average.
    pub populated_run: usize,
    /// How many fragmented pages follow each other, on average.
    pub fragmented_run: usize,
    /// References that an object has at most, 4 or fewer.
    pub references: usize,
    /// What all choices depend on.
    pub seed: u64,
}

/// Where objects are: the first word of each, by number, in words from the beginning of an arena.
#[derive(Clone, Debug)]
pub struct Places {
    start: usize,
    /// Behind the first word of the last object.
    end: usize,
    words: Vec<u32>,
}

impl Places {
    /// Places in the arena that begins at `start`.
    pub fn new(start: usize, words: Vec<u32>) -> Self {
        let last = words.iter().max().map_or(0, |&word| word as usize + 1);
        Self { start, end: start + last * WORD, words }
    }

    /// An object's address.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn address(&self, id: u32) -> usize {
        self.start + self.word(id) * WORD
    }

    /// The same in words from the beginning.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn word(&self, id: u32) -> usize {
        self.words[id as usize] as usize
    }

    /// Whether an object may be there, so that it can be looked at.
    pub fn may_hold(&self, address: usize) -> bool {
        address.is_multiple_of(WORD) && (self.start..self.end).contains(&address)
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.words.len()
    }
}

/// The live objects of a heap. What is live is given, as a marking phase would have found it.
#[derive(Debug)]
pub struct Heap {
    /// Where they are; their numbers follow their addresses.
    pub places: Places,
    /// What they are.
    pub headers: Vec<Header>,
    /// What they hold.
    pub shadows: Vec<Shadow>,
}

impl Heap {
    /// Fills the first pages of an arena.
    ///
    /// # Panics
    /// If the arena has fewer pages than the shape, or these are more than 32 GiB.
    pub fn create(arena: &Arena<'_>, shape: &Shape) -> Self {
        let bytes = shape.pages * page_size();
        assert!(shape.pages <= arena.pages() && u32::try_from(bytes / WORD).is_ok());
        let mut random = Random::new(shape.seed);
        let (words, headers) = layout(arena, shape, &mut random);
        let count = headers.len();
        let places = Places::new(arena.addresses().start, words);
        let shadows: Vec<Shadow> = (0..count)
            .map(|id| Shadow { version: 0, references: targets(id, count, &mut random) })
            .collect();
        for (header, shadow) in headers.iter().zip(&shadows) {
            // SAFETY: within the arena's page that `layout` put it in, which nobody uses yet.
            let object = unsafe { Object::at(places.address(header.id)) };
            object.create(*header, shadow, |id| places.address(id));
        }
        Self { places, headers, shadows }
    }
}

/// Divides the pages into objects, and fills those that are dead.
fn layout(arena: &Arena<'_>, shape: &Shape, random: &mut Random) -> (Vec<u32>, Vec<Header>) {
    let page_words = page_size() / WORD;
    let (mut places, mut headers) = (Vec::new(), Vec::<Header>::new());
    let (mut populated, mut left) = (true, 0);
    for page in 0..shape.pages {
        while left == 0 {
            populated = !populated;
            let run = if populated { shape.populated_run } else { shape.fragmented_run };
            // From 1 to twice the average but 1.
            left = if run == 0 { 0 } else { 1 + random.below(2 * run - 1) };
            assert!(shape.populated_run + shape.fragmented_run > 0);
        }
        left -= 1;
        // SAFETY: a page of the arena, which nobody uses yet.
        let words = unsafe {
            std::slice::from_raw_parts_mut(arena.address(page).cast::<u64>(), page_words)
        };
        words.fill(DEAD);
        let live = if populated { POPULATED_LIVE } else { FRAGMENTED_LIVE };
        let mut word = 0;
        while page_words - word >= LEAST_WORDS {
            let size = LEAST_WORDS + random.below(MOST_WORDS + 1 - LEAST_WORDS);
            // Small ones are more frequent: the lesser of two.
            let size = size.min(LEAST_WORDS + random.below(MOST_WORDS + 1 - LEAST_WORDS));
            let size = size.min(page_words - word);
            if random.chance(live) {
                let references = random.below(shape.references.min(MOST_REFERENCES) + 1);
                places.push((page * page_words + word) as u32);
                headers.push(Header { id: headers.len() as u32, words: size, references });
            }
            word += size;
        }
    }
    (places, headers)
}

fn targets(id: usize, count: usize, random: &mut Random) -> [u32; MOST_REFERENCES] {
    [0; MOST_REFERENCES].map(|_| {
        let target = match random.chance(NEAR_PERCENT) {
            true => (id + random.below(2 * NEAR)).saturating_sub(NEAR).min(count - 1),
            false => random.below(count),
        };
        target as u32
    })
}
