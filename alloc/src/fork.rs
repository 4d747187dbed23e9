//! Fork: what happens to the heap around it, and what its child still owes.
//!
//! ```text
//!   fork ─▶ child: is a page of live memory missing that the parent's handler would serve?
//!             │ a few: filled by hand         │ more, or not known
//!             ▼ none                          ▼
//!           unsettled ── first slow path ─▶ settled: a channel, and a handler if pages are missing
//! ```
//!
//! Most children call exec or end soon, and never settle. A child of a raw clone, for which no atfork
//! handler ran, is noticed on its first slow path: what it touched before reads as zero where
//! it was missing. (Other threads of its parent may have held locks then; POSIX lets such a child
//! call nothing that needs them, malloc included.)
//!
//! So it is with the child of a fork in a signal handler that interrupted this heap: its locks are
//! held by the thread that forks, and what it was changing is half done.

use core::sync::atomic::Ordering::{AcqRel, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicU64};

use refpage::Service;
use refpage::sys::lock::Mutex;
use refpage::sys::report::warn;
use refpage::sys::thread;
use refpage::sys::vm::KeepErrno;

use crate::heap::Heap;
use crate::missing;
use crate::profile;
use crate::start::{self, tell_of_a_lesser_service};
use crate::tags;
use crate::tls;

/// What the word says that the kernel clears in a child: this process has all that it needs.
const SETTLED: usize = 1;
/// It does with what it has, until its first slow path.
const UNSETTLED: usize = 2;

/// Missing pages of live memory that cost a child less to fill than to have served.
const FEW: usize = 32;

/// Held by a thread that settles, and while the process forks.
static SETTLING: Mutex<()> = Mutex::new(());

/// The signals that were blocked in the thread that forks, for as long as it holds the heap's locks:
/// a child's signal handler is not to touch memory before there is somebody to serve it.
static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// Whether the process forks without a heap.
static HEAPLESS: AtomicBool = AtomicBool::new(false);

/// Whether nobody was putting pages in place while the process forked.
static AT_REST: AtomicBool = AtomicBool::new(false);

/// The heap is new.
pub fn settled(heap: &Heap) {
    heap.fork_word.set(SETTLED);
}

/// Whether this process has all that it needs.
pub fn is_settled(heap: &Heap) -> bool {
    heap.fork_word.get() == SETTLED
}

/// To be called on the slow paths, before the engine is asked for anything: a child that has not
/// settled does so.
#[inline]
pub fn settle(heap: &'static Heap) {
    if heap.fork_word.get() != SETTLED {
        settle_now(heap);
    }
}

#[cold]
fn settle_now(heap: &'static Heap) {
    let signals = thread::block_signals();
    let settling = SETTLING.lock();
    match heap.fork_word.get() {
        SETTLED => {}
        UNSETTLED => equip(heap, false),
        _ => {
            profile::begin_anew();
            missing::count_zeros_read(heap);
            equip(heap, true);
        }
    }
    drop(settling);
    thread::restore_signals(signals);
}

/// Gives a child its own fault channel; a handler, too, or all that is missing, if something is.
fn equip(heap: &'static Heap, missing: bool) {
    heap.cache.forget_looks();
    let before = heap.engine.offered();
    let lost = heap.engine.fork_child(missing);
    if heap.engine.offered() != before {
        tell_of_a_lesser_service(heap);
    }
    if lost {
        missing::fill(heap);
    }
    heap.fork_word.set(SETTLED);
}

/// While it lives, this thread is on a slow path, and may hold locks. It keeps errno, too, and may use
/// memory under any tag by its plain address.
pub struct Inside {
    _errno: KeepErrno,
    _unchecked: Option<mte::Unchecked>,
}

impl Inside {
    /// One level deeper.
    #[inline]
    pub fn enter() -> Self {
        let depth = &tls::words().depth;
        depth.set(depth.get() + 1);
        Self { _errno: KeepErrno::new(), _unchecked: tags::unchecked() }
    }

    /// Whether this thread is on one, as a signal handler may find it.
    #[inline]
    pub fn is_interrupted() -> bool {
        tls::words().depth.get() > 0
    }

    /// Runs something of libc's that may allocate, on a slow path that holds no lock.
    pub fn call_out<R>(call: impl FnOnce() -> R) -> R {
        let depth = &tls::words().depth;
        let before = depth.get();
        depth.set(0);
        let result = call();
        depth.set(before);
        result
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        let depth = &tls::words().depth;
        depth.set(depth.get() - 1);
    }
}

/// Registers for fork, once: the earlier, the better. Fork handlers of others that were registered
/// before run while these hold the heap's locks, and would wait for ever if they allocated.
pub fn hook() {
    static HOOKED: AtomicBool = AtomicBool::new(false);
    if HOOKED.swap(true, AcqRel) {
        return;
    }
    // SAFETY: the callbacks live for ever.
    if unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } != 0 {
        warn(format_args!("cannot register for fork: a child must not allocate"));
    }
}

unsafe extern "C" fn before() {
    if Inside::is_interrupted() {
        return;
    }
    let Some(heap) = start::heap_to_fork() else { return HEAPLESS.store(true, Relaxed) };
    if heap.fork_word.get() != UNSETTLED {
        settle(heap);
    }
    let signals = thread::block_signals();
    SETTLING.acquire();
    heap.shared.acquire();
    heap.spans.acquire();
    heap.cache.acquire();
    heap.caches.acquire();
    heap.engine.fork_prepare();
    SIGNALS.store(signals, Relaxed);
    AT_REST.store(is_at_rest(heap), Relaxed);
}

unsafe extern "C" fn in_parent() {
    let Some(heap) = forked_heap() else { return };
    // Before another thread forks.
    let signals = SIGNALS.load(Relaxed);
    // SAFETY: taken by this thread in `before`.
    unsafe { release(heap) };
    thread::restore_signals(signals);
}

unsafe extern "C" fn in_child() {
    let Some(heap) = forked_heap() else { return };
    // SAFETY: taken in `before` by the thread that this one is the image of.
    unsafe { release(heap) };
    heap.engine.leave_channel();
    profile::begin_anew();
    if AT_REST.load(Relaxed) && missing::fill_upto(heap, FEW) {
        heap.fork_word.set(UNSETTLED);
    } else {
        equip(heap, true);
    }
    thread::restore_signals(SIGNALS.load(Relaxed));
}

/// The heap that `before` locked: none if there was none, which may start from now on.
fn forked_heap() -> Option<&'static Heap> {
    if Inside::is_interrupted() {
        return None;
    }
    if HEAPLESS.swap(false, Relaxed) {
        // SAFETY: set by the thread that forks, to which `before` was told so.
        unsafe { start::fork_over() };
        return None;
    }
    start::try_heap()
}

/// # Safety
/// `before` took the locks on this thread.
unsafe fn release(heap: &Heap) {
    heap.engine.fork_done();
    // SAFETY: the caller's promise.
    unsafe {
        heap.caches.release();
        heap.cache.release();
        heap.spans.release();
        heap.shared.release();
        SETTLING.release();
    }
}

/// Whether what is noted as present is so, as far as this thread is concerned: with `lazy`, the
/// handler notes a page before it puts it in place.
fn is_at_rest(heap: &Heap) -> bool {
    if heap.fork_word.get() == UNSETTLED || heap.engine.service() != Service::Lazy {
        return true;
    }
    // Nobody is left who could fault, so it comes to rest.
    thread::count() == Some(2) && heap.engine.is_handler_idle()
}
