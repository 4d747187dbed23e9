//! `mlockall`: the one symbol here that is not malloc's.
//!
//! It would populate the whole Region, a tebibyte of it, where a program means the memory that it
//! uses. With `MCL_ONFAULT` (Linux 4.4) every page is locked when it is first there.

use core::ffi::{c_int, c_long};
use core::hint::black_box;

use refpage_alloc::heap;

/// `mlockall(2)` with `MCL_ONFAULT`.
///
/// The heap is there before: a Region that is reserved under `MCL_FUTURE` counts as a whole against
/// RLIMIT_MEMLOCK, so that a program without privilege could never malloc again. Now it is told ENOMEM.
#[unsafe(no_mangle)]
pub extern "C" fn mlockall(flags: c_int) -> c_int {
    // Not by `malloc` and `free`: the compiler knows these, and that a block nobody uses need not be.
    let block = black_box(heap::allocate(1, 16, false));
    if !block.is_null() {
        // SAFETY: the heap's own block, which nobody else knows.
        unsafe { heap::deallocate(block) };
    }
    // The kernel is to see flags that were wrong without ours.
    let on_fault = if flags & !libc::MCL_ONFAULT == 0 { 0 } else { libc::MCL_ONFAULT };
    let flags = c_long::from(flags | on_fault);
    // SAFETY: the call takes flags only; libc's wrapper sets errno as the program expects.
    unsafe { libc::syscall(libc::SYS_mlockall, flags) as c_int }
}
