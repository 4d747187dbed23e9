//! A store that threads go on writing to, and the snapshots of it.
//!
//! A snapshot is consistent because the store's lock is held while the kernel tells and write-protects the written pages,
//! and until they are copied: no writer is halfway through anything, and whatever is written after that is told the
//! next time. The file, which is slow, needs no lock.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use refpage::sys::vm::page_size;
use refpage::{Refused, Reset, WriteWatch};

use crate::chain::{Pages, restore};
use crate::memory::Memory;
use crate::store::{LONGEST, Store};

/// How long who has nothing to do at the moment sleeps.
const REST: Duration = Duration::from_micros(100);
/// At most so many pages are written by an operation, or little more: slots, cells, the header.
const PAGES_AN_OPERATION: usize = 5;
/// Operations that there are always some of, so that writers go on when a snapshot is due.
const AHEAD: usize = 8;
/// One operation in so many deletes.
const DELETES: u64 = 8;

/// The store, and what it should hold: the version of each key's value.
struct Content {
    store: Store,
    versions: HashMap<u64, u64>,
}

/// A store in use, whose written pages are known.
pub struct Live {
    content: Mutex<Content>,
    watch: WriteWatch<'static>,
    start: *const u8,
    len: usize,
    keys: usize,
    /// Operations that were begun, and how many may be, by all writers.
    operations: AtomicUsize,
    allowed: AtomicUsize,
    stop: AtomicBool,
}

// SAFETY: `start` is an address for system calls alone.
unsafe impl Sync for Live {}

/// What a snapshot took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Bytes of the pages that were written since the last one.
    pub written: usize,
    /// How long the writers had to wait.
    pub pause: Duration,
    /// Bytes that are in use, which a full snapshot would have.
    pub full: usize,
    /// How long the writers would have to wait for a copy of those.
    pub full_pause: Duration,
    /// Pairs that were looked up in what was restored.
    pub pairs: usize,
}

/// What one snapshot is checked against.
pub struct Copy {
    bytes: Vec<u8>,
    versions: HashMap<u64, u64>,
}

impl Live {
    /// A store in a heap of so many bytes, with half a key for each KiB of it: all of them are there.
    pub fn create(watch: WriteWatch<'static>, bytes: usize) -> Result<Self, String> {
        let memory = Memory::map(bytes)?;
        let (start, len) = (memory.start(), memory.bytes().len());
        // Before anything is there: so the first snapshot, of what was written since, is a full one.
        watch.watch(start, len).map_err(refused)?;
        let keys = bytes / 2048;
        let store = Store::create(memory, keys).map_err(|_| "no heap is that small")?;
        let mut content = Content { store, versions: HashMap::new() };
        (0..keys as u64).try_for_each(|key| content.put(key, 0))?;
        let content = Mutex::new(content);
        let (operations, allowed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let stop = AtomicBool::new(false);
        Ok(Self { content, watch, start, len, keys, operations, allowed, stop })
    }

    /// Bytes of the heap.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Does something while so many threads write.
    pub fn while_written<T>(
        &self,
        writers: u64,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        self.stop.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..writers).map(|writer| scope.spawn(move || self.write(writer))).collect();
            let outcome = work();
            self.stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().map_err(|_| "a writer panicked")??;
            }
            outcome
        })
    }

    /// Waits until that share of the pages in use is written, or every key was likely to be. Writers are allowed
    /// what they need for that, so that it is not much more, however late this thread gets a CPU.
    fn until_written(&self, share: f64) -> Result<(), String> {
        let begin = self.operations.load(Ordering::Relaxed);
        let goal = (share * self.lock().store.used() as f64) as usize / page_size();
        loop {
            let written = self.written_pages()?;
            let done = self.operations.load(Ordering::Relaxed);
            let more = goal.saturating_sub(written) / PAGES_AN_OPERATION;
            self.allowed.store(done + more.max(AHEAD), Ordering::Relaxed);
            let enough = written >= goal || done - begin > 4 * self.keys;
            if enough || self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            thread::sleep(REST);
        }
    }

    fn written_pages(&self) -> Result<usize, String> {
        let mut written = 0;
        for found in self.watch.written(self.start, self.len, Reset::No).map_err(refused)? {
            written += found.map_err(refused)?.len() / page_size();
        }
        Ok(written)
    }

    /// Takes a snapshot as soon as that share of the pages in use is written: the pages, what it took, and
    /// what it is to be checked against.
    pub fn snapshot(&self, share: f64, pages: &mut Pages) -> Result<(Taken, Copy), String> {
        pages.clear();
        let mut bytes = vec![1; self.len];
        self.until_written(share)?;
        let content = self.lock();
        let pause = Instant::now();
        let heap = content.store.memory().bytes();
        for found in self.watch.written(self.start, self.len, Reset::Yes).map_err(refused)? {
            let found = found.map_err(refused)?;
            let offset = found.start - self.start as usize;
            pages.add(offset, &heap[offset..offset + found.len()]);
        }
        let pause = pause.elapsed();
        // The rest of the pause is for the comparison, with a full copy and with what is restored.
        let full = content.store.used().next_multiple_of(page_size());
        let full_pause = Instant::now();
        bytes[..full].copy_from_slice(&heap[..full]);
        let full_pause = full_pause.elapsed();
        bytes[full..].copy_from_slice(&heap[full..]);
        let versions = content.versions.clone();
        drop(content);
        let pairs = versions.len();
        let written = pages.bytes();
        Ok((Taken { written, pause, full, full_pause, pairs }, Copy { bytes, versions }))
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no writer panics")
    }

    /// Puts and deletes until it is told to stop.
    fn write(&self, writer: u64) -> Result<(), String> {
        // An odd step goes through all numbers of that many bits.
        let mut at = writer.wrapping_mul(0xd1b5_4a32_d192_ed03);
        while !self.stop.load(Ordering::Relaxed) {
            if self.operations.load(Ordering::Relaxed) >= self.allowed.load(Ordering::Relaxed) {
                thread::sleep(REST);
                continue;
            }
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let key = ((u128::from(at) * self.keys as u128) >> 64) as u64;
            let version = 1 + self.operations.fetch_add(1, Ordering::Relaxed) as u64;
            let mut content = self.lock();
            let done = match version % DELETES {
                0 => content.delete(key),
                _ => content.put(key, version),
            };
            if done.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    }
}

impl Content {
    fn put(&mut self, key: u64, version: u64) -> Result<(), String> {
        let mut value = [0; LONGEST];
        let value = value_of(key, version, &mut value);
        self.store.put(key, value).map_err(|_| "the heap is full")?;
        self.versions.insert(key, version);
        Ok(())
    }

    fn delete(&mut self, key: u64) -> Result<(), String> {
        match self.store.delete(key) == self.versions.remove(&key).is_some() {
            true => Ok(()),
            false => Err(format!("the store was wrong about key {key}")),
        }
    }
}

impl Copy {
    /// Restores the chain into fresh memory, which is somewhere else than the heap that it was taken of, and
    /// compares all bytes, and all values by their keys.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        let mut memory = Memory::map(self.bytes.len())?;
        let file = File::open(path).map_err(|error| error.to_string())?;
        restore(file, memory.bytes_mut()).map_err(|why| why.to_string())?;
        let differs = memory.bytes().iter().zip(&self.bytes).position(|(one, other)| one != other);
        if let Some(at) = differs {
            return Err(format!("what was restored differs from the heap at byte {at}"));
        }
        let store = Store::open(memory).ok_or("what was restored is no store")?;
        if store.live() != self.versions.len() {
            return Err(format!("{} keys, not {}", store.live(), self.versions.len()));
        }
        let mut value = [0; LONGEST];
        for (&key, &version) in &self.versions {
            if store.get(key) != Some(value_of(key, version, &mut value)) {
                return Err(format!("key {key} has not its value"));
            }
        }
        Ok(())
    }
}

/// Sees that the file is refused if it is cut or changed: how it is refused.
pub fn check_refusals(path: &Path, heap: usize) -> Result<Vec<String>, String> {
    let mut bytes = fs::read(path).map_err(|error| error.to_string())?;
    let mut refusals = Vec::new();
    let mut refuse = |bytes: &[u8], what: String| {
        let mut memory = Memory::map(heap)?;
        match restore(bytes, memory.bytes_mut()) {
            Err(why) => refusals.push(format!("{what}: {why}")),
            Ok(_) => return Err(format!("a file that was {what} was taken for a whole one")),
        }
        Ok(())
    };
    for length in [0, 20, bytes.len() / 2 + 3, bytes.len() - 1] {
        refuse(&bytes[..length], format!("cut after {length} bytes"))?;
    }
    for at in [0, 20, 50, bytes.len() / 3, bytes.len() - 1] {
        bytes[at] ^= 4;
        refuse(&bytes, format!("changed at byte {at}"))?;
        bytes[at] ^= 4;
    }
    Ok(refusals)
}

/// The value of a key in a version: its length and bytes follow from both.
fn value_of(key: u64, version: u64, memory: &mut [u8; LONGEST]) -> &[u8] {
    let mut word =
        key.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ version.wrapping_mul(0x94d0_49bb_1331_11eb);
    let length = 1 + (word >> 33) as usize % LONGEST;
    for bytes in memory[..length].chunks_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
    &memory[..length]
}

fn refused(why: Refused) -> String {
    why.to_string()
}
