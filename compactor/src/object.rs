//! What an object looks like, and how each word of it is checked.
//!
//! ```text
//!     ┌────────┬─────────┬───────┬─────────────────┬─────────────────────────────┐
//!     │ header │ version │ check │ references  … 4 │ filling: depends on id, place │
//!     └────────┴─────────┴───────┴─────────────────┴─────────────────────────────┘
//! ```
//!
//! Header, length and filling never change, so that any thread may check them at any time. Version, check and
//! references are written by the object's owner alone, and checked by it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::random::mix;

/// Bytes of a word.
pub const WORD: usize = 8;
/// References that an object has at most.
pub const MOST_REFERENCES: usize = 4;
/// Words before the references.
const HEAD: usize = 3;
/// Words of the smallest object.
pub const LEAST_WORDS: usize = HEAD + MOST_REFERENCES;
/// Words of the largest one.
pub const MOST_WORDS: usize = 96;
/// Begins every header.
const MAGIC: u64 = 0xb1ec;
/// What dead objects are full of: no header, and no address of anything.
pub const DEAD: u64 = 0xdead_dead_dead_dead;

/// The part of an object that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number.
    pub id: u32,
    /// Its length, this word included.
    pub words: usize,
    /// How many of its words refer to objects.
    pub references: usize,
}

impl Header {
    fn word(self) -> u64 {
        let Self { id, words, references } = self;
        MAGIC << 48 | (words as u64) << 40 | (references as u64) << 32 | u64::from(id)
    }

    fn of(word: u64) -> Option<Self> {
        let [words, references] = [word >> 40, word >> 32].map(|bits| (bits & 0xff) as usize);
        let header = Self { id: word as u32, words, references };
        let sane = references <= MOST_REFERENCES && (LEAST_WORDS..=MOST_WORDS).contains(&words);
        (word >> 48 == MAGIC && sane).then_some(header)
    }
}

/// What the owner of an object knows of it, outside the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// How often it was written to.
    pub version: u64,
    /// The objects that it refers to, by number: as many as its header says.
    pub references: [u32; MOST_REFERENCES],
}

/// An object somewhere in an arena. All accesses are atomic: another thread may be its owner.
#[derive(Clone, Copy, Debug)]
pub struct Object(*const AtomicU64);

impl Object {
    /// The object at an address.
    ///
    /// # Safety
    /// As long as the value is used, [`MOST_WORDS`] words from there to the end of its page are memory that is only
    /// accessed atomically, or by this thread alone.
    pub unsafe fn at(address: usize) -> Self {
        Self(address as *const AtomicU64)
    }

    /// One of its words.
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < MOST_WORDS);
        // SAFETY: the promise made to `at`; every index here comes from a header that was checked.
        unsafe { &*self.0.add(index) }
    }

    /// Its header, if it is one.
    pub fn header(&self) -> Option<Header> {
        Header::of(self.word(0).load(Relaxed))
    }

    /// Writes the whole object.
    pub fn create(&self, header: Header, shadow: &Shadow, address: impl Fn(u32) -> usize) {
        self.word(0).store(header.word(), Relaxed);
        self.set_version(header, shadow.version);
        for slot in 0..header.references {
            self.set_reference(slot, address(shadow.references[slot]));
        }
        for index in HEAD + header.references..header.words {
            self.word(index).store(filling(header.id, index), Relaxed);
        }
    }

    /// The object that one of its words refers to, by address.
    pub fn reference(&self, slot: usize) -> usize {
        self.word(HEAD + slot).load(Relaxed) as usize
    }

    /// Refers to another one.
    pub fn set_reference(&self, slot: usize, address: usize) {
        self.word(HEAD + slot).store(address as u64, Relaxed);
    }

    /// Writes the version, with its check.
    pub fn set_version(&self, header: Header, version: u64) {
        self.word(1).store(version, Relaxed);
        self.word(2).store(check(header.id, version), Relaxed);
    }

    /// What is wrong with the part that never changes.
    pub fn check_filling(&self, header: Header) -> Result<(), String> {
        let wrong = |index: &usize| self.word(*index).load(Relaxed) != filling(header.id, *index);
        match (HEAD + header.references..header.words).find(wrong) {
            None => Ok(()),
            Some(index) => Err(format!("word {index} of object {} is wrong", header.id)),
        }
    }

    /// What is wrong with the part that its owner writes.
    pub fn check_owned(
        &self,
        header: Header,
        shadow: &Shadow,
        address: impl Fn(u32) -> usize,
    ) -> Result<(), String> {
        let id = header.id;
        let (version, proof) = (self.word(1).load(Relaxed), self.word(2).load(Relaxed));
        if version != shadow.version {
            return Err(format!("object {id} has version {version}, not {}", shadow.version));
        }
        if proof != check(id, version) {
            return Err(format!("the check of object {id} is wrong"));
        }
        for (slot, &target) in shadow.references.iter().enumerate().take(header.references) {
            let (found, expected) = (self.reference(slot), address(target));
            if found != expected {
                return Err(format!(
                    "reference {slot} of object {id} is {found:#x}, not {expected:#x}, object {target}"
                ));
            }
        }
        Ok(())
    }
}

fn filling(id: u32, index: usize) -> u64 {
    // One multiplication: mutators check it all the time.
    (u64::from(id) << 8 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn check(id: u32, version: u64) -> u64 {
    mix(u64::from(id) << 32 ^ version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(words: &mut [u64; MOST_WORDS]) -> Object {
        // SAFETY: the words are the test's alone.
        unsafe { Object::at(words.as_mut_ptr() as usize) }
    }

    const HEADER: Header = Header { id: 77, words: 20, references: 2 };
    const SHADOW: Shadow = Shadow { version: 5, references: [3, 9, 0, 0] };
    fn address(id: u32) -> usize {
        0x1000 * id as usize
    }

    #[test]
    fn any_changed_word_of_an_object_is_noticed() {
        let mut words = [DEAD; MOST_WORDS];
        object(&mut words).create(HEADER, &SHADOW, address);
        for index in 0..HEADER.words {
            let mut words = words;
            words[index] ^= 1 << 40;
            let object = object(&mut words);
            let whole = object.header() == Some(HEADER)
                && object.check_filling(HEADER).is_ok()
                && object.check_owned(HEADER, &SHADOW, address).is_ok();
            assert!(!whole, "word {index}");
        }
        let object = object(&mut words);
        assert_eq!(object.header(), Some(HEADER));
        assert_eq!(object.check_filling(HEADER), Ok(()));
        assert_eq!(object.check_owned(HEADER, &SHADOW, address), Ok(()));
    }

    #[test]
    fn dead_words_and_zeros_are_no_header() {
        assert_eq!((Header::of(DEAD), Header::of(0)), (None, None));
        assert_eq!(Header::of(HEADER.word()), Some(HEADER));
    }
}
