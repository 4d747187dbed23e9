//! Moves, copies and drops that fail, as the kernel may let them, and pools that get no pages: whatever becomes of them,
//! every byte is as it should be, or the process ends and says why.

mod common;
#[path = "common/model.rs"]
mod model;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::mpsc;

use model::{Block, Mix, churn};
use refpage::sys::inject::{Failure, Site, fail, failed, places};
use refpage_alloc::{heap, service_name, tags_name};
use rustix::io::Errno;

/// Says which part of this file a process is to be, in a process of its own: the heap is one.
const PART: &str = "TEST_PART";

/// A part of this file in a process served by `service`.
fn run_part(name: &str, service: &str) -> Output {
    let test = std::env::current_exe().expect("the test knows its own path");
    let mut command = Command::new(test);
    command.args(["--exact", "part", "--nocapture", "--ignored"]);
    // Where each place is to be reached in turn, what is freed is to be used again; elsewhere nothing is.
    let quarantine = if name == "each-move" { "quarantine=0" } else { "quarantine_share=100" };
    let options = format!("service={service}:{quarantine}");
    command.env(PART, name).env("REFPAGE_OPTIONS", options).output().expect("this test runs")
}

fn passes(name: &str, service: &str) {
    let output = run_part(name, service);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{service}: {}\n{stdout}{stderr}", output.status);
    for reason in stderr.lines().filter(|line| line.contains("skipped")) {
        eprintln!("{service}: {reason}");
    }
}

#[test]
#[ignore = "a part of the others, which run it in processes of its own"]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("moves") => moves_fail(false),
        Ok("each-move") => moves_fail(true),
        Ok("copies") => copies_fail(),
        Ok("drops") => drops_fail(),
        Ok("refills") => refills_fail(),
        Ok(refused) => nothing_can_be_placed(refused.parse().expect("an errno")),
        Err(_) => eprintln!("skipped: {PART} says nothing"),
    }
}

/// Random steps with failures of a kind: how many of these there were.
fn steps_with(site: Site, every: u32, failure: Failure) -> u64 {
    let before = failed();
    fail(site, every, failure);
    std::thread::scope(|scope| {
        for seed in [1, 2] {
            scope.spawn(move || {
                let (sender, receiver) = mpsc::channel();
                churn(u64::from(every) * 100 + seed, Mix::Programs, 700, &sender, &receiver);
                drop(sender);
                receiver.into_iter().for_each(Block::free);
            });
        }
    });
    // What is cached goes the way to the pool or the kernel, too.
    heap::trim(0);
    fail(site, 0, failure);
    failed() - before
}

/// Churns with each failure, and expects some of each where the process `uses` the call.
fn every_failure_at(site: Site, answers: &[Failure], uses: bool) {
    for &failure in answers {
        for every in [2, 7] {
            let times = steps_with(site, every, failure);
            assert!(times > 0 || !uses, "{site:?}, {failure:?}, every {every}: never");
        }
    }
}

/// A block of `size` bytes, all of which were written.
fn used_block(size: usize) -> *mut u8 {
    let block = heap::allocate(size, 16, false);
    assert!(!block.is_null());
    // SAFETY: the block has that many bytes, all initialised.
    let bytes = unsafe { std::slice::from_raw_parts_mut(block, size) };
    assert_eq!(bytes.iter().position(|&byte| byte != 0xAA), None);
    bytes.fill(1);
    block
}

/// Resizes a used block, and checks what it holds.
fn resized(block: *mut u8, old: usize, new: usize) -> *mut u8 {
    // SAFETY: the block is live, and has as many bytes afterwards.
    let (block, bytes) = unsafe {
        let block = heap::reallocate(block, new);
        assert!(!block.is_null());
        (block, std::slice::from_raw_parts(block, new))
    };
    let (kept, added) = bytes.split_at(new.min(old));
    assert_eq!(kept.iter().position(|&byte| byte != 1), None);
    assert_eq!(added.iter().position(|&byte| byte != 0xAA), None);
    block
}

fn free(block: *mut u8) {
    // SAFETY: the callers' blocks are live.
    unsafe { heap::deallocate(block) };
}

/// Has every move fail at each place where one is made: where none did, as far as huge pages are to be had.
fn fails_everywhere(failure: Failure) {
    // With their guards, they and their halves take as many slots as there are in a run.
    const LARGE: usize = 23 << 20;
    const MEDIUM: usize = 960 << 10;
    let counts = || -> Vec<_> { places().collect() };
    let before = counts();
    let failed = |file: &str| {
        let now = counts();
        now.iter()
            .filter(|(at, n)| at.file().ends_with(file) && !before.contains(&(at, *n)))
            .count()
    };
    // In from the pool and out to it, both by huge pages too; and from one run to another. A huge
    // page may not be to be had at once.
    for _ in 0..10 {
        if (failed("place.rs"), failed("requests.rs")) == (4, 1) {
            break;
        }
        fail(Site::Move, 0, failure);
        let large = used_block(LARGE);
        let neighbours = [(); 8].map(|()| used_block(MEDIUM));
        // Last of all, or what it gives to the pool is gone.
        let pooled = resized(used_block(MEDIUM), MEDIUM, MEDIUM / 2 - 4096);
        fail(Site::Move, 1, failure);
        free(resized(large, LARGE, LARGE / 2 - 4096));
        for block in neighbours {
            free(resized(block, MEDIUM, 5 * MEDIUM));
        }
        free(resized(pooled, MEDIUM / 2 - 4096, 200 << 10));
        heap::trim(0);
        free(used_block(LARGE));
        free(used_block(MEDIUM));
        heap::trim(0);
    }
    let (pool, realloc) = (failed("place.rs"), failed("requests.rs"));
    assert!(pool >= 2 && realloc == 1, "{failure:?}: from {before:?} to {:?}", counts());
    if pool < 4 {
        eprintln!("skipped in part: {failure:?} of {} kinds of huge moves", pool - 2);
    }
    fail(Site::Move, 0, failure);
}

fn refused(answers: &[Errno]) -> Vec<Failure> {
    answers.iter().copied().map(Failure::Refused).collect()
}

/// What mm/userfaultfd.c answers to a MOVE, and a descriptor that is lost.
fn moves_fail(each: bool) {
    let no_moves = common::no_moves();
    let mut answers = refused(&[
        Errno::AGAIN,
        Errno::BUSY,
        Errno::EXIST,
        Errno::NOENT,
        Errno::INVAL,
        Errno::NOMEM,
        Errno::FAULT,
        Errno::NOTTY,
        Errno::BADF,
    ]);
    answers.push(Failure::Short);
    every_failure_at(Site::Move, &answers, no_moves.is_none());
    match no_moves {
        Some(reason) => eprintln!("skipped in part: {reason}"),
        None if each => answers.into_iter().for_each(fails_everywhere),
        None => {}
    }
}

/// The same for a COPY, without what ends the process as it should: a page that cannot be filled.
fn copies_fail() {
    let mut answers = refused(&[Errno::AGAIN, Errno::EXIST, Errno::NOMEM, Errno::INTR]);
    answers.push(Failure::Short);
    if service_name() != "lazy" {
        // Under the program's numbers there may be anything; the handler's are its own.
        answers.append(&mut refused(&[Errno::NOTTY, Errno::BADF]));
    }
    // Pages that carry tags are moved.
    let uses = ["lazy", "eager"].contains(&service_name()) && tags_name() == "off";
    every_failure_at(Site::Copy, &answers, uses);
}

/// What cannot go to the pool cannot go to the kernel either.
fn drops_fail() {
    fail(Site::Move, 3, Failure::Refused(Errno::BUSY));
    every_failure_at(Site::Drop, &refused(&[Errno::INVAL, Errno::AGAIN, Errno::NOMEM]), true);
}

/// The pool gets no pages: what there is of it is used up, and the rest is served without.
fn refills_fail() {
    let mut times = 0;
    for errno in [Errno::NOMEM, Errno::AGAIN, Errno::FAULT] {
        for busy in [0, 2] {
            fail(Site::Move, busy, Failure::Refused(Errno::BUSY));
            times += steps_with(Site::Populate, 1, Failure::Refused(errno));
        }
    }
    // After one attempt in vain many are left out.
    assert!(times > 0 || common::no_moves().is_some(), "never");
}

/// Neither a move nor a copy: memory that is handed out holds the content all the same, or the process ends when it is
/// touched.
fn nothing_can_be_placed(errno: i32) {
    const SIZE: usize = 6 << 20;
    // What the heap has kept for itself.
    drop(vec![1u8; SIZE]);
    for site in [Site::Move, Site::Copy] {
        fail(site, 1, Failure::Refused(Errno::from_raw_os_error(errno)));
    }
    for zeroed in [false, true] {
        let block = heap::allocate(SIZE, 16, zeroed);
        assert!(!block.is_null());
        // SAFETY: the block has that many bytes, all initialised.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, SIZE) };
        let expected = if zeroed { 0 } else { 0xAA };
        // From the end: the beginning may be in place already.
        let other = bytes.iter().rposition(|&byte| byte != expected);
        assert_eq!(other, None, "errno {errno}, zeroed: {zeroed}");
        bytes.fill(1);
        // SAFETY: the block is live.
        unsafe { heap::deallocate(block) };
    }
}

const SERVICES: [&str; 4] = ["lazy", "cow", "eager", "memset"];

#[test]
fn every_byte_is_right_whatever_move_fails() {
    SERVICES.iter().for_each(|service| passes("moves", service));
}

#[test]
fn every_byte_is_right_wherever_a_move_fails() {
    SERVICES.iter().for_each(|service| passes("each-move", service));
}

#[test]
fn every_byte_is_right_whatever_copy_fails() {
    SERVICES.iter().for_each(|service| passes("copies", service));
}

#[test]
fn every_byte_is_right_whatever_drop_fails() {
    SERVICES.iter().for_each(|service| passes("drops", service));
}

#[test]
fn every_byte_is_right_without_a_refill_of_the_pool() {
    SERVICES.iter().for_each(|service| passes("refills", service));
}

#[test]
fn a_page_that_cannot_be_filled_ends_the_process_with_one_line() {
    for errno in [Errno::NOMEM, Errno::AGAIN, Errno::BUSY, Errno::INVAL, Errno::FAULT, Errno::INTR]
    {
        for service in SERVICES {
            let output = run_part(&errno.raw_os_error().to_string(), service);
            let stderr = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<_> = stderr.lines().filter(|line| line.contains("refpage: ")).collect();
            if stderr.contains("instead of") {
                eprintln!("skipped: {stderr}");
            } else if service == "lazy" {
                assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{errno}: {stderr}");
                let said = format!("({})", errno.raw_os_error());
                let told = lines.len() == 1
                    && lines[0].starts_with("refpage: cannot fill the page at 0x")
                    && lines[0].ends_with(&said);
                assert!(told, "{errno}: {stderr}");
            } else {
                assert!(output.status.success(), "{service}, {errno}: {stderr}");
                assert_eq!(lines, [""; 0]);
            }
        }
    }
}
