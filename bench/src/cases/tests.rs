//! That the cases check what they are given: with memory that is right, and with memory that is not.

use super::*;
use crate::memory::{Malloc, PATTERN};

/// What is wrong with the memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The last byte of each fresh block.
    Fresh,
    /// The first byte of what a block grew by is right, the last one is not.
    Grown,
    /// What the block held when it grew is lost.
    Lost,
}

/// A filling malloc with a fault.
struct Filled(Fault);

const MALLOC: Malloc = Malloc { promise: Some(PATTERN) };

impl Filled {
    fn fresh(&self, block: *mut u8, size: usize, byte: u8) -> *mut u8 {
        // SAFETY: the block has this size and is new.
        unsafe {
            block.write_bytes(byte, size);
            if self.0 == Fault::Fresh {
                block.add(size - 1).write(!byte);
            }
        }
        block
    }
}

// SAFETY: malloc's contract; the content is no part of it.
unsafe impl Memory for Filled {
    fn promise(&self) -> Option<u8> {
        Some(PATTERN)
    }
    fn allocate(&self, size: usize) -> *mut u8 {
        self.fresh(MALLOC.allocate(size), size, PATTERN)
    }
    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        self.fresh(MALLOC.allocate(size), size, 0)
    }
    unsafe fn grow(&self, block: *mut u8, old: usize, new: usize) -> *mut u8 {
        // SAFETY: the block is live and `old` long, then `new`.
        unsafe {
            let block = MALLOC.grow(block, old, new);
            let kept = if self.0 == Fault::Lost { 0 } else { old };
            block.add(kept).write_bytes(PATTERN, new - kept);
            if self.0 == Fault::Grown {
                block.add(new - 1).write(!PATTERN);
            }
            block
        }
    }
    unsafe fn free(&self, block: *mut u8, size: usize) {
        // SAFETY: as the caller says.
        unsafe { MALLOC.free(block, size) }
    }
}

#[test]
fn every_case_reads_what_it_was_promised() {
    for case in all(Scale::Tiny) {
        let outcome = case.work.run(&Filled(Fault::Nothing));
        let outcome = outcome.unwrap_or_else(|wrong| panic!("{}: {wrong}", case.name));
        assert!(outcome.checked_bytes >= 64 << 10, "{}: {outcome:?}", case.name);
        assert!(outcome.operations > 0 && outcome.cost.wall_ns > 0, "{}", case.name);
    }
}

#[test]
fn every_case_finds_one_wrong_byte_in_a_block() {
    for case in all(Scale::Tiny) {
        // Growing makes one block of one page, whose last byte is still there at the end.
        let wrong = case.work.run(&Filled(Fault::Fresh)).err();
        let wrong = wrong.unwrap_or_else(|| panic!("{} saw nothing wrong", case.name)).to_string();
        assert!(wrong.contains("never written"), "{}: {wrong}", case.name);
    }
}

#[test]
fn growing_finds_a_wrong_byte_in_the_new_part_and_lost_content() {
    for case in all(Scale::Tiny).iter().filter(|case| case.name.starts_with("realloc")) {
        let grown = case.work.run(&Filled(Fault::Grown)).expect_err(&case.name).to_string();
        assert!(grown.contains("never written"), "{grown}");
        let lost = case.work.run(&Filled(Fault::Lost)).expect_err(&case.name).to_string();
        assert!(lost.contains("written before"), "{lost}");
    }
}

#[test]
fn without_a_promise_what_was_written_is_still_checked() {
    let unpromised = Malloc { promise: None };
    for case in all(Scale::Tiny).iter().filter(|case| case.name.starts_with("dense")) {
        let outcome = case.work.run(&unpromised).expect(&case.name);
        assert!(outcome.checked_bytes > 0, "{}", case.name);
    }
}

#[test]
fn every_baseline_keeps_its_promise() {
    for case in all(Scale::Tiny) {
        for &baseline in case.baselines {
            let memory = crate::memory::Mapped::new(baseline);
            let outcome = case.work.run(&memory);
            assert!(outcome.is_ok(), "{} under {}: {outcome:?}", case.name, baseline.name());
        }
    }
}

#[test]
fn names_are_unique_and_the_same_at_every_scale() {
    let names = |scale| all(scale).into_iter().map(|case| case.name).collect::<Vec<_>>();
    assert_eq!(names(Scale::Full), names(Scale::Quick));
    let mut sorted = names(Scale::Full);
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), names(Scale::Full).len());
}
