//! Every way that memory comes back: reused in place, decayed to the pool and the kernel,
//! trimmed; and that it holds the content after each of them.

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use refpage_alloc::options::Options;
use refpage_alloc::{RefPage, Stats, heap, service_name, tags_name};

const PATTERN: u8 = 0x5C;

#[global_allocator]
static ALLOCATOR: RefPage = RefPage::with_options(
    // In quarantine, runs would not come back when they are expected.
    Options::new().pattern(PATTERN).decay_ms(50).quarantine(0),
);

/// The tests read the process's counters, so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Run(*mut u8, Layout);

impl Run {
    fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 16).expect("a valid layout");
        // SAFETY: the size is not zero.
        let start = unsafe { ALLOCATOR.alloc(layout) };
        assert!(!start.is_null());
        Self(start, layout)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the block holds that many bytes, all initialised: that is what is tested here.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1.size()) }
    }

    fn assert_pattern(&mut self) {
        assert_eq!(self.bytes().iter().position(|&byte| byte != PATTERN), None);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { ALLOCATOR.dealloc(self.0, self.1) };
    }
}

/// So many bytes in OS pages.
fn pages(bytes: u64) -> u64 {
    bytes / heap::stats().page_bytes
}

fn wait_for(what: &str, mut reached: impl FnMut(Stats) -> bool) {
    let start = Instant::now();
    while !reached(heap::stats()) {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:#?}", heap::stats());
        std::thread::sleep(Duration::from_millis(20));
        // Without a handler, it is the allocating threads that give memory back.
        drop(Run::new(64 << 10));
    }
}

#[test]
fn a_recycled_run_holds_the_pattern_again() {
    let _alone = alone();
    let before = heap::stats();
    for round in 0..20 {
        let mut run = Run::new(4_096_000);
        let pages = 1 + round * 37 % 1000;
        run.assert_pattern();
        run.bytes()[..pages * 4096].fill(round as u8);
    }
    // Some may have gone to make room: the tests before have left much in the cache.
    assert!(heap::stats().large_recycled >= before.large_recycled + 15);
}

#[test]
fn idle_runs_go_to_the_pool_and_come_back_with_the_pattern() {
    let _alone = alone();
    // The pool is to have room.
    heap::trim(0);
    let before = heap::stats();
    let mut runs: Vec<Run> = (0..40).map(|_| Run::new(1 << 20)).collect();
    runs.iter_mut().for_each(|run| run.bytes().fill(1));
    drop(runs);
    wait_for("decay gives back 40 MiB", |now| {
        now.pages_pooled + now.pages_purged
            >= before.pages_pooled + before.pages_purged + pages(39 << 20)
    });
    // Where none can be moved to the pool, all go to the kernel.
    if common::no_moves().is_none() {
        assert!(heap::stats().pages_pooled > before.pages_pooled, "{:#?}", heap::stats());
    }
    let before = heap::stats();
    let mut runs: Vec<Run> = (0..20).map(|_| Run::new(900_000)).collect();
    runs.iter_mut().for_each(Run::assert_pattern);
    if service_name() == "lazy" {
        let now = heap::stats();
        assert!(
            now.pages_moved + now.pages_copied
                >= before.pages_moved + before.pages_copied + 20 * pages(900_000)
        );
    }
}

#[test]
fn trim_gives_cached_runs_back_at_once() {
    let _alone = alone();
    let mut runs: Vec<Run> = (0..10).map(|_| Run::new(2 << 20)).collect();
    runs.iter_mut().for_each(|run| run.bytes().fill(3));
    drop(runs);
    assert!(heap::trim(0));
    assert_eq!(heap::stats().cached_pages, 0);
    let mut run = Run::new(2 << 20);
    run.assert_pattern();
}

#[test]
fn empty_spans_are_given_back() {
    let _alone = alone();
    let before = heap::stats();
    let blocks: Vec<Box<[u8; 1000]>> = (0..20_000).map(|i| Box::new([i as u8; 1000])).collect();
    drop(blocks);
    wait_for("20 MB of empty spans are given back", |now| {
        now.pages_pooled + now.pages_purged
            >= before.pages_pooled + before.pages_purged + pages(12 << 20)
    });
}

#[test]
fn calloc_is_zero_on_recycled_memory_and_the_pattern_is_back_after_it() {
    let _alone = alone();
    let layout = Layout::from_size_align(1 << 20, 16).expect("a valid layout");
    for round in 0..10usize {
        let mut run = Run::new(1 << 20);
        run.assert_pattern();
        run.bytes()[..(round + 1) * 10_000].fill(9);
        drop(run);
        // SAFETY: the size is not zero; the block is freed with the same layout.
        unsafe {
            let zeroed = ALLOCATOR.alloc_zeroed(layout);
            let bytes = std::slice::from_raw_parts_mut(zeroed, layout.size());
            assert_eq!(bytes.iter().position(|&byte| byte != 0), None, "round {round}");
            bytes[round * 1000..].fill(7);
            ALLOCATOR.dealloc(zeroed, layout);
        }
    }
}

#[test]
fn a_realloc_keeps_its_bytes_wherever_it_goes() {
    let _alone = alone();
    let mut size = 100_000;
    let mut layout = Layout::from_size_align(size, 16).expect("a valid layout");
    // SAFETY: every block is used within its size and handed on to the next call.
    unsafe {
        let mut start = ALLOCATOR.alloc(layout);
        start.write_bytes(1, size);
        for round in 2..12u8 {
            // A neighbour now and then, so that growing in place is not always possible.
            let neighbour = (round % 2 == 0).then(|| Run::new(size));
            let new = size * 2 - 777;
            start = ALLOCATOR.realloc(start, layout, new);
            drop(neighbour);
            let bytes = std::slice::from_raw_parts_mut(start, new);
            assert_eq!(bytes[..size].iter().position(|&byte| byte != round - 1), None);
            assert_eq!(bytes[size..].iter().position(|&byte| byte != PATTERN), None);
            bytes.fill(round);
            size = new;
            layout = Layout::from_size_align(size, 16).expect("a valid layout");
        }
        start = ALLOCATOR.realloc(start, layout, 70_000);
        layout = Layout::from_size_align(70_000, 16).expect("a valid layout");
        start = ALLOCATOR.realloc(start, layout, 1 << 20);
        layout = Layout::from_size_align(1 << 20, 16).expect("a valid layout");
        let bytes = std::slice::from_raw_parts(start, 1 << 20);
        assert_eq!(bytes[..70_000].iter().position(|&byte| byte != 11), None);
        assert_eq!(bytes[70_000..].iter().position(|&byte| byte != PATTERN), None);
        ALLOCATOR.dealloc(start, layout);
    }
}

/// Faults and pages put in place, by whatever way, since `before`.
fn since(before: &Stats) -> (u64, u64) {
    let now = heap::stats();
    let placed = |stats: &Stats| stats.pages_moved + stats.pages_copied + stats.pages_zeroed;
    (now.faults - before.faults, placed(&now) - placed(before))
}

#[test]
fn the_beginning_of_a_larger_run_is_recycled_and_the_rest_is_kept() {
    let _alone = alone();
    // What is cached decays in 50 ms, and a machine can be slower: then nothing was there to be recycled. The guard
    // takes the place of a page.
    let decayed = |stats: &Stats| stats.pages_pooled + stats.pages_purged;
    let (mut beginning, now, before) = (0..100)
        .find_map(|_| {
            heap::trim(0);
            let mut large = Run::new(15 << 20);
            large.bytes().fill(1);
            let before = heap::stats();
            drop(large);
            // A size that no other test frees.
            let beginning = Run::new((9 << 20) + 1);
            let now = heap::stats();
            (decayed(&now) <= decayed(&before) + 1).then_some((beginning, now, before))
        })
        .expect("once in a hundred times this is faster than the decay");
    beginning.assert_pattern();
    assert_eq!(now.large_recycled, before.large_recycled + 1);
    assert!(now.cached_pages > pages(4 << 20), "the rest: {} pages", now.cached_pages);
    let mut rest = Run::new(5 << 20);
    rest.assert_pattern();
    rest.bytes().fill(2);
    beginning.assert_pattern();
    drop((beginning, rest));
    let mut again = Run::new(15 << 20);
    again.assert_pattern();
}

#[test]
fn dense_users_of_a_size_stop_taking_faults_and_sparse_ones_get_few_pages() {
    if service_name() != "lazy" {
        return eprintln!("skipped: the service is {}", service_name());
    }
    let _alone = alone();
    heap::trim(0);
    let use_up = |run: &mut Run| run.bytes().iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let mut live: Vec<Run> = (0..4).map(|_| Run::new(6 << 20)).collect();
    live.iter_mut().for_each(use_up);
    let before = heap::stats();
    for _ in 0..10 {
        let mut run = Run::new(6 << 20);
        use_up(&mut run);
        live.push(run);
    }
    let (faults, placed) = since(&before);
    assert!(faults <= 40, "{faults} faults for 10 runs like 4 others");
    assert!(placed >= 10 * pages(6 << 20), "{placed} pages");
    live.iter_mut().for_each(|run| assert!(run.bytes()[1..4096].iter().all(|&b| b == PATTERN)));

    let before = heap::stats();
    let mut sparse: Vec<Run> = (0..100).map(|_| Run::new(3 << 20)).collect();
    sparse.iter_mut().for_each(|run| run.bytes()[0] = 1);
    let (_, placed) = since(&before);
    assert!(placed <= 100 * 4, "{placed} pages for 100 runs of which one page each is used");
}

#[test]
fn a_run_that_is_used_at_random_keeps_its_pages() {
    if service_name() != "lazy" {
        return eprintln!("skipped: the service is {}", service_name());
    }
    let _alone = alone();
    let before = heap::stats();
    let mut state = 1u64;
    for _ in 0..5000 {
        let mut run = Run::new(200_000);
        for _ in 0..4 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            run.bytes()[(state >> 33) as usize % 200_000] = 0;
        }
    }
    let (faults, _) = since(&before);
    assert!(faults < 500, "{faults} faults in 5000 uses");
}

#[test]
fn calloc_of_a_large_size_needs_no_handler_and_is_recycled_as_zeros() {
    let _alone = alone();
    // Cached memory of malloc's would serve, too.
    heap::trim(0);
    let layout = Layout::from_size_align(7 << 20, 16).expect("a valid layout");
    let before = heap::stats();
    for round in 0..6 {
        // SAFETY: the size is not zero; the block is freed with the same layout.
        unsafe {
            let zeroed = ALLOCATOR.alloc_zeroed(layout);
            let bytes = std::slice::from_raw_parts_mut(zeroed, layout.size());
            assert_eq!(bytes.iter().position(|&byte| byte != 0), None, "round {round}");
            // Sparse, then dense, then sparse again.
            let step = if round % 3 == 1 { 1 } else { 64 << 10 };
            bytes.iter_mut().step_by(step).for_each(|byte| *byte = 0xEE);
            ALLOCATOR.dealloc(zeroed, layout);
        }
    }
    let now = heap::stats();
    // Its zeros carry no tags.
    if service_name() == "lazy" && tags_name() == "off" {
        assert_eq!(now.faults, before.faults, "the kernel itself puts zeros there");
    }
    assert!(now.large_recycled >= before.large_recycled + 5);
    let mut patterned = Run::new(7 << 20);
    patterned.assert_pattern();
}
