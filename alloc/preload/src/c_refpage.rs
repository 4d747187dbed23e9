//! The `refpage_*` symbols: what a program served by refpage may ask it. `include/refpage.h` declares them.

use core::ffi::{CStr, c_char, c_int};

use refpage_alloc::options::Pattern;

/// The version of this library, "major.minor.patch": a constant.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The name of the service in use: a constant for the life of the process.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_service() -> *const c_char {
    c_name(refpage_alloc::service_name()).as_ptr()
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

/// Writes the human block of statistics to the descriptor `fd`, without allocating.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_stats_print(fd: c_int) {
    refpage_alloc::print_stats(fd);
}

/// The service's name as C wants it: with the NUL that a `&str` has no room for.
fn c_name(service: &str) -> &'static CStr {
    match service {
        "lazy" => c"lazy",
        "memset" => c"memset",
        "off" => c"off",
        _ => c"none",
    }
}
