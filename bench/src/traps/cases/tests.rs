//! The cases on memory whose content is known.

use super::*;
use crate::memory::{Baseline, Malloc, Mapped, PATTERN};

fn run(case: &Case, memory: &dyn Memory) -> (Outcome, Space) {
    case.run(memory).unwrap_or_else(|wrong| panic!("{}: {wrong}", case.name))
}

#[test]
fn every_case_runs_and_checks_what_it_read() {
    for case in all(Scale::Tiny) {
        let memories: [Box<dyn Memory>; 4] = [
            Box::new(Malloc { promise: None }),
            Box::new(Mapped::new(Baseline::Guarded)),
            Box::new(Mapped::new(Baseline::GuardedQuarantine)),
            Box::new(Mapped::new(Baseline::SmallMemset)),
        ];
        for memory in memories {
            let (outcome, space) = run(&case, &*memory);
            let what = &case.name;
            assert!(outcome.operations >= 2 && outcome.cost.wall_ns > 0, "{what}: {outcome:?}");
            assert!(outcome.checked_bytes > 0 && space.touched_pages > 0, "{what}: {outcome:?}");
            assert!(space.vmas_most >= space.vmas_start.max(space.vmas_end), "{what}: {space:?}");
        }
    }
}

#[test]
fn pages_are_counted_in_the_measured_cycles_alone() {
    let cases = all(Scale::Tiny);
    let touched = |name: &str| {
        let case = cases.iter().find(|case| case.name == name).expect(name);
        let (outcome, space) = run(case, &Malloc { promise: None });
        space.touched_pages as usize * crate::memory::page_bytes() / outcome.operations
    };
    assert_eq!(touched("dense-1M"), MIB);
    assert_eq!(touched("sparse-1M"), MIB / APART);
}

#[test]
fn a_byte_that_is_not_the_pattern_is_found_while_the_clock_runs() {
    // Fresh memory of the C library's malloc is zero where it is large.
    for case in all(Scale::Tiny).into_iter().filter(|case| !case.zeroed && case.slots == 1) {
        let wrong = case.run(&Malloc { promise: Some(PATTERN) }).unwrap_err();
        assert!(wrong.0.contains("not 0xaa"), "{}: {wrong}", case.name);
    }
}

/// Hands out the same block twice, as an allocator does that frees what is in use.
struct Twice(Malloc, std::sync::OnceLock<usize>);

// SAFETY: it is not what the contract asks for, but all of it is memory that stays.
unsafe impl Memory for Twice {
    fn promise(&self) -> Option<u8> {
        None
    }

    fn allocate(&self, _: usize) -> *mut u8 {
        *self.1.get_or_init(|| self.0.allocate(4 * MIB) as usize) as *mut u8
    }

    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        self.allocate(size)
    }

    unsafe fn grow(&self, _: *mut u8, _: usize, _: usize) -> *mut u8 {
        unreachable!("no case grows blocks")
    }

    unsafe fn free(&self, _: *mut u8, _: usize) {}
}

#[test]
fn blocks_that_overlap_are_found() {
    let cases = all(Scale::Tiny);
    let case = cases.iter().find(|case| case.slots > 1).unwrap();
    let memory = Twice(Malloc { promise: None }, std::sync::OnceLock::new());
    let wrong = case.run(&memory).unwrap_err();
    assert!(wrong.0.contains("written before"), "{wrong}");
}

#[test]
fn what_calloc_returns_must_be_zero() {
    let case = all(Scale::Tiny).into_iter().find(|case| case.zeroed).unwrap();
    let memory = Twice(Malloc { promise: None }, std::sync::OnceLock::new());
    // The first block is fresh from the kernel, and what comes after it is not.
    let wrong = case.run(&memory).unwrap_err();
    assert!(wrong.0.contains("never written"), "{wrong}");
}
