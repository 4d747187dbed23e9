//! Checks: how they are enabled, what they find, and how to do without.

#![cfg(target_arch = "aarch64")]

mod common;

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;

use common::{End, Memory, in_child, tag};
use mte::{Granules, Mode, Tag, TagSet, enable, mode, random, without_checks};

/// `si_code` of a synchronous and an asynchronous tag check fault, from uapi/asm-generic/siginfo.h.
const SEGV_MTEAERR: i32 = 8;
const SEGV_MTESERR: i32 = 9;

/// Loads a byte by its address.
fn load(address: *const u8) -> u8 {
    // SAFETY: the callers pass addresses of their memory; tags that do not fit are what they test.
    unsafe { address.read_volatile() }
}

/// Memory with a granule of tag 3 at its start, and 4 from there to its end.
fn memory() -> Memory {
    let memory = Memory::new(4096);
    // SAFETY: the ranges are the memory's.
    unsafe {
        Granules::new(memory.at(0), 16).fill_and_tag(0x5555_5555_5555_5555, tag(3));
        Granules::new(memory.at(16), 4080).tag(tag(4));
    }
    memory
}

#[test]
fn accesses_with_the_right_tag_pass_and_with_a_wrong_one_fault() {
    needs_tags!();
    let memory = memory();
    for (offset, by, end) in [
        (0, 3, End::Exit(0x55)),
        (15, 3, End::Exit(0x55)),
        (16, 4, End::Exit(0)),
        (16, 3, End::Fault(SEGV_MTESERR)),
        (0, 4, End::Fault(SEGV_MTESERR)),
        (0, 0, End::Fault(SEGV_MTESERR)),
    ] {
        let address = memory.tagged(offset, tag(by));
        let ended = in_child(|| enable(Mode::Sync).map_or(1, |()| load(address).into()));
        assert_eq!(ended, end, "byte {offset} by tag {by}");
    }
}

#[test]
fn asynchronous_checks_are_reported_later() {
    needs_tags!();
    let memory = memory();
    let address = memory.tagged(0, tag(8));
    let ended = in_child(|| {
        enable(Mode::Async).map_or(1, |()| {
            let byte = load(address);
            // SAFETY: getppid has no precondition. The kernel reports when it is entered.
            unsafe { libc::getppid() };
            i32::from(byte) + 1
        })
    });
    assert_eq!(ended, End::Fault(SEGV_MTEAERR));
}

#[test]
fn guards_may_be_nested_and_the_last_one_brings_the_checks_back() {
    needs_tags!();
    let memory = memory();
    let wrong = memory.tagged(0, tag(8));
    let guarded = |check_after: bool| {
        let _ = enable(Mode::Sync);
        let outer = without_checks();
        let mut sum = u32::from(load(wrong));
        {
            let _inner = without_checks();
            sum += u32::from(load(wrong));
        }
        // The inner guard brought back what it found: no checks.
        sum += u32::from(load(wrong));
        drop(outer);
        if check_after {
            sum += u32::from(load(wrong));
        }
        if black_box(sum) == 3 * 0x55 { 0 } else { 1 }
    };
    assert_eq!(in_child(|| guarded(false)), End::Exit(0));
    assert_eq!(in_child(|| guarded(true)), End::Fault(SEGV_MTESERR));
}

#[test]
fn a_thread_has_no_checks_before_it_enables_them_and_then_those_it_asked_for() {
    needs_tags!();
    thread::spawn(|| {
        assert_eq!(mode(), None);
        for wanted in [Mode::Sync, Mode::Async, Mode::Asymmetric, Mode::Sync] {
            enable(wanted).unwrap();
            if wanted == Mode::Asymmetric && mode() == Some(Mode::Sync) && emulated_kernel() {
                println!("skipped: {}: the emulator's kernel keeps one mode", wanted.as_str());
                continue;
            }
            assert_eq!(mode(), Some(wanted));
            assert_eq!(thread::spawn(mode).join().unwrap(), Some(wanted), "threads inherit it");
        }
    })
    .join()
    .unwrap();
}

#[test]
fn enabling_leaves_other_bits_alone() {
    needs_tags!();
    thread::spawn(|| {
        // SAFETY: the operation takes no addresses. Only tag 5, no tagged addresses in system calls, no checks.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_TAGGED_ADDR_CTRL, 1 << (3 + 5), 0, 0, 0) }, 0);
        enable(Mode::Sync).unwrap();
        // SAFETY: as above.
        let control = unsafe { libc::prctl(libc::PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0) };
        assert_eq!(control, 0xfffe << 3 | 1 << 1 | 1);
    })
    .join()
    .unwrap();
}

/// Whether system calls are emulated by a process: the kernel that answers here is then not the machine's.
fn emulated_kernel() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/arch").is_ok_and(|arch| arch.trim() != "aarch64")
}

/// Draws until every tag that may come has come. The chance that one of 15 has not within 2000 draws is
/// below 2^-190.
fn check_draws(excluded: TagSet) {
    let allowed = !excluded.mask() & !1;
    let expected = if allowed == 0 { 1 } else { allowed };
    let mut seen = TagSet::EMPTY;
    for _ in 0..2000 {
        let drawn = random(excluded);
        assert!(expected & 1 << drawn.get() != 0, "{} of {excluded:?}", drawn.get());
        seen = seen.insert(drawn);
        if seen.mask() == expected {
            return;
        }
    }
    panic!("{seen:?} of {excluded:?}");
}

#[test]
fn random_tags_are_never_excluded_and_all_others_come() {
    needs_tags!();
    enable(Mode::Sync).unwrap();
    (0..=u16::MAX).map(TagSet::from_mask).for_each(check_draws);
}

#[test]
fn random_tags_come_to_threads_that_were_there_before() {
    needs_tags!();
    let (go, wait) = mpsc::channel::<usize>();
    let early = thread::spawn(move || {
        let address = wait.recv().unwrap() as *mut u8;
        assert_eq!(mode(), None);
        (0..=u16::MAX).step_by(7).map(TagSet::from_mask).for_each(check_draws);
        let mine = random(TagSet::EMPTY.insert(tag(3)));
        // SAFETY: the range is the other thread's memory, which waits.
        unsafe {
            Granules::new(address, 64).fill_and_tag(0x77, mine);
            let tagged = mte::with_tag(address as u64, mine) as *mut u64;
            assert_eq!(tagged.read(), 0x77);
            tagged.add(1).write(0x99);
        }
        mine
    });
    enable(Mode::Sync).unwrap();
    let memory = memory();
    go.send(memory.at(64).addr()).unwrap();
    let theirs = early.join().unwrap();
    assert_ne!(theirs, Tag::ZERO);
    // This thread does check.
    assert_eq!(load(memory.tagged(72, theirs)), 0x99);
    assert_eq!(in_child(|| load(memory.at(72)).into()), End::Fault(SEGV_MTESERR));
}
