//! The board: memory that the supervisor and all processes of a tree share.
//!
//! It is mapped, not read and written, so that a process that has closed every descriptor still takes part. All zeros
//! is a board of a tree that has not begun.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

/// Lanes of a tree that there can be at one time.
pub const SLOTS: usize = 64;
/// Threads of the first process.
pub const MAX_THREADS: usize = 16;
/// Bytes of a failure's description.
const TEXT: usize = 4096;
/// Failures that are kept: those that come soon after the first tell more about it.
const KEPT: usize = 4;

/// What is counted, and how the table calls it.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Steps,
    Allocations,
    Reallocations,
    Frees,
    ForeignFrees,
    CheckedKib,
    SystemTouches,
    Forks,
    Execs,
    Orphans,
    Threads,
    Signals,
    DescriptorsClosed,
}

pub const COUNTS: [(&str, Count); 13] = [
    ("steps", Count::Steps),
    ("allocations", Count::Allocations),
    ("reallocations", Count::Reallocations),
    ("frees", Count::Frees),
    ("frees by others", Count::ForeignFrees),
    ("KiB checked", Count::CheckedKib),
    ("touches by system calls", Count::SystemTouches),
    ("forks", Count::Forks),
    ("execs", Count::Execs),
    ("orphans", Count::Orphans),
    ("threads", Count::Threads),
    ("signals", Count::Signals),
    ("descriptors closed", Count::DescriptorsClosed),
];

/// One lane's place. Free while its `taken` is 0.
#[repr(C)]
pub struct Slot {
    taken: AtomicU32,
    /// The process and the thread of the lane; 0 until it runs.
    pub pid: AtomicI32,
    pub tid: AtomicI32,
    pub step: AtomicU64,
    /// Its action, as an index of `lane::ACTIONS`.
    pub action: AtomicU32,
}

#[repr(C)]
struct Failure {
    /// 0: none; 1: being written; 2: there to be read.
    state: AtomicU32,
    length: AtomicU32,
    text: UnsafeCell<[u8; TEXT]>,
}

#[repr(C)]
pub struct Board {
    /// The supervisor's settings, constant once the tree runs.
    pub seed: AtomicU64,
    pub pattern: AtomicU64,
    pub threads: AtomicU32,
    pub processes: AtomicU32,
    pub budget: AtomicU64,
    /// Steps of each lane of the first process; 0 is as many as there is time for.
    pub steps: AtomicU64,
    pub inject: AtomicU32,

    /// When the time is over, on the monotonic clock: a tree ends even if nobody is left to end it.
    pub stop_at: AtomicU64,
    /// Set when the stacks of a failed tree have been taken: who failed may end.
    pub seen: AtomicU32,
    /// Processes besides the first.
    pub running: AtomicU32,
    failures: [Failure; KEPT],
    counts: [AtomicU64; COUNTS.len()],
    /// Of the choices of each thread of the first process.
    pub digests: [AtomicU64; MAX_THREADS],
    pub slots: [Slot; SLOTS],
}

// SAFETY: all is atomic but the text, which is written by whoever set `state` to 1 and read once it is 2.
unsafe impl Sync for Board {}

impl Board {
    /// Maps the board that the file holds. It stays mapped until the process ends.
    pub fn map(file: &File) -> io::Result<&'static Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let size = size_of::<Self>();
        // SAFETY: a new mapping, of no address in particular.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is as large as a board and is never unmapped; any bytes are atomics' values.
        Ok(unsafe { &*start.cast() })
    }

    pub fn create(path: &Path) -> io::Result<&'static Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(size_of::<Self>() as u64)?;
        Self::map(&file)
    }

    pub fn open(path: &Path) -> io::Result<&'static Self> {
        Self::map(&File::options().read(true).write(true).open(path)?)
    }

    pub fn add(&self, count: Count, by: usize) {
        self.counts[count as usize].fetch_add(by as u64, Relaxed);
    }

    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Relaxed)
    }

    pub fn is_over(&self) -> bool {
        monotonic_seconds() >= self.stop_at.load(Relaxed)
    }

    /// Takes a free slot.
    pub fn claim(&self) -> Option<usize> {
        let free = |slot: &Slot| slot.taken.compare_exchange(0, 1, AcqRel, Relaxed).is_ok();
        let index = self.slots.iter().position(free)?;
        self.slots[index].step.store(0, Relaxed);
        self.slots[index].action.store(0, Relaxed);
        Some(index)
    }

    /// Takes a slot for a new process, if there may be one more.
    pub fn claim_process(&self) -> Option<usize> {
        let most = self.processes.load(Relaxed);
        let one_more = |running| (running < most).then(|| running + 1);
        self.running.fetch_update(AcqRel, Relaxed, one_more).ok()?;
        let slot = self.claim();
        if slot.is_none() {
            self.running.fetch_sub(1, AcqRel);
        }
        slot
    }

    pub fn release(&self, slot: usize) {
        let slot = &self.slots[slot];
        slot.pid.store(0, Relaxed);
        slot.tid.store(0, Relaxed);
        slot.taken.store(0, Release);
    }

    pub fn release_process(&self, slot: usize) {
        self.release(slot);
        self.running.fetch_sub(1, AcqRel);
    }

    /// The slots that are taken.
    pub fn taken(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.taken.load(Acquire) != 0)
    }

    /// Keeps a failure, if it is one of the first. Allocates nothing, and may be called from a signal handler.
    pub fn fail(&self, text: std::fmt::Arguments) {
        let free =
            |failure: &&Failure| failure.state.compare_exchange(0, 1, AcqRel, Relaxed).is_ok();
        let Some(failure) = self.failures.iter().find(free) else { return };
        // SAFETY: who set the state to 1 is alone with the text until it is 2.
        let bytes = unsafe { &mut *failure.text.get() };
        let mut text_of = Text { bytes, length: 0 };
        // What does not fit is cut off.
        let _ = std::fmt::Write::write_fmt(&mut text_of, text);
        failure.length.store(text_of.length as u32, Relaxed);
        failure.state.store(2, Release);
    }

    pub fn has_failed(&self) -> bool {
        self.failures[0].state.load(Acquire) != 0
    }

    /// What is there to be read, if the first failure is.
    pub fn failure(&self) -> Option<String> {
        if self.failures[0].state.load(Acquire) != 2 {
            return None;
        }
        let written = self.failures.iter().filter(|failure| failure.state.load(Acquire) == 2);
        let texts: Vec<_> = written
            .map(|failure| {
                let length = failure.length.load(Relaxed) as usize;
                // SAFETY: it is written once, before the state was set to 2.
                let bytes = unsafe { &*failure.text.get() };
                String::from_utf8_lossy(&bytes[..length.min(TEXT)]).into_owned()
            })
            .collect();
        Some(texts.join("\nand then: "))
    }
}

/// Of a clock that all processes share.
pub fn monotonic_seconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64
}

struct Text<'a> {
    bytes: &'a mut [u8; TEXT],
    length: usize,
}

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let length = text.len().min(TEXT - self.length);
        self.bytes[self.length..][..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}
