//! What pages carry where memory has tags. The tests read tags and data, and check no accesses.

use mte::Tag;
use refpage::sys::vm::Tags;
use refpage::{Fresh, Pages, Service};

use crate::{Fixture, PATTERN};

const ONE: u8 = 5;
const OTHER: u8 = 9;

/// A fixture with tags, whose run carries [`ONE`] in its first `pages` and a half; or the printed reason why
/// there is none.
fn fixture(service: Service, pages: usize) -> Option<Fixture> {
    if mte::level().is_none() {
        eprintln!("skipped: there are no memory tags here");
        return None;
    }
    let fixture = Fixture::with_tags(service, Tags::With);
    if fixture.engine.service() != service {
        eprintln!("skipped: no {}: {}", service.as_str(), fixture.engine.reasons());
        return None;
    }
    tag(&fixture, ONE, pages);
    Some(fixture)
}

fn tag(fixture: &Fixture, tag: u8, pages: usize) {
    let bytes = pages * fixture.page_bytes() + fixture.page_bytes() / 2;
    let end = fixture.engine.region().base() + bytes;
    fixture.run.0.set_tag(Tag::new(tag).expect("below 16"), end);
}

/// Reads the pages, and all of their tags: `tag` as far as the run says.
#[track_caller]
fn assert_tagged(fixture: &Fixture, pages: Pages, value: u8, tag: u8) {
    fixture.assert_all(pages, value);
    let end = fixture.run.0.tagged_end();
    for granule in fixture.bytes(pages).chunks(mte::GRANULE) {
        // SAFETY: it has just been read.
        let found = unsafe { mte::tag_at(granule.as_ptr()) }.get();
        let expected = if granule.as_ptr().addr() < end { tag } else { 0 };
        assert_eq!(found, expected, "at {:p}, which ends at {end:#x}", granule.as_ptr());
    }
}

fn first(count: usize) -> Pages {
    Pages { first: 0, count }
}

#[test]
fn faults_bring_the_runs_tag() {
    let Some(f) = fixture(Service::Lazy, 3) else { return };
    f.open(1);
    // From behind, so that each page is a fault.
    for page in (0..6).rev() {
        let value = if page == 0 { 0 } else { PATTERN };
        assert_tagged(&f, Pages { first: page, count: 1 }, value, ONE);
    }
    assert_eq!(f.engine().region().present().count(f.all()), 6);
}

#[test]
fn filling_at_allocation_does() {
    for service in [Service::Eager, Service::Memset] {
        let Some(f) = fixture(service, 3) else { continue };
        f.engine().provide(first(6));
        assert_tagged(&f, first(6), PATTERN, ONE);
        f.engine().refill(first(6), Fresh::Zero);
        f.engine().provide_zeros(first(8));
        assert_tagged(&f, first(8), 0, ONE);
    }
}

#[test]
fn refilling_changes_the_tag_of_what_is_present() {
    let Some(f) = fixture(Service::Lazy, 5) else { return };
    f.bytes(first(4)).fill(1);
    tag(&f, OTHER, 5);
    let present = f.engine().region().present().count(f.all());
    let touched = f.engine().refill(first(8), Fresh::Content);
    assert_eq!((touched.pages, f.engine().region().present().count(f.all())), (4, present));
    assert_tagged(&f, first(4), PATTERN, OTHER);
    // Some of these are put in place only now.
    assert_tagged(&f, Pages { first: 4, count: 12 }, PATTERN, OTHER);
    f.bytes(first(2)).fill(2);
    tag(&f, ONE, 0);
    f.engine().retag(f.all());
    assert_tagged(&f, first(2), 2, ONE);
}

#[test]
fn the_pools_pages_are_tagged_anew() {
    let Some(f) = fixture(Service::Lazy, 7) else { return };
    f.assert_all(first(8), PATTERN);
    f.engine().refill(first(8), Fresh::Content);
    f.engine().release(first(8));
    let pooled = f.engine().pool_pages();
    assert!(pooled > 0, "{:?}", f.engine().counters().fall_backs);
    tag(&f, OTHER, 6);
    f.open(2);
    for page in 0..8 {
        assert_tagged(
            &f,
            Pages { first: page, count: 1 },
            if page < 2 { 0 } else { PATTERN },
            OTHER,
        );
    }
    assert!(f.engine().counters().moved.get() > 0);
}

#[test]
fn huge_pages_are_tagged_whole() {
    let Some(f) = fixture(Service::Lazy, usize::MAX >> 20) else { return };
    let block = f.block(1);
    f.engine().prefill(block);
    assert_tagged(&f, block, PATTERN, ONE);
}

#[test]
fn what_moves_to_another_place_gets_its_tag() {
    let Some(f) = fixture(Service::Lazy, 3) else { return };
    f.bytes(first(3)).fill(7);
    let to = Pages { first: 16, count: 3 };
    f.engine().relocate(to, first(3));
    tag(&f, OTHER, 17);
    f.engine().retag(to);
    assert_tagged(&f, to, 7, OTHER);
}

#[test]
fn a_file_shows_the_tag() {
    let Some(f) = fixture(Service::Cow, 3) else { return };
    let window = &f.run.0;
    assert!(f.engine().back_run(window, first(4), Fresh::Content));
    assert!(f.engine().is_backed(0) && !f.engine().is_backed(4));
    assert_tagged(&f, first(4), PATTERN, ONE);
    f.bytes(first(1)).fill(3);
    assert_tagged(&f, first(1), 3, ONE);
    tag(&f, OTHER, 20);
    assert!(f.engine().back_run(window, first(10), Fresh::Zero));
    assert_tagged(&f, first(10), 0, OTHER);
    f.engine().shorten_backed(window, 4, Fresh::Zero);
    assert!(!f.engine().is_backed(4));
    f.engine().unback_run(window, Fresh::Zero);
    assert_eq!((window.backed(), f.engine().pieces()), (0, 0));
    // Anonymous again, and missing.
    tag(&f, 0, 0);
    assert_tagged(&f, first(10), 0, 0);
}
