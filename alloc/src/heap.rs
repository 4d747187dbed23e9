//! malloc and free: the fast paths, and the way from them to spans and runs.
//!
//! ```text
//!   allocate ─▶ magazine ─ empty ─▶ refill from the class's spans ─▶ arena ─▶ Region
//!           └▶ size ≥ threshold ──▶ Large::allocate ─▶ cached run, or free extent ─▶ Region
//!   deallocate ─▶ state byte says a class ─▶ fill, magazine ─ full ─▶ flush to the spans
//!             └▶ else ─▶ Large::free
//! ```

use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use refpage::sys::lock::Mutex;
use refpage::sys::vm::ForkWord;
use refpage::{Engine, RunWindow, Runs};

use crate::cache::{Memory, RunCache};
use crate::classes::{self, COUNT, GRANULE};
use crate::fork::{self, Inside};
use crate::large::Large;
use crate::misuse;
use crate::options::Options;
use crate::page_map::PageMap;
use crate::spans::Spans;
use crate::start;
use crate::stats::Stats;
use crate::tags;
use crate::thread_cache::{CachePool, ThreadCache};
use crate::tls;

/// Requests of this many bytes and more are runs of their own. 0 until the heap has started, so
/// that the first request takes the slow path, whatever its size.
pub(crate) static THRESHOLD: AtomicUsize = AtomicUsize::new(0);

/// A thread whose cache has been taken apart at its end has this in its word.
const ENDED: usize = 1;

/// Everything the process's heap is made of.
#[derive(Debug)]
pub(crate) struct Heap {
    pub(crate) engine: Engine,
    pub(crate) map: PageMap,
    pub(crate) cache: RunCache,
    pub(crate) large: Large,
    pub(crate) spans: Spans,
    pub(crate) caches: CachePool,
    /// Serves threads that are past their end, or too many for a cache of their own.
    pub(crate) shared: Mutex<usize>,
    pub(crate) options: Options,
    /// Whether this process is a child that still has something to [settle](crate::fork).
    pub(crate) fork_word: ForkWord,
}

impl Heap {
    #[inline]
    pub(crate) fn memory(&self) -> Memory<'_> {
        Memory { engine: &self.engine, map: &self.map, cache: &self.cache }
    }

    fn refill(&self, cache: &mut ThreadCache, class: usize) {
        cache.refill(class, |out| self.spans.take(self.memory(), class, out));
    }

    fn flush(&self, cache: &mut ThreadCache, class: usize, all: bool) {
        cache.flush(class, all, |blocks| {
            if !blocks.is_empty() {
                self.spans.give(self.memory(), class, blocks);
            }
        });
    }

    /// Marks a block that leaves a magazine as live.
    #[inline]
    fn hand_out(&self, block: *mut u8, class: usize) {
        self.map.state(tags::address(block)).store(class as u8 + 1, Relaxed);
    }
}

/// The process's heap as its engine sees it. The engine calls only after the heap is in place.
#[derive(Debug)]
pub(crate) struct Process;

pub(crate) static PROCESS: Process = Process;

impl Runs for Process {
    fn run_at(&self, page: usize) -> Option<&RunWindow> {
        let heap = start::heap();
        let address = heap.engine.region().address(page) as usize;
        let head = heap.map.head(heap.map.slot_at(address))?;
        Some(&heap.map.run(head).window)
    }

    fn purge(&self, now_ms: u64) -> Option<u64> {
        let heap = start::heap();
        heap.cache.purge(heap.memory(), now_ms)
    }
}

/// A block of at least `size` bytes at a multiple of `align`, a power of two. It holds the
/// content, or zeros if `zeroed`. Null when memory runs out; `errno` is left alone. `size` 0 gives
/// a block of its own like any other.
#[inline]
pub fn allocate(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    if size < THRESHOLD.load(Relaxed) && align <= GRANULE {
        let class = classes::of(size);
        if let Some(cache) = own_cache()
            && let Some(block) = cache.pop(class)
        {
            start::heap().hand_out(block, class);
            if zeroed {
                // SAFETY: the block is this thread's, and holds `size` bytes.
                unsafe { block.write_bytes(0, size) };
            }
            return block;
        }
    }
    allocate_slow(size, align, zeroed)
}

#[cold]
#[inline(never)]
fn allocate_slow(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    let _inside = Inside::enter();
    let Some(heap) = start::started() else { return null_mut() };
    // Which may have begun just now.
    let _unchecked = tags::unchecked();
    fork::settle(heap);
    if size > isize::MAX as usize || align > heap.engine.region().len() {
        return null_mut();
    }
    let small = size < THRESHOLD.load(Relaxed);
    let Some(class) = classes::aligned(size, align).filter(|_| small) else {
        start::wake_handler();
        return heap.large.allocate(heap.memory(), size, align, zeroed);
    };
    let block = with_cache(heap, |cache| {
        cache.pop(class).or_else(|| {
            heap.refill(cache, class);
            cache.pop(class)
        })
    });
    let Some(block) = block else { return null_mut() };
    heap.hand_out(block, class);
    if zeroed {
        // SAFETY: the block is this thread's, and holds `size` bytes.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// Frees a block; what it held is gone when this returns.
///
/// # Safety
/// `ptr` came from this heap and is not used any more. Where that is not so, the process ends
/// with one line on stderr if it can be seen.
#[inline]
pub unsafe fn deallocate(ptr: *mut u8) {
    let address = tags::address(ptr);
    let Some(heap) = start::try_heap() else { misuse::not_a_block(ptr) };
    if !heap.engine.region().contains(address) {
        misuse::not_a_block(ptr);
    }
    let state = heap.map.state(address);
    let live = state.load(Relaxed);
    if live == 0 || !address.is_multiple_of(GRANULE) {
        return deallocate_large(heap, ptr);
    }
    let class = usize::from(live) - 1;
    tags::check_block(ptr, class);
    state.store(0, Relaxed);
    // SAFETY: the block was live and is its last user's to give up.
    let ptr = unsafe { tags::refill_block(heap.engine.content(), ptr, class) };
    if !own_cache().is_some_and(|cache| cache.push(class, ptr)) {
        keep_slow(heap, class, ptr);
    }
}

#[cold]
#[inline(never)]
fn keep_slow(heap: &'static Heap, class: usize, block: *mut u8) {
    let _inside = Inside::enter();
    fork::settle(heap);
    with_cache(heap, |cache| {
        if !cache.push(class, block) {
            heap.flush(cache, class, false);
            cache.push(class, block);
        }
    });
}

#[inline(never)]
fn deallocate_large(heap: &'static Heap, ptr: *mut u8) {
    let _inside = Inside::enter();
    fork::settle(heap);
    let address = tags::address(ptr);
    if address.is_multiple_of(GRANULE) {
        heap.large.free(heap.memory(), ptr);
    } else {
        misuse::bad_free(&heap.map, ptr);
    }
}

/// Makes a block `new_size` bytes long, here or elsewhere; the old part keeps its bytes, the new
/// part holds the content. Alignment is [`allocate`]'s least. Null when memory runs out, and then
/// the old block is untouched.
///
/// # Safety
/// As for [`deallocate`]; if the result is not null, `ptr` is gone.
pub unsafe fn reallocate(ptr: *mut u8, new_size: usize) -> *mut u8 {
    let _inside = Inside::enter();
    // SAFETY: the caller's promise.
    let old_size = unsafe { usable_size(ptr) };
    if new_size > isize::MAX as usize {
        return null_mut();
    }
    let heap = start::heap();
    fork::settle(heap);
    let state = heap.map.state(tags::address(ptr)).load(Relaxed);
    let threshold = THRESHOLD.load(Relaxed);
    if state == 0 && new_size >= threshold {
        start::wake_handler();
        return heap.large.reallocate(heap.memory(), ptr, new_size);
    }
    if state != 0 && new_size <= old_size && new_size >= old_size / 2 && new_size < threshold {
        // What the block held beyond its new size is not part of it any more, and what a later
        // realloc adds is to read as the content.
        // SAFETY: both are within the block, which is the caller's.
        unsafe { heap.engine.content().fill(ptr.add(new_size), old_size - new_size) };
        return ptr;
    }
    let new = allocate(new_size, GRANULE, false);
    if !new.is_null() {
        // SAFETY: both blocks hold that many bytes and are apart; the old one ends here.
        unsafe {
            new.copy_from_nonoverlapping(ptr, old_size.min(new_size));
            deallocate(ptr);
        }
    }
    new
}

/// Bytes that the block at `ptr` may use, at least what was asked for.
///
/// # Safety
/// As for [`deallocate`], but the block stays.
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    let address = tags::address(ptr);
    let Some(heap) = start::try_heap().filter(|h| h.engine.region().contains(address)) else {
        misuse::not_a_block(ptr)
    };
    match heap.map.state(address).load(Relaxed) {
        _ if !address.is_multiple_of(GRANULE) => misuse::bad_free(&heap.map, ptr),
        0 => heap.large.usable_size(heap.memory(), ptr),
        live => {
            let class = usize::from(live) - 1;
            tags::check_block(ptr, class);
            classes::size(class)
        }
    }
}

/// Gives free memory back to the kernel, but for about `pad` bytes: true if there was any.
pub fn trim(pad: usize) -> bool {
    let _inside = Inside::enter();
    let Some(heap) = start::try_heap() else { return false };
    fork::settle(heap);
    if let Some(cache) = own_cache() {
        for class in 0..COUNT {
            heap.flush(cache, class, true);
        }
    }
    let mut any = false;
    while heap.cache.pages() << heap.engine.region().page_shift() > pad {
        if heap.cache.purge_round(heap.memory(), u64::MAX) == 0 {
            break;
        }
        any = true;
    }
    heap.engine.drain_pool(usize::MAX) > 0 || any
}

/// What the heap has done and holds; all zeros before the first allocation.
pub fn stats() -> Stats {
    let _inside = Inside::enter();
    start::try_heap().map(Stats::of).unwrap_or_default()
}

/// This thread's own cache, if it has one by now.
#[inline]
fn own_cache<'a>() -> Option<&'a mut ThreadCache> {
    let word = tls::CACHE.get();
    // SAFETY: a word above ENDED is this thread's own cache, which only this thread uses. A signal
    // handler that mallocs while this reference lives is outside POSIX.
    (word > ENDED).then(|| unsafe { &mut *(word as *mut ThreadCache) })
}

/// Runs `work` on this thread's cache, made if there is none, or on the shared one.
fn with_cache<R>(heap: &Heap, work: impl FnOnce(&mut ThreadCache) -> R) -> R {
    if let Some(cache) = own_cache() {
        return work(cache);
    }
    if tls::CACHE.get() != ENDED
        && let Some(cache) = heap.caches.take()
    {
        // Set before libc hears of it: pthread_setspecific may allocate.
        tls::CACHE.set(cache as usize);
        start::watch_thread_end(cache.cast());
        // SAFETY: the cache is this thread's from now on.
        return work(unsafe { &mut *cache });
    }
    let shared = heap.shared.lock();
    // SAFETY: the shared cache is used under its lock only.
    work(unsafe { &mut *(*shared as *mut ThreadCache) })
}

/// Takes an ended thread's cache apart. Registered with libc as the destructor of a thread key.
pub(crate) extern "C" fn thread_ends(cache: *mut core::ffi::c_void) {
    let Some(heap) = start::try_heap() else { return };
    let _inside = Inside::enter();
    fork::settle(heap);
    let cache = cache.cast::<ThreadCache>();
    tls::CACHE.set(ENDED);
    for class in 0..COUNT {
        // SAFETY: the cache was this thread's, and its word has just let go of it.
        heap.flush(unsafe { &mut *cache }, class, true);
    }
    // SAFETY: as above.
    unsafe { heap.caches.give(cache) };
}
