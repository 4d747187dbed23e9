//! The page map: address → page run → span → class, outside the heap memory that it describes.
//!
//! ```text
//!   Region   | slot 0 | slot 1 | slot 2 | ...            64 KiB each
//!   heads       1        2        2                      slot → first slot of its run, plus one
//!   runs      [Run]    [Run]                             one record, at the run's first slot
//!   states    a byte for each 16 bytes of the Region     class of the live block that starts there, and whose
//!   free bits a bit for each 16 bytes of the Region      blocks of spans that wait to be reused
//! ```
//!
//! All four are indexed by address, in one reservation whose untouched parts cost nothing.

use core::ops::ControlFlow::{self, Continue};
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use refpage::sys::vm;
use refpage::{Fresh, Pages, Region, RunWindow};
use rustix::io::Result;

use crate::classes::GRANULE;

/// The unit of page runs: the largest OS page that Linux has on these machines.
pub const SLOT: usize = 64 << 10;

/// States of a page run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// No run begins here.
    None,
    /// A free extent.
    Free,
    /// A large allocation.
    Large,
    /// A freed large run that keeps its pages for reuse.
    Cached,
    /// On its way from one state to another, in one thread's hands.
    Moving,
    /// Memory that spans are carved from.
    Arena,
    /// A span of small blocks.
    Span,
    /// A span without blocks that keeps its pages for reuse.
    EmptySpan,
    /// A span without blocks and without pages.
    BareSpan,
    /// A freed large run that has no pages and whose addresses stay out of use.
    Quarantined,
}

impl Kind {
    fn from_u8(value: u8) -> Self {
        match value {
            1 => Kind::Free,
            2 => Kind::Large,
            3 => Kind::Cached,
            4 => Kind::Moving,
            5 => Kind::Arena,
            6 => Kind::Span,
            7 => Kind::EmptySpan,
            8 => Kind::BareSpan,
            9 => Kind::Quarantined,
            _ => Kind::None,
        }
    }
}

/// The record of one page run, at its first slot. Which fields mean something depends on its
/// kind; who may write them is said at the lists and locks that the run is under.
#[derive(Debug)]
pub struct Run {
    /// What the fault handler needs to know.
    pub window: RunWindow,
    kind: AtomicU8,
    /// Length in slots.
    pub slots: AtomicU32,
    /// Links of the list that the run is on: slot plus one, 0 at the ends.
    pub prev: AtomicU32,
    /// As `prev`.
    pub next: AtomicU32,
    /// Large: the bytes asked for. Cached: the pages it keeps.
    pub size: AtomicUsize,
    /// Freed: the bytes that it was asked for last.
    pub freed: AtomicUsize,
    /// Large, and freed: bytes before the allocation in its first page.
    pub offset: AtomicU32,
    /// Large, and freed: it stands for a small allocation.
    pub sampled: AtomicBool,
    /// The page with a [guard](crate::guards), counted from the run's first; 0: none but the last.
    pub guard: AtomicU32,
    /// Freed: when it was. Large: when it was handed out. In milliseconds.
    pub since: AtomicU64,
    /// Large, and freed: where it was allocated, and where it was freed (see [`traces`](crate::traces)); and when
    /// it was handed out, in milliseconds. 0: not known.
    pub allocated_at: AtomicU32,
    /// As `allocated_at`.
    pub freed_at: AtomicU32,
    /// As `allocated_at`.
    pub born: AtomicU64,
    /// Large: pages that were present when it was handed out.
    pub placed: AtomicU32,
    /// Large: pages that it gave up because its users did not touch them, and has not missed so far.
    pub thinned: AtomicU32,
    /// Large: pages that were not refilled for that.
    pub saved: AtomicU32,
    /// Large: it came from calloc. Cached: its present pages hold zeros instead of the content.
    pub zeros: AtomicBool,
    /// Large: pages refilled in vain, in uses in a row that touched few of them.
    pub waste: AtomicU32,
    /// Large: how often the kernel was asked which of its pages are present.
    pub asked: AtomicU32,
    /// Large, service `off`: it may hold something other than zeros.
    pub dirty: AtomicBool,
    /// Span: its size class.
    pub class: AtomicU8,
    /// Span: blocks that were handed out at least once, counted from the start.
    pub opened: AtomicU32,
    /// Span: blocks among those that are back.
    pub returned: AtomicU32,
    /// Span: pages from the start that were readied.
    pub readied: AtomicU32,
    /// Moving: whether it was an empty span, and not a large run, while it was cached.
    pub was_span: AtomicBool,
    /// Span: whether it is on its class's list.
    pub listed: AtomicBool,
}

impl Run {
    /// Forgets what a former run at this slot was used for.
    pub fn renew(&self) {
        self.zeros.store(false, Relaxed);
        self.waste.store(0, Relaxed);
        self.thinned.store(0, Relaxed);
        self.saved.store(0, Relaxed);
        self.asked.store(0, Relaxed);
        self.offset.store(0, Relaxed);
        self.sampled.store(false, Relaxed);
        self.guard.store(0, Relaxed);
        self.allocated_at.store(0, Relaxed);
        self.freed_at.store(0, Relaxed);
        self.born.store(0, Relaxed);
        self.window.set_tag(self.window.tag(), 0);
    }

    /// What its present pages hold that nobody uses: zeros, if it came from calloc.
    pub fn holds(&self) -> Fresh {
        if self.zeros.load(Relaxed) { Fresh::Zero } else { Fresh::Content }
    }

    /// Where in a record the state is.
    pub const KIND_AT: usize = core::mem::offset_of!(Self, kind);

    /// Its state.
    #[inline]
    pub fn kind(&self) -> Kind {
        Kind::from_u8(self.kind.load(Relaxed))
    }

    /// Changes its state.
    pub fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Relaxed);
    }

    /// Changes its state if it is `from`: false if it was not.
    pub fn change_kind(&self, from: Kind, to: Kind) -> bool {
        self.kind
            .compare_exchange(from as u8, to as u8, core::sync::atomic::Ordering::Acquire, Relaxed)
            .is_ok()
    }
}

/// The map. Every lookup takes an address or slot inside the Region.
#[derive(Debug)]
pub struct PageMap {
    base: usize,
    slots: usize,
    page_shift: u32,
    heads: *mut AtomicU32,
    runs: *mut Run,
    states: *mut AtomicU8,
    free_bits: *mut AtomicU64,
}

// SAFETY: all of it is atomics in a mapping that lives as long as the process.
unsafe impl Sync for PageMap {}
// SAFETY: as above; nothing here belongs to a thread.
unsafe impl Send for PageMap {}

/// Bytes of states, free bits, records and heads for `slots` slots.
fn parts(slots: usize) -> [usize; 4] {
    PER_SLOT.map(|bytes| (slots * bytes).next_multiple_of(SLOT))
}

/// Bytes of each part for one slot.
const PER_SLOT: [usize; 4] =
    [SLOT / GRANULE, FREE_WORDS * 8, size_of::<Run>(), size_of::<AtomicU32>()];

const FREE_WORDS: usize = SLOT / GRANULE / 64;

impl PageMap {
    /// An empty map of `region`.
    ///
    /// # Errors
    /// ENOMEM where there is no address space for it.
    pub fn reserve(region: &Region) -> Result<Self> {
        let slots = region.len() / SLOT;
        let parts = parts(slots);
        let start = vm::reserve_for_later(parts.iter().sum(), SLOT)?;
        let [states, free_bits, runs, _] = parts;
        // SAFETY: each part begins within the reservation, at a multiple of SLOT.
        unsafe {
            Ok(Self {
                base: region.base(),
                slots,
                page_shift: region.page_shift(),
                states: start.cast(),
                free_bits: start.add(states).cast(),
                runs: start.add(states + free_bits).cast(),
                heads: start.add(states + free_bits + runs).cast(),
            })
        }
    }

    /// Has room for what is known of these slots: nothing may be written of others.
    ///
    /// # Errors
    /// ENOMEM where a limit does not allow it.
    pub fn make_usable(&self, first: usize, slots: usize) -> Result<()> {
        let starts =
            [self.states.cast(), self.free_bits.cast(), self.runs.cast(), self.heads.cast()];
        starts.into_iter().zip(PER_SLOT).try_for_each(|(start, bytes): (*mut u8, usize)| {
            // SAFETY: the slots' bytes lie in the part, and that in the reservation.
            unsafe { vm::make_writable(start.add(first * bytes), slots * bytes) }
        })
    }

    /// Where the heads and the runs are.
    pub fn tables(&self) -> [usize; 2] {
        [self.heads.expose_provenance(), self.runs.expose_provenance()]
    }

    /// Slots of the Region.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The slot that holds the first byte of `page`.
    #[inline]
    pub fn slot_of(&self, page: usize) -> usize {
        page >> (SLOT.trailing_zeros() - self.page_shift)
    }

    /// The slot that holds `address`.
    #[inline]
    pub fn slot_at(&self, address: usize) -> usize {
        (address - self.base) / SLOT
    }

    /// A slot's first byte.
    #[inline]
    pub fn address(&self, slot: usize) -> *mut u8 {
        (self.base + slot * SLOT) as *mut u8
    }

    /// The OS pages of `slots` slots from `first`.
    #[inline]
    pub fn pages(&self, first: usize, slots: usize) -> Pages {
        let shift = SLOT.trailing_zeros() - self.page_shift;
        Pages { first: first << shift, count: slots << shift }
    }

    /// The first slot of the run that `slot` belongs, or last belonged, to.
    #[inline]
    pub fn head(&self, slot: usize) -> Option<usize> {
        let head = self.head_word(slot).load(Relaxed) as usize;
        head.checked_sub(1)
    }

    /// Says that `count` slots from `head` belong to the run that begins at `head`.
    pub fn assign(&self, head: usize, count: usize) {
        for slot in head..head + count {
            self.assign_one(head, slot);
        }
    }

    /// Says it of one slot only: free extents need it of their ends.
    pub fn assign_one(&self, head: usize, slot: usize) {
        self.head_word(slot).store(head as u32 + 1, Relaxed);
    }

    /// Visits the first slots of all runs that there may be, whatever their kind: all of a run that stays what it
    /// is meanwhile.
    pub fn each_run(
        &self,
        region: &Region,
        mut visit: impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for part in region.used() {
            let (mut slot, end) = (self.slot_of(part.first), self.slot_of(part.end()));
            while slot < end {
                if self.head(slot) != Some(slot) {
                    slot += 1;
                    continue;
                }
                visit(slot)?;
                // An arena has spans in it.
                let run = self.run(slot);
                let slots = run.slots.load(Relaxed) as usize;
                slot += if run.kind() == Kind::Arena { 1 } else { slots.max(1) };
            }
        }
        Continue(())
    }

    /// The record at a run's first slot.
    #[inline]
    pub fn run(&self, head: usize) -> &Run {
        debug_assert!(head < self.slots);
        // SAFETY: slots are indices of this Region, and there is a record for each; zeros, as the
        // kernel gives them, are a value of every field.
        unsafe { &*self.runs.add(head) }
    }

    /// The state of the block that starts at `address`: 0, or [`classes::state`](crate::classes::state) while it is
    /// live.
    #[inline]
    pub fn state(&self, address: usize) -> &AtomicU8 {
        // SAFETY: addresses lie in the Region, and there is a byte for each 16 of it.
        unsafe { &*self.states.add((address - self.base) / GRANULE) }
    }

    /// Where the state would be of the block that starts at address 0: that of another is as many bytes
    /// behind as the address has granules.
    pub fn states_of_0(&self) -> usize {
        self.states.addr().wrapping_sub(self.base / GRANULE)
    }

    /// Gives the memory back that the states of these slots take, in whole OS pages: no block of theirs is live.
    pub fn forget_states(&self, head: usize, slots: usize) {
        let page = vm::page_size();
        let bytes = |slot: usize| slot * (SLOT / GRANULE);
        let (start, end) = (bytes(head).next_multiple_of(page), bytes(head + slots) / page * page);
        if start < end {
            // SAFETY: the states of these slots, which are all 0, and are again when they are read next. If the
            // kernel refuses, they stay.
            let _ = unsafe { vm::drop_pages(self.states.cast::<u8>().add(start), end - start) };
        }
    }

    /// The words of free bits of the span at slot `head`, `count` of them.
    pub fn free_bits(&self, head: usize, count: usize) -> &[AtomicU64] {
        debug_assert!(count <= FREE_WORDS);
        // SAFETY: there are FREE_WORDS words for each slot, and a span has no more blocks than
        // its first slot has granules.
        unsafe { core::slice::from_raw_parts(self.free_bits.add(head * FREE_WORDS), count) }
    }

    fn head_word(&self, slot: usize) -> &AtomicU32 {
        debug_assert!(slot < self.slots);
        // SAFETY: slots are indices of this Region, and there is a word for each.
        unsafe { &*self.heads.add(slot) }
    }
}

impl Drop for PageMap {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, and its owner goes.
        unsafe { vm::unmap(self.states.cast(), parts(self.slots).iter().sum()) };
    }
}
