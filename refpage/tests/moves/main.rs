//! Page moves without an allocator: outcomes, pages taken out of memory in use, huge pages.

mod batches;
mod in_use;
mod outcomes;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use refpage::moves::{Arena, Missing, Mover};
use refpage::sys::vm::page_size;

/// A mover, or the printed reason why there is none.
fn mover() -> Option<Mover> {
    Mover::new().map_err(|why| eprintln!("skipped: {why}")).ok()
}

/// Whose faults are those of system calls, too.
fn full_mover() -> Option<Mover> {
    Mover::with_system_calls().map_err(|why| eprintln!("skipped: {why}")).ok()
}

/// An arena whose first `present` pages are: each holds its number and `salt`. A child of another test
/// has no part in them.
fn arena(mover: &Mover, pages: usize, present: usize, salt: u64) -> Arena<'_> {
    let arena = shared_arena(mover, pages, present, salt);
    arena.keep_from_children().expect("advice");
    arena
}

/// The same, but children share its pages.
fn shared_arena(mover: &Mover, pages: usize, present: usize, salt: u64) -> Arena<'_> {
    let arena = mover.arena(pages, Missing::Zeros).expect("address space");
    (0..present).for_each(|page| write(&arena, page, salt + page as u64));
    arena
}

fn words(arena: &Arena<'_>, page: usize) -> &'static mut [u64] {
    // SAFETY: a page of the arena, which each test uses as it says, and no longer than the arena.
    unsafe { std::slice::from_raw_parts_mut(arena.address(page).cast(), page_size() / 8) }
}

fn write(arena: &Arena<'_>, page: usize, value: u64) {
    words(arena, page).fill(value);
}

fn assert_holds(arena: &Arena<'_>, page: usize, value: u64) {
    assert_eq!(words(arena, page).iter().find(|&&word| word != value), None, "page {page}");
}

/// Says that threads are to stop, also when the test has failed: who waits for them would wait for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Mappings that an arena consists of.
fn mappings(arena: &Arena<'_>) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc");
    let number = |text: &str| usize::from_str_radix(text, 16).expect("an address");
    let ranges = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    ranges
        .filter(|(start, end)| {
            number(start) < arena.addresses().end && number(end) > arena.addresses().start
        })
        .count()
}
