//! glibc's accounting symbols, answered from refpage's own counters. Refpage has one arena, and nothing of it
//! is outside it: the fields for fastbins and mmapped blocks are 0. What a thread's magazines hold counts as
//! used, as it does in glibc's own caches.

use core::ffi::c_int;

use libc::FILE;
use refpage_alloc::heap::{self, FreeBlocks};

/// What glibc's structs and XML have room for.
struct Usage {
    /// Bytes of the Region in use.
    held: usize,
    /// Bytes of them in live blocks.
    live: usize,
    /// Bytes of pages that freed allocations and the pool keep, for `malloc_trim` to give back.
    kept: usize,
}

impl Usage {
    fn now() -> Self {
        let stats = heap::stats();
        let live = stats.live_bytes as usize;
        Self {
            // The counters are read at different moments: never let "held minus live" wrap.
            held: (stats.region_used_bytes as usize).max(live),
            live,
            kept: ((stats.cached_pages + stats.pool_pages) * stats.page_bytes) as usize,
        }
    }

    fn free(&self) -> usize {
        self.held - self.live
    }
}

fn count(blocks: &[FreeBlocks]) -> usize {
    blocks.iter().map(|blocks| blocks.count).sum()
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
        ordblks: count(&heap::free_blocks()),
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: usage.live,
        fordblks: usage.free(),
        keepcost: usage.kept,
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
        ordblks: int(count(&heap::free_blocks())),
        smblks: 0,
        hblks: 0,
        hblkhd: 0,
        usmblks: 0,
        fsmblks: 0,
        uordblks: int(usage.live),
        fordblks: int(usage.free()),
        keepcost: int(usage.kept),
    }
}

/// `malloc_stats(3)`: the human block of statistics, on stderr.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    refpage_alloc::print_stats(libc::STDERR_FILENO);
}

/// `malloc_info(3)`: glibc's XML, version 1, with one heap; EINVAL for any options but 0. The sizes are those
/// of free small blocks; `rest` counts them, and all bytes that are not live.
///
/// # Safety
/// `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    // All of it before the stream allocates.
    let (usage, blocks) = (Usage::now(), heap::free_blocks());
    // SAFETY: an open stream by the caller's contract; the formats name as many size_t as they get.
    unsafe {
        libc::fprintf(stream, c"<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n".as_ptr());
        for FreeBlocks { least, size, count } in blocks.iter().filter(|blocks| blocks.count > 0) {
            libc::fprintf(
                stream,
                c"  <size from=\"%zu\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>\n".as_ptr(),
                *least,
                *size,
                count * size,
                *count,
            );
        }
        let rest = count(&blocks);
        libc::fprintf(
            stream,
            c"</sizes>\n\
              <total type=\"fast\" count=\"0\" size=\"0\"/>\n\
              <total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n\
              <system type=\"current\" size=\"%zu\"/>\n\
              <system type=\"max\" size=\"%zu\"/>\n\
              <aspace type=\"total\" size=\"%zu\"/>\n\
              <aspace type=\"mprotect\" size=\"%zu\"/>\n\
              </heap>\n\
              <total type=\"fast\" count=\"0\" size=\"0\"/>\n\
              <total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n\
              <total type=\"mmap\" count=\"0\" size=\"0\"/>\n\
              <system type=\"current\" size=\"%zu\"/>\n\
              <system type=\"max\" size=\"%zu\"/>\n\
              </malloc>\n"
                .as_ptr(),
            rest,
            usage.free(),
            usage.held,
            usage.held,
            usage.held,
            usage.held,
            rest,
            usage.free(),
            usage.held,
            usage.held,
        );
    }
    0
}
