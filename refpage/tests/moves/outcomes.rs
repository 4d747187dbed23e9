//! What a move, a copy, zeros say of what they did.

use refpage::Pages;
use refpage::moves::{Missing, Moved, Stop};
use refpage::sys::vm::page_size;
use rustix::io::Errno;

use super::{arena, assert_holds, mappings, mover, shared_arena, words, write};

fn stopped(pages: usize, stop: Stop) -> Moved {
    Moved { pages, stop: Some(stop) }
}

const fn done(pages: usize) -> Moved {
    Moved { pages, stop: None }
}

#[test]
fn all_pages_move_and_leave_holes() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 64, 64, 100), arena(&mover, 64, 0, 0));
    assert_eq!(to.at(10).move_from(from.at(20), 30), done(30));
    for page in 0..30 {
        assert_holds(&to, 10 + page, 120 + page as u64);
        assert_holds(&from, 20 + page, 0);
    }
    assert_holds(&from, 19, 119);
    assert_holds(&from, 50, 150);
    assert_eq!(to.at(0).move_from(from.at(0), 0), done(0));
}

#[test]
fn a_hole_at_the_source_stops_it() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 8, 3, 5), arena(&mover, 8, 0, 0));
    assert_eq!(to.at(0).move_from(from.at(0), 8), stopped(3, Stop::SourceHole));
    assert_eq!(to.at(3).move_from(from.at(3), 1), stopped(0, Stop::SourceHole));
    assert_holds(&to, 2, 7);
}

#[test]
fn a_page_at_the_destination_stops_it_and_stays() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 8, 8, 40), arena(&mover, 8, 0, 0));
    write(&to, 5, 9);
    assert_eq!(to.at(0).move_from(from.at(0), 8), stopped(5, Stop::DestinationPresent));
    assert_holds(&to, 5, 9);
    assert_holds(&from, 5, 45);
    // As if the kernel had moved it and not counted: only who knows what was there can tell.
    from.drop_pages(Pages { first: 5, count: 1 }).expect("dropped");
    assert_eq!(to.at(5).move_from(from.at(5), 3), stopped(0, Stop::Uncounted));
    assert_eq!(to.at(5).move_present_from(from.at(5), 3), done(3));
    assert_holds(&to, 7, 47);
}

#[test]
fn what_a_child_shares_does_not_move_unless_it_is_kept_from_it() {
    let Some(mover) = mover() else { return };
    let (shared, own) = (shared_arena(&mover, 4, 4, 1), arena(&mover, 4, 4, 11));
    let to = arena(&mover, 8, 0, 0);
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::pause();
            libc::_exit(0);
        }
    }
    let moved = (to.at(0).move_from(shared.at(0), 4), to.at(4).move_from(own.at(0), 4));
    // SAFETY: the child is this test's.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    assert_eq!(moved, (stopped(0, Stop::NotMovable), done(4)));
    assert_holds(&shared, 3, 4);
    // Written to, it is this process's alone again.
    words(&shared, 0)[0] = 1;
    assert_eq!(to.at(0).move_from(shared.at(0), 4), stopped(1, Stop::NotMovable));
}

#[test]
fn a_child_of_fork_moves_nothing() {
    let Some(mover) = mover() else { return };
    let (from, to) = (shared_arena(&mover, 4, 4, 1), shared_arena(&mover, 4, 0, 0));
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let moved = to.at(0).move_from(from.at(0), 4);
        let refused = moved == stopped(0, Stop::Failed(Errno::INVAL));
        // SAFETY: as above.
        unsafe { libc::_exit(if refused { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the child is this test's.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 7);
}

#[test]
fn copies_and_zeros_come_only_where_nothing_is() {
    let Some(mover) = mover() else { return };
    let to = mover.arena(8, Missing::Zeros).expect("address space");
    let bytes = vec![0x33; 3 * page_size()];
    assert_eq!(to.at(1).copy_from(&bytes), done(3));
    assert_eq!(to.at(0).copy_from(&bytes), stopped(1, Stop::DestinationPresent));
    assert_eq!(to.at(4).zero(4), done(4));
    assert_eq!(to.at(4).zero(1), stopped(0, Stop::DestinationPresent));
    assert_holds(&to, 3, 0x3333_3333_3333_3333);
    assert_holds(&to, 5, 0);
}

#[test]
fn huge_pages_move_whole() {
    let Some(mover) = mover() else { return };
    let count = (2 << 20) / page_size();
    let (from, to) = (arena(&mover, 2 * count, 0, 0), arena(&mover, 2 * count, 0, 0));
    if !from.prefer_huge_pages() {
        return eprintln!("skipped: no huge pages in this kernel");
    }
    (0..count).for_each(|page| write(&from, count + page, page as u64));
    if huge_bytes(from.addresses().start) == 0 {
        return eprintln!("skipped: the kernel gave no huge page");
    }
    assert_eq!(to.at(count).move_from(from.at(count), count), done(count));
    assert_eq!(huge_bytes(to.addresses().start), 2 << 20, "it is one still");
    (0..count).for_each(|page| assert_holds(&to, count + page, page as u64));
}

/// Bytes in huge pages of the mapping that begins there.
fn huge_bytes(start: usize) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("/proc");
    let from = smaps.find(&format!("{start:x}-")).expect("the mapping");
    let line = smaps[from..].lines().find(|line| line.starts_with("AnonHugePages:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    number.map_or(0, |kib| kib << 10)
}

#[test]
fn moves_divide_no_mapping() {
    let Some(mover) = mover() else { return };
    let (from, to) = (arena(&mover, 512, 512, 7), arena(&mover, 512, 0, 0));
    for page in 0..512 {
        assert_eq!(to.at(page).move_from(from.at(511 - page), 1), done(1));
    }
    assert_eq!((mappings(&from), mappings(&to)), (1, 1));
    (0..512).for_each(|page| assert_holds(&to, page, 7 + 511 - page as u64));
}
