//! The standard symbols: C's contracts around [`heap`], which knows nothing of errno, NULL or overflow.
//!
//! ```text
//!   malloc  calloc  memalign  aligned_alloc  valloc  pvalloc ─► allocate ─► heap::allocate
//!   posix_memalign (errno stays untouched) ──────────────────────────────►       "
//!   realloc  reallocarray ─► malloc | free | heap::reallocate
//!   free  cfree  free_sized  free_aligned_sized ─► heap::deallocate
//! ```

use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::ptr;

use libc::{EINVAL, ENOMEM};
use refpage_alloc::heap;

/// What every block is aligned to: `alignof(max_align_t)` in the x86-64 and AArch64 psABIs.
const MALLOC_ALIGN: usize = 16;

/// A block, or null with errno ENOMEM. `align` must be a power of two. A size beyond PTRDIFF_MAX needs no check
/// here: the heap has none of it.
#[inline(always)]
fn allocate(size: usize, align: usize, zeroed: bool) -> *mut c_void {
    match heap::allocate_fast(size, align, zeroed) {
        Some(block) => block.as_ptr().cast(),
        None => allocate_slow(size, align, zeroed),
    }
}

#[cold]
#[inline(never)]
fn allocate_slow(size: usize, align: usize, zeroed: bool) -> *mut c_void {
    let block = heap::allocate_slow(size, align, zeroed);
    if block.is_null() { fail(ENOMEM) } else { block.cast() }
}

/// Sets errno and returns null.
#[cold]
#[inline(never)]
fn fail(error: c_int) -> *mut c_void {
    set_errno(error);
    ptr::null_mut()
}

/// For functions that report it.
pub(crate) fn set_errno(error: c_int) {
    #[cfg(target_os = "android")]
    use libc::__errno as errno_location;
    #[cfg(not(target_os = "android"))]
    use libc::__errno_location as errno_location;
    // SAFETY: it has no precondition, and returns the calling thread's own, live errno.
    unsafe { *errno_location() = error };
}

/// The OS page size, asked for anew: hardly anyone calls what wants it.
pub(crate) fn os_page_size() -> usize {
    // SAFETY: `sysconf` takes any name; for this one it reads a constant of the process.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    size as usize
}

/// `malloc(3)`: `size` bytes of pattern, aligned to 16. `malloc(0)` is a block of its own.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(size, MALLOC_ALIGN, false)
}

/// `calloc(3)`: `count * size` zero bytes; ENOMEM when the product overflows.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => allocate(bytes, MALLOC_ALIGN, true),
        None => fail(ENOMEM),
    }
}

/// `free(3)`. Keeps errno.
///
/// # Safety
/// `block` is null, or came from a function of this module and was not freed since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    if !block.is_null() {
        // SAFETY: not null; a live block by the caller's contract.
        unsafe { heap::deallocate(block.cast()) };
    }
}

/// `realloc(3)`: the old bytes, then pattern. As glibc has it, `realloc(NULL, n)` is `malloc(n)`, and
/// `realloc(block, 0)` frees and returns null. On ENOMEM the old block is as it was.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    if size == 0 {
        // SAFETY: a live block by the caller's contract.
        unsafe { heap::deallocate(block.cast()) };
        return ptr::null_mut();
    }
    // SAFETY: not null, a live block by the caller's contract; `size` is not 0.
    let moved = unsafe { heap::reallocate(block.cast(), size) };
    if moved.is_null() { fail(ENOMEM) } else { moved.cast() }
}

/// `reallocarray(3)`: `realloc(block, count * size)`; ENOMEM and the old block untouched when that overflows.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's contract is `realloc`'s.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => fail(ENOMEM),
    }
}

/// `memalign(3)`: as glibc has it, an alignment that is no power of two is rounded up to one, and one that
/// cannot be is EINVAL.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => allocate(size, align.max(MALLOC_ALIGN), false),
        None => fail(EINVAL),
    }
}

/// `aligned_alloc(3)`: EINVAL when `align` is no power of two, as in glibc from 2.38 on. `size` need not be
/// a multiple of `align`.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align.is_power_of_two() {
        allocate(size, align.max(MALLOC_ALIGN), false)
    } else {
        fail(EINVAL)
    }
}

/// `posix_memalign(3)`: returns 0, EINVAL or ENOMEM. Never touches errno, and writes `*out` on success only.
///
/// # Safety
/// `out` is valid for writing one pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return EINVAL;
    }
    let block = heap::allocate(size, align.max(MALLOC_ALIGN), false);
    if block.is_null() {
        return ENOMEM;
    }
    // SAFETY: valid for writing by the caller's contract.
    unsafe { out.write(block.cast()) };
    0
}

/// `valloc(3)`: malloc at an OS page boundary.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    allocate(size, os_page_size(), false)
}

/// `pvalloc(3)`: valloc of whole OS pages.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = os_page_size();
    match size.checked_next_multiple_of(page) {
        Some(bytes) => allocate(bytes, page, false),
        None => fail(ENOMEM),
    }
}

/// C23 `free_sized`. The size is not needed: the heap knows it.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _size: usize) {
    // SAFETY: the caller's contract is `free`'s.
    unsafe { free(block) };
}

/// C23 `free_aligned_sized`. Neither is needed: the heap knows both.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _size: usize) {
    // SAFETY: the caller's contract is `free`'s.
    unsafe { free(block) };
}

/// `cfree(3)`, for old binaries: glibc still resolves it for them, to a `free` of its own heap.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's contract is `free`'s.
    unsafe { free(block) };
}

/// `malloc_usable_size(3)`: how many bytes of the block may be used; 0 for null. The bytes past the size
/// that was asked for hold the pattern (or zero) like the rest.
///
/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: not null; a live block by the caller's contract.
    unsafe { heap::usable_size(block.cast_const().cast()) }
}
