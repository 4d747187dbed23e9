//! Large allocations: page runs of their own, kept for reuse with their pages.
//!
//! ```text
//!   allocate ─▶ cached run of the bin ──────────────▶ handed out: present pages hold the content
//!            └▶ free extent of the Region ──────────▶ handed out: all pages missing
//!   free ────▶ refill what is present ─▶ cached ─ decay ─▶ pages to the pool or the kernel,
//!                                                          slots to the free extents
//! ```
//!
//! Sizes are rounded to four steps a doubling, in addresses only: what nobody touches is missing.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use refpage::sys::vm;
use refpage::{Count, Pages, Service};

use crate::cache::Memory;
use crate::extents::{BINS, bin_above, bin_of, bin_slots};
use crate::misuse;
use crate::page_map::{Kind, SLOT};

/// Pages from which a run may get huge pages, which its first faults will show.
const HUGE_RUN: usize = 2048;

/// Uses in a row that touched less than a quarter of a run's pages before it gives some up: the
/// faults to get them back cost as much as refilling them that many times.
const SPARSE_USES: u32 = 16;

/// Pages from which a realloc that has to go elsewhere asks for a run without pages, so that its
/// own can be moved there.
const MOVE_FROM: usize = 4;

/// Counters of large allocations.
#[derive(Debug)]
pub struct LargeCounters {
    /// Allocations.
    pub allocated: Count,
    /// Those that got a cached run.
    pub recycled: Count,
    /// Frees.
    pub freed: Count,
}

/// Large allocations of one heap.
#[derive(Debug)]
pub struct Large {
    live_bytes: AtomicUsize,
    /// For each bin: pages that such runs had touched when they were freed, a moving average.
    touched: [AtomicU32; BINS],
    /// What was done so far.
    pub counters: LargeCounters,
}

impl Large {
    /// No allocations yet.
    pub const fn new() -> Self {
        Self {
            live_bytes: AtomicUsize::new(0),
            touched: [const { AtomicU32::new(0) }; BINS],
            counters: LargeCounters {
                allocated: Count::new(),
                recycled: Count::new(),
                freed: Count::new(),
            },
        }
    }

    /// Bytes asked for and not yet freed.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes.load(Relaxed)
    }

    /// `size` bytes at a multiple of `align`: the content, or zeros. Null when there is no room.
    pub fn allocate(&self, memory: Memory<'_>, size: usize, align: usize, zeroed: bool) -> *mut u8 {
        let Some(slots) = slots_for(size) else { return core::ptr::null_mut() };
        let align = align.div_ceil(SLOT);
        let cached = if align == 1 { memory.cache.take_large(memory, slots) } else { None };
        let head = match cached {
            Some(head) => {
                self.counters.recycled.add(1);
                head
            }
            None => match self.take_fresh(memory, slots, align, size) {
                Some(head) => head,
                None => return core::ptr::null_mut(),
            },
        };
        self.open(memory, head, size, zeroed);
        memory.map.address(head)
    }

    fn take_fresh(
        &self,
        memory: Memory<'_>,
        slots: usize,
        align: usize,
        size: usize,
    ) -> Option<usize> {
        // The Region was reserved before a limit that came later; malloc honours it all the same.
        let limit = vm::address_space_limit();
        if limit.is_some_and(|limit| (self.live_bytes() + size) as u64 > limit) {
            return None;
        }
        memory.cache.make_room(memory, self.expected(slots));
        memory.cache.take_fresh(memory, slots, align)
    }

    /// Pages that a run of `slots` will have touched when it is freed, by what such runs had.
    fn expected(&self, slots: usize) -> usize {
        self.touched.get(bin_of(slots)).map_or(0, |touched| touched.load(Relaxed) as usize)
    }

    /// Hands out the run at `head`.
    fn open(&self, memory: Memory<'_>, head: usize, size: usize, zeroed: bool) {
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        let pages = memory.map.pages(head, slots);
        let asked = memory.engine.region().pages_of(memory.map.address(head) as usize, size);
        let expected = self.expected(slots);
        run.window.open(pages, if zeroed { asked.count } else { 0 }, expected);
        run.size.store(size, Relaxed);
        // Pages put in place now cost no fault; but where huge pages may come, they come better.
        let soon = if asked.count < HUGE_RUN { asked.prefix(expected) } else { asked.prefix(0) };
        match (memory.engine.service(), zeroed) {
            (Service::Off, zeroed) => {
                memory.engine.provide(asked);
                if run.dirty.swap(true, Relaxed) && zeroed {
                    // SAFETY: the run is in this thread's hands and holds `size` bytes.
                    unsafe { memory.map.address(head).write_bytes(0, size) };
                }
            }
            (_, true) => {
                memory.engine.zero_present(asked);
                memory.engine.prefill_zeros(soon);
            }
            (Service::Lazy, false) => memory.engine.prefill(soon),
            (_, false) => memory.engine.provide(asked),
        }
        self.live_bytes.fetch_add(size, Relaxed);
        self.counters.allocated.add(1);
        run.set_kind(Kind::Large);
    }

    /// Frees the large allocation at `address`; ends the process if there is none.
    pub fn free(&self, memory: Memory<'_>, address: usize) {
        let head = self.claim(memory, address);
        self.retire(memory, head);
        if memory.engine.service() != Service::Lazy {
            memory.cache.purge_if_due(memory);
        }
    }

    /// Takes the live run that begins at `address` into this thread's hands.
    fn claim(&self, memory: Memory<'_>, address: usize) -> usize {
        let slot = memory.map.slot_at(address);
        let head = memory.map.head(slot);
        match head {
            Some(head)
                if memory.map.address(head) as usize == address
                    && memory.map.run(head).change_kind(Kind::Large, Kind::Moving) =>
            {
                head
            }
            _ => misuse::bad_free(memory.map, address),
        }
    }

    /// Puts a run that was live into the cache, its content restored.
    fn retire(&self, memory: Memory<'_>, head: usize) {
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        let pages = memory.map.pages(head, slots);
        self.learn_zeroed(memory, head);
        self.live_bytes.fetch_sub(run.size.load(Relaxed), Relaxed);
        self.counters.freed.add(1);
        let dirty = memory.engine.refill(pages);
        if let Some(touched) = self.touched.get(bin_of(slots)) {
            let old = touched.load(Relaxed) as usize;
            touched.store(((old * 3 + dirty) / 4) as u32, Relaxed);
        }
        self.thin_out(memory, head, dirty);
        memory.cache.keep(memory, head, Kind::Cached);
    }

    /// A run that is dense from some former use, but has long been used sparsely, costs its whole
    /// length at each free: it gives up what is behind the pages that its users touch.
    fn thin_out(&self, memory: Memory<'_>, head: usize, dirty: usize) {
        if memory.engine.service() != Service::Lazy {
            return;
        }
        let run = memory.map.run(head);
        let pages = memory.pages(head);
        if dirty * 4 > memory.engine.region().present().count(pages) {
            run.sparse_uses.store(0, Relaxed);
        } else if run.sparse_uses.fetch_add(1, Relaxed) == SPARSE_USES {
            memory.engine.release(pages.skip(dirty * 2));
            run.sparse_uses.store(0, Relaxed);
        }
    }

    /// Under `memset`, the kernel itself populated what is zero: finds out which pages.
    fn learn_zeroed(&self, memory: Memory<'_>, head: usize) {
        let window = &memory.map.run(head).window;
        let zero = window.zero_pages();
        if zero > 0 && memory.engine.service() == Service::Memset {
            memory.engine.learn_present(window.pages().prefix(zero));
        }
    }

    /// Bytes that the allocation at `address` may use: those it asked for, so that what lies
    /// behind them stays the content. Ends the process if there is no such allocation.
    pub fn usable_size(&self, memory: Memory<'_>, address: usize) -> usize {
        match memory.map.head(memory.map.slot_at(address)) {
            Some(head)
                if memory.map.address(head) as usize == address
                    && memory.map.run(head).kind() == Kind::Large =>
            {
                memory.map.run(head).size.load(Relaxed)
            }
            _ => misuse::bad_free(memory.map, address),
        }
    }

    /// Makes the allocation at `address` `size` bytes long, here or elsewhere; its new part holds
    /// the content. Null when there is no room, and then nothing has changed.
    pub fn reallocate(&self, memory: Memory<'_>, address: usize, size: usize) -> *mut u8 {
        let Some(slots) = slots_for(size) else { return core::ptr::null_mut() };
        let head = self.claim(memory, address);
        let run = memory.map.run(head);
        let (old_slots, old_size) = (run.slots.load(Relaxed) as usize, run.size.load(Relaxed));
        let stays = slots <= old_slots && slots >= old_slots / 2
            || slots > old_slots && memory.cache.extents.lock().grow(memory.map, head, slots);
        if stays {
            run.window.resize(memory.map.pages(head, run.slots.load(Relaxed) as usize).count);
            self.resize(memory, head, old_size, size);
            run.set_kind(Kind::Large);
            return address as *mut u8;
        }
        let to = self.move_to(memory, head, slots, size);
        match to {
            Some(to) => {
                self.retire(memory, head);
                to
            }
            None => {
                run.set_kind(Kind::Large);
                core::ptr::null_mut()
            }
        }
    }

    /// The run at `head` is long enough for both sizes: makes its bytes right.
    fn resize(&self, memory: Memory<'_>, head: usize, old: usize, new: usize) {
        let run = memory.map.run(head);
        run.size.store(new, Relaxed);
        self.live_bytes.fetch_add(new, Relaxed);
        self.live_bytes.fetch_sub(old, Relaxed);
        self.learn_zeroed(memory, head);
        let region = memory.engine.region();
        let base = memory.map.address(head) as usize;
        let kept = region.pages_of(base, new.min(old));
        let zero = run.window.zero_pages();
        // A run that grows holds the content behind its old end, except where a page came as
        // zeros; one that shrinks holds what the program left there.
        let shrinks = new < old && region.present().get(kept.end() - 1);
        if zero > 0 || shrinks {
            restore_page_from(memory, base + new.min(old));
        }
        run.window.set_zero_pages(zero.min(kept.count));
        if new < old {
            let tail = Pages::span(kept.end(), region.pages_of(base, old).end());
            memory.engine.refill(tail);
            if tail.count > kept.count {
                memory.engine.release(tail);
            }
        } else {
            memory.engine.provide(Pages::span(kept.end(), region.pages_of(base, new).end()));
        }
    }

    /// Moves what the run at `head` holds to another one of `slots`.
    fn move_to(
        &self,
        memory: Memory<'_>,
        head: usize,
        slots: usize,
        size: usize,
    ) -> Option<*mut u8> {
        let old = memory.map.run(head);
        let old_size = old.size.load(Relaxed).min(size);
        let region = memory.engine.region();
        let from = memory.map.address(head);
        let off = memory.engine.service() == Service::Off;
        let src = region.pages_of(from as usize, old_size);
        self.learn_zeroed(memory, head);
        let present = region.present().count(src);
        let cached =
            if off || present < MOVE_FROM { memory.cache.take_large(memory, slots) } else { None };
        let (to, recycled) = match cached {
            Some(to) => (to, true),
            None => (self.take_fresh(memory, slots, 1, size)?, false),
        };
        let run = memory.map.run(to);
        let pages = memory.map.pages(to, run.slots.load(Relaxed) as usize);
        let zero = old.window.zero_pages().min(src.count);
        run.window.open(pages, zero, 1);
        run.size.store(old_size, Relaxed);
        run.dirty.store(true, Relaxed);
        self.live_bytes.fetch_add(old_size, Relaxed);
        self.counters.allocated.add(1);
        let start = memory.map.address(to);
        if off || recycled {
            if !off {
                memory.engine.provide(Pages { first: pages.first, count: src.count });
            }
            // SAFETY: two runs in this thread's hands, each with `old_size` bytes.
            unsafe { start.copy_from_nonoverlapping(from, old_size) };
        } else {
            // Missing pages of the old run that read as zero are to do so here, where locked memory
            // may have stayed.
            memory.engine.zero_present(pages.prefix(zero));
            memory.engine.relocate(Pages { first: pages.first, count: src.count }, src);
            if old.size.load(Relaxed) > old_size {
                restore_page_from(memory, start as usize + old_size);
            }
        }
        self.resize(memory, to, old_size, size);
        run.set_kind(Kind::Large);
        Some(start)
    }
}

/// Writes the content from `address` to the end of its page, all of which is in this thread's
/// hands; nothing if a page begins there.
fn restore_page_from(memory: Memory<'_>, address: usize) {
    let region = memory.engine.region();
    let end = address.next_multiple_of(1 << region.page_shift());
    if end > address {
        // SAFETY: the caller's bytes; the page is served if it is missing.
        unsafe { memory.engine.content().fill(address as *mut u8, end - address) };
        region.present().set(region.pages_of(address, 1));
    }
}

/// Slots of a run for `size` bytes; none if no Region could hold it.
fn slots_for(size: usize) -> Option<usize> {
    let slots = size.div_ceil(SLOT).max(1);
    (slots <= u32::MAX as usize >> 1).then(|| bin_slots(bin_above(slots)))
}
