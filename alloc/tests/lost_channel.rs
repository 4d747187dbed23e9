//! A program that closes descriptors it does not know of. A process of its own, for that reason.

use refpage_alloc::{Cause, heap, service_name, service_reason, stats};

const SIZE: usize = 8 << 20;

fn lost() -> u64 {
    stats().causes().find(|&(cause, _)| cause == Cause::ChannelLost).map_or(0, |(_, n)| n)
}

/// Allocates, checks, dirties and frees more than the cache and the pool hold.
fn use_much() {
    let blocks: Vec<*mut u8> = (0..8).map(|_| heap::allocate(SIZE, 16, false)).collect();
    for &block in &blocks {
        assert!(!block.is_null());
        // SAFETY: the block has that many bytes, all initialised.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, SIZE) };
        assert_eq!(bytes.iter().position(|&byte| byte != 0xAA), None);
        bytes.fill(1);
    }
    for block in blocks {
        // SAFETY: the block is live.
        unsafe { heap::deallocate(block) };
    }
    heap::trim(0);
}

#[test]
fn another_mover_is_opened_where_that_needs_no_privilege() {
    use_much();
    // SAFETY: what the test needs is below.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    assert_eq!(closed, 0, "close_range, or the descriptors one by one");
    use_much();
    if !["cow", "eager"].contains(&service_name()) {
        eprintln!("skipped: with {} there is no mover", service_name());
        return;
    }
    let reason = service_reason(|reason| reason.to_string());
    if reason.contains("are not moved") {
        eprintln!("skipped: {reason}");
        return;
    }
    // Where no huge pages are to be had, what was given back is not in the pool, and pages are copied in.
    let placed = || stats().pages_moved + stats().pages_copied;
    let (before, placed_before) = (lost(), placed());
    assert!(before > 0, "it was noticed: {:#?}", stats());
    use_much();
    assert_eq!(lost(), before, "and is over");
    assert!(placed() > placed_before, "{:#?}", stats());
}
