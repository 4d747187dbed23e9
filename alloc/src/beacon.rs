//! The beacon: where another process finds what this heap counts.
//!
//! ```text
//!   reader ─▶ ELF headers in memory ─▶ note "refpage": layout, and how far it is to ─▶ BEACON
//!                                                                                       │ values
//!   heap's own words ◀──────────────────────────────────────────── their addresses ─────┘
//! ```
//!
//! The watched process does nothing for its watcher: no thread, no file, no socket, no counter that it
//! would not have anyway. A reader copies the words as they are, without locks; each is one aligned word, so
//! it is right by itself, but not all are of the same moment.
//!
//! A note is in memory wherever the library or program is that has it, also when its symbols were
//! stripped, its file was replaced, or it lies in another mount namespace; and two heaps in one process,
//! the library's and a program's own, have two.

use core::fmt::Write;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use refpage::sys::report::Line;
use refpage::sys::vm;
use refpage::{Cause, Histogram, Service, Words};

use crate::heap::Heap;
use crate::page_map::{Kind, Run, SLOT};

/// The note's name, with the zero that ends it.
pub const NOTE_NAME: &[u8] = b"refpage\0";

/// The note's type.
pub const NOTE_TYPE: u32 = 1;

/// Bytes of why the service is not a better one; what is longer is cut.
const REASON: usize = 512;

/// FNV-1a: tells one text from another.
const fn hash(mut seed: u64, text: &str) -> u64 {
    let (bytes, mut at) = (text.as_bytes(), 0);
    while at < bytes.len() {
        seed = (seed ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    // So that two words are not one.
    (seed ^ 0xff).wrapping_mul(0x100_0000_01b3)
}

const fn hash_all(mut seed: u64, texts: &[&str]) -> u64 {
    let mut at = 0;
    while at < texts.len() {
        seed = hash(seed, texts[at]);
        at += 1;
    }
    seed
}

/// A row of words with a name each: those of a heap, and a reader's copy.
macro_rules! row {
    ($(#[$of:meta])* $row:ident: $($(#[$doc:meta])* $name:ident: |$heap:ident| $word:expr;)*) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $row {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl $row {
            const NAMES: &[&str] = &[$(stringify!($name)),*];
            const COUNT: usize = Self::NAMES.len();

            fn words(heap: &Heap) -> [u64; Self::COUNT] {
                [$({ let $heap = heap; $word as u64 }),*]
            }

            fn of([$($name),*]: [u64; Self::COUNT]) -> Self {
                Self { $($name),* }
            }
        }
    };
}

row! {
    /// What does not change while the process runs, but by exec.
    Values:
    /// When the heap started, in milliseconds of the monotonic clock; 0: it has not.
    born_ms: |_h| vm::now_ms().max(1);
    /// Bytes in an OS page, as a shift.
    page_shift: |h| h.engine.region().page_shift();
    /// Bytes in a slot.
    slot_bytes: |_h| SLOT;
    /// The Region's first byte.
    region: |h| h.engine.region().base();
    /// The first page of its zero part.
    zero_from: |h| h.engine.region().zero_part().first;
    /// The page map's heads: for each slot, 32 bits.
    heads: |h| h.map.tables()[0];
    /// Its records of runs: for each slot, `run_bytes`.
    runs: |h| h.map.tables()[1];
    /// Bytes in a record, and where in it its fields are.
    run_bytes: |_h| size_of::<Run>();
    /// 8 bits.
    run_kind: |_h| Run::KIND_AT;
    /// 32 bits.
    run_slots: |_h| offset_of!(Run, slots);
    /// A word.
    run_size: |_h| offset_of!(Run, size);
    /// 32 bits.
    run_offset: |_h| offset_of!(Run, offset);
    /// 8 bits.
    run_zeros: |_h| offset_of!(Run, zeros);
    /// The kind of a large allocation.
    large: |_h| Kind::Large as u8;
}

row! {
    /// What the heap counts. Bytes where the name says so; pages are OS pages.
    Counted:
    /// The service, as [`Service::from_word`] takes it.
    service: |h| address(h.engine.words().service);
    /// Not 0: it is `lazy`, asleep.
    asleep: |h| address(h.engine.words().asleep);
    /// The first page behind all of the content part that were ever in use.
    content_used: |h| address(h.engine.words().used[0]);
    /// The same of the zero part.
    zero_used: |h| address(h.engine.words().used[1]);
    /// Bytes in live large allocations.
    large_live_bytes: |h| h.cache.usage_words()[0];
    /// Large allocations made.
    large_allocated: |h| h.cache.usage_words()[1];
    /// Those that reused a run in place.
    large_recycled: |h| h.cache.usage_words()[2];
    /// Large allocations freed.
    large_freed: |h| h.cache.usage_words()[3];
    /// Pages that freed runs keep for reuse.
    cached_pages: |h| h.cache.usage_words()[4];
    /// Bytes in small blocks that spans handed out: those in magazines and in the depot are among them.
    small_bytes: |h| h.spans.bytes_out_word();
    /// Blocks of 2 MiB in the pool.
    pool_blocks: |h| h.engine.words().pool_blocks.map_or(0, address);
    /// Missing faults that the handler answered.
    faults: |h| address(&h.engine.counters().faults);
    /// Pages moved in from the pool.
    moved: |h| address(&h.engine.counters().moved);
    /// Pages copied in.
    copied: |h| address(&h.engine.counters().copied);
    /// Pages filled by hand.
    filled: |h| address(&h.engine.counters().filled);
    /// Present pages of freed runs whose content was restored.
    refilled: |h| address(&h.engine.counters().refilled);
    /// Pages given back to the kernel.
    purged: |h| address(&h.engine.counters().purged);
    /// CPU time of the handler when it last went to sleep.
    handler_cpu_ns: |h| address(&h.engine.counters().handler_cpu_ns);
}

fn address<T>(word: &T) -> usize {
    const { assert!(size_of::<T>() == size_of::<u64>()) };
    core::ptr::from_ref(word).expose_provenance()
}

/// Rows of words that have numbers instead of names, behind those of [`Counted`].
const WINDOWS: usize = Counted::COUNT;
const FALL_BACKS: usize = WINDOWS + Histogram::PLACES;
const SINGLES: usize = FALL_BACKS + Cause::COUNT;
/// Words of the heap that a reader copies.
pub const FIGURES: usize = SINGLES + Words::SHARDS;

/// The words of the beacon itself: values, addresses of figures, text.
const ADDRESSES: usize = Values::COUNT;
const TEXT: usize = ADDRESSES + FIGURES;
const WORDS: usize = TEXT + REASON / 8;

/// Which words there are, in which order and meaning: who reads the beacon has to have the same.
pub const LAYOUT: u64 = {
    let mut seed = hash_all(0xcbf2_9ce4_8422_2325, Values::NAMES);
    seed = hash_all(seed, Counted::NAMES);
    let mut at = 0;
    while at < Cause::COUNT {
        seed = hash(seed, Cause::ALL[at].as_str());
        at += 1;
    }
    let services = [Service::Lazy, Service::Cow, Service::Eager, Service::Memset, Service::Off];
    at = 0;
    while at < services.len() {
        seed = hash(seed, services[at].as_str());
        at += 1;
    }
    seed ^ (WORDS as u64) << 32
};

/// All zeros until the heap has started.
static BEACON: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

// An address would have to be relocated, which nothing in a note is: so it is a distance.
core::arch::global_asm!(
    ".pushsection .note.refpage, \"a\", %note",
    ".balign 4",
    ".4byte 8",
    ".4byte 16",
    ".4byte {kind}",
    ".asciz \"refpage\"",
    ".8byte {layout}",
    ".8byte {beacon} - .",
    ".popsection",
    kind = const NOTE_TYPE,
    layout = const LAYOUT,
    beacon = sym BEACON,
);

/// The heap has started.
pub(crate) fn light(heap: &Heap) {
    let counters = heap.engine.counters();
    let words = heap.engine.words();
    let mut figures = [0; FIGURES];
    for (at, figure) in figures.iter_mut().enumerate() {
        let row = |first: *const u64, from: usize| {
            first.wrapping_add(at - from).expose_provenance() as u64
        };
        *figure = match at {
            ..WINDOWS => continue,
            WINDOWS..FALL_BACKS => row(counters.window_words(), WINDOWS),
            FALL_BACKS..SINGLES => row(counters.fall_back_words(), FALL_BACKS),
            SINGLES.. => words.pool_singles[at - SINGLES].map_or(0, |word| address(word) as u64),
        };
    }
    figures[..WINDOWS].copy_from_slice(&Counted::words(heap));
    let values = Values::words(heap);
    // The first value, which says that the others are there, comes last.
    let values = values.iter().enumerate();
    let figures = figures.iter().enumerate().map(|(at, word)| (ADDRESSES + at, word));
    for (at, &word) in figures.chain(values.rev()) {
        BEACON[at].store(word, core::sync::atomic::Ordering::Release);
    }
}

/// Why the service is not a better one may have changed.
pub(crate) fn say_why(heap: &Heap) {
    let mut text = Line::<REASON>::new();
    // What does not fit is cut.
    let _ = write!(text, "{}", heap.engine.reasons());
    let mut bytes = text.as_bytes().chunks(8);
    for word in &BEACON[TEXT..] {
        let mut padded = [0; 8];
        let chunk = bytes.next().unwrap_or_default();
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(padded), Relaxed);
    }
}

/// A reader's copy of a beacon.
#[derive(Clone, Copy, Debug)]
pub struct Beacon([u64; WORDS]);

/// A reader's copy of what a heap counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// What has a name.
    pub counted: Counted,
    /// Answered faults by how many pages were put in place: in the place `n`, at least `2^n`.
    pub windows: [u64; Histogram::PLACES],
    /// How often something went a worse way, by [`Cause`].
    pub fall_backs: [u64; Cause::COUNT],
    /// Single pages in the pool.
    pub pool_singles: u64,
}

impl Beacon {
    /// Bytes of it.
    pub const BYTES: usize = WORDS * 8;

    /// From the bytes that were copied.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(core::array::from_fn(|at| u64::from_ne_bytes(words[at])))
    }

    /// What does not change.
    pub fn values(&self) -> Values {
        Values::of(core::array::from_fn(|at| self.0[at]))
    }

    /// Where the figures are; 0: there is none.
    pub fn addresses(&self) -> &[u64] {
        &self.0[ADDRESSES..TEXT]
    }

    /// Why the service is not a better one, with what fills the room up.
    pub fn reason(&self) -> [u8; REASON] {
        let mut text = [0; REASON];
        for (bytes, word) in text.chunks_mut(8).zip(&self.0[TEXT..]) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        text
    }
}

impl Figures {
    /// From the words at [`addresses`](Beacon::addresses).
    pub fn of(words: &[u64; FIGURES]) -> Self {
        // A count that goes up and down may be below zero for a moment.
        let waiting = |&word: &u64| u64::try_from(word as i64).unwrap_or(0);
        Self {
            counted: Counted::of(core::array::from_fn(|at| words[at])),
            windows: core::array::from_fn(|at| words[WINDOWS + at]),
            fall_backs: core::array::from_fn(|at| words[FALL_BACKS + at]),
            pool_singles: words[SINGLES..].iter().map(waiting).sum(),
        }
    }

    /// The service that the process has.
    pub fn service(&self) -> Service {
        match self.counted.asleep {
            0 => Service::from_word(self.counted.service),
            _ => Service::Lazy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_order_make_the_layout() {
        assert_ne!(hash_all(0, &["a", "b"]), hash_all(0, &["b", "a"]));
        assert_ne!(hash_all(0, &["ab"]), hash_all(0, &["a", "b"]));
    }

    #[test]
    fn a_copy_is_parted_as_the_beacon_was_put_together() {
        let mut bytes = [0; Beacon::BYTES];
        bytes[..8].copy_from_slice(&7u64.to_ne_bytes());
        bytes[ADDRESSES * 8..][..8].copy_from_slice(&9u64.to_ne_bytes());
        bytes[TEXT * 8..][..9].copy_from_slice(b"as chosen");
        let beacon = Beacon::from_bytes(&bytes);
        assert_eq!(beacon.values().born_ms, 7);
        assert_eq!((beacon.addresses().len(), beacon.addresses()[0]), (FIGURES, 9));
        assert!(beacon.reason().starts_with(b"as chosen\0"));
        let mut words = [0; FIGURES];
        words[0] = Service::Eager as u64;
        words[WINDOWS] = 1;
        words[FALL_BACKS] = 2;
        words[SINGLES] = 3;
        words[SINGLES + 1] = -1i64 as u64;
        let figures = Figures::of(&words);
        assert_eq!(figures.service(), Service::Eager);
        assert_eq!((figures.windows[0], figures.fall_backs[0], figures.pool_singles), (1, 2, 3));
        words[1] = 1;
        assert_eq!(Figures::of(&words).service(), Service::Lazy);
    }
}
