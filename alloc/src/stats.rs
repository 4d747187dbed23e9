//! Statistics: what the heap has done, as a block for people or as JSON.

use core::fmt::{self, Write};

use refpage::sys::maps;
use refpage::{Cause, Histogram};

use crate::exit::{self, Pieces};
use crate::heap::Heap;
use crate::options::Pattern;
use crate::start;
use crate::tags;

/// Places for counts by cause, which C sees: those that no cause has yet are 0.
pub const FALL_BACKS: usize = 32;

const _: () = assert!(Cause::COUNT <= FALL_BACKS);

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident: $heap:ident => $value:expr;)*) => {
        /// Counters of a heap. Bytes where the name says so; pages are OS pages.
        ///
        /// C knows it as `struct refpage_stats`, word for word: new counters go to the end.
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub struct Stats {
            /// Answered faults by how many pages were put in place: in the place `n`, at least
            /// `2^n` and less than twice that; in the last, 512 and more.
            pub window_pages: [u64; Histogram::PLACES],
            /// How often something went a worse way, by [`Cause`].
            pub fall_backs: [u64; FALL_BACKS],
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            pub(crate) fn of(heap: &Heap) -> Self {
                let counters = heap.engine.counters();
                let mut fall_backs = [0; FALL_BACKS];
                for (place, count) in fall_backs.iter_mut().zip(counters.fall_backs.get()) {
                    *place = count;
                }
                Self {
                    window_pages: counters.windows.get(),
                    fall_backs,
                    $($name: { let $heap = heap; $value as u64 },)*
                }
            }

            /// Each single counter with its name, in the order of the reports.
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
    /// Bytes of the Region's pages that are known to be present. (Those that the kernel itself puts
    /// in place, for calloc and with `cow`, are learnt of when they are freed.)
    region_present_bytes: h => h.engine.region().present().total() << h.engine.region().page_shift();
    /// VMAs that the Region is made of, counted in /proc/self/maps; 0 if that cannot be read.
    region_vmas: h => count_vmas(h.engine.region());
    /// Bytes in live allocations, magazines included.
    live_bytes: h => h.cache.usage().live_bytes + small_live_bytes(h);
    /// Bytes in live large allocations.
    large_live_bytes: h => h.cache.usage().live_bytes;
    /// Bytes in small blocks handed out, magazines included.
    small_live_bytes: h => small_live_bytes(h);
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
    /// Pages copied in, because the pool had none or they could not be moved.
    pages_copied: h => h.engine.counters().copied.get();
    /// Pages of zeros put in place for calloc.
    pages_zeroed: h => h.engine.counters().zeroed.get();
    /// Pages filled by hand at allocation (every service but `lazy` and `off`).
    pages_filled: h => h.engine.counters().filled.get();
    /// Mappings of files that untouched memory shows (service `cow`).
    pieces: h => h.engine.pieces();
    /// Pages that came into use without a file under them, because there are as many mappings of
    /// it as there may be, or because one was refused (service `cow`).
    pages_unbacked: h => h.engine.counters().unbacked.get();
    /// Present pages of freed runs whose content was restored.
    pages_refilled: h => h.engine.counters().refilled.get();
    /// Pages that realloc moved instead of copying, or the quarantine to other addresses.
    pages_relocated: h => h.engine.counters().relocated.get();
    /// Pages that freed runs gave to the pool.
    pages_pooled: h => h.engine.counters().pooled.get();
    /// Pages given back to the kernel.
    pages_purged: h => h.engine.counters().purged.get();
    /// Pages that wait in the pool now.
    pool_pages: h => h.engine.pool_pages();
    /// Pages that freed runs keep for reuse now.
    cached_pages: h => h.cache.pages();
    /// CPU time of the fault handler when it last went to sleep, in nanoseconds.
    handler_cpu_ns: h => h.engine.counters().handler_cpu_ns.get();
    /// Freed large allocations whose addresses are in quarantine now.
    quarantined: h => h.cache.quarantine.lock().counts().0;
    /// Bytes of address space that those are.
    quarantined_bytes: h => h.cache.quarantine.lock().counts().1 * crate::page_map::SLOT;
    /// Freed large allocations that there was no time to put there (option `quarantine_share`).
    quarantine_skipped: h => h.cache.quarantine.lock().counts().2;
    /// Pages that compaction gave up.
    pages_compacted: h => h.engine.counters().compacted.get();
}

fn small_live_bytes(heap: &Heap) -> usize {
    heap.spans.bytes_out().saturating_sub(heap.depot.bytes())
}

impl Stats {
    /// How often there was each cause to do something in a worse way.
    pub fn causes(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.iter().copied().zip(self.fall_backs)
    }

    /// Pages per answered fault: each power of two from 1 to 512, and how many faults got at least
    /// so many, and less than twice that (512: any more).
    pub fn windows(&self) -> impl Iterator<Item = (usize, u64)> {
        self.window_pages.into_iter().enumerate().map(|(place, count)| (1 << place, count))
    }
}

/// The name of the service in force; the heap is started if need be.
pub fn service_name() -> &'static str {
    start::started().map_or("none", |heap| heap.engine.offered().as_str())
}

/// Why the service in force is not a better one, as text; calls `tell` with it.
pub fn service_reason<R>(tell: impl FnOnce(&dyn fmt::Display) -> R) -> R {
    match start::started() {
        Some(heap) => tell(&heap.engine.reasons()),
        None => tell(&"no heap"),
    }
}

/// How accesses beside large allocations and to freed ones are made to end: of malloc's, and of large ones of
/// calloc's, which lie elsewhere. The heap is started if need be, and the fault handler, if there is to be one.
pub fn guards() -> [&'static str; 2] {
    let Some(heap) = start::started().filter(|heap| heap.cache.guards.any()) else {
        return ["off"; 2];
    };
    start::wake_handler();
    let region = heap.engine.region();
    // The first slot of each part is out of use.
    let zero = if region.zero_part().count > 0 { region.zero_part().first } else { 0 };
    [0, zero].map(|page| heap.engine.guard_at(page).as_str())
}

/// How memory tags are checked, `sync`, `async` or `asymm`; `off` where memory is not tagged. The heap is
/// started if need be.
pub fn tags_name() -> &'static str {
    start::started();
    tags::mode_name()
}

/// What free memory holds, if the service in force keeps it.
pub fn pattern() -> Option<Pattern> {
    start::started().and_then(|heap| heap.engine.content().pattern())
}

/// Writes the block for people to a descriptor.
pub fn print_stats(fd: i32) {
    // A descriptor that takes nothing is its owner's business.
    let _ = exit::write_to(exit::borrow(fd), write_block);
}

/// Writes the block for people; the heap is started if need be.
pub(crate) fn write_block(text: &mut Pieces<'_>) -> fmt::Result {
    let Some(heap) = start::started() else { return Ok(()) };
    Report::of(heap, &heap.engine.reasons()).write_block(text)
}

/// Writes the JSON; the heap is started if need be.
pub(crate) fn write_json(text: &mut Pieces<'_>) -> fmt::Result {
    let Some(heap) = start::started() else { return Ok(()) };
    Report::of(heap, &heap.engine.reasons()).write_json(text)
}

/// All that either form tells.
struct Report<'a> {
    service: &'static str,
    reason: &'a dyn fmt::Display,
    pattern: Option<Pattern>,
    stats: Stats,
}

impl<'a> Report<'a> {
    fn of(heap: &Heap, reason: &'a dyn fmt::Display) -> Self {
        let engine = &heap.engine;
        let (service, pattern) = (engine.offered().as_str(), engine.content().pattern());
        Self { service, reason, pattern, stats: Stats::of(heap) }
    }

    fn write_block(&self, text: &mut impl Write) -> fmt::Result {
        writeln!(text, "refpage: statistics")?;
        writeln!(text, "  {:<20} {} ({})", "service", self.service, self.reason)?;
        if let Some(pattern) = self.pattern {
            writeln!(text, "  {:<20} {pattern}", "pattern")?;
        }
        writeln!(text, "  {:<20} {}", "tags", tags::mode_name())?;
        for (name, value) in self.stats.entries() {
            writeln!(text, "  {name:<20} {value}")?;
        }
        // What there was of each, on one line.
        let windows = self.stats.windows();
        write_counts(text, "window_pages", windows, |size| size == 1 << (Histogram::PLACES - 1))?;
        let causes = self.stats.causes().map(|(cause, count)| (cause.as_str(), count));
        write_counts(text, "fall_backs", causes, |_| false)
    }

    fn write_json(&self, text: &mut impl Write) -> fmt::Result {
        write!(text, "{{\"service\":\"{}\",\"reason\":\"", self.service)?;
        write!(JsonString(text), "{}", self.reason)?;
        match self.pattern {
            Some(pattern) => write!(text, "\",\"pattern\":\"{pattern}\"")?,
            None => write!(text, "\",\"pattern\":null")?,
        }
        write!(text, ",\"tags\":\"{}\"", tags::mode_name())?;
        for (name, value) in self.stats.entries() {
            write!(text, ",\"{name}\":{value}")?;
        }
        write!(text, ",\"window_pages\":{{")?;
        for (at, (size, count)) in self.stats.windows().enumerate() {
            write!(text, "{}\"{size}\":{count}", if at == 0 { "" } else { "," })?;
        }
        write!(text, "}},\"fall_backs\":{{")?;
        for (at, (cause, count)) in self.stats.causes().enumerate() {
            write!(text, "{}\"{}\":{count}", if at == 0 { "" } else { "," }, cause.as_str())?;
        }
        writeln!(text, "}}}}")
    }
}

/// One line of what was counted at all: `key: count` each, with a `+` after an open key.
fn write_counts<K: fmt::Display + Copy>(
    text: &mut impl Write,
    name: &str,
    counts: impl Iterator<Item = (K, u64)>,
    open: impl Fn(K) -> bool,
) -> fmt::Result {
    write!(text, "  {name:<20} ")?;
    let mut any = false;
    for (key, count) in counts.filter(|&(_, count)| count > 0) {
        let (comma, more) = (if any { ", " } else { "" }, if open(key) { "+" } else { "" });
        write!(text, "{comma}{key}{more}: {count}")?;
        any = true;
    }
    writeln!(text, "{}", if any { "" } else { "none" })
}

/// The inside of a JSON string.
pub(crate) struct JsonString<'a, W: Write>(pub(crate) &'a mut W);

impl<W: Write> Write for JsonString<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|letter| match letter {
            '"' | '\\' => write!(self.0, "\\{letter}"),
            control if control.is_control() => write!(self.0, "\\u{:04x}", u32::from(control)),
            other => self.0.write_char(other),
        })
    }
}

/// Lines of /proc/self/maps that overlap the Region.
fn count_vmas(region: &refpage::Region) -> usize {
    let (from, to) = (region.base(), region.base() + region.len());
    let mut count = 0;
    let told = maps::each(|mapping| {
        count += usize::from(mapping.start < to && mapping.end > from);
    });
    told.map_or(0, |()| count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// As long as it can get: every number has 20 digits.
    fn longest(reason: &dyn fmt::Display) -> Report<'_> {
        const WORDS: usize = size_of::<Stats>() / size_of::<u64>();
        // SAFETY: `Stats` is words and nothing else, for which all bits set are a value.
        let stats = unsafe { core::mem::transmute::<[u64; WORDS], Stats>([u64::MAX; WORDS]) };
        let pattern = Some(Pattern::word64(0x0123_4567_89ab_cdef));
        Report { service: "memset", reason, pattern, stats }
    }

    #[test]
    fn the_longest_json_is_complete() {
        let reason = "r".repeat(512);
        let mut text = String::new();
        longest(&reason).write_json(&mut text).expect("text");
        let json: Value = serde_json::from_str(&text).expect("valid JSON");
        let most = Value::from(u64::MAX);
        for (name, _) in Stats::default().entries() {
            assert_eq!(json[name], most, "{name}");
        }
        for cause in Cause::ALL {
            assert_eq!(json["fall_backs"][cause.as_str()], most, "{}", cause.as_str());
        }
        for size in ["1", "2", "4", "8", "16", "32", "64", "128", "256", "512"] {
            assert_eq!(json["window_pages"][size], most, "{size}");
        }
        assert_eq!(json["reason"], reason);
        assert_eq!(json["pattern"], "0x0123456789abcdef");
    }

    #[test]
    fn the_longest_block_is_complete() {
        let reason = "r".repeat(512);
        let mut text = String::new();
        longest(&reason).write_block(&mut text).expect("text");
        let last = Cause::ALL.last().expect("causes").as_str();
        assert!(text.ends_with(&format!("{last}: 18446744073709551615\n")), "{text}");
    }

    #[test]
    fn strings_are_escaped() {
        let reason = "a \"b\" \\ c\n\u{1}\u{7f} é";
        let mut text = String::new();
        longest(&reason).write_json(&mut text).expect("text");
        let json: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(json["reason"], reason);
    }

    #[test]
    fn the_block_has_one_line_for_a_histogram() {
        let mut stats = Stats::default();
        stats.window_pages[0] = 7;
        stats.window_pages[9] = 2;
        let report = Report { service: "off", reason: &"as chosen", pattern: None, stats };
        let mut text = String::new();
        report.write_block(&mut text).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "refpage: statistics");
        assert_eq!(lines[1], "  service              off (as chosen)");
        assert_eq!(lines[lines.len() - 2], "  window_pages         1: 7, 512+: 2");
        assert_eq!(lines[lines.len() - 1], "  fall_backs           none");
    }
}
