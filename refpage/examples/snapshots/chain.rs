//! The file: a full snapshot, and behind it what was written from each one to the next.
//!
//! ```text
//!     snapshot: magic │ number │ bytes of the heap │ stretches │ bytes of the body │ checksum before │ checksum
//!     body:     offset │ length │ bytes       for each stretch of written pages
//! ```
//!
//! All numbers are 64 bits, little-endian. A checksum is over the body, the header before it, and the checksum of the
//! snapshot before, so that none can be missing, doubled or exchanged. It is for torn and damaged files, not
//! against an enemy.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const MAGIC: u64 = u64::from_le_bytes(*b"snapshot");
/// Words of a header; the last one is the checksum.
const HEADER: usize = 7;

/// What was written since the snapshot before: stretches of whole pages.
#[derive(Default)]
pub struct Pages {
    body: Vec<u8>,
    stretches: u64,
}

impl Pages {
    /// None yet; memory for so many bytes is there already, so that nobody waits for it in a pause.
    pub fn with_room_for(bytes: usize) -> Self {
        let mut body = vec![1; bytes];
        body.clear();
        Self { body, stretches: 0 }
    }

    /// Takes a copy of what is at that offset of the heap.
    pub fn add(&mut self, offset: usize, bytes: &[u8]) {
        self.body.extend_from_slice(&(offset as u64).to_le_bytes());
        self.body.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.body.extend_from_slice(bytes);
        self.stretches += 1;
    }

    pub fn clear(&mut self) {
        self.body.clear();
        self.stretches = 0;
    }

    /// How many bytes of pages.
    pub fn bytes(&self) -> usize {
        self.body.len() - 16 * self.stretches as usize
    }
}

/// A file that snapshots are appended to.
pub struct Chain {
    file: File,
    heap: u64,
    count: u64,
    last: u64,
}

impl Chain {
    /// An empty file, for a heap of so many bytes.
    pub fn create(path: &Path, heap: usize) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self { file, heap: heap as u64, count: 0, last: 0 })
    }

    /// Appends a snapshot; how many bytes the file grew.
    pub fn append(&mut self, pages: &Pages) -> io::Result<usize> {
        let body = pages.body.len() as u64;
        let mut header = [MAGIC, self.count, self.heap, pages.stretches, body, self.last, 0]
            .map(u64::to_le_bytes);
        let sum = checksum(&header.as_flattened()[..8 * (HEADER - 1)], &pages.body);
        header[HEADER - 1] = sum.to_le_bytes();
        self.file.write_all(header.as_flattened())?;
        self.file.write_all(&pages.body)?;
        (self.count, self.last) = (self.count + 1, sum);
        Ok(8 * HEADER + pages.body.len())
    }
}

/// Why a file is not restored.
#[derive(Debug)]
pub enum Refusal {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It ends within that snapshot.
    Torn(u64),
    /// What it says of that snapshot is not true: not the bytes that were written, or not in this order.
    Damaged(u64),
    /// It is of a heap of another size.
    OtherHeap(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "the file cannot be read: {error}"),
            Self::Torn(number) => write!(f, "the file ends within snapshot {number}"),
            Self::Damaged(number) => write!(f, "snapshot {number} is damaged"),
            Self::OtherHeap(bytes) => write!(f, "it is of a heap of {bytes} bytes"),
        }
    }
}

/// Writes all snapshots of a file, one over the other, to memory that is all zeros: how many there were. What was
/// written before a refusal is no state that the heap ever had. (A file that ends between two snapshots is whole,
/// and an older one.)
pub fn restore(mut file: impl Read, memory: &mut [u8]) -> Result<u64, Refusal> {
    let (mut count, mut last) = (0, 0);
    let mut bytes = Vec::new();
    loop {
        read(&mut file, 8 * HEADER as u64, &mut bytes)?;
        if bytes.is_empty() && count > 0 {
            return Ok(count);
        }
        let (words, _) = bytes.as_chunks();
        let header: [[u8; 8]; HEADER] = words.try_into().map_err(|_| Refusal::Torn(count))?;
        let [magic, number, heap, stretches, length, before, sum] = header.map(u64::from_le_bytes);
        if [magic, number, before] != [MAGIC, count, last] {
            return Err(Refusal::Damaged(count));
        }
        if heap != memory.len() as u64 {
            return Err(Refusal::OtherHeap(heap));
        }
        read(&mut file, length, &mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(Refusal::Torn(count));
        }
        let whole = checksum(&header.as_flattened()[..8 * (HEADER - 1)], &bytes) == sum;
        if !whole || apply(&bytes, stretches, memory).is_none() {
            return Err(Refusal::Damaged(count));
        }
        (count, last) = (count + 1, sum);
    }
}

/// So many bytes, or what there is of them: a damaged length may be anything.
fn read(file: &mut impl Read, length: u64, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
    bytes.clear();
    file.take(length).read_to_end(bytes).map_err(Refusal::Unreadable)?;
    Ok(())
}

/// None if the body is not that many stretches of the memory.
fn apply(mut body: &[u8], stretches: u64, memory: &mut [u8]) -> Option<()> {
    for _ in 0..stretches {
        let (offset, rest) = body.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let [offset, length] = [offset, length].map(|word| u64::from_le_bytes(*word) as usize);
        let (bytes, rest) = rest.split_at_checked(length)?;
        memory.get_mut(offset..offset.checked_add(length)?)?.copy_from_slice(bytes);
        body = rest;
    }
    body.is_empty().then_some(())
}

/// FNV-1a by words, with a rotation that brings high bits down again; the length is in the header.
fn checksum(header: &[u8], body: &[u8]) -> u64 {
    let mix =
        |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for bytes in [header, body] {
        let (words, rest) = bytes.as_chunks();
        sum = words.iter().fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
        sum = rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)));
    }
    sum
}
