//! `lazy` before it is needed, and from then on. A process of its own: its threads are counted.

use refpage_alloc::{heap, service_name};

/// Bytes of small blocks of all sizes: within the first arena, which is 64 MiB, and beyond it.
const WITHIN: usize = 40 << 20;
const BEYOND: usize = 60 << 20;

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// A block of `size` bytes that held the pattern, and now another byte.
fn used_block(size: usize) -> *mut u8 {
    let block = heap::allocate(size, 16, false);
    assert!(!block.is_null());
    // SAFETY: the block has that many bytes, all initialised.
    let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
    assert_eq!(bytes.iter().position(|&byte| byte != 0xAA), None, "{size} bytes at {block:p}");
    bytes.fill(1);
    block
}

/// Blocks of all sizes below the threshold, `total` bytes in all.
fn small_blocks(total: usize) -> Vec<*mut u8> {
    let sizes = (0..).map(|i: usize| 1 + i * 7919 % (60 << 10));
    let mut left = total;
    sizes
        .map_while(|size| {
            left = left.checked_sub(size)?;
            Some(used_block(size))
        })
        .collect()
}

fn free(blocks: impl IntoIterator<Item = *mut u8>) {
    for block in blocks {
        // SAFETY: the callers' blocks are live.
        unsafe { heap::deallocate(block) };
    }
}

#[test]
fn the_first_large_allocation_starts_the_handler() {
    if service_name() != "lazy" {
        return eprintln!("skipped: the service is {}", service_name());
    }
    if !refpage::probe_channel().0.is_some_and(|(_, features)| features.has_move()) {
        return eprintln!("skipped: this kernel moves no pages, and the handler starts at once");
    }
    let before = threads();
    if before == 0 {
        return eprintln!("skipped: no /proc");
    }
    let mut blocks = small_blocks(WITHIN);
    // Some are used again, and some spans are emptied.
    free(blocks.drain(..blocks.len() / 2));
    blocks.extend(small_blocks(WITHIN / 2));
    assert_eq!(threads(), before, "nothing that is small needs a handler");

    let large = used_block(8 << 20);
    assert_eq!(threads(), before + 1);
    // What talc wrote to meanwhile, and writes to in its next arena, is nobody's content.
    blocks.extend(small_blocks(BEYOND));
    free(blocks.drain(..));
    blocks.extend(small_blocks(BEYOND));
    free(blocks);
    free([large]);
    assert_eq!(threads(), before + 1);
}
