//! That every workload does the same each time, and sees memory that is wrong.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::*;
use crate::memory::Malloc;

const MALLOC: Malloc = Malloc { promise: None };

/// A malloc with a fault: its hundredth call writes over a byte of the block of the call before.
#[derive(Default)]
struct Damaging {
    calls: AtomicUsize,
    last: AtomicPtr<u8>,
}

// SAFETY: malloc's contract; that it writes to a live block is what the tests are about.
unsafe impl Memory for Damaging {
    fn promise(&self) -> Option<u8> {
        None
    }
    fn allocate(&self, size: usize) -> *mut u8 {
        let block = MALLOC.allocate(size);
        let last = self.last.swap(block, Ordering::Relaxed);
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == 100 {
            // SAFETY: the workloads that are run on this have not freed that block by now.
            unsafe { *last ^= 1 };
        }
        block
    }
    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        MALLOC.allocate_zeroed(size)
    }
    unsafe fn grow(&self, block: *mut u8, old: usize, new: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { MALLOC.grow(block, old, new) }
    }
    unsafe fn free(&self, block: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { MALLOC.free(block, size) }
    }
}

fn each(test: impl Fn(Workload, usize)) {
    for &workload in Workload::value_variants() {
        for threads in [1, 2, 4, 8] {
            test(workload, threads);
        }
    }
}

#[test]
fn every_workload_does_the_same_again_and_checks_it() {
    each(|workload, threads| {
        let run = || workload.run(&MALLOC, threads, Scale::Tiny, || ()).unwrap();
        let (one, two) = (run(), run());
        assert_eq!(one.operations, two.operations, "{workload:?} with {threads} threads");
        assert_eq!(one.checked_bytes, two.checked_bytes, "{workload:?} with {threads} threads");
        assert!(one.operations >= 1000, "{workload:?} with {threads} threads: {one:?}");
        assert!(one.checked_bytes >= 8 * one.operations as u64, "{workload:?}: {one:?}");
    });
}

#[test]
fn a_byte_written_over_in_a_live_block_is_found() {
    for &workload in Workload::value_variants() {
        // These hold one block at a time.
        if matches!(workload, Workload::CacheScratch | Workload::CacheThrash) {
            continue;
        }
        let outcome = workload.run(&Damaging::default(), 1, Scale::Tiny, || ());
        let wrong = outcome.expect_err(workload.title()).to_string();
        assert!(wrong.contains("the word at byte 0 of a block"), "{workload:?}: {wrong}");
    }
}
