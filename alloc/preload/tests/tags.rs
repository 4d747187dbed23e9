//! Memory tags, on processors that have them: elsewhere each test says that it is skipped. The emulated Arm machines
//! have them.

mod common;

use std::process::Command;

use common::{Outcome, c_program, check_content, has_tags, is_served, preload, run, skipped};

/// Runs a behaviour of tests/c/tags.c; none where there are no tags.
fn tags(behaviour: &str, options: &str) -> Option<Outcome> {
    let program = c_program("tags")?;
    if !has_tags(options) {
        skipped("there are no memory tags here");
        return None;
    }
    Some(run(preload(Command::new(&program).arg(behaviour), options)))
}

fn tagged(behaviour: &str, service: &str) {
    if tags("neighbours", &format!("service={service}")).is_some() {
        check_content("tags", &[behaviour], service);
    }
}

for_each_service! {
    large_blocks_carry_their_pointers_tag => |service| tagged("large", service);
    parts_of_larger_blocks_do => |service| tagged("divided", service);
    zeroed_blocks_do => |service| tagged("zeroed", service);
    resized_blocks_do => |service| tagged("resized", service);
    recycled_blocks_do => |service| tagged("recycled", service);
    neighbours_differ => |service| tagged("neighbours", service);
    wrong_accesses_trap => |service| tagged("traps", service);
    system_calls_see_tags => |service| tagged("system-calls", service);
    children_have_the_same_tags => |service| tagged("forked", service);
    children_of_raw_clone_do => |service| tagged("cloned", service);
}

/// Peak resident KiB of a program that touches one page in 64 of 64 MiB.
fn resident(options: &str) -> Option<u64> {
    let outcome = tags("sparse", options)?;
    Some(outcome.expect_success().stdout_text().trim().parse().expect("a number"))
}

fn untagged(service: &str) -> u64 {
    let program = c_program("tags").expect("compiled before");
    let options = format!("service={service}:mte=off");
    let outcome = run(preload(Command::new(program).arg("sparse"), &options));
    outcome.expect_success().stdout_text().trim().parse().expect("a number")
}

#[test]
fn what_nobody_touches_is_not_tagged() {
    if !is_served("lazy") {
        return;
    }
    let Some(lazy) = resident("service=lazy") else { return };
    let plain = untagged("lazy");
    assert!(lazy * 100 <= plain * 105, "{lazy} KiB with tags, {plain} without");
    let at_once = resident("service=memset").expect("there are tags");
    assert!(at_once > 64 << 10, "{at_once} KiB: tagging all of it cannot be lazy");
    println!("KiB: lazy {lazy}, without tags {plain}, memset {at_once}");
}

#[track_caller]
fn says(behaviour: &str, options: &str, signal: i32, parts: &[&str]) {
    let Some(outcome) = tags(behaviour, options) else { return };
    outcome.expect_signal(signal);
    let lines = outcome.refpage_lines();
    assert_eq!(lines.len(), 1, "one line: {}", outcome.stderr);
    for part in parts {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

macro_rules! reports {
    ($($name:ident: $behaviour:literal is $text:literal;)*) => {
        $(#[test] fn $name() { says($behaviour, "mte=sync", libc::SIGSEGV, &[concat!("refpage: ", $text)]) })*
    };
}

reports! {
    use_after_free_is_told:
        "use-after-free" is "use after free: writing to byte 4112 of a freed allocation of 100000 bytes, by 0x";
    use_after_free_of_a_small_block_is_told:
        "use-after-free-small" is "use after free: writing to byte 48 of a freed allocation of 112 bytes, by 0x";
    overflow_is_told: "overflow" is "overflow: writing to byte 100000 of an allocation of 100000 bytes, by 0x";
    overflow_of_a_small_block_is_told:
        "overflow-small" is "overflow: writing to byte 64 of an allocation of 64 bytes, by 0x";
    underflow_is_told: "underflow" is "underflow: writing to byte -1 of an allocation of 100000 bytes, by 0x";
}

#[test]
fn asynchronous_checks_end_the_process_too() {
    for mode in ["async", "asymm"] {
        let options = format!("mte={mode}");
        says("use-after-free", &options, libc::SIGSEGV, &["some time before this; mte=sync"]);
    }
}

#[test]
fn frees_by_other_pointers_are_told() {
    let wrong = |behaviour: &str, parts: &[&str]| says(behaviour, "", libc::SIGABRT, parts);
    wrong("free-forged-large", &["invalid free of 0x", "of the block of 1048576 bytes there"]);
    wrong("free-forged-small", &["invalid free of 0x", "of the block of 112 bytes there"]);
    wrong("free-stale", &["invalid free of 0x", "it was freed before, or the pointer is forged"]);
    wrong("realloc-forged", &["invalid free of 0x", "of the block of 1048576 bytes there"]);
}

/// The option without what it needs: a line, and everything else as ever.
#[test]
fn tags_that_cannot_be_had_are_said() {
    let Some(program) = c_program("tags") else { return };
    let on = |options: &str| {
        let outcome = run(preload(Command::new(&program).arg("tags"), options));
        (outcome.expect_success().stdout_text().trim() == "on", outcome.stderr)
    };
    let (without_filling, why) = on("service=off:mte=sync");
    assert!(!without_filling && why.contains("memory is not tagged"), "{why}");
    assert_eq!(on("mte=off"), (false, String::new()));
    let (sync, why) = on("mte=sync");
    assert!(sync || why.contains("mte=sync: this processor or kernel has no memory tags"), "{why}");
    assert_eq!(on("mte=auto").0, sync);
}
