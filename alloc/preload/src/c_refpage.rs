//! The `refpage_*` symbols: what a program served by refpage may ask it. `include/refpage.h` declares them.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::{self, Write};
use core::ptr;

use refpage_alloc::options::Pattern;
use refpage_alloc::{Cause, Description, Stats};

/// The version of this library, "major.minor.patch": a constant.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of the service in use, each a constant: a child of fork may have to take a lesser one.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_service() -> *const c_char {
    c_name(refpage_alloc::service_name()).as_ptr()
}

/// How memory tags are checked, each a constant: `sync`, `async` or `asymm`, or `off` where memory has none.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_tags() -> *const c_char {
    c_name(refpage_alloc::tags_name()).as_ptr()
}

/// The byte that untouched memory reads as; -1 when the service is `off` and there is none, or when the
/// pattern is a word whose bytes differ.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_pattern() -> c_int {
    refpage_alloc::pattern().and_then(Pattern::as_byte).map_or(-1, c_int::from)
}

/// Stores what an aligned 64-bit load of untouched memory gives, and returns 1; 0, and nothing is stored, when
/// the service is `off` and nothing is promised.
///
/// # Safety
/// `word` is valid for writing one `u64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_pattern_word(word: *mut u64) -> c_int {
    let Some(pattern) = refpage_alloc::pattern() else { return 0 };
    // SAFETY: valid for writing by the caller's contract.
    unsafe { word.write(pattern.as_word()) };
    1
}

/// Why the service is not a better one, as `snprintf` would write it: at most `size` bytes, the last of them a
/// NUL. Returns the length of the whole text.
///
/// # Safety
/// `text` is valid for writing `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_reason(text: *mut c_char, size: usize) -> usize {
    let mut out = CText { start: text.cast(), room: size.saturating_sub(1), length: 0 };
    // It takes all that it is given.
    let _ = refpage_alloc::service_reason(|reason| write!(out, "{reason}"));
    if size > 0 {
        // SAFETY: less than `size`, which is valid by the caller's contract.
        unsafe { text.add(out.length.min(size - 1)).write(0) };
    }
    out.length
}

/// Text in C's memory, without its NUL.
struct CText {
    start: *mut u8,
    room: usize,
    /// Of the whole text, whether there was room for it or not.
    length: usize,
}

impl Write for CText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let at = self.length.min(self.room);
        let taken = text.len().min(self.room - at);
        // SAFETY: `room` bytes from `start` on are valid for writing, by the contract of who made this.
        unsafe { self.start.add(at).copy_from_nonoverlapping(text.as_ptr(), taken) };
        self.length += text.len();
        Ok(())
    }
}

/// Fills in the first `size` bytes of a `struct refpage_stats`, which is [`Stats`]; a longer one of a later
/// version ends with zeros. Returns how many bytes this version knows.
///
/// # Safety
/// `out` is valid for writing `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_stats(out: *mut c_void, size: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { give(&refpage_alloc::stats(), out, size) };
    size_of::<Stats>()
}

/// Writes the first `size` bytes of a struct of C's, and zeros for what this version does not know of it.
///
/// # Safety
/// `out` is valid for writing `size` bytes.
unsafe fn give<T>(known: &T, out: *mut c_void, size: usize) {
    let copied = size.min(size_of::<T>());
    let out: *mut u8 = out.cast();
    // SAFETY: `copied` bytes of `known` and, by the caller's contract, `size` of `out`; what is ours cannot overlap.
    unsafe {
        out.copy_from_nonoverlapping(core::ptr::from_ref(known).cast(), copied);
        out.add(copied).write_bytes(0, size - copied);
    }
}

/// A `struct refpage_description`.
#[repr(C)]
struct CDescription {
    state: u32,
    sort: u32,
    start: u64,
    size: u64,
    offset: i64,
    age_ms: u64,
}

impl From<Description> for CDescription {
    fn from(description: Description) -> Self {
        let Description { state, sort, start, size, offset, age_ms } = description;
        Self {
            state: state as u32,
            sort: sort as u32,
            start: start as u64,
            size: size as u64,
            offset,
            age_ms: age_ms.unwrap_or(u64::MAX),
        }
    }
}

/// Gives up huge pages of which little is used: how many bytes the heap holds less.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_compact() -> usize {
    refpage_alloc::compact()
}

/// Fills in the first `size` bytes of a `struct refpage_description` with what the pointer is to, as [`refpage_stats`]
/// does, and returns 1; 0, and nothing is stored, if it is not to the heap.
///
/// # Safety
/// `out` is valid for writing `size` bytes. The pointer may be any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_describe(
    pointer: *const c_void,
    out: *mut c_void,
    size: usize,
) -> c_int {
    let Some(description) = refpage_alloc::describe(pointer) else { return 0 };
    // SAFETY: the caller's promise.
    unsafe { give(&CDescription::from(description), out, size) };
    1
}

/// What is counted in `fall_backs[index]`: a constant; null beyond the last.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_cause_name(index: usize) -> *const c_char {
    Cause::ALL.get(index).map_or(ptr::null(), |cause| cause.as_c_str().as_ptr())
}

/// Writes the human block of statistics to the descriptor `fd`, without allocating.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_stats_print(fd: c_int) {
    refpage_alloc::print_stats(fd);
}

/// A name of a service or of a kind of checks as C wants it: with the NUL that a `&str` has no room for.
fn c_name(name: &str) -> &'static CStr {
    match name {
        "lazy" => c"lazy",
        "cow" => c"cow",
        "eager" => c"eager",
        "memset" => c"memset",
        "sync" => c"sync",
        "async" => c"async",
        "asymm" => c"asymm",
        "off" => c"off",
        _ => c"none",
    }
}
