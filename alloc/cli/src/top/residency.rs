//! What of the Region is in place: which runs are large allocations, by the heap's page map, and which pages are
//! present, by the kernel's.
//!
//! ```text
//!   heads   1 1 1 4 . .   ─▶ runs that begin at a slot ─▶ records ─▶ live large allocations  [....]   [.......]
//!   pagemap ##..##.#..                                  present stretches, merged with them  ##..     ##
//! ```
//!
//! The kernel is asked, since it puts pages in place that the heap learns of only when they are freed (calloc's,
//! and with `cow`). A page counts as in place if there is one, be it a page of the file that `cow` shows;
//! the zero page, which holds no memory, does not.
//!
//! The question takes longer the more memory there is, and holds the process's mmap lock for reading. So it is
//! asked again only after [`PAUSE`] times as long as the last answer took.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use refpage::sys::scan::{Query, States, Stretch, scan};
use refpage_alloc::beacon::{Counted, Values};
use rustix::io::Errno;

use super::fd::lent;
use super::process::{Process, Trouble};

/// The share of its time that the watcher may spend on this: one part in so many.
const PAUSE: u32 = 20;

/// Heads, entries of the page map, records of runs, and stretches that are asked for at a time.
const HEADS: usize = 64 << 10;
const ENTRIES: usize = 32 << 10;
const RECORDS: usize = 4096;
const STRETCHES: usize = 512;

/// Bit 63 and bit 62 of an entry of the page map: present, swapped.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// Pages of the Region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// In place, whoever's they are.
    pub present: u64,
    /// Of live large allocations.
    pub large: u64,
    /// Those of them that are in place.
    pub large_present: u64,
    /// Of those that did not come from calloc, the ones that are not: what memset would have had to fill.
    pub unfilled: u64,
}

/// Asks for it, now and then.
#[derive(Debug, Default)]
pub struct Surveyor {
    last: Option<(Instant, Residency)>,
    /// No sooner than that.
    next: Option<Instant>,
}

impl Surveyor {
    /// What is in place, and how old that answer is.
    pub fn ask(
        &mut self,
        process: &Process,
        values: &Values,
        counted: &Counted,
        swaps: bool,
    ) -> Result<(Residency, Duration), Trouble> {
        let now = Instant::now();
        if let (Some((at, last)), Some(next)) = (self.last, self.next)
            && now < next
        {
            return Ok((last, now - at));
        }
        let residency = survey(process, values, counted, swaps)?;
        let took = now.elapsed();
        self.last = Some((now, residency));
        self.next = Some(now + took * PAUSE);
        Ok((residency, Duration::ZERO))
    }
}

/// Pages in a row: the first, and the one behind the last.
type Row = (usize, usize);

/// A live large allocation.
#[derive(Clone, Copy, Debug)]
struct Large {
    pages: Row,
    is_zeroed: bool,
}

fn survey(
    process: &Process,
    values: &Values,
    counted: &Counted,
    swaps: bool,
) -> Result<Residency, Trouble> {
    let zero_from = values.zero_from as usize;
    let parts = [
        (0, (counted.content_used as usize).min(zero_from)),
        (zero_from, (counted.zero_used as usize).max(zero_from)),
    ];
    let mut sum = Residency::default();
    for part in parts.into_iter().filter(|&(first, end)| first < end) {
        let large = live(process, values, part)?;
        let mut merge = Merge { large: &large, present: 0, large_present: 0, filled: 0 };
        each_present(process, values, part, swaps, |row| merge.add(row))?;
        let pages = |run: &Large| (run.pages.1 - run.pages.0) as u64;
        let to_fill: u64 = large.iter().filter(|run| !run.is_zeroed).map(pages).sum();
        sum.present += merge.present;
        sum.large += large.iter().map(pages).sum::<u64>();
        sum.large_present += merge.large_present;
        sum.unfilled += to_fill - merge.filled;
    }
    Ok(sum)
}

/// The live large allocations of a part of the Region, in order.
fn live(process: &Process, values: &Values, part: Row) -> Result<Vec<Large>, Trouble> {
    let pages_per_slot = (values.slot_bytes >> values.page_shift) as usize;
    let (first, end) = (part.0 / pages_per_slot, part.1.div_ceil(pages_per_slot));
    let mut begin = Vec::new();
    let mut bytes = vec![0; HEADS * 4];
    for from in (first..end).step_by(HEADS) {
        let part = &mut bytes[..HEADS.min(end - from) * 4];
        // What was never written may be unreadable, and has no runs.
        part.fill(0);
        process.read(values.heads as usize + from * 4, part)?;
        let heads = part.as_chunks::<4>().0.iter().map(|head| u32::from_ne_bytes(*head) as usize);
        begin.extend(heads.zip(from..).filter(|&(head, slot)| head == slot + 1).map(|(_, s)| s));
    }
    let size = values.run_bytes as usize;
    let mut large = Vec::new();
    let mut bytes = vec![0; RECORDS.min(begin.len()) * size];
    for slots in begin.chunks(RECORDS) {
        let at = |slot: usize| values.runs as usize + slot * size;
        let ranges: Vec<_> = slots.iter().map(|&slot| at(slot)..at(slot) + size).collect();
        let part = &mut bytes[..slots.len() * size];
        part.fill(0);
        process.read_ranges(&ranges, part)?;
        let runs = slots.iter().zip(part.chunks_exact(size));
        large.extend(runs.filter_map(|(&slot, run)| of_run(values, slot * pages_per_slot, run)));
    }
    Ok(large)
}

/// The allocation that a run is, which begins at the page; none if it is another kind of run.
fn of_run(values: &Values, page: usize, run: &[u8]) -> Option<Large> {
    let number = |at: u64, size: usize| {
        let mut word = [0; 8];
        let bytes = run.get(at as usize..at as usize + size)?;
        word[..size].copy_from_slice(bytes);
        Some(u64::from_le_bytes(word))
    };
    if number(values.run_kind, 1)? != values.large {
        return None;
    }
    // Its words are read one by one while it may become another: it has no more pages than slots.
    let most = (number(values.run_slots, 4)? * values.slot_bytes) >> values.page_shift;
    let bytes = number(values.run_offset, 4)?.checked_add(number(values.run_size, 8)?)?;
    let pages = bytes.div_ceil(1 << values.page_shift).min(most) as usize;
    let is_zeroed = number(values.run_zeros, 1)? != 0;
    Some(Large { pages: (page, page + pages), is_zeroed })
}

/// Adds present stretches up, in order, with allocations that are in order too.
struct Merge<'a> {
    large: &'a [Large],
    present: u64,
    large_present: u64,
    /// Those of allocations that did not come from calloc.
    filled: u64,
}

impl Merge<'_> {
    fn add(&mut self, row: Row) {
        self.present += (row.1 - row.0) as u64;
        while let Some((run, behind)) = self.large.split_first() {
            let shared = run.pages.1.min(row.1).saturating_sub(run.pages.0.max(row.0)) as u64;
            self.large_present += shared;
            self.filled += if run.is_zeroed { 0 } else { shared };
            if run.pages.1 > row.1 {
                return;
            }
            self.large = behind;
        }
    }
}

/// Calls `tell` for each stretch of pages of the Region that are in place, in order.
fn each_present(
    process: &Process,
    values: &Values,
    part: Row,
    swaps: bool,
    mut tell: impl FnMut(Row),
) -> Result<(), Trouble> {
    let file = process.file("pagemap")?;
    let address = |page: usize| values.region as usize + (page << values.page_shift);
    let page = |address: usize| (address - values.region as usize) >> values.page_shift;
    // A guard's marker looks as if it was swapped out: nothing else does where nothing is.
    let wanted = if swaps { States::PRESENT.or(States::SWAPPED) } else { States::PRESENT };
    let query = Query { any: wanted, none: States::ZERO_PAGE, ..Query::default() };
    let mut found = [Stretch::default(); STRETCHES];
    let mut from = part.0;
    while from < part.1 {
        match scan(lent(&file), address(from)..address(part.1), query, &mut found) {
            Ok((count, end)) => {
                for stretch in found.iter().take(count).map(Stretch::addresses) {
                    tell((page(stretch.start), page(stretch.end)));
                }
                if page(end) <= from {
                    return Err(Trouble::Failed("PAGEMAP_SCAN does not come forward".into()));
                }
                from = page(end);
            }
            // Before Linux 6.7.
            Err(Errno::NOTTY) => break,
            // Its memory is gone.
            Err(Errno::SRCH) => return Err(Trouble::Ended),
            Err(errno) => return Err(Trouble::Failed(format!("PAGEMAP_SCAN: {errno}"))),
        }
    }
    let wanted = if swaps { PRESENT | SWAPPED } else { PRESENT };
    let mut bytes = vec![0; if from < part.1 { ENTRIES * 8 } else { 0 }];
    while from < part.1 {
        let part = &mut bytes[..ENTRIES.min(part.1 - from) * 8];
        let offset = (address(from) >> values.page_shift) as u64 * 8;
        let read = file.read_at(part, offset).map_err(|e| Trouble::Failed(e.to_string()))?;
        if read < 8 {
            return Err(Trouble::Ended);
        }
        let entries = part[..read].as_chunks::<8>().0;
        let is_present = |entry: &[u8; 8]| u64::from_ne_bytes(*entry) & wanted != 0;
        for (same, at) in entries.chunk_by(|a, b| is_present(a) == is_present(b)).scan(
            from,
            |at, same: &[[u8; 8]]| {
                let first = *at;
                *at += same.len();
                Some((same, first))
            },
        ) {
            if same.first().is_some_and(is_present) {
                tell((at, at + same.len()));
            }
        }
        from += entries.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::heap::Heap;

    #[test]
    fn stretches_and_allocations_are_merged() {
        let run = |first, end, is_zeroed| Large { pages: (first, end), is_zeroed };
        let large = [run(10, 20, false), run(30, 40, true), run(40, 50, false)];
        let mut merge = Merge { large: &large, present: 0, large_present: 0, filled: 0 };
        for row in [(0, 5), (8, 12), (15, 16), (18, 32), (39, 45), (60, 70)] {
            merge.add(row);
        }
        assert_eq!(merge.present, 5 + 4 + 1 + 14 + 6 + 10);
        assert_eq!(merge.large_present, (2 + 1 + 2) + (2 + 1) + 5);
        assert_eq!(merge.filled, (2 + 1 + 2) + 5);
    }

    #[test]
    fn a_block_of_this_process_is_in_place_as_far_as_it_was_touched() {
        let process = Process::open(std::process::id() as i32).expect("this process");
        let mut heap = Heap::find(&process).expect("the tests are on refpage, too");
        let mut ask = || {
            let look = heap.look(&process).expect("own memory").expect("the same heap");
            survey(&process, &look.values, &look.figures.counted, false).expect("own memory")
        };
        let before = ask();
        // The tests' own heap fills memory when it is allocated.
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let pages = ((64 << 20) / rustix::param::page_size()) as u64;
        let after = ask();
        // Other tests allocate, too.
        let slack = pages / 8;
        assert!((after.large - before.large).abs_diff(pages) < slack, "{before:?} {after:?}");
        assert!((after.large_present - before.large_present).abs_diff(pages) < slack);
        assert!(after.present - before.present >= pages - slack);
        drop(block);
    }
}
