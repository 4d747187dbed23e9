//! Statistics: what the heap has done, as a block for people or as JSON.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use refpage::sys::report::{self, Line};
use rustix::fd::{BorrowedFd, IntoRawFd};
use rustix::fs::{Mode, OFlags};

use crate::heap::Heap;
use crate::options::{Pattern, StatsChoice};
use crate::start;

/// Room for either form.
const TEXT: usize = 4096;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident: $heap:ident => $value:expr;)*) => {
        /// Counters of a heap. Bytes where the name says so; pages are OS pages.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            pub(crate) fn of(heap: &Heap) -> Self {
                Self { $($name: { let $heap = heap; $value as u64 },)* }
            }

            /// Each counter with its name, in the order of the reports.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

stats! {
    /// Bytes in an OS page.
    page_bytes: _h => refpage::sys::vm::page_size();
    /// Bytes of address space reserved for the Region.
    region_bytes: h => h.engine.region().len();
    /// Bytes of the Region's address space in use.
    region_used_bytes: h => h.cache.used_slots() * crate::page_map::SLOT;
    /// VMAs that the Region is made of, counted in /proc/self/maps; 0 if that cannot be read.
    region_vmas: h => count_vmas(h.engine.region());
    /// Bytes in live allocations, magazines included.
    live_bytes: h => h.cache.usage().live_bytes + h.spans.bytes_out();
    /// Bytes in live large allocations.
    large_live_bytes: h => h.cache.usage().live_bytes;
    /// Bytes in small blocks handed out, magazines included.
    small_live_bytes: h => h.spans.bytes_out();
    /// Large allocations made.
    large_allocated: h => h.cache.usage().allocated;
    /// Large allocations that reused a run in place.
    large_recycled: h => h.cache.usage().recycled;
    /// Large allocations freed.
    large_freed: h => h.cache.usage().freed;
    /// Missing faults served by the handler.
    faults: h => h.engine.counters().faults.get();
    /// Pages moved in from the pool.
    pages_moved: h => h.engine.counters().moved.get();
    /// Huge pages among them, moved whole: how many times 2 MiB.
    huge_moved: h => h.engine.counters().huge_moved.get();
    /// Pages copied in, because the pool had none.
    pages_copied: h => h.engine.counters().copied.get();
    /// Pages of zeros put in place for calloc.
    pages_zeroed: h => h.engine.counters().zeroed.get();
    /// Pages filled at allocation.
    pages_filled: h => h.engine.counters().filled.get();
    /// Present pages of freed runs whose content was restored.
    pages_refilled: h => h.engine.counters().refilled.get();
    /// Pages that realloc moved instead of copying.
    pages_relocated: h => h.engine.counters().relocated.get();
    /// Pages that freed runs gave to the pool.
    pages_pooled: h => h.engine.counters().pooled.get();
    /// Pages given back to the kernel.
    pages_purged: h => h.engine.counters().purged.get();
    /// Pages that wait in the pool now.
    pool_pages: h => h.engine.pool_pages();
    /// Pages that freed runs keep for reuse now.
    cached_pages: h => h.cache.pages();
}

/// The name of the service in force; the heap is started if need be.
pub fn service_name() -> &'static str {
    start::started().map_or("none", |heap| heap.engine.service().as_str())
}

/// Why the service in force is not a better one, as text; calls `tell` with it.
pub fn service_reason<R>(tell: impl FnOnce(&dyn fmt::Display) -> R) -> R {
    match start::started() {
        Some(heap) => heap.engine.reason(|reason| tell(reason)),
        None => tell(&"no heap"),
    }
}

/// What free memory holds, if the service in force keeps it.
pub fn pattern() -> Option<Pattern> {
    start::started().and_then(|heap| heap.engine.content().pattern())
}

/// Writes the block for people to a descriptor.
pub fn print_stats(fd: i32) {
    let Some(heap) = start::started() else { return };
    let mut text = Line::<TEXT>::default();
    let _ = write_block(&mut text, heap);
    // SAFETY: the number is only borrowed for this write; if it is closed, write says so.
    report::write_all(unsafe { BorrowedFd::borrow_raw(fd) }, text.as_bytes());
}

fn write_block(text: &mut impl Write, heap: &Heap) -> fmt::Result {
    let stats = Stats::of(heap);
    let service = heap.engine.service().as_str();
    writeln!(text, "refpage: statistics")?;
    heap.engine.reason(|reason| writeln!(text, "  {:<20} {service} ({reason})", "service"))?;
    for (name, value) in stats.entries() {
        writeln!(text, "  {name:<20} {value}")?;
    }
    Ok(())
}

fn write_json(text: &mut impl Write, heap: &Heap) -> fmt::Result {
    let stats = Stats::of(heap);
    let service = heap.engine.service().as_str();
    // A reason is made of fixed words and numbers: nothing in it needs escaping.
    heap.engine
        .reason(|reason| write!(text, "{{\"service\":\"{service}\",\"reason\":\"{reason}\""))?;
    for (name, value) in stats.entries() {
        write!(text, ",\"{name}\":{value}")?;
    }
    writeln!(text, "}}")
}

/// A second number for the stderr that the process started with: many programs close theirs
/// before the functions of atexit have all run.
static STDERR: AtomicI32 = AtomicI32::new(2);

/// Descriptor numbers from here on are seldom any program's business.
const OUT_OF_THE_WAY: i32 = 1000;

/// Makes sure that the block for people can be written at exit.
pub(crate) fn keep_stderr() {
    // SAFETY: descriptor 2 is only borrowed for this call; if it is closed, the call says so.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    if let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(stderr, OUT_OF_THE_WAY) {
        STDERR.store(copy.into_raw_fd(), Relaxed);
    }
}

/// Writes what the option `stats` asked for. Registered with atexit.
pub(crate) extern "C" fn at_exit() {
    let Some(heap) = start::try_heap() else { return };
    match &heap.options.stats {
        StatsChoice::Off => {}
        StatsChoice::Stderr => print_stats(STDERR.load(Relaxed)),
        StatsChoice::Json(path) => {
            let mut text = Line::<TEXT>::default();
            let _ = write_json(&mut text, heap);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            match rustix::fs::open(path.as_bytes(), flags, Mode::from_raw_mode(0o644)) {
                Ok(file) => report::write_all(rustix::fd::AsFd::as_fd(&file), text.as_bytes()),
                Err(errno) => report::warn(format_args!(
                    "cannot write the statistics to {}: {errno}",
                    core::str::from_utf8(path.as_bytes()).unwrap_or("the file of stats=json:"),
                )),
            }
        }
    }
}

/// Lines of /proc/self/maps that overlap the Region.
fn count_vmas(region: &refpage::Region) -> usize {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(maps) = rustix::fs::open(c"/proc/self/maps", flags, Mode::empty()) else { return 0 };
    let mut count = 0;
    let (mut start, mut value, mut fields) = (0usize, 0usize, 0);
    let mut buffer = [0u8; 1024];
    loop {
        let read = rustix::io::read(&maps, &mut buffer).unwrap_or(0);
        if read == 0 {
            return count;
        }
        for &byte in buffer.get(..read).unwrap_or_default() {
            match (byte, fields) {
                (b'\n', _) => (value, fields) = (0, 0),
                (b'-', 0) => (start, value, fields) = (value, 0, 1),
                (b' ', 1) => {
                    let (from, to) = (region.base(), region.base() + region.len());
                    count += usize::from(start < to && value > from);
                    fields = 2;
                }
                (digit, 0 | 1) => {
                    value = value << 4 | (digit as char).to_digit(16).unwrap_or(0) as usize;
                }
                _ => {}
            }
        }
    }
}
