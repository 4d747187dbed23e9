//! Compaction: what is used stays as it was, the rest is missing, and nobody notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use refpage::Pages;

use super::{Fixture, PATTERN};

const PATTERN_WORD: u64 = u64::from_ne_bytes([PATTERN; 8]);
/// Of each block, one page in so many is used.
const USED: usize = 16;

/// All blocks but the last as huge pages, or the printed reason why not.
fn huge() -> Option<(Fixture, Pages)> {
    let fixture = Fixture::lazy()?;
    let pages = fixture.all();
    let count = fixture.block(0).count;
    let blocks = pages.prefix(pages.count / count * count - count);
    fixture.engine().prefill(blocks);
    let moved = fixture.engine().counters().huge_moved.get() as usize;
    if moved * count < blocks.count {
        eprintln!("skipped: the kernel gave {moved} huge pages of {}", blocks.count / count);
        return None;
    }
    Some((fixture, blocks))
}

fn word(fixture: &Fixture, page: usize) -> &'static AtomicU64 {
    // SAFETY: the page's first bytes, of a Region that lives for ever.
    unsafe { AtomicU64::from_ptr(fixture.engine.region().address(page).cast()) }
}

#[test]
fn pages_that_hold_something_stay_and_the_others_are_missing() {
    let Some((fixture, blocks)) = huge() else { return };
    let used = || blocks.first..blocks.end();
    used()
        .step_by(USED)
        .for_each(|page| word(&fixture, page).store(page as u64, Ordering::Relaxed));
    let given = fixture.engine().compact();
    assert_eq!(given, blocks.count - blocks.count / USED);
    assert_eq!(fixture.engine().region().present().count(blocks), blocks.count / USED);
    let mut there = 0;
    fixture.engine().ask_kernel(blocks, |_, populated| there += usize::from(populated));
    assert_eq!(there, blocks.count / USED, "as the kernel sees it");
    for page in used() {
        let expected = if page % USED == 0 { page as u64 } else { PATTERN_WORD };
        assert_eq!(word(&fixture, page).load(Ordering::Relaxed), expected, "page {page}");
    }
    assert_eq!(fixture.engine().compact(), 0, "there is nothing left to give");
}

#[test]
fn what_is_used_for_the_most_part_stays_huge() {
    let Some((fixture, blocks)) = huge() else { return };
    let most = blocks.count / 4 * 3;
    for block in 0..blocks.count / fixture.block(0).count {
        let block = fixture.block(block);
        let used = block.prefix(block.count / 4 * 3);
        fixture.bytes(used).fill(1);
    }
    assert_eq!(fixture.engine().compact(), 0);
    assert_eq!(fixture.engine().region().present().count(blocks), blocks.count);
    let ones = fixture.bytes(blocks).iter().filter(|&&byte| byte == 1).count();
    assert_eq!(ones, most * fixture.page_bytes());
}

#[test]
fn what_reads_as_zero_while_it_is_missing_is_not_taken_for_the_pattern() {
    let Some((fixture, _)) = huge() else { return };
    let block = fixture.block(0);
    fixture.open(block.count / 2);
    // The first half would read as zero if it were missing: the pattern there is data.
    fixture.bytes(block.prefix(4)).fill(0);
    fixture.engine().compact();
    fixture.assert_all(block.prefix(4), 0);
    fixture.assert_all(block.prefix(block.count / 2).skip(4), PATTERN);
    fixture.assert_all(block.skip(block.count / 2), PATTERN);
}

#[test]
fn threads_that_write_meanwhile_lose_nothing() {
    let Some((fixture, blocks)) = huge() else { return };
    (blocks.first..blocks.end()).step_by(USED).for_each(|page| {
        word(&fixture, page).store(0, Ordering::Relaxed);
    });
    let stop = AtomicBool::new(false);
    let counted = thread::scope(|scope| {
        let (fixture, stop) = (&fixture, &stop);
        let counters = [3, 7].map(|step| {
            scope.spawn(move || {
                let (mut count, mut page) = (0u64, 0);
                while !stop.load(Ordering::Relaxed) {
                    page = (page + step * USED) % blocks.count;
                    word(fixture, blocks.first + page).fetch_add(1, Ordering::Relaxed);
                    count += 1;
                }
                count
            })
        });
        // Who takes pages away meanwhile has to wait for a block that is out.
        let last = fixture.all().skip(blocks.count);
        let given: usize = (0..20)
            .map(|_| {
                fixture.engine.prefill(last);
                fixture.engine.release(last);
                fixture.engine.compact()
            })
            .sum();
        stop.store(true, Ordering::Relaxed);
        assert!(given >= blocks.count / 2, "{given} pages");
        counters.map(|counter| counter.join().expect("a counter")).iter().sum::<u64>()
    });
    let sum = (blocks.first..blocks.end())
        .step_by(USED)
        .map(|page| word(&fixture, page).load(Ordering::Relaxed))
        .sum::<u64>();
    assert_eq!(sum, counted);
}

#[test]
fn what_the_kernel_keeps_of_a_parted_huge_page_is_given_back() {
    let Some((fixture, blocks)) = huge() else { return };
    let block = fixture.block(2);
    fixture.bytes(block.prefix(5)).fill(7);
    // Nobody's, and holding the content.
    fixture.engine().release(block.skip(block.count / 2));
    assert_eq!(fixture.engine().region().present().count(block), block.count / 2);
    fixture.engine().compact();
    assert_eq!(fixture.engine().region().present().count(block), 5);
    fixture.assert_all(block.prefix(5), 7);
    fixture.assert_all(block.skip(5), PATTERN);
    fixture.assert_all(Pages::span(blocks.first, block.first), PATTERN);
}
