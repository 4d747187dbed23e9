//! Pages that do not move because a child of fork has them, too. Alone in its process: the child has all of it.

use refpage::moves::Mover;
use refpage_compactor::{Setup, Shape, Way, run_with};

#[test]
fn pages_that_a_child_shares_are_copied_instead() {
    // Without references nothing is written to a populated page, so that it is still shared when its turn comes.
    let shape = Shape { pages: 600, populated_run: 8, fragmented_run: 4, references: 0, seed: 1 };
    let setup = Setup { shape, way: Way::Move, mutators: 0, batch: 64 };
    let mover = match Mover::new() {
        Ok(mover) => mover,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let mut child = 0;
    let outcome = run_with(&mover, &setup, || {
        // SAFETY: the child makes system calls only.
        child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::pause();
                libc::_exit(0);
            }
        }
    });
    // SAFETY: the child is this test's.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    let outcome = outcome.expect("every object is there");
    assert!(outcome.not_movable > 0 && outcome.copied >= outcome.not_movable, "{outcome:?}");
    assert!(outcome.copied >= outcome.whole / 2, "{outcome:?}");
}
