//! Pages that come and go while others use them.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use refpage::moves::{Arena, Missing, Moved};
use refpage::sys::vm::page_size;

use super::{Stop, arena, assert_holds, full_mover, mover, words};

const DONE: Moved = Moved { pages: 1, stop: None };

fn word<'a>(arena: &Arena<'a>, page: usize) -> &'a AtomicU64 {
    // SAFETY: the page's first bytes, as long as the arena.
    unsafe { AtomicU64::from_ptr(arena.address(page).cast()) }
}

#[test]
fn a_page_is_taken_out_while_threads_count_in_it_and_no_count_is_lost() {
    let Some(mover) = mover() else { return };
    let live = mover.arena(4, Missing::Faults).expect("address space");
    live.keep_from_children().expect("advice");
    let outside = arena(&mover, 4, 0, 0);
    (0..4).for_each(|page| assert_eq!(live.at(page).zero(1), DONE));
    // The zero page moves, but does not count as one that can be written in place everywhere.
    (0..4).for_each(|page| word(&live, page).store(0, Ordering::Relaxed));
    let stop = AtomicBool::new(false);
    let counted = thread::scope(|scope| {
        let counters = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut count = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    word(&live, 1).fetch_add(1, Ordering::Relaxed);
                    count += 1;
                }
                count
            })
        });
        let stop = Stop(&stop);
        let mut last = 0;
        for _ in 0..500 {
            assert_eq!(outside.at(2).move_from(live.at(1), 1), DONE);
            // Out there it is nobody's: it stands still.
            let seen = word(&outside, 2).load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(word(&outside, 2).load(Ordering::Relaxed), seen);
            assert!(seen >= last);
            last = seen;
            assert_eq!(live.at(1).move_from(outside.at(2), 1), DONE);
            thread::yield_now();
        }
        drop(stop);
        counters.map(|counter| counter.join().expect("a counter")).iter().sum::<u64>()
    });
    assert_eq!(word(&live, 1).load(Ordering::Relaxed), counted);
}

#[test]
fn faults_are_answered_with_pages_that_were_prepared() {
    let Some(mover) = mover() else { return };
    let live = mover.arena(256, Missing::Faults).expect("address space");
    live.keep_from_children().expect("advice");
    let prepared = arena(&mover, 256, 256, 1000);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (live, stop, mover, prepared) = (&live, &stop, &mover, &prepared);
        let handler = scope.spawn(move || {
            let mut told = 0;
            while !stop.load(Ordering::Relaxed) {
                mover
                    .faults(Some(5), |fault| {
                        let page = live.page_at(fault.address).expect("a page of the arena");
                        assert!(!fault.writes);
                        told += 1;
                        // Two threads may have waited for it.
                        let _ = live.at(page).move_from(prepared.at(page), 1);
                        live.at(page).wake(1).expect("woken");
                    })
                    .expect("faults");
            }
            told
        });
        let readers = [0, 1].map(|_| {
            scope.spawn(move || {
                (0..256).for_each(|page| assert_holds(live, page, 1000 + page as u64));
            })
        });
        let stop = Stop(stop);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
        drop(stop);
        assert!(handler.join().expect("the handler") >= 256);
    });
}

/// What a system call does at a missing page: with a mover of each sort.
#[test]
fn system_calls_wait_where_the_mover_sees_them_and_fail_elsewhere() {
    let Some(small) = mover() else { return };
    let zeros = || std::fs::File::open("/dev/zero").expect("/dev/zero");
    let live = small.arena(1, Missing::Faults).expect("address space");
    // SAFETY: the arena's page. That it is missing is the kernel's to find.
    let bytes = unsafe { std::slice::from_raw_parts_mut(live.address(0), page_size()) };
    let refused = zeros().read(bytes).expect_err("no page, and nobody to tell");
    assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));

    let Some(full) = full_mover() else { return };
    let (live, from) =
        (full.arena(1, Missing::Faults).expect("address space"), arena(&full, 1, 1, 3));
    live.keep_from_children().expect("advice");
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let bytes: &mut [u8] = bytes_of(words(&live, 0));
            zeros().read(bytes).expect("it waits")
        });
        let mut told = 0;
        while told == 0 {
            told = full
                .faults(Some(1000), |fault| assert_eq!(live.page_at(fault.address), Some(0)))
                .expect("faults");
        }
        assert_eq!(live.at(0).move_from(from.at(0), 1), DONE);
        assert_eq!(reader.join().expect("the reader"), page_size());
    });
    assert_holds(&live, 0, 0);
}

fn bytes_of(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: the words' own bytes.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
