//! Which pages are populated, asked of the kernel: `admin-guide/mm/pagemap.rst`.

use core::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;

use crate::sys::descriptor::{Descriptor, identity};
use crate::sys::number::Number;
use crate::sys::vm::page_size;

/// Present; swapped; a file's: bits 63, 62 and 61 of an entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;

/// Entries that are read at a time.
const BATCH: usize = 1024;

/// How often the file is opened again when the program closes the number meanwhile.
const TRIES: usize = 4;

const PATH: &CStr = c"/proc/self/pagemap";

/// /proc/self/pagemap, through a descriptor that stays open: opening one costs three times as much
/// as a read.
///
/// A page is populated if it is present or swapped out. (mincore would call a swapped page absent.)
/// A page of a file that is mapped privately is not, before it was copied.
#[derive(Debug)]
pub struct Pagemap(Number);

impl Pagemap {
    /// Nothing open.
    #[allow(clippy::new_without_default, reason = "const, for a static")]
    pub const fn new() -> Self {
        Self(Number::new())
    }

    /// Calls `tell` for each of `count` pages from `start` with its place and whether it is
    /// populated. False if that cannot be read; then not all of them were told.
    pub fn read(&self, start: *mut u8, count: usize, mut tell: impl FnMut(usize, bool)) -> bool {
        let mut entries = [0u64; BATCH];
        for at in (0..count).step_by(BATCH) {
            let Some(batch) = entries.get_mut(..BATCH.min(count - at)) else { return false };
            if !self.read_batch(start as usize / page_size() + at, batch) {
                return false;
            }
            for (i, entry) in batch.iter().enumerate() {
                let populated = entry & SWAPPED != 0 || entry & (PRESENT | OF_A_FILE) == PRESENT;
                tell(at + i, populated);
            }
        }
        true
    }

    /// Reads the entries of the pages from `first` on.
    fn read_batch(&self, first: usize, entries: &mut [u64]) -> bool {
        for _ in 0..TRIES {
            // A foreign descriptor is read at an offset of our choice, which changes nothing.
            if let Some(done) = self.0.ask(|file| read_entries(file, first, entries)) {
                return done;
            }
            self.0.close();
            let Ok(file) = Descriptor::open(PATH, OFlags::RDONLY) else { return false };
            let Ok(stat) = rustix::fs::stat(PATH) else { return false };
            if file.known_as().1 == identity(&stat) {
                self.0.keep(file.out_of_the_way());
            }
        }
        false
    }

    /// In a child of fork: the descriptor shows the parent's memory.
    pub fn forget(&self) {
        self.0.close();
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

    use rustix::mm::Advice;

    use super::*;
    use crate::sys::descriptor::tests::replace;
    use crate::sys::vm;

    fn populated(map: &Pagemap, start: *mut u8, count: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let told = map.read(start, count, |page, populated| {
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
        let number = map.0.get().expect("it stays open");
        replace(number);
        assert_eq!(populated(&map, start, 3000), [0, 7, 1023, 1024, 2999]);
        // SAFETY: the program's own, and the test's.
        unsafe {
            libc::close(number);
            vm::unmap(start, 3000 * page_size());
        }
    }
}
