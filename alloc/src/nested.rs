//! Signal handlers that allocate or free while their own thread is on a slow path of the heap.
//!
//! POSIX lets no handler do so. Here it must not hang and nothing may break: the thread may hold any
//! lock, so none is waited for. A small block comes from the thread's own magazines or from the depot,
//! of a larger class if need be; for anything else there is no memory, that time. What is freed and
//! fits in no magazine waits on a list, through the freed blocks themselves, for the next slow path
//! that nothing was interrupted for.

use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicUsize, compiler_fence};

use crate::classes::{self, COUNT};
use crate::fork::Inside;
use crate::heap::{self, Heap};
use crate::misuse;
use crate::page_map::Kind;
use crate::tags;
use crate::threads::with_own;

/// The block that was put off last: 0 if there is none.
static PUT_OFF: AtomicUsize = AtomicUsize::new(0);

/// A block of at least `size` bytes, or null.
pub fn allocate(heap: &Heap, size: usize, align: usize, zeroed: bool) -> *mut u8 {
    let first = classes::aligned(size, align).unwrap_or(COUNT);
    for class in (first..COUNT).filter(|&class| classes::size(class).is_multiple_of(align)) {
        let mut block = with_own(|cache| cache.pop(class)).unwrap_or(null_mut());
        if block.is_null() {
            heap.depot.take(class, 0, core::slice::from_mut(&mut block));
        }
        if !block.is_null() {
            // SAFETY: the block is this thread's, and of that class.
            return unsafe {
                heap.hand_out(block, class, no_ones(class), if zeroed { size } else { 0 })
            };
        }
    }
    null_mut()
}

/// The state of a live block of `class` that came to the thread by this way.
fn no_ones(class: usize) -> u8 {
    classes::state(class, classes::COLOURS - 1)
}

/// Keeps a free small block: false if there is no room for it.
pub fn keep(heap: &Heap, class: usize, block: *mut u8) -> bool {
    with_own(|cache| cache.push(class, block)).unwrap_or(false)
        || heap.depot.give(class, 0, &[block])
}

/// Has a live block freed later.
///
/// # Safety
/// As for [`heap::deallocate`].
pub unsafe fn put_off(heap: &Heap, pointer: *mut u8) {
    let address = tags::address(pointer);
    let head = heap.map.head(heap.map.slot_at(address));
    let is_run = head.is_some_and(|head| {
        heap.map.run(head).kind() == Kind::Large && heap.memory().start(head) as usize == address
    });
    if !is_run && heap.map.state(address).load(Relaxed) == 0 {
        misuse::bad_free(&heap.map, pointer);
    }
    let mut next = PUT_OFF.load(Relaxed);
    loop {
        // SAFETY: a live block holds two words at least, and nobody uses it any more.
        unsafe { pointer.cast::<usize>().write(next ^ heap.chance.secret()) };
        compiler_fence(AcqRel);
        match PUT_OFF.compare_exchange_weak(next, pointer.expose_provenance(), AcqRel, Relaxed) {
            Ok(_) => return,
            Err(now) => next = now,
        }
    }
}

/// Frees what was put off: on slow paths, before any lock is taken.
#[inline]
pub fn catch_up(heap: &Heap) {
    if PUT_OFF.load(Relaxed) != 0 {
        free_all(heap);
    }
}

#[cold]
fn free_all(heap: &Heap) {
    let mut link = PUT_OFF.swap(0, Acquire);
    while link != 0 {
        let pointer = core::ptr::with_exposed_provenance_mut::<u8>(link);
        if !heap.engine.region().contains(tags::address(pointer)) {
            misuse::overwritten_link(pointer);
        }
        // SAFETY: blocks on the list are live, and hold the link to the next.
        unsafe {
            link = pointer.cast::<usize>().read() ^ heap.chance.secret();
            // Not on a slow path any more, as far as this is concerned.
            Inside::call_out(|| heap::deallocate(pointer));
        }
    }
}
