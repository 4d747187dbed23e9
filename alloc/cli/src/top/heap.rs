//! The heap in another process: found by its [beacon](refpage_alloc::beacon), copied word by word.
//!
//! Nothing but the process's memory is read for it, so it does not matter what has become of the files.
//! Each look finds the note and the beacon where they were, or starts over: the process may have
//! become another program meanwhile.

use std::ops::Range;

use refpage_alloc::beacon::{Beacon, FIGURES, Figures, LAYOUT, NOTE_NAME, NOTE_TYPE, Values};

use super::process::{Image, Process, Trouble};

/// ELF: sizes of the header and of a program header, and types of those.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Program headers, and bytes of notes, that are looked at: files have fewer.
const MOST_HEADERS: usize = 128;
const MOST_NOTES: usize = 64 << 10;

/// The note's description: the layout, and how far the beacon is from the second word.
const DESCRIPTION: usize = 16;

/// Where a heap's words are.
#[derive(Debug)]
pub struct Heap {
    /// The description of its note.
    note: usize,
    distance: u64,
    /// The program or library that it is in.
    pub file: String,
    /// How many heaps there are in the process.
    pub count: usize,
    values: Values,
}

/// What a look at it has brought.
#[derive(Clone, Debug)]
pub struct Look {
    pub values: Values,
    /// All zeros before the heap has started.
    pub figures: Figures,
    /// Why the service is not a better one.
    pub reason: String,
}

impl Look {
    /// Whether there was a first allocation.
    pub fn has_started(&self) -> bool {
        self.values.born_ms != 0
    }
}

impl Heap {
    /// The heap of the process: of several, the first in the order of addresses that has started. A program's own
    /// comes before the library's, as a rule.
    pub fn find(process: &Process) -> Result<Self, Trouble> {
        let mut others = None;
        let mut heaps = Vec::new();
        for image in process.images()? {
            let Some(note) = find_note(process, &image)? else { continue };
            let [layout, distance] = note.description;
            if layout != LAYOUT {
                others.get_or_insert(image.file);
                continue;
            }
            let mut heap = Self {
                note: note.address,
                distance,
                file: image.file,
                count: 0,
                values: Values::default(),
            };
            if let Some(beacon) = heap.beacon(process)? {
                heap.values = beacon.values();
                heaps.push(heap);
            }
        }
        let count = heaps.len();
        let started = heaps.iter().position(|heap| heap.values.born_ms != 0).unwrap_or(0);
        match (heaps.into_iter().nth(started), others) {
            (Some(heap), _) => Ok(Self { count, ..heap }),
            (None, Some(file)) => Err(Trouble::OtherBuild(file)),
            (None, None) => Err(Trouble::NotOn),
        }
    }

    /// None if it is not there any more.
    fn beacon(&self, process: &Process) -> Result<Option<Beacon>, Trouble> {
        let mut bytes = [0; DESCRIPTION + Beacon::BYTES];
        let beacon = (self.note + 8).wrapping_add(self.distance as usize);
        let ranges = [self.note..self.note + DESCRIPTION, beacon..beacon + Beacon::BYTES];
        let read = process.read_ranges(&ranges, &mut bytes)?;
        let (description, copy) = bytes.split_at(DESCRIPTION);
        let same = words(description) == [LAYOUT, self.distance];
        Ok(match copy.try_into() {
            Ok(copy) if read == bytes.len() && same => Some(Beacon::from_bytes(copy)),
            _ => None,
        })
    }

    /// Looks at it. None if it is not the same any more.
    pub fn look(&mut self, process: &Process) -> Result<Option<Look>, Trouble> {
        let Some(beacon) = self.beacon(process)? else { return Ok(None) };
        let values = beacon.values();
        if self.values.born_ms == 0 {
            self.values = values;
        }
        // Another program may have its beacon at the same place.
        if values != self.values {
            return Ok(None);
        }
        let present = |&(_, &address): &(usize, &u64)| address != 0;
        let figures = beacon.addresses().iter().enumerate().filter(present);
        let (places, ranges): (Vec<usize>, Vec<Range<usize>>) =
            figures.map(|(place, &at)| (place, at as usize..at as usize + 8)).unzip();
        let mut bytes = vec![0; ranges.len() * 8];
        if process.read_ranges(&ranges, &mut bytes)? < bytes.len() {
            return Ok(None);
        }
        let mut all = [0; FIGURES];
        for (place, word) in places.into_iter().zip(bytes.as_chunks::<8>().0) {
            all[place] = u64::from_ne_bytes(*word);
        }
        let reason = beacon.reason();
        let reason = reason.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Some(Look {
            values,
            figures: Figures::of(&all),
            reason: String::from_utf8_lossy(reason).into_owned(),
        }))
    }
}

/// The words of a description.
fn words(description: &[u8]) -> [u64; 2] {
    [0, 8].map(|at| {
        let bytes = description.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    })
}

/// Where the description of a heap's note is, and what it says.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    address: usize,
    description: [u64; 2],
}

/// The note of a heap in an image, by the headers that are in memory with it.
fn find_note(process: &Process, image: &Image) -> Result<Option<Note>, Trouble> {
    let mut header = [0; HEADER];
    if !process.read(image.start, &mut header)? || !header.starts_with(b"\x7fELF\x02") {
        return Ok(None);
    }
    let table = number(&header, 32, 8) as usize;
    let (size, count) = (number(&header, 54, 2) as usize, number(&header, 56, 2) as usize);
    if size != PROGRAM_HEADER || count > MOST_HEADERS {
        return Ok(None);
    }
    let mut headers = vec![0; size * count];
    if !process.read(image.start.wrapping_add(table), &mut headers)? {
        return Ok(None);
    }
    let headers = || headers.chunks_exact(PROGRAM_HEADER);
    let kind = |header: &[u8]| number(header, 0, 4) as u32;
    // What is to be added to the file's own addresses.
    let first = headers().find(|header| kind(header) == PT_LOAD);
    let own = first.map_or(0, |header| number(header, 16, 8).wrapping_sub(number(header, 8, 8)));
    let bias = image.start.wrapping_sub(own as usize);
    for header in headers().filter(|header| kind(header) == PT_NOTE) {
        let address = bias.wrapping_add(number(header, 16, 8) as usize);
        let align = if number(header, 48, 8) == 8 { 8 } else { 4 };
        let mut notes = vec![0; (number(header, 32, 8) as usize).min(MOST_NOTES)];
        if process.read(address, &mut notes)?
            && let Some((at, description)) = own_note(&notes, align)
        {
            return Ok(Some(Note { address: address + at, description }));
        }
    }
    Ok(None)
}

/// The description of the heap's note among others, and where it is.
fn own_note(notes: &[u8], align: usize) -> Option<(usize, [u64; 2])> {
    let mut at = 0;
    while at + 12 <= notes.len() {
        let [name, description, kind] =
            [0, 4, 8].map(|field| number(notes, at + field, 4) as usize);
        let start = (at + 12 + name).next_multiple_of(align);
        if kind == NOTE_TYPE as usize && notes.get(at + 12..at + 12 + name) == Some(NOTE_NAME) {
            // One of another size is of another version.
            let bytes = notes.get(start..start + description)?;
            return Some((start, words(bytes)));
        }
        at = (start + description).next_multiple_of(align);
    }
    None
}

/// A number of so many bytes; 0 if they are not there.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    if let (Some(from), Some(to)) = (bytes.get(at..at + size), word.get_mut(..size)) {
        to.copy_from_slice(from);
    }
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, description.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [name, description] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_note_is_found_among_others() {
        let own = [LAYOUT.to_le_bytes(), 7u64.to_le_bytes()].concat();
        let mut notes = note(b"GNU\0", 3, &[1; 20]);
        notes.extend(note(b"refpage\0", 2, &own));
        let at = notes.len() + 20;
        notes.extend(note(NOTE_NAME, NOTE_TYPE, &own));
        assert_eq!(own_note(&notes, 4), Some((at, [LAYOUT, 7])));
        assert_eq!(own_note(&notes[..notes.len() - 8], 4), None);
        assert_eq!(own_note(&[0xff; 40], 4), None);
    }

    #[test]
    fn the_heap_of_this_process_is_found_by_its_own_headers() {
        let process = Process::open(std::process::id() as i32).expect("this process");
        let mut heap = Heap::find(&process).expect("the tests are on refpage, too");
        let look = heap.look(&process).expect("own memory").expect("the same heap");
        assert!(look.has_started());
        assert_eq!(look.figures.service().as_str(), refpage_alloc::service_name());
        let block = std::hint::black_box(vec![1u8; 1 << 20]);
        let now = heap.look(&process).expect("own memory").expect("the same heap");
        let counted = |look: &Look| look.figures.counted;
        assert!(counted(&now).large_allocated > counted(&look).large_allocated);
        drop(block);
    }
}
