//! `lazy`: what faults put in place.
//!
//! Needs a userfaultfd that sees kernel-mode faults; where there is none, the tests say why they
//! are skipped.

use std::io::Read;

use refpage::{Cause, Fresh, Pages, Service};

use crate::{Fixture, PATTERN};

#[test]
fn untouched_pages_stay_missing_and_touched_ones_hold_the_pattern() {
    let Some(f) = Fixture::lazy() else { return };
    let page = f.page_bytes();
    f.bytes(f.all())[3000 * page + 5] = 1;
    assert!(f.engine().region().present().get(3000));
    assert_eq!(f.engine().region().present().count(f.all()), 1);
    assert_eq!(f.bytes(Pages { first: 3000, count: 1 })[5], 1);
    f.bytes(Pages { first: 3000, count: 1 })[5] = PATTERN;
    f.assert_all(Pages { first: 3000, count: 1 }, PATTERN);
    assert_eq!(f.engine().counters().faults.get(), 1);
}

#[test]
fn a_fault_is_counted_by_its_window_and_by_what_it_had_to_do_without() {
    let Some(f) = Fixture::lazy() else { return };
    f.bytes(f.all())[3000 * f.page_bytes()] = 1;
    let counters = f.engine().counters();
    assert_eq!(counters.windows.get(), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(counters.fall_backs.get()[Cause::PoolEmpty as usize], 1);
    assert_eq!(counters.fall_backs.get().iter().sum::<u64>(), 1);
    f.assert_all(f.all().skip(3001), PATTERN);
    let widest = f.engine().pages_per_block().ilog2() as usize;
    assert!(counters.windows.get()[widest] > 0, "{:?}", counters.windows);
    assert!(counters.windows.get().iter().sum::<u64>() <= counters.faults.get());
    let begin = std::time::Instant::now();
    while counters.handler_cpu_ns.get() == 0 {
        assert!(begin.elapsed().as_secs() < 10, "the handler does not tell its CPU time");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_sequential_reader_takes_few_faults_and_huge_pages() {
    let Some(f) = Fixture::lazy() else { return };
    f.assert_all(f.all(), PATTERN);
    let faults = f.engine().counters().faults.get();
    // The window grows to 2 MiB.
    let blocks = f.all().count / f.engine().pages_per_block();
    assert!(faults < blocks as u64 + 28, "{faults} faults for {} pages", f.all().count);
    eprintln!("{faults} faults, {} huge pages", f.engine().counters().huge_moved.get());
}

#[test]
fn system_calls_see_the_pattern_and_write_to_missing_pages() {
    let Some(f) = Fixture::lazy() else { return };
    let pages = Pages { first: 100, count: 64 };
    let mut file = std::fs::File::open("/dev/zero").expect("/dev/zero opens");
    file.read_exact(&mut f.bytes(pages)[..33 * f.page_bytes() + 7]).expect("read(2) is served");
    let bytes = f.bytes(pages);
    assert!(bytes[..33 * f.page_bytes() + 7].iter().all(|&byte| byte == 0));
    assert!(bytes[33 * f.page_bytes() + 7..].iter().all(|&byte| byte == PATTERN));
}

#[test]
fn released_pages_go_to_the_pool_and_are_moved_in_again() {
    let Some(f) = Fixture::lazy() else { return };
    let pages = Pages { first: 0, count: 512 };
    f.bytes(pages).fill(7);
    f.engine().refill(pages, Fresh::Content);
    f.engine().release(pages);
    assert_eq!(f.engine().region().present().count(pages), 0);
    let counters = f.engine().counters();
    assert_eq!(counters.pooled.get(), 512, "{:?}", counters.fall_backs);
    let moved = f.engine().counters().moved.get();
    f.engine().prefill(Pages { first: 2048, count: 512 });
    assert_eq!(f.engine().counters().moved.get(), moved + 512, "{:?}", counters.fall_backs);
    f.assert_all(Pages { first: 2048, count: 512 }, PATTERN);
    f.assert_all(pages, PATTERN);
}

#[test]
fn prefill_leaves_what_is_present_alone() {
    for service in [Service::Lazy, Service::Memset] {
        let f = match service {
            Service::Lazy => match Fixture::lazy() {
                Some(f) => f,
                None => continue,
            },
            _ => Fixture::new(service),
        };
        f.engine().prefill(Pages { first: 10, count: 3 });
        f.bytes(Pages { first: 11, count: 1 }).fill(1);
        f.engine().prefill(Pages { first: 0, count: 40 });
        f.assert_all(Pages { first: 0, count: 11 }, PATTERN);
        f.assert_all(Pages { first: 11, count: 1 }, 1);
        f.assert_all(Pages { first: 12, count: 28 }, PATTERN);
    }
}

#[test]
fn zero_pages_read_as_zero_and_the_others_as_the_pattern() {
    let Some(f) = Fixture::lazy() else { return };
    f.open(100);
    f.assert_all(Pages { first: 0, count: 100 }, 0);
    f.assert_all(Pages { first: 100, count: 100 }, PATTERN);
    assert_eq!(f.engine().counters().zeroed.get(), 100);
}

#[test]
fn relocate_moves_present_pages_and_leaves_missing_ones_missing() {
    let Some(f) = Fixture::lazy() else { return };
    let (src, dst) = (Pages { first: 64, count: 128 }, Pages { first: 4096, count: 128 });
    for page in [64, 65, 100, 191] {
        f.bytes(Pages { first: page, count: 1 }).fill(page as u8);
    }
    let present = f.engine().region().present().count(src);
    f.engine().relocate(dst, src);
    assert_eq!(f.engine().counters().relocated.get() as usize, present);
    assert_eq!(f.engine().region().present().count(dst), present);
    for page in [64, 65, 100, 191] {
        f.assert_all(Pages { first: 4096 + page - 64, count: 1 }, page as u8);
    }
    f.assert_all(Pages { first: 4096 + 50, count: 1 }, PATTERN);
}

#[test]
fn many_threads_on_one_page_all_see_the_pattern() {
    let Some(f) = Fixture::lazy() else { return };
    for round in 0..50 {
        let page = Pages { first: 5000 + round * 3, count: 1 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| f.assert_all(page, PATTERN));
            }
        });
    }
}

#[test]
fn the_region_is_one_vma_whatever_happens_to_it() {
    let Some(f) = Fixture::lazy() else { return };
    for i in 0..200 {
        let pages = Pages { first: i * 80, count: 40 };
        f.bytes(pages).fill(1);
        f.engine().refill(pages, Fresh::Content);
        f.engine().release(pages);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is there");
    let (from, len) = (f.engine().region().base(), f.engine().region().len());
    let lines = maps.lines().filter(|line| {
        let mut ends = line.split([' ', '-']).map(|end| usize::from_str_radix(end, 16));
        let (Some(Ok(start)), Some(Ok(end))) = (ends.next(), ends.next()) else { return false };
        start < from + len && end > from
    });
    assert_eq!(lines.count(), 1);
}

#[test]
fn huge_pages_go_to_the_pool_and_come_back_whole() {
    let Some(f) = Fixture::lazy() else { return };
    let (one, other) = (f.block(3), f.block(9));
    f.engine().prefill(one);
    let count = f.engine().counters().huge_moved.get();
    if count == 0 {
        return eprintln!("skipped: the kernel gives no huge pages");
    }
    f.bytes(one).fill(7);
    f.engine().refill(one, Fresh::Content);
    f.engine().release(one);
    assert_eq!(f.engine().counters().pooled.get() as usize, one.count);
    assert_eq!(f.engine().pool_pages(), one.count);
    f.engine().prefill(other);
    assert_eq!(f.engine().pool_pages(), 0, "the same one was taken");
    assert_eq!(f.engine().counters().huge_moved.get(), count + 1);
    f.assert_all(other, PATTERN);
    f.assert_all(one, PATTERN);
}

#[test]
fn part_of_a_huge_page_can_be_given_up() {
    let Some(f) = Fixture::lazy() else { return };
    let block = f.block(5);
    f.engine().prefill(block);
    let (kept, given) = (block.prefix(100), block.skip(100));
    f.bytes(kept).fill(7);
    f.engine().release(given);
    assert_eq!(f.engine().region().present().count(block), kept.count);
    f.assert_all(kept, 7);
    f.assert_all(given, PATTERN);
}

#[test]
fn relocate_takes_huge_pages_whole() {
    let Some(f) = Fixture::lazy() else { return };
    let (src, dst) = (f.block(2), f.block(12));
    f.engine().prefill(src);
    f.bytes(src).fill(9);
    f.engine().relocate(dst, src);
    assert_eq!(f.engine().counters().relocated.get() as usize, src.count);
    f.assert_all(dst, 9);
    f.assert_all(src, PATTERN);
}

#[test]
fn blocks_are_placed_ahead_only_where_much_is_present() {
    let Some(f) = Fixture::lazy() else { return };
    let few = Pages { first: f.block(20).first, count: 4 };
    f.engine().prefill_ahead(few);
    assert_eq!(f.engine().region().present().count(f.block(20)), 4);
    (0..17).for_each(|index| f.engine().prefill(f.block(index)));
    let few = Pages { first: f.block(25).first, count: 4 };
    let before = f.engine().counters().huge_moved.get();
    f.engine().prefill_ahead(few);
    let placed = f.engine().region().present().count(f.block(25));
    if f.engine().counters().huge_moved.get() > before {
        assert_eq!(placed, f.block(25).count);
    } else {
        assert_eq!(placed, 4, "no huge page was to be had");
    }
    f.assert_all(f.block(25), PATTERN);
}

#[test]
fn the_zero_part_reads_as_zero_without_faults_and_takes_content_when_asked() {
    if Fixture::lazy().is_none() {
        return;
    }
    let f = Fixture::with_region(Service::Lazy, 64 << 30);
    let zero = f.engine().region().zero_part();
    assert!(zero.count > 0 && f.engine().region().in_zero_part(zero.first));
    let run = Pages { first: zero.first + 512, count: 300 };
    f.assert_all(run, 0);
    assert_eq!(f.engine().counters().faults.get(), 0);
    f.bytes(run.prefix(50)).fill(8);
    f.engine().learn_present(run);
    assert!(f.engine().region().present().count(run) >= 50);
    f.engine().refill(run, Fresh::Zero);
    f.assert_all(run, 0);
    let patterned = Pages { first: zero.first + 4096, count: 1000 };
    f.engine().provide(patterned);
    f.assert_all(patterned, PATTERN);
    // From there to the other part, where the handler is.
    f.bytes(run.prefix(50)).fill(6);
    let to = Pages { first: 1024, count: 50 };
    f.engine().relocate(to, run.prefix(50));
    f.assert_all(to, 6);
    assert_eq!(f.engine().counters().faults.get(), 0);
}

#[test]
fn a_thread_sleeps_once_for_a_whole_window() {
    let Some(f) = Fixture::lazy() else { return };
    // SAFETY: getrusage fills the struct.
    let switches = || unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    };
    let before = switches();
    f.assert_all(Pages { first: 0, count: 8192 }, PATTERN);
    let (slept, faults) = (switches() - before, f.engine().counters().faults.get() as i64);
    assert!(slept <= faults + 20, "{slept} sleeps for {faults} faults");
}
