//! A key-value store in one range of memory. All that it knows is in that range, and places are offsets: its
//! bytes are the store, wherever they lie.
//!
//! ```text
//!     ┌ header ┬ slots: key, place, length ┬ cells of 64 bytes to 2 KiB: values, or links of free lists ┬ unused ┐
//!                └─ open addressing, linear probing                                                     └ fresh
//! ```

use crate::memory::Memory;

const MAGIC: u64 = u64::from_le_bytes(*b"refpage1");
const WORD: usize = 8;

/// Words of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const SLOTS: usize = 1;
    pub const LIVE: usize = 2;
    /// Where memory that no cell was made of begins.
    pub const FRESH: usize = 3;
    /// Free lists, one for each size of cells.
    pub const FREE: usize = 4;
}

/// Sizes of cells, from 64 bytes to 2 KiB.
const SMALLEST: u32 = 6;
const CLASSES: usize = 6;
/// The longest value, in bytes.
pub const LONGEST: usize = 64 << (CLASSES - 1);

const HEADER: usize = (header::FREE + CLASSES) * WORD;
/// Key, place, length; a slot whose place is 0 is empty.
const SLOT: usize = 3 * WORD;

/// A store, and the memory that it is in.
pub struct Store {
    memory: Memory,
}

/// There is no room left.
#[derive(Debug)]
pub struct Full;

impl Store {
    /// An empty store for so many keys.
    pub fn create(memory: Memory, keys: usize) -> Result<Self, Full> {
        let mut store = Self { memory };
        let slots = (2 * keys).next_power_of_two();
        let cells = HEADER + slots * SLOT;
        if cells > store.memory.bytes().len() {
            return Err(Full);
        }
        store.set(header::MAGIC * WORD, MAGIC);
        store.set(header::SLOTS * WORD, slots as u64);
        store.set(header::FRESH * WORD, cells.next_multiple_of(1 << SMALLEST) as u64);
        Ok(store)
    }

    /// The store that some memory holds, if it does.
    pub fn open(memory: Memory) -> Option<Self> {
        let store = Self { memory };
        let slots = store.number(header::SLOTS * WORD);
        let holds = store.word(header::MAGIC * WORD) == MAGIC && slots.is_power_of_two();
        holds.then_some(store)
    }

    /// What it is in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many keys it has.
    pub fn live(&self) -> usize {
        self.number(header::LIVE * WORD)
    }

    /// How many bytes were ever used: behind them it is all zeros.
    pub fn used(&self) -> usize {
        self.number(header::FRESH * WORD)
    }

    /// The value of a key.
    pub fn get(&self, key: u64) -> Option<&[u8]> {
        let slot = self.find(key).ok()?;
        let (place, length) = (self.number(slot + WORD), self.number(slot + 2 * WORD));
        self.memory.bytes().get(place..place + length)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: u64, value: &[u8]) -> Result<(), Full> {
        let found = self.find(key);
        // One slot at least stays empty, where a search for what is not there ends.
        if found.is_err() && self.live() + 1 == self.number(header::SLOTS * WORD) {
            return Err(Full);
        }
        let place = self.allocate(value.len())?;
        let slot = match found {
            Ok(slot) => {
                self.free(slot);
                slot
            }
            Err(slot) => {
                self.set(header::LIVE * WORD, self.live() as u64 + 1);
                self.set(slot, key);
                slot
            }
        };
        self.set(slot + WORD, place as u64);
        self.set(slot + 2 * WORD, value.len() as u64);
        self.memory.bytes_mut()[place..place + value.len()].copy_from_slice(value);
        Ok(())
    }

    /// Deletes a key; whether it was there.
    pub fn delete(&mut self, key: u64) -> bool {
        let Ok(mut hole) = self.find(key) else { return false };
        self.free(hole);
        self.set(header::LIVE * WORD, self.live() as u64 - 1);
        // What was put further on because of the deleted one moves up (Knuth, volume 3, 6.4, algorithm R).
        let mut slot = hole;
        loop {
            slot = self.next(slot);
            if self.word(slot + WORD) == 0 {
                break;
            }
            let home = self.home(self.word(slot));
            let between = match hole < slot {
                true => hole < home && home <= slot,
                false => hole < home || home <= slot,
            };
            if !between {
                self.memory.bytes_mut().copy_within(slot..slot + SLOT, hole);
                hole = slot;
            }
        }
        self.set(hole + WORD, 0);
        true
    }

    /// The slot of a key, else the empty one where it belongs.
    fn find(&self, key: u64) -> Result<usize, usize> {
        let mut slot = self.home(key);
        while self.word(slot + WORD) != 0 {
            if self.word(slot) == key {
                return Ok(slot);
            }
            slot = self.next(slot);
        }
        Err(slot)
    }

    /// Where the search for a key begins.
    fn home(&self, key: u64) -> usize {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) as usize;
        HEADER + (hash & (self.number(header::SLOTS * WORD) - 1)) * SLOT
    }

    fn next(&self, slot: usize) -> usize {
        let end = HEADER + self.number(header::SLOTS * WORD) * SLOT;
        if slot + SLOT == end { HEADER } else { slot + SLOT }
    }

    /// A cell for so many bytes.
    fn allocate(&mut self, length: usize) -> Result<usize, Full> {
        let (list, size) = class(length).ok_or(Full)?;
        let first = self.number(list);
        if first != 0 {
            self.set(list, self.word(first));
            return Ok(first);
        }
        let fresh = self.number(header::FRESH * WORD);
        if fresh + size > self.memory.bytes().len() {
            return Err(Full);
        }
        self.set(header::FRESH * WORD, (fresh + size) as u64);
        Ok(fresh)
    }

    /// Gives back the cell of a slot.
    fn free(&mut self, slot: usize) {
        let place = self.number(slot + WORD);
        if let Some((list, _)) = class(self.number(slot + 2 * WORD)) {
            self.set(place, self.word(list));
            self.set(list, place as u64);
        }
    }

    fn number(&self, at: usize) -> usize {
        self.word(at) as usize
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = &self.memory.bytes()[at..at + WORD];
        u64::from_le_bytes(bytes.try_into().expect("a word's bytes"))
    }

    fn set(&mut self, at: usize, value: u64) {
        self.memory.bytes_mut()[at..at + WORD].copy_from_slice(&value.to_le_bytes());
    }
}

/// Where the free list is of the cells that hold so many bytes, and the size of those.
fn class(length: usize) -> Option<(usize, usize)> {
    let size = length.next_power_of_two().max(1 << SMALLEST);
    let class = size.trailing_zeros() - SMALLEST;
    (length <= LONGEST).then_some(((header::FREE + class as usize) * WORD, size))
}
