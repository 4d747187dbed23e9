//! What an idle process keeps in its pool.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::time::{Duration, Instant};

use refpage_alloc::options::Options;
use refpage_alloc::{RefPage, heap, service_name};

const LOW: usize = 2 << 20;

static HEAP: RefPage =
    RefPage::with_options(Options::new().pool(16 << 20).pool_low(LOW).decay_ms(50));

/// Through refpage alone: libtest's own allocations, on the system's malloc, do not disturb it.
fn use_and_free(size: usize) {
    let layout = Layout::from_size_align(size, 16).expect("a valid layout");
    // SAFETY: the size is not zero, and the block is written within it and freed once.
    unsafe {
        let start = HEAP.alloc(layout);
        assert!(!start.is_null());
        start.write_bytes(1, size);
        HEAP.dealloc(start, layout);
    }
}

#[test]
fn the_pool_of_an_idle_process_falls_to_its_low_watermark() {
    use_and_free(12 << 20);
    if let Some(reason) = common::no_moves() {
        return eprintln!("skipped: {reason}");
    }
    // Pages that go to the pool one by one, so that it can fall to any number of them.
    for _ in 0..8 {
        use_and_free(900_000);
    }
    let low = (LOW as u64).div_ceil(heap::stats().page_bytes);
    let (start, mut most) = (Instant::now(), 0);
    loop {
        let pages = heap::stats().pool_pages;
        most = most.max(pages);
        if most > low && pages <= low {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(40), "{pages} pages, {most} at most");
        if service_name() != "lazy" {
            // There is no handler: whoever frees something looks after the pool.
            use_and_free(70_000);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // And stays there: the next look is eight seconds away, this one had its effect already.
    std::thread::sleep(Duration::from_millis(100));
    let pages = heap::stats().pool_pages;
    let block = (2 << 20) / heap::stats().page_bytes;
    assert!(pages <= low && pages + block > low, "{pages} pages, of {low}");
}
