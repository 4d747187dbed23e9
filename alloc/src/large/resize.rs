//! realloc of large allocations: in place, in more or fewer slots, or by moving their pages elsewhere.

use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::vm;
use refpage::{Fresh, Pages, Service};

use super::{Large, Request, drop_swapped, nearly, slots_for};
use crate::books::{Part, Wanted, part_of};
use crate::cache::Memory;
use crate::classes::GRANULE;
use crate::guards::{self, Placement};
use crate::page_map::Kind;
use crate::profile;
use crate::tags;
use crate::traces;
use crate::unseen;
use crate::written;

/// The share of a run that is put in place behind its end when it grows.
const GROWTH: usize = 8;

/// Pages from which a realloc that has to go elsewhere asks for a run without pages, so that its
/// own can be moved there.
const MOVE_FROM: usize = 4;

/// Pages up to which a run that shows a file is copied when it turns out to be used as a whole.
const COPIED_UPTO: usize = 1024;

impl Large {
    /// Makes the allocation at `pointer` `size` bytes long, here or elsewhere; its new part holds
    /// the content. Null when there is no room, and then nothing has changed.
    pub fn reallocate(&self, memory: Memory<'_>, pointer: *const u8, size: usize) -> *mut u8 {
        let Some(slots) = slots_for(memory, size) else { return core::ptr::null_mut() };
        let head = self.claim(memory, pointer);
        let run = memory.map.run(head);
        let old_size = run.size.load(Relaxed);
        if memory.cache.guards.placement() == Placement::Right || run.offset.load(Relaxed) > 0 {
            return self.copy(memory, head, size);
        }
        if self.stays(memory, head, size, slots) {
            profile::note_realloc(memory, head, head, size);
            self.resize(memory, head, old_size, size);
            traces::note_allocation(memory, head);
            run.set_kind(Kind::Large);
            return tags::pointer(memory, head);
        }
        let to = self.move_to(memory, head, slots, size);
        match to {
            Some(to) => {
                profile::note_realloc(memory, head, to, size);
                self.retire(memory, head, false);
                tags::pointer(memory, to)
            }
            None => {
                run.set_kind(Kind::Large);
                core::ptr::null_mut()
            }
        }
    }

    /// Moves an allocation whose end is to lie at the end of a page.
    fn copy(&self, memory: Memory<'_>, head: usize, size: usize) -> *mut u8 {
        let run = memory.map.run(head);
        let placement = memory.cache.guards.placement();
        let request =
            Request { size, align: GRANULE, fresh: Fresh::Content, placement, sampled: false };
        let Some(to) = self.make(memory, request) else {
            run.set_kind(Kind::Large);
            return core::ptr::null_mut();
        };
        profile::note_realloc(memory, head, to, size);
        let kept = run.size.load(Relaxed).min(size);
        // SAFETY: two runs in this thread's hands, each with so many bytes.
        unsafe { memory.start(to).copy_from_nonoverlapping(memory.start(head), kept) };
        self.retire(memory, head, false);
        tags::pointer(memory, to)
    }

    /// Whether the run at `head` can have `size` bytes where it is, after it got more slots if it
    /// needed them.
    fn stays(&self, memory: Memory<'_>, head: usize, size: usize, slots: usize) -> bool {
        let run = memory.map.run(head);
        let (old_slots, part) = (run.slots.load(Relaxed) as usize, part_of(memory, head));
        // Its missing pages would read as zero beyond what came from calloc.
        if part == Part::Zero
            && size > run.size.load(Relaxed)
            && memory.engine.service() == Service::Lazy
        {
            return false;
        }
        if slots <= old_slots {
            return slots >= old_slots / 2;
        }
        // What shows a file with its tag cannot have more of it.
        if run.window.backed() > 0 {
            return false;
        }
        // What grows and is used as a whole goes on in memory that pages can be moved to.
        let pages = memory.pages(head);
        if memory.engine.is_backed(pages.first) && pages.count <= COPIED_UPTO {
            unseen::assume(memory, head);
            if memory.engine.region().present().count(pages) * 2 >= pages.count {
                return false;
            }
        }
        let grown = memory.cache.extents(part).lock().grow(memory.map, head, slots);
        if grown {
            memory.engine.region().note_used(memory.pages(head));
            memory.engine.back(memory.pages(head));
            guards::fence_end(memory, head, pages);
            memory.engine.convert(memory.pages(head).skip(pages.count), Fresh::Content);
        }
        grown && !tags::grew_into_its_like(memory, head)
    }

    /// The run at `head` is long enough for both sizes: makes its bytes right.
    fn resize(&self, memory: Memory<'_>, head: usize, old: usize, new: usize) {
        let run = memory.map.run(head);
        unseen::assume(memory, head);
        run.size.store(new, Relaxed);
        tags::resize_run(memory, head, new);
        memory.cache.account(|usage| usage.live_bytes = usage.live_bytes + new - old);
        let region = memory.engine.region();
        let base = memory.map.address(head) as usize;
        let kept = region.pages_of(base, new.min(old));
        let asked = memory.used(head);
        run.window.resize(if memory.cache.guards.any() { asked } else { memory.pages(head) }.count);
        if new >= old {
            guards::place(memory, head, asked.count, Placement::Right);
        }
        let zero = run.window.zero_pages();
        // A run that grows holds the content behind its old end, except where a page came as
        // zeros; one that shrinks holds what the program left there.
        memory.engine.shorten_backed(&run.window, kept.count, run.holds());
        let shrinks = new < old && region.present().get(kept.end() - 1);
        if zero > 0 || shrinks {
            restore_page_from(memory, base + new.min(old));
        }
        run.window.set_zero_pages(zero.min(kept.count));
        if new < old {
            let tail = Pages::span(kept.end(), region.pages_of(base, old).end());
            drop_swapped(memory, run, tail);
            memory.engine.refill(tail, run.holds());
            if tail.count > kept.count {
                memory.give_up(head, tail);
            }
            // What a guard takes the place of holds the content now.
            guards::place(memory, head, asked.count, Placement::Right);
        } else {
            let added = Pages::span(kept.end(), region.pages_of(base, new).end());
            if run.zeros.swap(false, Relaxed) {
                // What is present behind its old end holds zeros, from a former user.
                memory.engine.convert(memory.pages(head).skip(kept.count), Fresh::Content);
            }
            memory.engine.provide(added);
            // Whoever has used all of what there was goes on.
            if nearly(region.present().count(kept), kept.count) {
                memory.engine.prefill(added.prefix(kept.count / GROWTH));
            }
            written::add(memory, head, added);
        }
    }

    /// Moves what the run at `head` holds to another one of `slots`: which.
    fn move_to(&self, memory: Memory<'_>, head: usize, slots: usize, size: usize) -> Option<usize> {
        let old = memory.map.run(head);
        let old_size = old.size.load(Relaxed).min(size);
        let region = memory.engine.region();
        let from = memory.map.address(head);
        let off = memory.engine.service() == Service::Off;
        let src = region.pages_of(from as usize, old_size);
        unseen::assume(memory, head);
        let present = region.present().count(src);
        let wanted = Wanted { size: old_size, slots, fresh: Fresh::Content, expected: present };
        let copies = off || present < MOVE_FROM;
        let cached = if copies { memory.cache.take_large(memory, wanted) } else { None };
        let (to, recycled) = match cached {
            Some(to) => (to, true),
            None => {
                let used = Some(present + region.pages_in(size - old_size));
                (self.take_fresh(memory, slots, 1, size, Fresh::Content, used)?, false)
            }
        };
        let run = memory.map.run(to);
        let pages = memory.map.pages(to, run.slots.load(Relaxed) as usize);
        let zero = old.window.zero_pages().min(src.count);
        run.window.open(pages, zero, 1);
        run.size.store(old_size, Relaxed);
        run.offset.store(0, Relaxed);
        run.sampled.store(false, Relaxed);
        guards::place(memory, to, src.count, Placement::Left);
        run.since.store(vm::now_ms(), Relaxed);
        run.dirty.store(true, Relaxed);
        tags::open_run(memory, to, old_size);
        // What stays missing reads as it did.
        match zero {
            0 => tags::back(memory, to, (run.zeros.load(Relaxed), Fresh::Content), present),
            all if all == src.count => {
                tags::back(memory, to, (run.zeros.load(Relaxed), Fresh::Zero), present);
            }
            _ => memory.engine.unback_run(&run.window, run.holds()),
        }
        // Of fresh slots too: what could not be dropped there may be zeros.
        if run.zeros.swap(false, Relaxed) || !recycled {
            memory.engine.convert(pages, Fresh::Content);
        }
        if !recycled {
            memory.cache.account(|usage| usage.add(old_size));
        }
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
            memory.engine.convert(pages.prefix(zero), Fresh::Zero);
            let dst = Pages { first: pages.first, count: src.count };
            memory.engine.relocate(dst, src);
            // They came with the old run's.
            memory.engine.retag(dst);
            memory.engine.provide_zeros(pages.prefix(zero));
            // What stayed missing may read as zero there.
            memory.engine.provide(Pages::span(pages.first + zero, pages.first + src.count));
            if old.size.load(Relaxed) > old_size {
                restore_page_from(memory, start as usize + old_size);
            }
        }
        self.resize(memory, to, old_size, size);
        traces::note_allocation(memory, to);
        run.set_kind(Kind::Large);
        Some(to)
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
        memory.engine.note_present(region.pages_of(address, 1));
    }
}
