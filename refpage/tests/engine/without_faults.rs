//! The services that see no faults: what the engine provides under them, and what the kernel does.
//!
//! They need no privilege; `eager` needs a kernel that can move pages.

use std::io::Read;

use refpage::{Cause, Fresh, Pages, Service};

use crate::{Fixture, PATTERN};

/// Large enough for a zero part, which dense memory comes from with `cow`.
const DIVIDED: usize = 64 << 30;

/// A fixture of `service`, or the printed reason why there is none.
fn served(service: Service) -> Option<Fixture> {
    let f = Fixture::with_region(service, DIVIDED);
    if f.engine().service() == service {
        return Some(f);
    }
    eprintln!("skipped: no service {}: {}", service.as_str(), f.engine().reasons());
    None
}

fn cow() -> Option<Fixture> {
    served(Service::Cow)
}

fn eager() -> Option<Fixture> {
    served(Service::Eager)
}

#[test]
fn cow_costs_nothing_before_it_is_touched() {
    let Some(f) = cow() else { return };
    let run = Pages { first: 0, count: 5000 };
    f.engine().back(run);
    f.engine().provide(run);
    assert!(f.engine().is_backed(run.end() - 1));
    f.assert_all(run, PATTERN);
    let counters = f.engine().counters();
    assert_eq!(counters.filled.get() + counters.copied.get() + counters.moved.get(), 0);
    assert_eq!(f.engine().region().present().count(run), 0);
    assert!(f.engine().learn_present(run));
    assert_eq!(f.engine().region().present().count(run), 0, "reading populates nothing");
}

#[test]
fn cow_pages_that_were_written_are_found_restored_and_given_back() {
    let Some(f) = cow() else { return };
    let run = Pages { first: 0, count: 600 };
    f.engine().back(run);
    f.engine().provide(run);
    for page in [0, 17, 599] {
        f.bytes(run)[page * f.page_bytes()] = 1;
    }
    assert!(f.engine().learn_present(run));
    assert_eq!(f.engine().region().present().count(run), 3);
    let touched = f.engine().refill(run, Fresh::Content);
    assert_eq!(f.engine().counters().refilled.get(), 3);
    assert_eq!(touched.prefix, 1);
    f.assert_all(run, PATTERN);
    f.bytes(run)[17 * f.page_bytes()] = 1;
    f.engine().release(run);
    assert_eq!(f.engine().region().present().count(run), 0);
    f.assert_all(run, PATTERN);
}

#[test]
fn cow_is_transparent_to_system_calls() {
    let Some(f) = cow() else { return };
    let run = Pages { first: 100, count: 64 };
    f.engine().back(run);
    f.engine().provide(run);
    let mut file = std::fs::File::open("/dev/zero").expect("/dev/zero opens");
    let read = 33 * f.page_bytes() + 7;
    file.read_exact(&mut f.bytes(run)[..read]).expect("the kernel copies what it writes to");
    assert!(f.bytes(run)[..read].iter().all(|&byte| byte == 0));
    assert!(f.bytes(run)[read..].iter().all(|&byte| byte == PATTERN));
}

#[test]
fn cow_fills_callocs_of_its_content_part_with_zeros() {
    let Some(f) = cow() else { return };
    let run = Pages { first: 0, count: 40 };
    f.engine().back(run);
    f.engine().provide_zeros(run.prefix(30));
    f.assert_all(run.prefix(30), 0);
    f.assert_all(run.skip(30), PATTERN);
    assert_eq!(f.engine().counters().zeroed.get(), 30);
}

#[test]
fn what_has_no_piece_is_filled_and_counted() {
    let Some(f) = cow() else { return };
    // Nobody called `back`: as where the mappings have run out.
    let run = Pages { first: 0, count: 300 };
    f.engine().provide(run);
    assert!(!f.engine().is_backed(0));
    f.assert_all(run, PATTERN);
    assert_eq!(f.engine().counters().filled.get(), 300);
}

#[test]
fn dense_memory_is_anonymous_and_recycled_under_cow() {
    let Some(f) = cow() else { return };
    let first = f.engine().region().zero_part().first;
    let run = Pages { first: first + 512, count: 700 };
    f.engine().provide(run);
    f.assert_all(run, PATTERN);
    f.bytes(run).fill(3);
    f.engine().refill(run, Fresh::Content);
    f.engine().release(run);
    let pooled = f.engine().counters().pooled.get();
    f.engine().provide(Pages { first: first + 8192, ..run });
    f.assert_all(Pages { first: first + 8192, ..run }, PATTERN);
    f.assert_all(run, 0);
    let moved = f.engine().counters().moved.get();
    assert!(moved >= pooled, "{moved} moved in of {pooled} pooled");
}

#[test]
fn relocate_crosses_the_parts_under_cow() {
    let Some(f) = cow() else { return };
    let first = f.engine().region().zero_part().first;
    let (backed, dense) = (Pages { first: 64, count: 50 }, Pages { first: first + 64, count: 50 });
    f.engine().back(backed);
    f.engine().provide(backed);
    f.bytes(backed).fill(6);
    assert!(f.engine().learn_present(backed));
    f.engine().relocate(dense, backed);
    f.assert_all(dense, 6);
    let again = Pages { first: 1024, count: 50 };
    f.engine().back(again);
    f.engine().relocate(again, dense);
    f.assert_all(again, 6);
}

#[test]
fn eager_fills_what_is_provided_and_moves_it_again() {
    let Some(f) = eager() else { return };
    for first in [0, f.engine().region().zero_part().first] {
        let (one, other) = (Pages { first, count: 512 }, Pages { first: first + 2048, count: 512 });
        f.engine().provide(one);
        f.assert_all(one, PATTERN);
        f.bytes(one).fill(7);
        f.engine().refill(one, Fresh::Content);
        f.engine().release(one);
        assert_eq!(f.engine().region().present().count(one), 0);
        let pooled = f.engine().pool_pages();
        assert!(pooled >= 512, "{pooled} pages: {:#?}", f.engine().counters());
        let moved = f.engine().counters().moved.get();
        f.engine().provide(other);
        assert_eq!(f.engine().counters().moved.get(), moved + 512);
        f.assert_all(other, PATTERN);
        f.engine().release(other);
        f.engine().drain_pool(usize::MAX);
    }
}

#[test]
fn eager_overwrites_what_was_touched_before_it_was_handed_out() {
    let Some(f) = eager() else { return };
    let run = Pages { first: 1000, count: 64 };
    // The kernel itself puts zeros there: nobody sees faults.
    f.assert_all(Pages { first: 1020, count: 1 }, 0);
    f.bytes(run)[40 * f.page_bytes()] = 1;
    f.engine().provide(run);
    f.assert_all(run, PATTERN);
    assert_eq!(f.engine().counters().fall_backs.get()[Cause::CopyExists as usize], 2);
}

#[test]
fn eager_lets_system_calls_in() {
    let Some(f) = eager() else { return };
    let run = Pages { first: 0, count: 64 };
    f.engine().provide(run.prefix(10));
    let mut file = std::fs::File::open("/dev/zero").expect("/dev/zero opens");
    let whole = f.bytes(run);
    // Beyond what was provided, too: a system call must never fail for the registration's sake.
    file.read_exact(&mut whole[..20 * f.page_bytes()]).expect("no fault is waited for");
    f.assert_all(run, 0);
}

#[test]
fn memset_fills_what_is_provided() {
    let f = Fixture::new(Service::Memset);
    let pages = Pages { first: 7, count: 90 };
    f.engine().provide(pages);
    f.assert_all(pages, PATTERN);
    assert_eq!(f.engine().counters().filled.get(), 90);
    f.bytes(pages).fill(3);
    f.engine().refill(pages, Fresh::Content);
    f.assert_all(pages, PATTERN);
}

#[test]
fn off_does_nothing() {
    let f = Fixture::new(Service::Off);
    f.engine().provide(Pages { first: 0, count: 10 });
    f.assert_all(Pages { first: 0, count: 10 }, 0);
    f.bytes(Pages { first: 0, count: 10 }).fill(3);
    f.engine().refill(Pages { first: 0, count: 10 }, Fresh::Content);
    f.assert_all(Pages { first: 0, count: 10 }, 3);
    f.engine().release(Pages { first: 0, count: 10 });
    f.assert_all(Pages { first: 0, count: 10 }, 0);
}
