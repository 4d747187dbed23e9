//! malloc and free: the fast paths, and the way from them to spans and runs.
//!
//! ```text
//!   allocate ─▶ own magazine ─ empty ─▶ threads::refill ─▶ depot, else spans ─▶ arena ─▶ Region
//!           └▶ size ≥ threshold ──▶ Large::allocate ─▶ cached run, or free extent ─▶ Region
//!   deallocate ─▶ state says a class ─▶ fill, own magazine ─ full ─▶ threads::keep ─▶ depot
//!             └▶ else ─▶ Large::free
//! ```

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

use refpage::sys::lock::Mutex;
use refpage::sys::uffd::Fault;
use refpage::sys::vm::ForkWord;
use refpage::{Content, Engine, Fresh, Pattern, RunWindow, Runs, SHORT};

use crate::cache::{Memory, RunCache, Waiting};
use crate::chance::Chance;
use crate::classes::{self, COUNT, GRANULE};
use crate::depot::Depot;
use crate::fork::{self, Inside};
use crate::guards::{self, Placement};
use crate::large::{Large, Request};
use crate::misuse;
use crate::nested;
use crate::options::Options;
use crate::page_map::PageMap;
use crate::profile;
use crate::spans::Spans;
use crate::start;
use crate::stats::Stats;
use crate::tags;
use crate::thread_cache::CachePool;
use crate::threads::{self, with_cache, with_own};

/// What the fast paths have to know of the heap. All zeros until it has started: then no request is
/// small, and no address is in the Region. In a cache line that nobody writes to after that.
#[repr(align(64))]
pub(crate) struct Fast {
    /// Requests of this many bytes and more are runs of their own.
    threshold: AtomicUsize,
    region: AtomicUsize,
    region_len: AtomicUsize,
    /// [`PageMap::states_of_0`].
    states: AtomicUsize,
    /// What free memory holds: whether it is defined, and the pattern's word.
    is_defined: AtomicBool,
    word: AtomicU64,
}

pub(crate) static FAST: Fast = Fast {
    threshold: AtomicUsize::new(0),
    region: AtomicUsize::new(0),
    region_len: AtomicUsize::new(0),
    states: AtomicUsize::new(0),
    is_defined: AtomicBool::new(false),
    word: AtomicU64::new(0),
};

impl Fast {
    /// The heap has started.
    pub(crate) fn open(&self, heap: &Heap) {
        let region = heap.engine.region();
        self.states.store(heap.map.states_of_0(), Relaxed);
        let pattern = heap.engine.content().pattern();
        self.is_defined.store(pattern.is_some(), Relaxed);
        self.word.store(pattern.map_or(0, Pattern::as_word), Relaxed);
        self.region.store(region.base(), Relaxed);
        self.region_len.store(region.len(), Relaxed);
        self.threshold.store(heap.options.threshold, Relaxed);
    }

    #[inline(always)]
    fn content(&self) -> Content {
        if self.is_defined.load(Relaxed) {
            Content::Pattern(Pattern::word64(self.word.load(Relaxed)))
        } else {
            Content::Anything
        }
    }

    #[inline(always)]
    fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.region.load(Relaxed)) < self.region_len.load(Relaxed)
    }

    /// The state of the block that starts at `address`, as [`PageMap::state`] has it.
    ///
    /// # Safety
    /// The address is in the Region of a heap that has started.
    #[inline(always)]
    unsafe fn state<'a>(&self, address: usize) -> &'a AtomicU8 {
        let state = self.states.load(Relaxed).wrapping_add(address / GRANULE);
        // SAFETY: there is a byte for each granule of the Region, for as long as the process runs.
        unsafe { &*core::ptr::with_exposed_provenance(state) }
    }
}

/// Everything the process's heap is made of.
#[derive(Debug)]
pub(crate) struct Heap {
    pub(crate) engine: Engine,
    pub(crate) map: PageMap,
    pub(crate) cache: RunCache,
    pub(crate) large: Large,
    pub(crate) spans: Spans,
    pub(crate) depot: Depot,
    pub(crate) caches: CachePool,
    /// Serves threads that are past their end, or too many for a cache of their own.
    pub(crate) shared: Mutex<usize>,
    pub(crate) options: Options,
    pub(crate) chance: Chance,
    /// When shelves of the depot were last looked through, in milliseconds.
    pub(crate) last_sweep: AtomicU64,
    /// How often some were emptied.
    pub(crate) sweeps: AtomicU32,
    /// Whether this process is a child that still has something to [settle](crate::fork).
    pub(crate) fork_word: ForkWord,
}

impl Heap {
    #[inline]
    pub(crate) fn memory(&self) -> Memory<'_> {
        Memory { engine: &self.engine, map: &self.map, cache: &self.cache }
    }

    /// Whether every small block is looked at, chosen or counted, on the slow path.
    pub(crate) fn is_strict(&self) -> bool {
        let Options { verify, random, sample, .. } = self.options;
        verify || random || sample > 0 || profile::is_on()
    }

    /// Makes a free block of `class` live, with that state, and zeroes `zeroed` bytes of it: the block.
    ///
    /// # Safety
    /// The block is in this thread's hands, and of that class.
    pub(crate) unsafe fn hand_out(
        &self,
        block: *mut u8,
        class: usize,
        state: u8,
        zeroed: usize,
    ) -> *mut u8 {
        if self.options.verify
            && let Some(pattern) = self.engine.content().pattern()
        {
            // SAFETY: the caller's promise; it is initialised, since there is a pattern.
            let bytes = unsafe { core::slice::from_raw_parts(block, classes::size(class)) };
            if let Some(byte) = pattern.find_other(bytes) {
                misuse::written_when_free(block, bytes.len(), byte);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { make_live(block, state, zeroed) }
    }
}

/// # Safety
/// As for [`Heap::hand_out`].
#[inline(always)]
unsafe fn make_live(block: *mut u8, state: u8, zeroed: usize) -> *mut u8 {
    // SAFETY: the caller's promise: blocks are in the Region, and hold that many bytes.
    unsafe {
        FAST.state(tags::address(block)).store(state, Relaxed);
        if zeroed > 0 {
            zero(block, zeroed);
        }
    }
    block
}

/// Zeroes so many bytes of a block and no more, unless free memory holds zeros: what a realloc adds is
/// to read as the content.
///
/// # Safety
/// The block is of a class for that many bytes, and in this thread's hands.
#[inline(always)]
unsafe fn zero(block: *mut u8, len: usize) {
    const ZEROS: Content = Content::Pattern(Pattern::ZERO);
    if FAST.content() == ZEROS {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        if (GRANULE..=SHORT).contains(&len) {
            ZEROS.fill_granules(block, len / GRANULE * GRANULE);
            block.add(len - GRANULE).cast::<[u64; 2]>().write_unaligned([0; 2]);
        } else {
            block.write_bytes(0, len);
        }
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

    fn refuses(&self, page: usize, fault: Fault) -> bool {
        guards::refuses(start::heap(), page, fault)
    }

    fn purge(&self, now_ms: u64) -> Option<u64> {
        let heap = start::heap();
        let next_sweep = heap.sweep(now_ms, Waiting::of_decay(heap.engine.service()));
        let next_purge = heap.cache.purge(heap.memory(), now_ms);
        [next_sweep, next_purge].into_iter().flatten().min()
    }
}

/// A block of at least `size` bytes at a multiple of `align`, a power of two. It holds the
/// content, or zeros if `zeroed`. Null when memory runs out; `errno` is left alone. `size` 0 gives
/// a block of its own like any other.
#[inline(always)]
pub fn allocate(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    match allocate_fast(size, align, zeroed) {
        Some(block) => block.as_ptr(),
        None => allocate_slow(size, align, zeroed),
    }
}

/// The same from the thread's own magazine; none if there is nothing for it there.
#[inline(always)]
pub fn allocate_fast(size: usize, align: usize, zeroed: bool) -> Option<NonNull<u8>> {
    // The smaller sizes need no look at the threshold: there is a cache only when it is above them.
    let small = size <= classes::TABLED || size < FAST.threshold.load(Relaxed);
    if !small || align > GRANULE {
        return None;
    }
    let class = classes::of(size);
    let (block, state) = with_own(|cache| (cache.pop(class), cache.state(class)))?;
    let block = NonNull::new(block)?;
    // SAFETY: the block was in this thread's magazine of the class.
    unsafe { make_live(block.as_ptr(), state, if zeroed { size } else { 0 }) };
    Some(block)
}

/// [`allocate`] where [`allocate_fast`] has found nothing.
#[cold]
#[inline(never)]
pub fn allocate_slow(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    let block = allocate_anew(size, align, zeroed);
    if profile::is_on() && !block.is_null() {
        // SAFETY: blocks are in the Region.
        let state = unsafe { FAST.state(tags::address(block)) }.load(Relaxed);
        if state != 0 {
            profile::note_small(classes::of_state(state), size, zeroed);
        }
    }
    block
}

fn allocate_anew(size: usize, align: usize, zeroed: bool) -> *mut u8 {
    let nested = Inside::is_interrupted();
    let _inside = Inside::enter();
    if nested {
        return start::try_heap()
            .map_or(null_mut(), |heap| nested::allocate(heap, size, align, zeroed));
    }
    let Some(heap) = start::started() else { return null_mut() };
    // Which may have begun just now.
    let _unchecked = tags::unchecked();
    fork::settle(heap);
    nested::catch_up(heap);
    if size > isize::MAX as usize || align > heap.engine.region().len() {
        return null_mut();
    }
    let fresh = if zeroed { Fresh::Zero } else { Fresh::Content };
    let small = size < heap.options.threshold;
    let Some(class) = classes::aligned(size, align).filter(|_| small) else {
        start::wake_handler();
        let placement = heap.cache.guards.placement();
        return heap
            .large
            .allocate(heap.memory(), Request { size, align, fresh, placement, sampled: false });
    };
    if heap.options.sample > 0 && heap.chance.next() % u64::from(heap.options.sample) == 0 {
        start::wake_handler();
        let placement = Placement::Right;
        let request = Request { size: size.max(1), align, fresh, placement, sampled: true };
        let block = heap.large.allocate(heap.memory(), request);
        if !block.is_null() {
            return block;
        }
    }
    let (mut block, state) = with_cache(heap, |cache| {
        if heap.options.random {
            cache.shuffle_top(class, heap.chance.next());
        }
        (cache.pop(class), cache.state(class))
    });
    if block.is_null() {
        block = threads::refill(heap, class);
    }
    if block.is_null() {
        return block;
    }
    // SAFETY: the block was in a magazine of the class, or in the class's spans.
    unsafe { heap.hand_out(block, class, state, if zeroed { size } else { 0 }) }
}

/// Frees a block; what it held is gone when this returns.
///
/// # Safety
/// `ptr` came from this heap and is not used any more. Where that is not so, the process ends
/// with one line on stderr if it can be seen.
#[inline(always)]
pub unsafe fn deallocate(ptr: *mut u8) {
    let address = tags::address(ptr);
    if !FAST.contains(address) {
        misuse::not_a_block(ptr);
    }
    // SAFETY: the address is in the Region, as was just seen.
    let state = unsafe { FAST.state(address) };
    let live = state.load(Relaxed);
    if live == 0 || !address.is_multiple_of(GRANULE) {
        return deallocate_large(ptr);
    }
    let class = classes::of_state(live);
    tags::check_block(ptr, class);
    state.store(0, Relaxed);
    let content = FAST.content();
    // In this order: a branch on the class, which nobody foresees, only where there is something to do.
    if !tags::must_refill(content) {
        return keep(live, ptr);
    }
    if class >= classes::SHORT {
        // SAFETY: the block was live, of that class, and is its last user's to give up.
        return unsafe { refill_and_keep(ptr, live) };
    }
    // SAFETY: as above.
    keep(live, unsafe { tags::refill_block(content, ptr, class) });
}

/// For blocks whose fill is a call anyway.
///
/// # Safety
/// The block was live in that state, is not any more, and is in this thread's hands.
#[inline(never)]
unsafe fn refill_and_keep(block: *mut u8, live: u8) {
    let class = classes::of_state(live);
    // SAFETY: the caller's promise.
    keep(live, unsafe { tags::refill_block(FAST.content(), block, class) });
}

/// Puts a free block, which was live in that state, into one of the thread's magazines.
#[inline(always)]
fn keep(live: u8, block: *mut u8) {
    let class = classes::of_state(live);
    if !with_own(|cache| cache.push(cache.magazine(class, live), block)).unwrap_or(false) {
        keep_slow(live, block);
    }
}

#[cold]
#[inline(never)]
fn keep_slow(live: u8, block: *mut u8) {
    let heap = start::heap();
    let class = classes::of_state(live);
    let nested = Inside::is_interrupted();
    let _inside = Inside::enter();
    if !nested {
        fork::settle(heap);
        nested::catch_up(heap);
        threads::keep(heap, class, live, block);
    } else if !nested::keep(heap, class, block) {
        // SAFETY: it is nobody's; it is live once more until it is freed.
        return unsafe { nested::put_off(heap, make_live(block, live, 0)) };
    }
    profile::note_small_free(class);
}

#[inline(never)]
fn deallocate_large(ptr: *mut u8) {
    let heap = start::heap();
    let nested = Inside::is_interrupted();
    let _inside = Inside::enter();
    if !tags::address(ptr).is_multiple_of(GRANULE) {
        misuse::bad_free(&heap.map, ptr);
    }
    if nested {
        // SAFETY: our caller's caller gives it up.
        return unsafe { nested::put_off(heap, ptr) };
    }
    fork::settle(heap);
    nested::catch_up(heap);
    heap.large.free(heap.memory(), ptr);
    heap.decay();
}

/// Makes a block `new_size` bytes long, here or elsewhere; the old part keeps its bytes, the new
/// part holds the content. Alignment is [`allocate`]'s least. Null when memory runs out, and then
/// the old block is untouched.
///
/// # Safety
/// As for [`deallocate`]; if the result is not null, `ptr` is gone.
pub unsafe fn reallocate(ptr: *mut u8, new_size: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    let old_size = unsafe { usable_size(ptr) };
    if new_size > isize::MAX as usize {
        return null_mut();
    }
    let heap = start::heap();
    let small = new_size < heap.options.threshold;
    let was_small = heap.map.state(tags::address(ptr)).load(Relaxed) != 0;
    if !was_small && !small && !Inside::is_interrupted() {
        let _inside = Inside::enter();
        fork::settle(heap);
        nested::catch_up(heap);
        start::wake_handler();
        return heap.large.reallocate(heap.memory(), ptr, new_size);
    }
    if was_small && small && new_size <= old_size && new_size >= old_size / 2 {
        // What the block held beyond its new size is not part of it any more, and what a later
        // realloc adds is to read as the content.
        let _unchecked = tags::unchecked();
        // SAFETY: both are within the block, which is the caller's.
        unsafe { heap.engine.content().fill(ptr.add(new_size), old_size - new_size) };
        return ptr;
    }
    let new = allocate(new_size, GRANULE, false);
    if !new.is_null() {
        let _unchecked = tags::unchecked();
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
            let class = classes::of_state(live);
            tags::check_block(ptr, class);
            classes::size(class)
        }
    }
}

/// Moves what is used of huge pages onto small ones where that is less than half, so that the huge pages can be given
/// back to the kernel whole, and has it give up what it keeps of those that are no longer whole: how many bytes
/// the heap holds less. No pointer changes; who uses the memory meanwhile waits a moment. It takes the service
/// `lazy`, and memory without tags: elsewhere, and from a signal handler that interrupted the heap, it is 0.
pub fn compact() -> usize {
    let Some(heap) = start::try_heap().filter(|_| !Inside::is_interrupted()) else { return 0 };
    let _inside = Inside::enter();
    fork::settle(heap);
    heap.engine.compact() << heap.engine.region().page_shift()
}

/// Gives free memory back to the kernel, but for about `pad` bytes, and what [`compact`] finds: true if there
/// was any. From a signal handler that interrupted the heap, nothing.
pub fn trim(pad: usize) -> bool {
    let Some(heap) = start::try_heap().filter(|_| !Inside::is_interrupted()) else { return false };
    let _inside = Inside::enter();
    fork::settle(heap);
    nested::catch_up(heap);
    threads::trim(heap);
    for class in 0..COUNT {
        heap.clear_out(class, Waiting::Allowed);
    }
    // The other threads' magazines, when these come by.
    heap.sweeps.fetch_add(1, Relaxed);
    let mut any = false;
    while heap.cache.pages() << heap.engine.region().page_shift() > pad {
        if heap.cache.purge_round(heap.memory(), u64::MAX) == 0 {
            break;
        }
        any = true;
    }
    // On the pool's pages, before those go.
    any |= heap.engine.compact() > 0;
    heap.engine.drain_pool(usize::MAX) > 0 || any
}

/// What the heap has done and holds; all zeros before the first allocation, and for a signal handler
/// that interrupted the heap.
pub fn stats() -> Stats {
    let heap = start::try_heap().filter(|_| !Inside::is_interrupted());
    let _inside = Inside::enter();
    heap.map(Stats::of).unwrap_or_default()
}

/// Small blocks of one size that are free, but for those in threads' magazines.
#[derive(Clone, Copy, Debug, Default)]
pub struct FreeBlocks {
    /// The fewest bytes that such a block is handed out for.
    pub least: usize,
    /// Bytes in each.
    pub size: usize,
    /// How many there are.
    pub count: usize,
}

/// The free blocks of every size class, in order; none before the first allocation, and for a signal
/// handler that interrupted the heap.
pub fn free_blocks() -> [FreeBlocks; COUNT] {
    let heap = start::try_heap().filter(|_| !Inside::is_interrupted());
    let _inside = Inside::enter();
    core::array::from_fn(|class| FreeBlocks {
        least: class.checked_sub(1).map_or(0, classes::size) + 1,
        size: classes::size(class),
        count: heap.map_or(0, |heap| {
            heap.spans.free_blocks(heap.memory(), class) + heap.depot.blocks(class)
        }),
    })
}
