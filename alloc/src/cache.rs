//! The run cache: freed runs and empty spans that keep their pages for reuse, and how long.
//!
//! ```text
//!   freed run ──▶ cached ──▶ taken again by the next of its size
//!   empty span      │
//!                   ├─ decay time over ──────────────┐   pages to the pool, else the kernel;
//!                   └─ more than the peak, oldest ───┴─▶ a run's slots to the free extents
//! ```
//!
//! Cached pages hold the content, or zeros where they came from calloc. What they may amount to is set by what the program itself has
//! needed: up to its peak, keeping memory costs none that was not needed already.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

use refpage::sys::lock::{Guard, Mutex};
use refpage::sys::vm;
use refpage::{Engine, Fresh, Pages, Region, Service};

use crate::arena::Arenas;
use crate::books::{Books, Part, Usage, WITH_PAGES, Wanted, part_of};
use crate::extents::{Extents, bin_of};
use crate::guards::{self, Guards};
use crate::options::Options;
use crate::page_map::{Kind, PageMap};
use crate::profile;
use crate::quarantine::Quarantine;

/// Runs that one allocation or free gives up at most to keep within that.
const EVICTIONS: usize = 4;

/// Runs, and pages, that one round of decay gives back: about a millisecond, for which faults of
/// other threads may have to wait.
const ROUND_RUNS: usize = 32;
const ROUND_PAGES: usize = 4096;

/// Where the pages of a run go that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// To the pool as far as it has room: they will be wanted again.
    Pool,
    /// To the kernel: there are too many.
    Kernel,
}

/// Whether a thread may wait for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It may.
    Allowed,
    /// It is the fault handler: a signal handler may fault on a thread that holds a lock.
    Refused,
}

impl Waiting {
    /// What a round of decay may do.
    pub fn of_decay(service: Service) -> Self {
        match service {
            Service::Lazy => Waiting::Refused,
            _ => Waiting::Allowed,
        }
    }

    /// The lock; none if it would have to be waited for.
    pub fn lock<T>(self, mutex: &Mutex<T>) -> Option<Guard<'_, T>> {
        match self {
            Waiting::Allowed => Some(mutex.lock()),
            Waiting::Refused => mutex.try_lock(),
        }
    }
}

/// What is done with memory is done to these.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// Content and pages.
    pub engine: &'a Engine,
    /// Address to run.
    pub map: &'a PageMap,
    /// Free runs.
    pub cache: &'a RunCache,
}

impl Memory<'_> {
    /// The pages of the run at `head`.
    pub fn pages(&self, head: usize) -> Pages {
        self.map.pages(head, self.map.run(head).slots.load(Relaxed) as usize)
    }

    /// The first byte of the large allocation that the run at `head` is.
    pub fn start(&self, head: usize) -> *mut u8 {
        let offset = self.map.run(head).offset.load(Relaxed) as usize;
        // SAFETY: within the run's first page.
        unsafe { self.map.address(head).add(offset) }
    }

    /// Gives up pages of the run at `head`, in hand: to the pool only what holds the content.
    pub fn give_up(&self, head: usize, pages: Pages) {
        match self.map.run(head).holds() {
            Fresh::Content => self.engine.release(pages),
            Fresh::Zero => self.engine.drop_pages(pages),
        }
    }

    /// The pages that hold its bytes.
    pub fn used(&self, head: usize) -> Pages {
        let size = self.map.run(head).size.load(Relaxed);
        self.engine.region().pages_of(self.start(head) as usize, size)
    }
}

/// Runs that wait to be used again, and the free memory behind them.
#[derive(Debug)]
pub struct RunCache {
    books: Mutex<Books>,
    /// Free slots of the Region's content part and of its zero part.
    extents: [Mutex<Extents>; 2],
    /// What spans are carved from.
    pub arenas: Arenas,
    /// Which guards runs have.
    pub guards: Guards,
    /// Whether what is cached is looked at before it is used again.
    pub verifies: bool,
    pub(crate) quarantine: Mutex<Quarantine>,
    /// The live run of somebody else's that a thread looks at: slot plus one.
    looked_at: AtomicU32,
    decay_ms: u64,
    last_purge: AtomicU64,
    /// An emptied run that [`purge`](Self::purge) could not give back yet: slot plus one.
    left_over: AtomicU32,
}

impl RunCache {
    /// Nothing cached; all of the map's slots are free. The first one of each part stays out of use, so that
    /// no block begins where the Region does, and there is room for a guard.
    pub fn new(map: &PageMap, region: &Region, options: &Options) -> Self {
        let zero_from = map.slot_of(region.content_part().count);
        Self {
            books: Mutex::new(Books::new()),
            extents: [
                Mutex::new(if vm::reserving_costs() {
                    Extents::unusable(1, zero_from)
                } else {
                    Extents::new(map, 1, zero_from)
                }),
                Mutex::new(Extents::new(map, (zero_from + 1).min(map.slots()), map.slots())),
            ],
            arenas: Arenas::new(),
            guards: Guards::new(options),
            verifies: options.verify,
            quarantine: Mutex::new(Quarantine::new(map, options)),
            looked_at: AtomicU32::new(0),
            decay_ms: u64::from(options.decay_ms),
            last_purge: AtomicU64::new(0),
            left_over: AtomicU32::new(0),
        }
    }

    /// Calls `look` while the run at `head` stays a large allocation, whoever's it is. None if it is none any
    /// more, or another thread looks at one.
    pub fn look_at<R>(
        &self,
        memory: Memory<'_>,
        head: usize,
        look: impl FnOnce() -> R,
    ) -> Option<R> {
        self.looked_at.compare_exchange(0, head as u32 + 1, SeqCst, Relaxed).ok()?;
        fence(SeqCst);
        let seen = (memory.map.run(head).kind() == Kind::Large).then(look);
        self.looked_at.store(0, Release);
        seen
    }

    /// To be called when the run at `head` has just been taken from its user: waits for who looks at it,
    /// which is not long.
    pub fn let_look_finish(&self, head: usize) {
        fence(SeqCst);
        while self.looked_at.load(Acquire) == head as u32 + 1 {
            rustix::thread::sched_yield();
        }
    }

    /// In a child of fork, where that thread is no more.
    pub fn forget_looks(&self) {
        self.looked_at.store(0, Relaxed);
    }

    /// Present pages of cached runs.
    pub fn pages(&self) -> usize {
        self.books.lock().pages()
    }

    /// What large allocations have done.
    pub fn usage(&self) -> Usage {
        self.books.lock().usage
    }

    /// Where the words of [`Usage`] are, in its order, and of [`pages`](Self::pages): to be read from outside the
    /// process, which no lock stops.
    pub fn usage_words(&self) -> [usize; 5] {
        let books = self.books.lock();
        let Usage { live_bytes, allocated, recycled, freed } = &books.usage;
        [live_bytes, allocated, recycled, freed, books.pages_word()]
            .map(|word| core::ptr::from_ref(word).expose_provenance())
    }

    /// Changes what is known of large allocations.
    pub fn account(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.books.lock().usage);
    }

    /// The free slots of a part of the Region.
    pub fn extents(&self, part: Part) -> &Mutex<Extents> {
        let [content, zero] = &self.extents;
        match part {
            Part::Content => content,
            Part::Zero => zero,
        }
    }

    /// Slots in use.
    pub fn used_slots(&self) -> usize {
        self.extents.iter().map(|extents| extents.lock().used()).sum()
    }

    /// Takes a cached run whose present pages hold what is wanted, else one that can be made to: of
    /// those freed last, the one that keeps about as many pages as are expected to be used. Its
    /// kind is `Moving`; it counts as allocated.
    pub fn take_large(&self, memory: Memory<'_>, wanted: Wanted) -> Option<usize> {
        let mut books = self.books.lock();
        let head = books.find_large(memory, wanted)?;
        books.unlist(memory, head);
        books.usage.add(wanted.size);
        books.usage.recycled += 1;
        drop(books);
        self.cut(memory, head, wanted.slots);
        Some(head)
    }

    /// Cuts a run in hand to `slots`, or to the end of a huge page; the rest is cached again.
    fn cut(&self, memory: Memory<'_>, head: usize, slots: usize) {
        let run = memory.map.run(head);
        let block = memory.map.slot_of(memory.engine.pages_per_block());
        let all = run.slots.load(Relaxed) as usize;
        let kept =
            if slots < block { slots } else { (head + slots).next_multiple_of(block) - head };
        if bin_of(all) == bin_of(slots) || kept >= all {
            return;
        }
        memory.engine.unback_run(&run.window, run.holds());
        let (rest, zeros) = (head + kept, run.zeros.load(Relaxed));
        let other = memory.map.run(rest);
        run.slots.store(kept as u32, Relaxed);
        other.slots.store((all - kept) as u32, Relaxed);
        other.renew();
        other.zeros.store(zeros, Relaxed);
        other.dirty.store(run.dirty.load(Relaxed), Relaxed);
        other.window.open(memory.map.pages(rest, all - kept), 0, 1);
        other.window.set_tag(run.window.tag(), run.window.tagged_end());
        other.set_kind(Kind::Moving);
        memory.map.assign(rest, all - kept);
        guards::forget(memory, head);
        guards::fence_end(memory, head, memory.pages(head));
        self.keep(memory, rest, Kind::Cached, None);
    }

    /// Takes the empty span of `slots` that was emptied last, one with pages if there is one. Its
    /// kind is `Moving`.
    pub fn take_span(&self, memory: Memory<'_>, slots: usize) -> Option<usize> {
        let mut books = self.books.lock();
        let head = books.newest_span(bin_of(slots))?;
        books.unlist(memory, head);
        Some(head)
    }

    /// Keeps a run of kind `Cached` or `EmptySpan`, in this thread's hands so far, whose present
    /// pages hold the content. `freed` is the size of the large allocation that it was, if it was.
    pub fn keep(&self, memory: Memory<'_>, head: usize, kind: Kind, freed: Option<usize>) {
        let fits = self.enlist(memory, head, kind, freed, Waiting::Allowed);
        if fits == Some(false) {
            self.make_room(memory, 0);
        }
    }

    /// Keeps an empty span as [`keep`](Self::keep) does: false if that would have to wait.
    pub fn keep_span(&self, memory: Memory<'_>, head: usize, waiting: Waiting) -> bool {
        let fits = self.enlist(memory, head, Kind::EmptySpan, None, waiting);
        if fits == Some(false) && waiting == Waiting::Allowed {
            self.make_room(memory, 0);
        }
        fits.is_some()
    }

    /// Whether there is room for what is kept, the run included. None if that would have to wait.
    fn enlist(
        &self,
        memory: Memory<'_>,
        head: usize,
        kind: Kind,
        freed: Option<usize>,
        waiting: Waiting,
    ) -> Option<bool> {
        let run = memory.map.run(head);
        let present = memory.engine.region().present().count(memory.pages(head));
        let mut books = waiting.lock(&self.books)?;
        run.freed.store(freed.unwrap_or(0), Relaxed);
        run.size.store(present, Relaxed);
        run.since.store(vm::now_ms(), Relaxed);
        if let Some(size) = freed {
            books.usage.live_bytes -= size;
            books.usage.freed += 1;
        }
        // Before it counts as cached: until now it was the program's.
        let fits = books.excess(memory, 0) == 0;
        run.set_kind(kind);
        books.enlist(memory, head);
        Some(fits)
    }

    /// Gives up what has been cached longest while there is too much, `more` pages that are about
    /// to be placed included: to the pool if they can be placed from there, else to the kernel.
    pub fn make_room(&self, memory: Memory<'_>, more: usize) {
        for _ in 0..EVICTIONS {
            let pool = memory.engine.pool_pages();
            let excess = self.books.lock().excess(memory, more.saturating_sub(pool));
            let idle = excess.min(pool.saturating_sub(more));
            if excess == 0 || (idle > 0 && memory.engine.drain_pool(idle) >= excess) {
                return;
            }
            let Some(head) = self.take_oldest(memory) else { return };
            let to = if more > pool { Destination::Pool } else { Destination::Kernel };
            self.dissolve(memory, head, to);
        }
    }

    fn take_oldest(&self, memory: Memory<'_>) -> Option<usize> {
        let mut books = self.books.lock();
        let head = books.oldest(memory)?;
        books.unlist(memory, head);
        Some(head)
    }

    /// Takes a run's pages away, and gives its slots back. A span keeps its slots, for the next
    /// span of its length: to give them to the arena would write to them, which the fault handler
    /// may not.
    fn dissolve(&self, memory: Memory<'_>, head: usize, to: Destination) {
        self.empty(memory, head, to);
        self.give_back(memory, head, Waiting::Allowed);
    }

    fn empty(&self, memory: Memory<'_>, head: usize, to: Destination) {
        let run = memory.map.run(head);
        let span = run.was_span.load(Relaxed);
        memory.engine.unback_run(&run.window, run.holds());
        let all = memory.pages(head);
        // The arena's word is on a span's last page: that is not for the pool.
        let pages = if span { all.prefix(all.count - 1) } else { all };
        if to == Destination::Pool {
            // In the pool it would be taken for a page that is ready.
            memory.engine.drop_swapped(pages);
        }
        match to {
            Destination::Pool if !run.zeros.load(Relaxed) => memory.engine.release(pages),
            _ => memory.engine.drop_pages(pages),
        }
        if span {
            if Arenas::is_done_with(memory, head) {
                memory.engine.drop_pages(all.skip(pages.count));
            }
            memory.map.forget_states(head, run.slots.load(Relaxed) as usize);
        }
        // What is locked in memory stays.
        let kept = memory.engine.region().present().count(pages) > 0;
        run.dirty.store(kept && !span, Relaxed);
    }

    /// Gives the slots of an emptied run back: false if that would have to wait.
    fn give_back(&self, memory: Memory<'_>, head: usize, waiting: Waiting) -> bool {
        let run = memory.map.run(head);
        if run.was_span.load(Relaxed) {
            let Some(mut books) = waiting.lock(&self.books) else { return false };
            run.set_kind(Kind::BareSpan);
            books.enlist(memory, head);
        } else {
            let extents = self.extents(part_of(memory, head));
            let Some(mut extents) = waiting.lock(extents) else { return false };
            extents.free(memory.map, head);
        }
        true
    }

    /// Free slots for a run of `slots` at a multiple of `align` slots, if `part` has some to spare:
    /// nobody makes way. Else as [`take_fresh`](Self::take_fresh).
    pub fn take_aligned(
        &self,
        memory: Memory<'_>,
        slots: usize,
        align: usize,
        part: Part,
    ) -> Option<usize> {
        let mut extents = self.extents(part).lock();
        let mut found = extents.allocate(memory.map, slots, align);
        if found.is_none() {
            let least = slots.checked_add(align - 1)?;
            let extended = extents.extend(memory.map, least, |first, end| {
                // Slot 0 comes with the first ones: it is out of use, and no gap.
                let first = if first == 1 { 0 } else { first };
                let pages = memory.map.pages(first, end - first);
                memory.map.make_usable(first, end - first).is_ok()
                    && profile::make_usable(first, end - first)
                    && memory.engine.region().make_usable(pages).is_ok()
            });
            found = if extended { extents.allocate(memory.map, slots, align) } else { None };
        }
        let head = found?;
        memory.map.run(head).renew();
        memory.engine.region().note_used(memory.pages(head));
        memory.engine.back(memory.pages(head));
        guards::fence(memory, head);
        Some(head)
    }

    /// Free slots for a run of `slots` at a multiple of `align` slots, in the first of `parts` that
    /// has any, for which cached runs make way if need be. All its pages are missing, its kind is
    /// `Moving`.
    pub fn take_fresh(
        &self,
        memory: Memory<'_>,
        slots: usize,
        align: usize,
        parts: &[Part],
    ) -> Option<usize> {
        loop {
            for &part in parts {
                if let Some(head) = self.take_aligned(memory, slots, align, part) {
                    return Some(head);
                }
            }
            if self.purge_round(memory, u64::MAX) == 0 && self.release_some(memory) == 0 {
                return None;
            }
        }
    }

    /// A round of decay at `now_ms`: milliseconds until the next is worth making, or none if
    /// nothing is cached.
    ///
    /// Where there is a fault handler, it is the one that calls this, and it waits for nobody: then
    /// later.
    pub fn purge(&self, memory: Memory<'_>, now_ms: u64) -> Option<u64> {
        const LATER: Option<u64> = Some(10);
        let waiting = Waiting::of_decay(memory.engine.service());
        let left = self.left_over.swap(0, Relaxed);
        if let Some(head) = (left as usize).checked_sub(1)
            && !self.give_back(memory, head, waiting)
        {
            self.left_over.store(left, Relaxed);
            return LATER;
        }
        let before = now_ms.saturating_sub(self.decay_ms);
        match self.purge_by(memory, before, waiting) {
            None => LATER,
            Some(ROUND_RUNS) => Some(0),
            Some(_) => {
                let any = waiting.lock(&self.books).is_none_or(|books| books.any());
                any.then_some((self.decay_ms / 4).max(10))
            }
        }
    }

    /// Where no handler does it: a round, if none was made for a while.
    pub fn purge_if_due(&self, memory: Memory<'_>, now_ms: u64) {
        let last = self.last_purge.load(Relaxed);
        if now_ms.saturating_sub(last) > self.decay_ms / 4
            && self.last_purge.compare_exchange(last, now_ms, Relaxed, Relaxed).is_ok()
        {
            self.purge(memory, now_ms);
            memory.engine.drain_idle_pool(now_ms);
        }
    }

    /// Gives back runs that were freed up to `before`, the oldest of each list first: how many,
    /// [`ROUND_RUNS`] if there may be more.
    pub fn purge_round(&self, memory: Memory<'_>, before: u64) -> usize {
        self.purge_by(memory, before, Waiting::Allowed).unwrap_or(0)
    }

    /// None if it would have to wait.
    fn purge_by(&self, memory: Memory<'_>, before: u64, waiting: Waiting) -> Option<usize> {
        let (mut done, mut pages) = (0, 0);
        for list in 0..WITH_PAGES {
            while let Some(head) = self.take_older(memory, list, before, waiting)? {
                pages += memory.map.run(head).size.load(Relaxed);
                self.empty(memory, head, Destination::Pool);
                if !self.give_back(memory, head, waiting) {
                    self.left_over.store(head as u32 + 1, Relaxed);
                    return None;
                }
                done += 1;
                if done == ROUND_RUNS || pages >= ROUND_PAGES {
                    return Some(ROUND_RUNS);
                }
            }
        }
        Some(done)
    }

    /// The oldest run of a list, if it was freed up to `before`. None if that would have to wait.
    fn take_older(
        &self,
        memory: Memory<'_>,
        list: usize,
        before: u64,
        waiting: Waiting,
    ) -> Option<Option<usize>> {
        let mut books = waiting.lock(&self.books)?;
        let oldest = books.oldest_of(list);
        let due = oldest.filter(|&head| memory.map.run(head).since.load(Relaxed) <= before);
        if let Some(head) = due {
            books.unlist(memory, head);
        }
        Some(due)
    }

    /// Locks everything for the time of a fork.
    pub fn acquire(&self) {
        self.arenas.acquire();
        self.quarantine.acquire();
        self.books.acquire();
        self.extents.iter().for_each(Mutex::acquire);
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.extents.iter().for_each(|extents| extents.release());
            self.books.release();
            self.quarantine.release();
            self.arenas.release();
        }
    }
}
