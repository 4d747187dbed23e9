//! What goes a worse way is counted by its cause. A process of its own: fork shares all its memory.

mod common;

use std::slice;

use refpage_alloc::{Cause, heap, stats};

const SIZE: usize = 1 << 20;

fn count(cause: Cause) -> u64 {
    stats().causes().find(|&(other, _)| other == cause).map_or(0, |(_, count)| count)
}

#[test]
fn pages_shared_with_a_child_are_busy_and_are_copied() {
    let mut blocks: Vec<*mut u8> = (0..8).map(|_| heap::allocate(SIZE, 16, false)).collect();
    if let Some(reason) = common::no_moves() {
        return eprintln!("skipped: {reason}");
    }
    for (&block, byte) in blocks.iter().zip(1..) {
        assert!(!block.is_null());
        // SAFETY: the block has that many bytes and is this test's own.
        unsafe { block.write_bytes(byte, SIZE) };
    }
    assert_eq!(count(Cause::MoveBusy), 0);
    // SAFETY: the child calls what is async-signal-safe.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: as above.
            unsafe { libc::pause() };
        }
    }
    assert!(child > 0);
    for block in &mut blocks {
        // Most have a neighbour and cannot grow where they are.
        // SAFETY: the block is live.
        *block = unsafe { heap::reallocate(*block, 5 * SIZE) };
    }
    let busy = count(Cause::MoveBusy);
    // SAFETY: the child is this process's own, and nobody else waits for it.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    assert!(busy > 0, "{:#?}", stats());
    for (block, byte) in blocks.into_iter().zip(1..) {
        assert!(!block.is_null());
        // SAFETY: the block is live and has that many bytes, all initialised.
        let bytes = unsafe { slice::from_raw_parts(block, 5 * SIZE) };
        assert!(bytes[..SIZE].iter().all(|&other| other == byte), "the old part");
        assert!(bytes[SIZE..].iter().all(|&other| other == 0xaa), "the new part");
        // SAFETY: the block is live.
        unsafe { heap::deallocate(block) };
    }
}
