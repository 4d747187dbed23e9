//! Which pages are populated, asked of the kernel: `admin-guide/mm/pagemap.rst`.

use core::ffi::CStr;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::sys::descriptor::{Descriptor, identity};
use crate::sys::number::Number;
use crate::sys::scan::{Query, States, Stretch, scan};
use crate::sys::vm::page_size;

/// Present; swapped; a file's: bits 63, 62 and 61 of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// The same as PAGEMAP_SCAN has it, where no page is a file's.
const POPULATED: Query = Query {
    all: States::NONE,
    any: States::PRESENT.or(States::SWAPPED),
    none: States::NONE,
    protect: false,
    most: 0,
};

/// Entries that are read at a time.
const BATCH: usize = 1024;

/// Stretches of populated pages that are asked for at a time.
const STRETCHES: usize = 64;

/// How often the file is opened again when the program closes the number meanwhile.
const TRIES: usize = 4;

const PATH: &CStr = c"/proc/self/pagemap";

/// /proc/self/pagemap, through a descriptor that stays open: opening one costs three times as much
/// as a read.
///
/// A page is populated if it is present or swapped out. (mincore would call a swapped page absent.)
/// A page of a file that is mapped privately is not, before it was copied.
///
/// Where the kernel has [PAGEMAP_SCAN](scan) (Linux 6.7), one call tells of any number of pages; elsewhere an entry is
/// read for each.
#[derive(Debug)]
pub struct Pagemap {
    file: Number,
    /// The kernel has no PAGEMAP_SCAN.
    entries_only: AtomicBool,
}

impl Pagemap {
    /// Nothing open.
    #[allow(clippy::new_without_default, reason = "const, for a static")]
    pub const fn new() -> Self {
        Self { file: Number::new(), entries_only: AtomicBool::new(false) }
    }

    /// Opens it now, to see that it can be.
    ///
    /// # Errors
    /// What open says.
    pub fn open(&self) -> rustix::io::Result<()> {
        self.ask(|_| ())
    }

    /// Calls `tell` for each of `count` pages from `start` with its place and whether it is
    /// populated. `files` says whether some may be a file's. False if that cannot be read; then not
    /// all of them were told.
    pub fn read(
        &self,
        start: *mut u8,
        count: usize,
        files: bool,
        mut tell: impl FnMut(usize, bool),
    ) -> bool {
        let first = start as usize / page_size();
        let query = Query { none: if files { States::FILE } else { States::NONE }, ..POPULATED };
        let told = match self.entries_only.load(Ordering::Relaxed) {
            false => self.tell_by_scan(first, count, query, &mut tell),
            true => 0,
        };
        self.tell_by_entries(first, told..count, &mut tell)
    }

    /// How many pages were told before the kernel refused.
    fn tell_by_scan(
        &self,
        first: usize,
        count: usize,
        query: Query,
        tell: &mut impl FnMut(usize, bool),
    ) -> usize {
        let mut found = [Stretch::default(); STRETCHES];
        let mut told = 0;
        let mut tell_upto = |told: &mut usize, address: usize, populated| {
            let end = (address / page_size()).saturating_sub(first).min(count);
            (*told..end).for_each(|at| tell(at, populated));
            *told = end.max(*told);
        };
        while told < count {
            let range = (first + told) * page_size()..(first + count) * page_size();
            let (stretches, end) = match self.scan(range.clone(), query, &mut found) {
                // A kernel that does not say how far it came would be asked for ever.
                Ok((_, end)) if end <= range.start => return told,
                Ok(answer) => answer,
                Err(errno) => {
                    self.entries_only.fetch_or(errno == Errno::NOTTY, Ordering::Relaxed);
                    return told;
                }
            };
            for stretch in found.iter().take(stretches).map(Stretch::addresses) {
                tell_upto(&mut told, stretch.start, false);
                tell_upto(&mut told, stretch.end, true);
            }
            tell_upto(&mut told, end, false);
        }
        told
    }

    fn tell_by_entries(
        &self,
        first: usize,
        places: Range<usize>,
        tell: &mut impl FnMut(usize, bool),
    ) -> bool {
        let mut entries = [0u64; BATCH];
        for at in places.clone().step_by(BATCH) {
            let Some(batch) = entries.get_mut(..BATCH.min(places.end - at)) else { return false };
            if self.ask(|file| read_entries(file, first + at, batch)) != Ok(true) {
                return false;
            }
            for (i, entry) in batch.iter().enumerate() {
                let populated = entry & SWAPPED != 0 || entry & (PRESENT | OF_A_FILE) == PRESENT;
                tell(at + i, populated);
            }
        }
        true
    }

    /// As [`scan`](scan()), of this process.
    ///
    /// # Errors
    /// As there, and what open says.
    pub fn scan(
        &self,
        range: Range<usize>,
        query: Query,
        found: &mut [Stretch],
    ) -> rustix::io::Result<(usize, usize)> {
        let mut protected = None;
        self.ask(|file| {
            if let Some(answer) = protected {
                return Ok(answer);
            }
            let answer = scan(file, range.clone(), query, found);
            // Not asked again, even if the number was closed just after that: those pages are told no more.
            protected = answer.ok().filter(|_| query.protect);
            answer
        })?
    }

    /// What the file says. `ask` may be called several times, as long as what was asked may have been another one:
    /// that changes nothing there. It is read at an offset of our choice, and to PAGEMAP_SCAN it says NOTTY.
    fn ask<R>(&self, mut ask: impl FnMut(BorrowedFd<'_>) -> R) -> rustix::io::Result<R> {
        for _ in 0..TRIES {
            if let Some(answer) = self.file.ask(&mut ask) {
                return Ok(answer);
            }
            self.file.close();
            let file = Descriptor::open(PATH, OFlags::RDONLY)?;
            let stat = rustix::fs::stat(PATH)?;
            if file.known_as().1 == identity(&stat) {
                self.file.keep(file.out_of_the_way());
            }
        }
        Err(Errno::BADF)
    }

    /// In a child of fork: the descriptor shows the parent's memory.
    pub fn forget(&self) {
        self.file.close();
    }
}

fn read_entries(file: BorrowedFd<'_>, first: usize, entries: &mut [u64]) -> bool {
    let len = size_of_val(entries);
    // SAFETY: the entries' own bytes, for which every value is one.
    let bytes = unsafe { core::slice::from_raw_parts_mut(entries.as_mut_ptr().cast::<u8>(), len) };
    let offset = (first * size_of::<u64>()) as u64;
    rustix::io::pread(file, bytes, offset) == Ok(len)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use rustix::fd::AsFd;
    use rustix::mm::Advice;

    use super::*;
    use crate::sys::descriptor::tests::replace;
    use crate::sys::vm::{self, Tags};

    fn populated(map: &Pagemap, start: *mut u8, count: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let told = map.read(start, count, true, |page, populated| {
            if populated {
                found.push(page);
            }
        });
        assert!(told, "/proc is there");
        found
    }

    #[test]
    fn touched_pages_are_populated_and_no_others() {
        let map = Pagemap::new();
        let start = vm::reserve(3000 * page_size(), page_size()).expect("address space");
        // SAFETY: the reservation is this test's. A huge page would populate more than is touched.
        unsafe { vm::advise(start, 3000 * page_size(), Advice::LinuxNoHugepage) }.expect("advice");
        assert_eq!(populated(&map, start, 3000), []);
        for page in [0, 7, 1023, 1024, 2999] {
            // SAFETY: the reservation is this test's.
            unsafe { start.add(page * page_size()).write(1) };
        }
        assert_eq!(populated(&map, start, 3000), [0, 7, 1023, 1024, 2999]);
        // The program closes the number, and something else gets it.
        let number = map.file.get().expect("it stays open");
        replace(number);
        assert_eq!(populated(&map, start, 3000), [0, 7, 1023, 1024, 2999]);
        // SAFETY: the program's own, and the test's.
        unsafe {
            libc::close(number);
            vm::unmap(start, 3000 * page_size());
        }
    }

    #[test]
    fn a_scan_and_the_entries_tell_the_same() {
        let (map, entries) = (Pagemap::new(), Pagemap::new());
        entries.entries_only.store(true, Ordering::Relaxed);
        let start = vm::reserve(3000 * page_size(), page_size()).expect("address space");
        // SAFETY: the reservation is this test's.
        unsafe { vm::advise(start, 3000 * page_size(), Advice::LinuxNoHugepage) }.expect("advice");
        let file = Descriptor::open(c"/proc/self/exe", OFlags::RDONLY).expect("this test");
        // SAFETY: as above: nobody has used the page.
        unsafe {
            vm::map_over(start.add(10 * page_size()), page_size(), file.as_fd(), Tags::Without)
        }
        .expect("a private mapping");
        // More stretches than one call tells, some of them long; page 10 is the file's.
        for page in (0..1000).filter(|page| page % 3 != 0).chain(2000..2100) {
            // SAFETY: as above.
            unsafe {
                match page {
                    10 => _ = start.add(page * page_size()).read_volatile(),
                    20..30 => _ = start.add(page * page_size()).read_volatile(),
                    _ => start.add(page * page_size()).write(1),
                }
            }
        }
        for (first, count) in [(0, 3000), (1, 7), (9, 2), (999, 1001), (2000, 100), (2100, 900)] {
            // SAFETY: within the reservation.
            let from = unsafe { start.add(first * page_size()) };
            let told = |map: &Pagemap| {
                let mut told = Vec::new();
                assert!(
                    map.read(from, count, true, |page, populated| told.push((page, populated)))
                );
                told
            };
            let by_entries = told(&entries);
            assert!(by_entries.iter().map(|(page, _)| *page).eq(0..count), "each page in order");
            assert_eq!(told(&map), by_entries, "{count} pages from {first}");
        }
        assert!(!populated(&map, start, 3000).contains(&10), "not copied");
        if map.entries_only.load(Ordering::Relaxed) {
            std::eprintln!("skipped: this kernel has no PAGEMAP_SCAN");
        }
        // SAFETY: the reservation is this test's.
        unsafe { vm::unmap(start, 3000 * page_size()) };
    }
}
