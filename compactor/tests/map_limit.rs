//! What mremap does when there are as many mappings as there may be. Alone in its process, which has hardly any left.

use std::fs;

use refpage::moves::Mover;
use refpage::sys::vm::page_size;
use refpage_compactor::{Setup, Shape, Way, mappings, run};

/// Mappings that are left to the compaction: for threads and the allocator, and fewer than mremap wants.
const LEFT: usize = 500;
/// More than this would take long.
const MOST: usize = 1 << 20;

#[test]
fn what_may_not_be_mapped_any_more_is_copied() {
    let mover = match Mover::new() {
        Ok(mover) => mover,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").expect("/proc");
    let limit: usize = limit.trim().parse().expect("a number");
    if limit > MOST {
        return eprintln!("skipped: {limit} mappings may be made");
    }
    let used = mappings(0..usize::MAX).expect("/proc");
    take(limit - LEFT - used);
    let shape = Shape { pages: 4000, populated_run: 1, fragmented_run: 1, references: 2, seed: 3 };
    let outcome = run(&mover, &Setup { shape, way: Way::Mremap, mutators: 1, batch: 64 });
    let outcome = outcome.expect("every object is there");
    assert!(outcome.mappings_full, "{outcome:?}");
    assert!(outcome.remapped > 0 && outcome.copied > outcome.gathered, "{outcome:?}");
    assert!(outcome.vmas_after <= LEFT, "{outcome:?}");
}

/// Makes mappings, which go with the process: each second page of one is made inaccessible.
fn take(count: usize) {
    let len = (count + 1) * page_size();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, and parts of it, which nobody uses.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        for page in (1..count).step_by(2) {
            let page = start.cast::<u8>().add(page * page_size()).cast();
            assert_eq!(libc::mprotect(page, page_size(), libc::PROT_NONE), 0);
        }
    }
}
