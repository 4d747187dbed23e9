//! Threads: how each comes by its cache, fills and empties it, and what becomes of it at its end.
//!
//! ```text
//!   fast paths ──┐                       ┌─ empty ─▶ refill: depot, else spans
//!                ├─▶ the thread's cache ─┤
//!   slow paths ──┘   (or the shared one) └─ full ──▶ the oldest half: depot, else spans
//! ```
//!
//! A cache is used by one at a time: whoever takes it says that it is not ready, so that a signal handler
//! that interrupts a few instructions of malloc goes another way. Nobody holds a cache and waits: locks
//! are taken, and pages put in place, before or after.

use core::ffi::c_void;
use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::vm;

use crate::cache::Waiting;
use crate::classes::COUNT;
use crate::depot::{BATCH, no_blocks};
use crate::fork::{self, Inside};
use crate::heap::Heap;
use crate::start;
use crate::thread_cache::{MAGAZINES, ThreadCache, class_of};
use crate::tls::{self, Words};

/// Milliseconds for which batches stay in the depot at least.
const LEAST_PERIOD: u64 = 10;

/// A thread whose cache has been taken apart at its end has this in its word.
const ENDED: usize = 1;

/// Runs `work` on this thread's cache: none if it has none, or if somebody has taken it.
#[inline(always)]
pub fn with_own<R>(work: impl FnOnce(&mut ThreadCache) -> R) -> Option<R> {
    let words = tls::words();
    // SAFETY: what is ready is this thread's cache.
    (words.ready.get() != 0).then(|| unsafe { take(words, work) })
}

/// # Safety
/// The word of the cache is one, which is ready.
#[inline(always)]
unsafe fn take<R>(words: &Words, work: impl FnOnce(&mut ThreadCache) -> R) -> R {
    words.ready.set(0);
    // SAFETY: the caller's promise; nobody else takes it until it is ready again.
    let result = work(unsafe { &mut *(words.cache.get() as *mut ThreadCache) });
    words.ready.set(1);
    result
}

/// The same on a slow path, with the shared cache where the thread has none to be used. Not for a
/// signal handler that may have interrupted who holds that.
pub fn with_cache<R>(heap: &Heap, work: impl FnOnce(&mut ThreadCache) -> R) -> R {
    let words = tls::words();
    if words.cache.get() == 0
        && let Some(cache) = heap.caches.take()
    {
        // Set before libc hears of it: pthread_setspecific may allocate.
        words.cache.set(cache as usize);
        words.ready.set(usize::from(!heap.is_strict()));
        start::watch_thread_end(cache.cast());
    }
    if words.ready.get() != 0 {
        // SAFETY: as in `with_own`.
        return unsafe { take(words, work) };
    }
    let own = words.cache.get();
    if heap.is_strict() && own > ENDED {
        // It is never ready for the fast paths, and signal handlers do not come here.
        // SAFETY: so it is this thread's, and nobody else has it.
        return work(unsafe { &mut *(own as *mut ThreadCache) });
    }
    let shared = heap.shared.lock();
    // SAFETY: the shared cache is used under its lock only.
    work(unsafe { &mut *(*shared as *mut ThreadCache) })
}

/// Empties this thread's magazines if shelves were emptied since it did so last.
fn tidy(heap: &Heap) {
    let sweeps = heap.sweeps.load(Relaxed);
    if with_cache(heap, |cache| core::mem::replace(&mut cache.sweeps, sweeps)) != sweeps {
        empty(heap, |work| with_cache(heap, |cache| work(cache)));
    }
}

/// A free block of `class`, after the thread's magazine has been filled. Null when memory runs out.
pub fn refill(heap: &Heap, class: usize) -> *mut u8 {
    tidy(heap);
    let mut wanted = 0;
    let block = with_cache(heap, |cache| {
        wanted = cache.widen(class).min(BATCH);
        let side = cache.side;
        cache.fill(class, wanted, |room| heap.depot.take(class, side, room));
        cache.pop(class)
    });
    if block.is_null() { open(heap, class, wanted) } else { block }
}

/// The same, from the spans.
fn open(heap: &Heap, class: usize, wanted: usize) -> *mut u8 {
    heap.decay();
    let mut blocks = no_blocks();
    let count = match blocks.get_mut(..wanted) {
        Some(room) => heap.spans.take(heap.memory(), class, room),
        None => 0,
    };
    let Some((&mut block, rest)) = blocks.get_mut(..count).and_then(<[_]>::split_first_mut) else {
        return core::ptr::null_mut();
    };
    if heap.options.random {
        heap.chance.shuffle(rest);
    } else {
        // They are in the order of addresses, and are to be handed out so.
        rest.reverse();
    }
    let kept = with_cache(heap, |cache| {
        rest.iter().take_while(|block| cache.push(class, **block)).count()
    });
    if let Some(left) = rest.get(kept..).filter(|left| !left.is_empty()) {
        give(heap, class, left);
    }
    block
}

/// Keeps a free block of `class`, whose state was `state`, in the thread's magazine, which was full, after
/// that has been relieved of its oldest half if it may not grow.
pub fn keep(heap: &Heap, class: usize, state: u8, block: *mut u8) {
    tidy(heap);
    let mut blocks = no_blocks();
    let (mut relieved, mut count) = (0, 0);
    with_cache(heap, |cache| {
        let magazine = cache.magazine(class, state);
        let half = cache.widen(magazine).min(BATCH);
        if cache.push(magazine, block) {
            return;
        }
        let side = cache.side;
        relieved = cache.relieve(magazine, half, |oldest| heap.depot.give(class, side, oldest));
        if relieved == 0 {
            count = cache.take_oldest(magazine, blocks.get_mut(..half).unwrap_or_default());
        }
        cache.push(magazine, block);
    });
    if count > 0 {
        give(heap, class, blocks.get(..count).unwrap_or_default());
    }
    if relieved + count > 0 {
        heap.decay();
    }
}

fn give(heap: &Heap, class: usize, blocks: &[*mut u8]) {
    if !heap.depot.give(class, 0, blocks) {
        heap.spans.give(heap.memory(), class, blocks);
    }
}

/// Gives all of a cache's blocks back to the spans. Nobody holds a cache and waits: so not from within it.
fn empty(heap: &Heap, with: impl Fn(&mut dyn FnMut(&mut ThreadCache))) {
    for magazine in 0..MAGAZINES {
        loop {
            let mut blocks = no_blocks();
            let mut count = 0;
            with(&mut |cache| count = cache.take_oldest(magazine, &mut blocks));
            let Some(blocks) = blocks.get(..count).filter(|blocks| !blocks.is_empty()) else {
                break;
            };
            heap.spans.give(heap.memory(), class_of(magazine), blocks);
        }
    }
}

/// Gives all of this thread's blocks back to the spans, and those of the shared cache.
pub fn trim(heap: &Heap) {
    empty(heap, |work| with_cache(heap, |cache| work(cache)));
    empty(heap, |work| {
        let shared = heap.shared.lock();
        // SAFETY: the shared cache is used under its lock only.
        work(unsafe { &mut *(*shared as *mut ThreadCache) });
    });
}

/// Takes an ended thread's cache apart. Registered with libc as the destructor of a thread key.
pub extern "C" fn end(cache: *mut c_void) {
    let Some(heap) = start::try_heap() else { return };
    let _inside = Inside::enter();
    fork::settle(heap);
    let words = tls::words();
    words.ready.set(0);
    words.cache.set(ENDED);
    let cache = cache.cast::<ThreadCache>();
    // SAFETY: the cache was this thread's, and its words have just let go of it.
    empty(heap, |work| work(unsafe { &mut *cache }));
    // SAFETY: as above.
    unsafe { heap.caches.give(cache) };
}

impl Heap {
    /// Gives back what has been idle for a decay time, now and then: where no handler does it, whoever comes
    /// by on a slow path.
    pub(crate) fn decay(&self) {
        if Waiting::of_decay(self.engine.service()) == Waiting::Allowed {
            let now_ms = vm::now_ms();
            self.sweep(now_ms, Waiting::Allowed);
            self.cache.purge_if_due(self.memory(), now_ms);
        }
    }

    /// Empties the shelves on which some batches were not wanted for a decay time, if it is time: milliseconds
    /// until the next time, or none if there is nothing on any shelf.
    ///
    /// All batches, and what threads have in their magazines: a block here and there keeps a whole span. Those
    /// who still want some get them from few spans.
    pub(crate) fn sweep(&self, now_ms: u64, waiting: Waiting) -> Option<u64> {
        let period = u64::from(self.options.decay_ms).max(LEAST_PERIOD);
        let last = self.last_sweep.load(Relaxed);
        let since = now_ms.saturating_sub(last);
        if since < period {
            return (!self.depot.is_empty()).then_some(period - since);
        }
        if self.last_sweep.compare_exchange(last, now_ms, Relaxed, Relaxed).is_ok() {
            let mut any = false;
            for class in 0..COUNT {
                if self.depot.is_idle(class) {
                    self.clear_out(class, waiting);
                    any = true;
                }
            }
            if any {
                self.sweeps.fetch_add(1, Relaxed);
            }
        }
        (!self.depot.is_empty()).then_some(period)
    }

    /// Gives a shelf's batches back to the spans.
    pub(crate) fn clear_out(&self, class: usize, waiting: Waiting) {
        self.spans.drain(self.memory(), class, waiting, |blocks| self.depot.take(class, 0, blocks));
    }
}
