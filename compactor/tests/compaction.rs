//! Compactions that end with every object as it should be: each way, with threads that use the heap.

use refpage::moves::Mover;
use refpage_compactor::{Failure, Outcome, Setup, Shape, Way, run};

const SHAPE: Shape =
    Shape { pages: 600, populated_run: 8, fragmented_run: 4, references: 4, seed: 1 };
const SETUP: Setup = Setup { shape: SHAPE, way: Way::Move, mutators: 2, batch: 64 };

/// The outcome, or nothing where the kernel moves no pages.
fn compacted(setup: Setup) -> Option<Outcome> {
    let mover = match Mover::new() {
        Ok(mover) => mover,
        Err(why) => {
            eprintln!("skipped: {why}");
            return None;
        }
    };
    match run(&mover, &setup) {
        Ok(outcome) => {
            let Outcome { moved, copied, remapped, whole, gathered, .. } = outcome;
            assert_eq!(moved + copied + remapped, outcome.pages_after, "{outcome:?}");
            assert_eq!(whole + gathered, outcome.pages_after, "{outcome:?}");
            assert!(outcome.objects > 0, "{outcome:?}");
            Some(outcome)
        }
        // mremap that leaves its source mapped is of Linux 5.7, so that only moves may be refused.
        Err(Failure::Refused(why)) => panic!("{setup:?}: {why}"),
        Err(Failure::Wrong(what)) => panic!("{setup:?}: {what}"),
    }
}

#[test]
fn every_way_keeps_every_object_while_mutators_run() {
    for seed in 0..8 {
        for way in Way::ALL {
            for mutators in [1, 3] {
                let shape = Shape { seed, ..SHAPE };
                let Some(outcome) = compacted(Setup { shape, way, mutators, ..SETUP }) else {
                    return;
                };
                assert!(outcome.writes > 0, "{outcome:?}");
                assert!(outcome.pages_after < 600, "{outcome:?}");
            }
        }
    }
}

#[test]
fn every_way_carries_pages_as_it_says() {
    let of = |way| compacted(Setup { way, mutators: 0, ..SETUP });
    let Some(moved) = of(Way::Move) else { return };
    assert_eq!((moved.copied, moved.remapped, moved.faults), (0, 0, 0));
    let copied = of(Way::Copy).expect("it was not skipped before");
    assert_eq!(copied.copied, copied.pages_after);
    let remapped = of(Way::Mremap).expect("it was not skipped before");
    assert_eq!((remapped.remapped, remapped.copied), (remapped.whole, remapped.gathered));
    assert!(remapped.vmas_after > remapped.vmas_before, "{remapped:?}");
    assert_eq!(
        [moved.objects, moved.whole, moved.gathered],
        [copied.objects, copied.whole, copied.gathered]
    );
}

#[test]
fn heaps_of_any_shape_are_compacted() {
    let shapes = [
        Shape { populated_run: 1, fragmented_run: 1, ..SHAPE },
        Shape { populated_run: 16, fragmented_run: 0, ..SHAPE },
        Shape { populated_run: 0, fragmented_run: 16, ..SHAPE },
        Shape { references: 0, ..SHAPE },
        Shape { pages: 1, fragmented_run: 0, ..SHAPE },
        Shape { pages: 2, populated_run: 0, ..SHAPE },
    ];
    for shape in shapes {
        for way in Way::ALL {
            for batch in [1, 7, 512] {
                if compacted(Setup { shape, way, batch, ..SETUP }).is_none() {
                    return;
                }
            }
        }
    }
}
