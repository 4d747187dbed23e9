//! The profile as a block for people, and as JSON.

use core::fmt::{self, Display, Write};

use refpage::Service;
use refpage::sys::thread;
use refpage::sys::vm;

use super::estimate::{Filled, Prices, memset_bytes};
use super::figures::{Amount, Bytes, Percent, Time, percent};
use super::tally::{self, Row, Sum};
use super::{count_live, peak};
use crate::exit::Pieces;
use crate::heap::Heap;
use crate::start;
use crate::stats::JsonString;

/// Rows of large allocations that people get to see, of those that asked for most.
const ROWS: usize = 16;

/// Classes of small blocks that they get to see.
const SMALL_CLASSES: usize = 4;

/// One in so many of all untouched bytes makes a class worth a mark.
const MARKED: u64 = 10;

/// Characters of a bar.
const BAR: u64 = 10;

/// Writes the block for people, once, as the process exits.
pub(crate) fn write_block(text: &mut Pieces<'_>) -> fmt::Result {
    let Some(heap) = start::try_heap() else { return Ok(()) };
    Report::of(heap).write_block(text)
}

/// Writes the JSON, once, as the process exits.
pub(crate) fn write_json(text: &mut Pieces<'_>) -> fmt::Result {
    let Some(heap) = start::try_heap() else { return Ok(()) };
    Report::of(heap).write_json(text)
}

/// Calls its argument for every row. They are not kept: there may be little stack.
type Rows<'a> = &'a dyn Fn(&mut dyn FnMut(&Row));

/// All that either form tells.
struct Report<'a> {
    process: u32,
    program: ([u8; 16], usize),
    service: Service,
    page_bytes: u64,
    threshold_bytes: u64,
    rows: Rows<'a>,
    malloc: Sum,
    calloc: Sum,
    small: Sum,
    /// Pages of large mallocs at once: of all, and those in place.
    peaks: (u64, u64),
    faults: u64,
    prices: Option<Prices>,
}

impl Report<'static> {
    fn of(heap: &'static Heap) -> Self {
        let large = tally::rows().any(|row| row.large);
        if large {
            count_live(heap);
        }
        let (live, present) = peak::get();
        let process = rustix::process::getpid().as_raw_nonzero().get() as u32;
        let mut name = [0; 16];
        let len = thread::name(process, &mut name).unwrap_or(0);
        Self {
            process,
            program: (name, len),
            service: heap.engine.offered(),
            page_bytes: vm::page_size() as u64,
            threshold_bytes: heap.options.threshold as u64,
            faults: heap.engine.counters().faults.get(),
            prices: if large { Prices::now() } else { None },
            peaks: (live as u64, present as u64),
            ..Self::with_rows(&|each| tally::rows().for_each(|row| each(&row)))
        }
    }
}

impl<'a> Report<'a> {
    /// What follows from the rows alone.
    fn with_rows(rows: Rows<'a>) -> Self {
        let [mut malloc, mut calloc, mut small] = [Sum::default(); 3];
        rows(&mut |row| match (row.large, row.zeroed) {
            (false, _) => small.add(&row.sum),
            (true, false) => malloc.add(&row.sum),
            (true, true) => calloc.add(&row.sum),
        });
        Self {
            process: 0,
            program: ([0; 16], 0),
            service: Service::Off,
            page_bytes: 4096,
            threshold_bytes: 0,
            rows,
            malloc,
            calloc,
            small,
            peaks: (0, 0),
            faults: 0,
            prices: None,
        }
    }

    fn program(&self) -> impl Display {
        let (name, len) = &self.program;
        name.get(..*len).unwrap_or_default().escape_ascii()
    }

    fn by_memset(&self) -> Filled {
        Filled::by_memset(&self.malloc, &self.calloc, self.page_bytes)
    }

    fn by_refpage(&self) -> Filled {
        match self.service {
            Service::Off => Filled::default(),
            _ => Filled::by_refpage(&self.malloc),
        }
    }

    fn bytes(&self, pages: u64) -> Bytes {
        Bytes(pages.saturating_mul(self.page_bytes))
    }

    fn write_block(&self, text: &mut impl Write) -> fmt::Result {
        write!(text, "refpage: profile of process {} ({})", self.process, self.program())?;
        if self.malloc.is_empty() && self.calloc.is_empty() {
            let (least, small) = (Bytes(self.threshold_bytes), Amount(made(&self.small)));
            return writeln!(text, ": none of {least} or more; small blocks {small}");
        }
        writeln!(text, "\n  service {}: {}", self.service.as_str(), means(self.service))?;
        self.write_totals(text)?;
        self.write_table(text)?;
        self.write_small(text)
    }

    fn write_totals(&self, text: &mut impl Write) -> fmt::Result {
        let Self { malloc, calloc, .. } = self;
        let (memset, refpage) = (self.by_memset(), self.by_refpage());
        let written = Percent(malloc.pages_written, malloc.pages_asked);
        writeln!(
            text,
            "  memset would have written {}{}; {written} of it was ever written to",
            Bytes(memset_bytes(malloc, calloc)),
            Estimate(self.prices.map(|prices| memset.us(prices))),
        )?;
        self.write_filled(text, memset, refpage)?;
        writeln!(
            text,
            "  at the peak of large mallocs: {} with memset, {} in place here",
            self.bytes(self.peaks.0),
            self.bytes(self.peaks.1),
        )?;
        let both = [("malloc", malloc), ("calloc", calloc)];
        for (name, sum) in both.into_iter().filter(|(_, sum)| !sum.is_empty()) {
            writeln!(
                text,
                "  large {name}s {}: {} got memory used before, {} live at exit",
                Amount(made(sum)),
                Percent(sum.recycled, sum.ended()),
                Amount(sum.live),
            )?;
        }
        let reallocs = malloc.reallocs.saturating_add(calloc.reallocs);
        if reallocs > 0 {
            let grown = Bytes(malloc.bytes_grown.saturating_add(calloc.bytes_grown));
            writeln!(text, "  large reallocs {}, by which they grew by {grown}", Amount(reallocs))?;
        }
        let unknown = malloc.unknown.saturating_add(calloc.unknown);
        if unknown > 0 {
            writeln!(text, "  of {} it is not known what was written: no /proc", Amount(unknown))?;
        }
        match self.prices {
            Some(Prices { fresh, warm }) => writeln!(
                text,
                "  est.: a fresh page of {} takes {} ns to fill, one that is there {} ns, tried at exit",
                Bytes(self.page_bytes),
                Amount(fresh),
                Amount(warm),
            ),
            None => writeln!(text, "  no estimate of the time: no memory to try it on"),
        }
    }

    /// What was filled here, and how much less time that takes.
    fn write_filled(&self, text: &mut impl Write, memset: Filled, refpage: Filled) -> fmt::Result {
        let filled = refpage.pages();
        write!(text, "  refpage filled {}", self.bytes(filled))?;
        if let Some(prices) = self.prices {
            let (most, own) = (memset.us(prices), refpage.us(prices));
            let (change, word) = (most.abs_diff(own), if own > most { "more" } else { "less" });
            write!(text, " (est. {}, {} {word})", Time(own), Percent(change, most))?;
        }
        if filled > 0 {
            write!(text, "; {} of that when it was freed", self.bytes(refpage.warm))?;
        }
        match self.service {
            Service::Lazy => writeln!(text, "; faults {}", Amount(self.faults)),
            _ => writeln!(text),
        }
    }

    /// The large classes that asked for most, the smallest first.
    fn write_table(&self, text: &mut impl Write) -> fmt::Result {
        let mut most = [0; ROWS];
        let mut untouched = 0u64;
        (self.rows)(&mut |row| {
            if row.large {
                insert(&mut most, row.sum.pages_asked);
                untouched = untouched.saturating_add(untouched_of(&row.sum));
            }
        });
        let least = most.last().copied().unwrap_or(0);
        writeln!(
            text,
            "  {:<20} {:6} {:>7} {:>9}  {:>8} {:>8}  {:<18} {:>7}",
            "large, of bytes", "by", "count", "asked", "recycled", "in place", "written", "sparse"
        )?;
        let (mut told, mut others, mut marked, mut result) = (0, Sum::default(), false, Ok(()));
        (self.rows)(&mut |row| {
            if !row.large {
                return;
            }
            let sum = &row.sum;
            if told == ROWS || sum.pages_asked < least.max(1) {
                others.add(sum);
                return;
            }
            told += 1;
            let mark = sum.pages_written < sum.pages_asked / 2
                && untouched_of(sum) >= untouched.div_ceil(MARKED).max(1);
            marked |= mark;
            let end = row.bytes.1 as u64 + 1;
            let written = self.write_row(
                text,
                &format_args!("{} to {}", Bytes(row.bytes.0 as u64), Bytes(end)),
                if row.zeroed { "calloc" } else { "malloc" },
                sum,
                if mark { " *" } else { "" },
            );
            result = result.and(written);
        });
        result?;
        if others.ended() > 0 {
            self.write_row(text, &"others", "", &others, "")?;
        }
        writeln!(text, "  sparse: less than half of its pages written to")?;
        if marked {
            writeln!(text, "  * sparse, and a {MARKED}th or more of all that was not written to")?;
        }
        Ok(())
    }

    fn write_row(
        &self,
        text: &mut impl Write,
        size: &dyn Display,
        by: &str,
        sum: &Sum,
        mark: &str,
    ) -> fmt::Result {
        let asked = sum.pages_asked;
        write!(text, "  {} {by:6}", Wide(size, 20))?;
        write!(text, " {:>7} {:>9}", Amount(sum.ended()), self.bytes(asked))?;
        write!(text, "  {:>8}", Percent(sum.recycled, sum.ended()))?;
        write!(text, " {:>8}", Percent(sum.pages_present, asked))?;
        write!(text, "  {:>6} ", Percent(sum.pages_written, asked))?;
        let filled = percent(sum.pages_written, asked) * BAR / 100;
        for place in 0..BAR {
            text.write_char(if place < filled { '#' } else { '.' })?;
        }
        writeln!(text, "  {:>7}{mark}", Amount(sum.sparse))
    }

    fn write_small(&self, text: &mut impl Write) -> fmt::Result {
        let small = &self.small;
        write!(
            text,
            "  small blocks {}, {} of them zeroed, {}, {} live at exit",
            Amount(made(small)),
            Amount(small.callocs),
            Bytes(small.bytes_asked),
            Amount(small.live),
        )?;
        let mut most = [0; SMALL_CLASSES];
        (self.rows)(&mut |row| {
            if !row.large {
                insert(&mut most, made(&row.sum));
            }
        });
        let least = most.last().copied().unwrap_or(0).max(1);
        let (mut told, mut result) = (0, Ok(()));
        (self.rows)(&mut |row| {
            if !row.large && told < SMALL_CLASSES && made(&row.sum) >= least {
                let comma = if told == 0 { "\n    most up to" } else { "," };
                let share = Percent(made(&row.sum), made(small));
                let written = write!(text, "{comma} {} ({share})", Bytes(row.bytes.1 as u64));
                result = result.and(written);
                told += 1;
            }
        });
        result?;
        writeln!(text)
    }

    fn write_json(&self, text: &mut impl Write) -> fmt::Result {
        write!(text, "{{\"process\":{},\"program\":\"", self.process)?;
        write!(JsonString(text), "{}", self.program())?;
        let by = if self.service == Service::Off { "presence" } else { "content" };
        write!(text, "\",\"service\":\"{}\",\"written_by\":\"{by}\"", self.service.as_str())?;
        write!(text, ",\"page_bytes\":{}", self.page_bytes)?;
        write!(text, ",\"threshold_bytes\":{},\n\"classes\":[", self.threshold_bytes)?;
        let (mut first, mut result) = (true, Ok(()));
        (self.rows)(&mut |row| {
            let comma = if core::mem::take(&mut first) { "" } else { "," };
            result = result.and_then(|()| write_json_row(text, comma, row));
        });
        result?;
        write!(text, "],\n\"totals\":{{")?;
        let totals = [("malloc", &self.malloc), ("calloc", &self.calloc), ("small", &self.small)];
        for (at, (name, sum)) in totals.into_iter().enumerate() {
            write!(text, "{}\"{name}\":{{", if at == 0 { "" } else { "," })?;
            write_json_sum(text, "", sum)?;
            write!(text, "}}")?;
        }
        let (memset, refpage) = (self.by_memset(), self.by_refpage());
        let (bytes, recycled) =
            (memset_bytes(&self.malloc, &self.calloc), self.malloc.bytes_recycled);
        write!(text, "}},\n\"memset\":{{\"bytes\":{bytes},\"recycled_bytes\":{recycled}")?;
        write!(text, ",\"peak_pages\":{}}}", self.peaks.0)?;
        write!(text, ",\n\"refpage\":{{\"pages_placed\":{}", refpage.fresh)?;
        write!(text, ",\"pages_refilled\":{},\"peak_pages\":{}", refpage.warm, self.peaks.1)?;
        write!(text, ",\"faults\":{}}},\n\"estimate\":", self.faults)?;
        match self.prices {
            Some(prices) => writeln!(
                text,
                "{{\"fresh_page_ns\":{},\"warm_page_ns\":{},\"memset_us\":{},\"refpage_us\":{}}}}}",
                prices.fresh,
                prices.warm,
                memset.us(prices),
                refpage.us(prices)
            ),
            None => writeln!(text, "null}}"),
        }
    }
}

/// What the service does, and so what the numbers say.
fn means(service: Service) -> &'static str {
    match service {
        Service::Lazy => "pages are put in place when touched, and those foreseen at malloc",
        Service::Cow => "pages are put in place when written, and at malloc where most will be",
        Service::Eager => "every page is put in place at malloc, filled before",
        Service::Memset => "every page is filled at malloc",
        Service::Off => "nothing is filled; what is in place counts as written, whoever did it",
    }
}

fn made(sum: &Sum) -> u64 {
    sum.mallocs.saturating_add(sum.callocs)
}

fn untouched_of(sum: &Sum) -> u64 {
    sum.pages_asked.saturating_sub(sum.pages_written)
}

/// Keeps the largest numbers, the largest first.
fn insert(most: &mut [u64], mut number: u64) {
    for kept in most {
        if number > *kept {
            core::mem::swap(kept, &mut number);
        }
    }
}

/// Text with blanks behind it.
struct Wide<'a>(&'a dyn Display, usize);

impl Display for Wide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Counting<'a, 'b>(&'a mut fmt::Formatter<'b>, usize);
        impl Write for Counting<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1 += text.len();
                self.0.write_str(text)
            }
        }
        let mut counting = Counting(f, 0);
        write!(counting, "{}", self.0)?;
        let missing = self.1.saturating_sub(counting.1);
        (0..missing).try_for_each(|_| f.write_char(' '))
    }
}

/// A time in brackets, if there is one.
struct Estimate(Option<u64>);

impl Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |us| write!(f, " (est. {})", Time(us)))
    }
}

fn write_json_row(text: &mut impl Write, comma: &str, row: &Row) -> fmt::Result {
    let (least, most) = row.bytes;
    write!(text, "{comma}\n{{\"least_bytes\":{least},\"most_bytes\":{most}")?;
    let zeroed = if row.large { if row.zeroed { "true" } else { "false" } } else { "null" };
    write!(text, ",\"large\":{},\"zeroed\":{zeroed}", row.large)?;
    write_json_sum(text, ",", &row.sum)?;
    write!(text, "}}")
}

fn write_json_sum(text: &mut impl Write, comma: &str, sum: &Sum) -> fmt::Result {
    for (at, (name, count)) in sum.entries().enumerate() {
        write!(text, "{}\"{name}\":{count}", if at == 0 { comma } else { "," })?;
    }
    write!(text, ",\"share_written\":[")?;
    for (at, count) in sum.share_written.iter().enumerate() {
        write!(text, "{}{count}", if at == 0 { "" } else { "," })?;
    }
    write!(text, "]")
}

#[cfg(test)]
mod tests;
