//! Single pages that are moved together.

use refpage::moves::{Batch, Stop, Unmoved};

use super::{arena, assert_holds, mover, write};

#[test]
fn pages_that_follow_each_other_wait_for_each_other() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 64, 64, 10), arena(&mover, 64, 0, 0));
    let mut batch = Batch::new(&to, &from, 4);
    for page in 0..4 {
        batch.push(page, 20 + page).expect("moved");
    }
    assert_eq!(batch.waiting(), 4);
    batch.push(4, 24).expect("moved");
    assert_eq!(batch.waiting(), 1, "a full batch goes before the next page is added");
    batch.push(6, 25).expect("moved");
    assert_eq!(batch.waiting(), 1, "the destination has a gap");
    batch.push(7, 40).expect("moved");
    assert_eq!(batch.waiting(), 1, "the source has one");
    batch.flush().expect("moved");
    assert_eq!(batch.waiting(), 0);
    for (page, value) in [(0, 30), (3, 33), (4, 34), (5, 0), (6, 35), (7, 50)] {
        assert_holds(&to, page, value);
    }
}

#[test]
fn what_was_not_moved_is_told_and_forgotten() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 8, 8, 10), arena(&mover, 8, 0, 0));
    write(&to, 2, 1);
    let mut batch = Batch::new(&to, &from, 64);
    (0..5).for_each(|page| batch.push(page, page + 1).expect("none is moved yet"));
    let unmoved = Unmoved { to: 2, from: 3, count: 3, stop: Stop::DestinationPresent };
    assert_eq!(batch.push(7, 7), Err(unmoved));
    batch.flush().expect("the page that was added");
    assert_holds(&to, 1, 12);
    assert_holds(&to, 7, 17);
    assert_holds(&from, 3, 13);
}
