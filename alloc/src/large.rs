//! Large allocations: page runs of their own, kept for reuse with their pages.
//!
//! ```text
//!   allocate ─▶ cached run of the bin, or the beginning of a larger one ─▶ present pages hold
//!            │                                                             what they have to
//!            └▶ free extent of the Region's part ─▶ the predictor's pages ─▶ the rest is missing
//!                                                   placed now
//!   free ────▶ restore what is present ─▶ learn ─▶ thin out ─▶ cached ─ decay ─▶ pages to the
//!                                                  pool or the kernel, slots to the free extents
//! ```
//!
//! A run that came from calloc is zeroed when it is freed, and kept for the next calloc; malloc
//! takes it only where there is no other, and fills it then.
//!
//! Where a freed run goes is for [`RunCache::retire`](crate::cache::RunCache::retire) to decide: it may put the addresses
//! in quarantine, and cache the pages elsewhere.
//!
//! Sizes are rounded to four steps a doubling, in addresses only: what nobody touches is missing.

mod resize;

use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::vm;
use refpage::{Cause, Fresh, Pages, Service, Touched};

use crate::books::{Wanted, parts_for};
use crate::cache::Memory;
use crate::extents::{bin_above, bin_slots};
use crate::guards::{self, Placement};
use crate::misuse;
use crate::page_map::{Kind, Run, SLOT};
use crate::predictor::{AT_FIRST, Predictor};
use crate::profile;
use crate::tags;
use crate::traces;
use crate::unseen;
use crate::written;

/// Runs are expected to be used to their end from this share on: all but one part in so many.
const NEARLY: usize = 16;

/// Milliseconds after which pages of a run may be swapped out: sooner, the question whether they are
/// would cost those who use memory for a moment more than it saves.
const SWAPPED_FROM: u64 = 100;

/// What a large allocation is to be.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes.
    pub size: usize,
    /// Their address is a multiple of this power of two.
    pub align: usize,
    /// What they read as.
    pub fresh: Fresh,
    /// Where they lie between their guards.
    pub placement: Placement,
    /// Whether it stands for a small allocation.
    pub sampled: bool,
}

/// Large allocations of one heap.
#[derive(Debug)]
pub struct Large {
    predictor: Predictor,
}

impl Large {
    /// No allocations yet.
    pub const fn new() -> Self {
        Self { predictor: Predictor::new() }
    }

    /// What is asked for, or null when there is no room.
    pub fn allocate(&self, memory: Memory<'_>, request: Request) -> *mut u8 {
        let Some(head) = self.make(memory, request) else { return core::ptr::null_mut() };
        profile::note_allocation(memory, head, request.fresh);
        tags::pointer(memory, head)
    }

    /// The run that is what is asked for, if there is room.
    fn make(&self, memory: Memory<'_>, request: Request) -> Option<usize> {
        let Request { size, fresh, .. } = request;
        let slots = slots_for(memory, size)?;
        let align = request.align.div_ceil(SLOT);
        // Of an unknown user, no run is too good.
        let all = memory.map.pages(0, slots).count;
        let expected = self.predictor.expected(slots, fresh).unwrap_or(all);
        let wanted = Wanted { size, slots, fresh, expected };
        let cached = if align == 1 { memory.cache.take_large(memory, wanted) } else { None };
        let head = match cached {
            Some(head) => head,
            None => self.take_fresh(memory, slots, align, size, fresh, None)?,
        };
        if cached.is_some() && memory.cache.verifies {
            guards::check_free(memory, head);
        }
        if cached.is_none() {
            // What an older kernel could not drop, because it is locked in memory.
            memory.engine.convert(memory.pages(head), fresh);
            memory.map.run(head).zeros.store(fresh == Fresh::Zero, Relaxed);
        }
        profile::ready(memory, head, size, cached.is_some());
        self.open(memory, head, request);
        if cached.is_none() {
            memory.cache.account(|usage| usage.add(size));
            self.predictor.allocated(memory, head, fresh);
        }
        traces::note_allocation(memory, head);
        Some(head)
    }

    /// Fresh slots; `used` pages of them will be used, if that is known.
    fn take_fresh(
        &self,
        memory: Memory<'_>,
        slots: usize,
        align: usize,
        size: usize,
        fresh: Fresh,
        used: Option<usize>,
    ) -> Option<usize> {
        // The Region was reserved before a limit that came later; malloc honours it all the same.
        let live = memory.cache.usage().live_bytes;
        let exceeds = |limit: Option<u64>| limit.is_some_and(|limit| (live + size) as u64 > limit);
        if exceeds(vm::address_space_limit()) || exceeds(vm::data_limit()) {
            return None;
        }
        self.predictor.look(memory, slots, fresh);
        let expected = used.or(self.predictor.expected(slots, fresh)).unwrap_or(AT_FIRST);
        memory.cache.make_room(memory, expected);
        let dense = expected * 2 >= memory.engine.region().pages_in(size);
        let parts = parts_for(memory, fresh, size, dense);
        // Where huge pages fit, they are to fit from the start.
        let block = memory.map.slot_of(memory.engine.pages_per_block());
        if slots >= block
            && align < block
            && let Some(head) = memory.cache.take_aligned(memory, slots, block, parts[0])
        {
            return Some(head);
        }
        memory.cache.take_fresh(memory, slots, align, &parts)
    }

    /// Hands out the run at `head`.
    fn open(&self, memory: Memory<'_>, head: usize, request: Request) {
        let Request { size, align, fresh, placement, sampled } = request;
        let engine = memory.engine;
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        let pages = memory.map.pages(head, slots);
        drop_swapped(memory, run, pages);
        run.since.store(vm::now_ms(), Relaxed);
        run.size.store(size, Relaxed);
        run.offset.store(guards::offset(memory, size, align, placement) as u32, Relaxed);
        run.sampled.store(sampled, Relaxed);
        let asked = memory.used(head);
        let zeroed = fresh == Fresh::Zero;
        let held_zeros = run.zeros.load(Relaxed);
        run.zeros.store(zeroed, Relaxed);
        let expected = self.predictor.expected(slots, fresh).unwrap_or_else(|| {
            if !matches!(engine.service(), Service::Memset | Service::Off) {
                engine.note(Cause::NoPrediction);
            }
            AT_FIRST
        });
        let window = if memory.cache.guards.any() { asked } else { pages };
        run.window.open(window, if zeroed { asked.count } else { 0 }, expected);
        tags::open_run(memory, head, size);
        tags::back(memory, head, (held_zeros, fresh), expected);
        if held_zeros != zeroed {
            engine.convert(pages, fresh);
        }
        guards::place(memory, head, asked.count, placement);
        // Pages put in place now cost no fault.
        let soon = self.soon(memory, window, asked, expected);
        match (engine.service(), fresh) {
            (Service::Off, _) => {
                engine.provide(asked);
                if run.dirty.swap(true, Relaxed) && zeroed {
                    // SAFETY: the run is in this thread's hands and holds `size` bytes.
                    unsafe { memory.start(head).write_bytes(0, size) };
                }
            }
            (_, Fresh::Zero) => {
                engine.provide_zeros(asked);
                engine.prefill_zeros(soon);
            }
            (_, Fresh::Content) => {
                engine.provide(asked);
                engine.prefill(soon);
            }
        }
        run.placed.store(engine.region().present().count(pages) as u32, Relaxed);
        run.set_kind(Kind::Large);
    }

    /// The pages of a run to put in place when it is handed out: those `expected` to be used,
    /// rounded up to all that was asked for, or to a whole huge page, where little is missing.
    fn soon(&self, memory: Memory<'_>, run: Pages, asked: Pages, expected: usize) -> Pages {
        if matches!(memory.engine.service(), Service::Memset | Service::Off) {
            return asked.prefix(0);
        }
        let soon = if nearly(expected, asked.count) { asked } else { asked.prefix(expected) };
        let block = memory.engine.pages_per_block();
        let whole = Pages::span(asked.first, soon.end().next_multiple_of(block));
        let last = Pages::span((whole.end() - block).max(asked.first), soon.end());
        if nearly(last.count, block) && whole.end() <= run.end() { whole } else { soon }
    }

    /// Frees the large allocation at `pointer`; ends the process if there is none.
    pub fn free(&self, memory: Memory<'_>, pointer: *const u8) {
        profile::before_free(memory);
        let head = self.claim(memory, pointer);
        self.retire(memory, head, true);
    }

    /// Takes the live run that begins at `pointer` into this thread's hands.
    fn claim(&self, memory: Memory<'_>, pointer: *const u8) -> usize {
        let address = tags::address(pointer);
        let slot = memory.map.slot_at(address);
        let head = memory.map.head(slot);
        match head {
            Some(head)
                if memory.start(head) as usize == address
                    && memory.map.run(head).change_kind(Kind::Large, Kind::Moving) =>
            {
                tags::check_run(memory, head, pointer);
                memory.cache.let_look_finish(head);
                memory.engine.let_handler_finish(memory.pages(head));
                head
            }
            _ => misuse::bad_free(memory.map, pointer),
        }
    }

    /// Puts a run that was live into the cache, its content restored; zeros, if it came from calloc
    /// and has not grown: the next of its size will likely do so, too.
    /// What it was used for is learnt unless its pages have moved on.
    fn retire(&self, memory: Memory<'_>, head: usize, learn: bool) {
        traces::note_free(memory, head);
        written::end(memory, head);
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        let known = unseen::learn(memory, head);
        if learn {
            profile::note_free(memory, head, known);
        }
        let size = run.size.load(Relaxed);
        let fresh = run.holds();
        guards::check_edges(memory, head);
        tags::retire_run(memory, head, size);
        // What lies behind the bytes asked for was never handed out.
        let used = memory.used(head);
        if run.window.backed() > 0 {
            let touched = tags::retire_backed(memory, head, used, fresh);
            if learn && known {
                self.predictor.learn(slots, fresh, touched.prefix);
            }
            return memory.cache.keep(memory, head, Kind::Cached, Some(size));
        }
        // Missing, they read as they should without anyone's help.
        let gone = !known && memory.engine.forget(used);
        if !known && !gone {
            memory.engine.note_present(used);
        }
        if !gone {
            drop_swapped(memory, run, used);
        }
        let touched = if gone { Touched::default() } else { memory.engine.refill(used, fresh) };
        if learn && known {
            self.predictor.learn(slots, fresh, touched.prefix);
            self.thin_out(memory, head, fresh, touched);
            unseen::populate_if_it_pays(memory, head);
        }
        memory.cache.retire(memory, head, size);
    }

    /// A run that is dense from some former use, but has long been used sparsely, costs its whole
    /// length at each free: it gives up what is behind the pages that its users touch.
    fn thin_out(&self, memory: Memory<'_>, head: usize, fresh: Fresh, touched: Touched) {
        let run = memory.map.run(head);
        let slots = run.slots.load(Relaxed) as usize;
        let pages = memory.map.pages(head, slots);
        // Elsewhere what is given up has to be filled again by the next user, touched or not.
        let stays_missing = match memory.engine.service() {
            Service::Lazy => true,
            _ => {
                run.window.backed() == 0
                    && memory.engine.is_backed(pages.first)
                    && !unseen::is_short(pages)
            }
        };
        if !stays_missing {
            return;
        }
        let present = memory.engine.region().present().count(pages);
        let thinned = run.thinned.load(Relaxed);
        let saved = run.saved.load(Relaxed).saturating_add(thinned);
        run.saved.store(saved, Relaxed);
        // It may have had faults: what it gave up before was needed.
        let faulted = present > run.placed.load(Relaxed) as usize;
        let waste = if faulted || touched.pages * 2 > present {
            0
        } else {
            run.waste.load(Relaxed).saturating_add((present - touched.pages) as u32)
        };
        run.waste.store(waste, Relaxed);
        let spare = pages.skip(touched.pages * 2);
        let count = if waste > 0 { memory.engine.region().present().count(spare) } else { 0 };
        let thins = count > 0 && waste >= self.predictor.price(slots, fresh, count);
        if thinned > 0 && (faulted || thins) {
            self.predictor.thinned(slots, fresh, thinned as usize, saved);
            run.thinned.store(0, Relaxed);
        }
        if thins {
            run.waste.store(0, Relaxed);
            run.saved.store(0, Relaxed);
            run.thinned.store(count as u32, Relaxed);
            memory.give_up(head, spare);
        }
    }

    /// Bytes that the allocation at `pointer` may use: those it asked for, so that what lies
    /// behind them stays the content. Ends the process if there is no such allocation.
    pub fn usable_size(&self, memory: Memory<'_>, pointer: *const u8) -> usize {
        let address = tags::address(pointer);
        match memory.map.head(memory.map.slot_at(address)) {
            Some(head)
                if memory.start(head) as usize == address
                    && memory.map.run(head).kind() == Kind::Large =>
            {
                tags::check_run(memory, head, pointer);
                memory.map.run(head).size.load(Relaxed)
            }
            _ => misuse::bad_free(memory.map, pointer),
        }
    }
}

/// Before what is present of a run is restored, or handed out after it was: what is swapped out by
/// then is not worth being read back.
fn drop_swapped(memory: Memory<'_>, run: &Run, pages: Pages) {
    if vm::now_ms().saturating_sub(run.since.load(Relaxed)) >= SWAPPED_FROM {
        memory.engine.drop_swapped(pages);
    }
}

/// Whether a part is so much of the whole that the rest does not matter.
fn nearly(part: usize, whole: usize) -> bool {
    part * NEARLY >= whole * (NEARLY - 1)
}

/// Slots of a run for `size` bytes; none if no Region could hold it.
fn slots_for(memory: Memory<'_>, size: usize) -> Option<usize> {
    let slots = memory.cache.guards.with_room(size)?.div_ceil(SLOT).max(1);
    (slots <= u32::MAX as usize >> 1).then(|| bin_slots(bin_above(slots)))
}
