//! Pages that the kernel puts in place unseen, through changes of what a run has to hold.

use refpage_alloc::heap;

const PAGE: usize = 4096;

fn allocate(size: usize, zeroed: bool) -> *mut u8 {
    let start = heap::allocate(size, 16, zeroed);
    assert!(!start.is_null());
    start
}

/// The first byte of a live block that is not `value`, and what it is.
fn find_other(start: *mut u8, size: usize, value: u8) -> Option<(usize, u8)> {
    // SAFETY: the caller's block, all of it initialised: that is what is tested here.
    let bytes = unsafe { std::slice::from_raw_parts(start, size) };
    bytes.iter().position(|&byte| byte != value).map(|at| (at, bytes[at]))
}

/// Writes to every page of the block but the one at `left_out`.
fn write_pages(start: *mut u8, size: usize, left_out: usize) {
    for page in (0..size / PAGE).filter(|&page| page != left_out) {
        // SAFETY: the caller's block.
        unsafe { start.add(page * PAGE).write(1) };
    }
}

#[test]
fn callocs_that_grow_leave_no_zeros_to_the_next_malloc() {
    for (size, more) in [(100_000, 10_000), (70_000, 60_000), (170_000, 4_000)] {
        for round in 0..100 {
            let start = allocate(size, true);
            // In the first round, nothing is known of the size, and hardly a page placed ahead.
            write_pages(start, size, size / PAGE - 1 - round % (size / PAGE));
            // SAFETY: the block is live.
            let start = unsafe { heap::reallocate(start, size + more) };
            assert!(!start.is_null());
            // SAFETY: the block has that many bytes.
            assert_eq!(find_other(unsafe { start.add(size) }, more, 0xAA), None);
            // SAFETY: the block is live.
            unsafe { heap::deallocate(start) };
            for size in [size, size + more] {
                let next = allocate(size, false);
                assert_eq!(find_other(next, size, 0xAA), None, "round {round}");
                // SAFETY: the block is live.
                unsafe { heap::deallocate(next) };
            }
        }
    }
}

#[test]
fn sparse_users_in_turn_of_malloc_and_calloc_get_what_is_theirs() {
    for size in [70_000, 200_000, 1 << 20, 5 << 20] {
        for round in 0..100 {
            let zeroed = round % 3 == 0;
            let start = allocate(size, zeroed);
            let value = if zeroed { 0 } else { 0xAA };
            if round % 7 == 0 {
                assert_eq!(find_other(start, size, value), None, "{size} bytes, round {round}");
            }
            // SAFETY: within the block.
            unsafe { start.add(round * 977 % size).write(3) };
            // SAFETY: the block is live.
            unsafe { heap::deallocate(start) };
        }
    }
}
