//! glibc's accounting symbols, answered from refpage's own counters. Refpage has one arena, and nothing of it
//! is outside it: the fields for fastbins and mmapped blocks are 0.

use core::ffi::c_int;

use libc::FILE;
use refpage_alloc::heap;

/// What glibc's structs and XML have room for: the Region's bytes in use, and those of them in live blocks.
struct Usage {
    held: usize,
    live: usize,
}

impl Usage {
    fn now() -> Self {
        let stats = heap::stats();
        let live = stats.live_bytes as usize;
        // The counters are read at different moments: never let "held minus live" wrap.
        Self { held: (stats.region_used_bytes as usize).max(live), live }
    }

    fn free(&self) -> usize {
        self.held - self.live
    }
}

/// `malloc_trim(3)`: gives free memory back to the kernel, keeping `pad` bytes; 1 if any was given back.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(pad: usize) -> c_int {
    heap::trim(pad).into()
}

/// In bionic the older struct has the newer one's fields.
#[cfg(target_os = "android")]
use libc::mallinfo as Mallinfo2;
#[cfg(not(target_os = "android"))]
use libc::mallinfo2 as Mallinfo2;

/// `mallinfo2(3)`.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    let usage = Usage::now();
    Mallinfo2 {
        arena: usage.held,
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: usage.live,
        fordblks: usage.free(),
        keepcost: 0,
    }
}

/// `mallinfo(3)`.
#[cfg(target_os = "android")]
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    mallinfo2()
}

/// `mallinfo(3)`, whose fields are ints: a count that does not fit is `INT_MAX`, where glibc's wraps.
#[cfg(not(target_os = "android"))]
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let int = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let usage = Usage::now();
    libc::mallinfo {
        arena: int(usage.held),
        ordblks: 0,
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: int(usage.live),
        fordblks: int(usage.free()),
        keepcost: 0,
    }
}

/// `malloc_stats(3)`: the human block of statistics, on stderr.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    refpage_alloc::print_stats(libc::STDERR_FILENO);
}

/// `malloc_info(3)`: glibc's XML, version 1, with one heap; EINVAL for any options but 0.
///
/// # Safety
/// `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    let usage = Usage::now();
    // SAFETY: an open stream by the caller's contract; the format names eight size_t, and gets them.
    unsafe {
        libc::fprintf(
            stream,
            c"<malloc version=\"1\">\n\
              <heap nr=\"0\">\n\
              <sizes>\n</sizes>\n\
              <total type=\"fast\" count=\"0\" size=\"0\"/>\n\
              <total type=\"rest\" count=\"0\" size=\"%zu\"/>\n\
              <system type=\"current\" size=\"%zu\"/>\n\
              <system type=\"max\" size=\"%zu\"/>\n\
              <aspace type=\"total\" size=\"%zu\"/>\n\
              <aspace type=\"mprotect\" size=\"%zu\"/>\n\
              </heap>\n\
              <total type=\"fast\" count=\"0\" size=\"0\"/>\n\
              <total type=\"rest\" count=\"0\" size=\"%zu\"/>\n\
              <total type=\"mmap\" count=\"0\" size=\"0\"/>\n\
              <system type=\"current\" size=\"%zu\"/>\n\
              <system type=\"max\" size=\"%zu\"/>\n\
              </malloc>\n"
                .as_ptr(),
            usage.free(),
            usage.held,
            usage.held,
            usage.held,
            usage.held,
            usage.free(),
            usage.held,
            usage.held,
        );
    }
    0
}
