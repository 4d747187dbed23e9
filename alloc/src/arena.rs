//! Arenas: page runs that talc carves spans from.
//!
//! talc keeps its links inside free memory and a tag word behind each allocation. Spans are whole
//! slots less that word, at slot borders, so talc's words lie at slot borders only: that is where
//! a new span gets its content restored. Everything between was never written.
//!
//! Spans do not come back: an empty one gives up its pages and waits for the next of its length
//! in the [run cache](crate::cache). There are four lengths.

use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use refpage::sys::lock::Mutex;
use refpage::{Fresh, Pages, Service};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

use crate::books::{Part, parts_for};
use crate::cache::Memory;
use crate::classes::ARENA_WORD;
use crate::page_map::{Kind, SLOT};
use crate::start;

/// Slots of one arena: 64 MiB of addresses, untouched until spans are carved from them.
const ARENA_SLOTS: usize = 1024;

/// A Region of fewer slots is small: 1 GiB.
const SMALL_REGION: usize = 1 << 14;

/// What talc's base address has to lie below a slot border for the first gap to begin there.
const TAG_ROOM: usize = size_of::<usize>();

/// All arenas of a heap.
pub struct Arenas {
    talc: Mutex<Talc<Manual, DefaultBinning>>,
    /// The slot where the next span will most likely begin: behind the one before it.
    next: AtomicUsize,
}

impl core::fmt::Debug for Arenas {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Arenas").finish_non_exhaustive()
    }
}

impl Arenas {
    /// No arenas yet.
    pub const fn new() -> Self {
        Self { talc: Mutex::new(Talc::new(Manual)), next: AtomicUsize::new(0) }
    }

    /// A span of `slots` slots that holds the content wherever it is present, but for its last
    /// [`ARENA_WORD`] bytes, which are talc's: its first slot.
    pub fn allocate(&self, memory: Memory<'_>, slots: usize) -> Option<usize> {
        let layout = layout(slots)?;
        let served = memory.engine.service() == Service::Lazy;
        if served {
            self.ready_border(memory, self.next.load(Relaxed) + slots);
        }
        let mut talc = self.talc.lock();
        if !served {
            // Where no faults are served, a page may be filled by hand: not over talc's words.
            self.ready_border(memory, self.next.load(Relaxed) + slots);
        }
        // SAFETY: the layout's size is not zero.
        let mut found = unsafe { talc.try_allocate(layout) };
        if found.is_none() {
            self.claim(&mut talc, memory, slots)?;
            // SAFETY: as above.
            found = unsafe { talc.try_allocate(layout) };
        }
        let head = memory.map.slot_at(found?.as_ptr() as usize);
        self.next.store(head + slots, Relaxed);
        drop(talc);
        restore_borders(memory, head, slots);
        memory.map.assign(head, slots);
        Some(head)
    }

    /// Gives talc one more arena, with room for a span of `span` slots.
    fn claim(
        &self,
        talc: &mut Talc<Manual, DefaultBinning>,
        memory: Memory<'_>,
        span: usize,
    ) -> Option<()> {
        if talc.is_metadata_established() {
            // Which of several gaps it uses next is not foreseen, so it may fault.
            start::wake_handler();
        }
        let align = block_slots(memory);
        // A slot for talc's own words before the first border, and one for the word at the end.
        let least = (span + 2).next_multiple_of(align);
        let wanted = ARENA_SLOTS.min(memory.map.slots() / 8).max(least);
        let parts = match memory.engine.service() {
            Service::Cow => &parts_for(memory, Fresh::Content, wanted * SLOT, true)[..],
            _ => &[Part::Content],
        };
        let cache = memory.cache;
        let room =
            |slots| parts.iter().find_map(|&part| cache.take_aligned(memory, slots, align, part));
        // Cached runs make way for the least.
        let head = room(wanted)
            .or_else(|| room(least))
            .or_else(|| cache.take_fresh(memory, least, align, parts))?;
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        // Faults of talc's are answered one page at a time: spans come and go around them.
        run.window.open(memory.map.pages(head, 1), 0, 1);
        // What an older kernel could not drop, because it is locked in memory, may be zeros.
        memory.engine.convert(memory.map.pages(head, slots), Fresh::Content);
        run.set_kind(Kind::Arena);
        let (start, pages) = (memory.map.address(head), memory.map.pages(head, slots));
        // The first arena also holds talc's table of bins, which fits in a slot; for the later
        // ones the first gap begins at the second slot exactly.
        let skip = if talc.is_metadata_established() { SLOT - TAG_ROOM } else { 0 };
        // The last page is the guard of the run behind.
        let usable = if cache.guards.any() { pages.prefix(pages.count - 1) } else { pages };
        // Talc writes at both ends, and around the borders of the span to come.
        if is_known(memory) {
            memory.engine.prefill(pages.prefix(usize::from(skip == 0)));
            memory.engine.prefill(pages.skip(usable.count - 1).prefix(1));
            self.ready_border(memory, head + 1);
            self.ready_border(memory, head + 1 + span);
        }
        let len = usable.count << memory.engine.region().page_shift();
        // SAFETY: the run is fresh, in nobody else's hands, and stays an arena for ever.
        unsafe { talc.claim(start.add(skip), len - skip) }.map(|_| ())
    }

    /// The span's tag and the header of the gap behind it will be written around `slot`'s first
    /// byte: two pages put in place now are cheaper than two faults under the lock.
    fn ready_border(&self, memory: Memory<'_>, slot: usize) {
        let arena = |slot| {
            memory
                .map
                .head(slot)
                .is_some_and(|h| h < slot && memory.map.run(h).kind() == Kind::Arena)
        };
        if is_known(memory) && slot < memory.map.slots() && arena(slot) {
            let border = memory.map.pages(slot, 1).first;
            self.ready(memory, Pages { first: border - 1, count: 2 });
        }
    }

    /// Whether talc will not look at the word at the end of a span any more: it does when it carves the
    /// slots behind it.
    pub fn is_done_with(memory: Memory<'_>, head: usize) -> bool {
        let behind = head + memory.map.run(head).slots.load(Relaxed) as usize;
        behind < memory.map.slots() && memory.map.head(behind) == Some(behind)
    }

    /// Puts pages of spans in place that are about to be used.
    pub fn ready(&self, memory: Memory<'_>, pages: Pages) {
        if memory.engine.service() == Service::Off {
            // What nobody fills, nobody would know of either. And one call costs less than the faults.
            memory.engine.populate_in_use(pages);
        } else if block_slots(memory) > 1 {
            memory.engine.prefill_ahead(pages);
        } else {
            memory.engine.prefill(pages);
        }
    }

    /// Locks the arenas for the time of a fork.
    pub fn acquire(&self) {
        self.talc.acquire();
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.talc.release() }
    }
}

/// Whether all present pages have to be known, also those that talc writes to: with `lazy`, and as
/// long as it is asleep. In the one arena that there is then, spans follow each other.
fn is_known(memory: Memory<'_>) -> bool {
    memory.engine.offered() == Service::Lazy
}

/// Slots that an arena's length and first slot are multiples of: whole huge pages fit, but in a
/// small Region, where nothing is to be wasted.
fn block_slots(memory: Memory<'_>) -> usize {
    if memory.map.slots() < SMALL_REGION {
        1
    } else {
        memory.map.slot_of(memory.engine.pages_per_block())
    }
}

fn layout(slots: usize) -> Option<Layout> {
    Layout::from_size_align(slots * SLOT - ARENA_WORD, SLOT).ok()
}

/// Writes the content over the first and the last page of each of the span's slots, where talc's
/// words are or were, but for its present last word. With `lazy`, a missing page has none.
fn restore_borders(memory: Memory<'_>, head: usize, slots: usize) {
    let service = memory.engine.service();
    if service == Service::Off {
        return;
    }
    let region = memory.engine.region();
    let page = 1usize << region.page_shift();
    let restore = |start: *mut u8, len: usize| {
        let pages = region.pages_of(start as usize, len);
        if service.fills_at_allocation() || region.present().get(pages.first) {
            // SAFETY: the span is in this thread's hands.
            unsafe { memory.engine.content().fill(start, len) };
            region.present().set(pages);
        }
    };
    for slot in head..head + slots {
        let start = memory.map.address(slot);
        let last = if slot + 1 == head + slots { ARENA_WORD } else { 0 };
        restore(start, page.min(SLOT - last));
        // SAFETY: within the slot. talc's word at the end of the span is left alone.
        restore(unsafe { start.add(SLOT - page) }, page - last);
    }
}
