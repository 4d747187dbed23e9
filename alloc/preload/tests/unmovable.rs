//! Pages that the kernel will not move, or that are not in memory: pinned, merged, swapped out, on their way. The heap
//! goes on without moving them, and each byte is what it has to be.

mod common;

use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use common::confine::is_root;
use common::swap::Swap;
use common::{DEFAULT, c_program, is_served, patterns, preload, run, serve, skipped};

/// Runs a behaviour with each pattern, and passes on what the program could not do here.
fn check(behaviour: &str, service: &str) {
    let Some(program) = c_program("unmovable") else { return };
    if !is_served(service) {
        return;
    }
    for pattern in patterns() {
        let outcome = run(serve(Command::new(&program).arg(behaviour), service, pattern));
        outcome.expect_success();
        assert_eq!(outcome.refpage_lines(), [""; 0], "{}", outcome.what);
        for reason in outcome.stdout_text().lines() {
            skipped(reason);
        }
    }
}

/// As [`check`], where freed memory is looked at by its old address.
fn check_in_place(behaviour: &str, service: &str) {
    let (Some(program), Some(_swap)) = (c_program("unmovable"), Swap::on()) else { return };
    if !is_served(service) {
        return;
    }
    let options = format!("service={service}:quarantine=0");
    let mut command = Command::new(&program);
    run(preload(command.arg(behaviour).env("TEST_PATTERN", DEFAULT), &options)).expect_success();
}

fn check_swapped(behaviour: &str, service: &str) {
    if let Some(_swap) = Swap::on() {
        check(behaviour, service);
    }
}

/// What the kernel's merging of pages is told, and was told before.
struct Merging(Vec<(&'static str, String)>);

impl Merging {
    /// None, and said so, where it cannot be had.
    fn on() -> Option<Self> {
        if !is_root("have memory merged") {
            return None;
        }
        let mut before = Self(Vec::new());
        for (file, value) in [
            ("/sys/kernel/mm/ksm/sleep_millisecs", "1"),
            ("/sys/kernel/mm/ksm/pages_to_scan", "2000"),
            ("/sys/kernel/mm/ksm/run", "1"),
        ] {
            let old = fs::read_to_string(file);
            if let Err(error) = old.as_ref().map_or_else(|_| Ok(()), |_| fs::write(file, value)) {
                skipped(format_args!("{file}: {error}"));
                return None;
            }
            let Ok(old) = old else {
                skipped(format_args!("this kernel merges no pages: there is no {file}"));
                return None;
            };
            before.0.push((file, old));
        }
        Some(before)
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        for (file, old) in self.0.iter().rev() {
            // What was readable and writable before is still, or somebody has taken it away.
            let _ = fs::write(file, old.trim());
        }
    }
}

fn check_merged(service: &str) {
    // It is one setting for the whole machine.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(_merging) = Merging::on() {
        check("merged", service);
    }
}

for_each_service! {
    a_swapped_block_is_freed_without_being_read_back => |service| check_in_place("swapped-and-freed", service);
    a_swapped_block_moves => |service| check_swapped("swapped-and-moved", service);
    a_swapped_block_from_calloc => |service| check_swapped("swapped-calloc", service);
    a_swapped_block_in_parent_and_child => |service| check_swapped("swapped-and-forked", service);
    a_heap_that_is_swapped_out_under_way => |service| check_swapped("cooled", service);
    a_heap_that_is_called_cold => |service| check("cooled", service);
    a_registered_buffer_is_written_to => |service| check("pinned-and-used", service);
    a_pinned_block_is_freed_and_used_again => |service| check("pinned-and-freed", service);
    a_pinned_page_goes_to_no_other_address => |service| check("pinned-and-written", service);
    pages_that_are_merged => check_merged;
    memory_that_is_compacted => |service| check("compacted", service);
}

/// The library's own moves, without the heap.
#[test]
fn what_is_swapped_out_moves_without_being_read_back() {
    use engine::moves::{Missing, Moved, Mover};
    const PAGES: usize = 64;
    let Some(_swap) = Swap::on() else { return };
    let mover = match Mover::new() {
        Ok(mover) => mover,
        Err(why) => return skipped(why),
    };
    let arena = || mover.arena(PAGES, Missing::Zeros).expect("address space");
    let (from, to) = (arena(), arena());
    let page = engine::sys::vm::page_size();
    // SAFETY: an arena of this test's.
    let words = |arena: &engine::moves::Arena<'_>, at| unsafe {
        std::slice::from_raw_parts_mut(arena.address(at).cast::<u64>(), page / 8)
    };
    (0..PAGES).for_each(|at| words(&from, at).fill(at as u64 + 1));
    // SAFETY: as above; what the pages hold stays.
    unsafe { libc::madvise(from.address(0).cast(), PAGES * page, libc::MADV_PAGEOUT) };
    let gone = swapped(&from.addresses());
    if gone == 0 {
        return skipped("the kernel swaps nothing out when it is told to");
    }
    let faults = major_faults();
    assert_eq!(to.at(0).move_from(from.at(0), PAGES), Moved { pages: PAGES, stop: None });
    assert_eq!(major_faults(), faults, "none was read back");
    assert_eq!((swapped(&from.addresses()), swapped(&to.addresses())), (0, gone));
    for at in 0..PAGES {
        assert!(words(&to, at).iter().all(|&word| word == at as u64 + 1), "page {at}");
    }
    assert!(major_faults() > faults, "now they were");
}

/// Pages that are swapped out, as /proc/self/pagemap tells (bit 62).
fn swapped(addresses: &std::ops::Range<usize>) -> usize {
    use std::os::unix::fs::FileExt;
    let page = engine::sys::vm::page_size();
    let mut entries = vec![0; addresses.len() / page * 8];
    let map = fs::File::open("/proc/self/pagemap").expect("/proc");
    map.read_exact_at(&mut entries, (addresses.start / page * 8) as u64).expect("the page map");
    entries.chunks(8).filter(|entry| entry[7] >> 6 & 1 == 1).count()
}

/// Those of the thread that waited for a device.
fn major_faults() -> i64 {
    // SAFETY: zeros are a value, and getrusage writes the struct.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_majflt
    }
}
