//! Small blocks in real programs: threads by the thousand, signal handlers, peaks, every size class.

mod common;

use std::process::Command;

use common::{
    DEFAULT, Outcome, c_program, check_content, have, is_served, preload, run, serve, skipped,
};

/// Each behaviour under every service, and under none: the heap is the same.
macro_rules! served_and_not {
    ($($behaviour:ident => $check:expr;)*) => {
        for_each_service! { $($behaviour => $check;)* }
        mod off {
            use super::*;
            $(#[test] fn $behaviour() { ($check)("off") })*
        }
    };
}

served_and_not! {
    thousands_of_threads_at_once => |service| blocks("pools", "thousands-at-once", service, "");
    threads_one_after_another_need_no_more_than_one =>
        |service| blocks("pools", "one-at-a-time", service, "");
    threads_in_waves_need_no_more_than_one_wave =>
        |service| blocks("pools", "64-at-a-time", service, "");
    what_the_dead_leave_is_others => |service| blocks("pools", "heirs", service, "");

    a_peak_is_given_back => |service| blocks("peaks", "nothing-stays", service, "decay=100");
    a_peak_is_given_back_but_for_what_stays =>
        |service| blocks("peaks", "bunches-stay", service, "decay=100");
    a_peak_decays => |service| blocks("peaks", "decay", service, "decay=100");
    peaks_do_not_add_up => |service| blocks("peaks", "peaks-repeat", service, "");

    a_handler_allocates_in_one_thread => |service| blocks("interrupted", "one-thread", service, "");
    handlers_allocate_in_four_threads => |service| blocks("interrupted", "four-threads", service, "");

    a_producer_and_a_consumer => |service| blocks("ring", "one-to-one", service, "");
    producers_and_a_consumer => |service| blocks("ring", "three-to-one", service, "");
    a_producer_and_consumers => |service| blocks("ring", "one-to-three", service, "");
    what_is_consumed_comes_back_to_the_producer => |service| blocks("ring", "for-long", service, "");

    mallinfo_counts_small_blocks => |service| blocks("accounts", "mallinfo", service, "");
    mallinfo_counts_what_threads_left => |service| blocks("accounts", "mallinfo-threads", service, "");
    malloc_info_adds_up => |service| expect_info(Some(service), SUMS);
    malloc_info_counts_free_blocks_by_size =>
        |service| expect_info(Some(service), &[SUMS, SIZES].concat());
    malloc_trim_gives_back_and_says_so => |service| blocks("accounts", "trim", service, "decay=3600000");
    malloc_trim_keeps_what_it_is_told_to =>
        |service| blocks("accounts", "trim-keeps", service, "decay=3600000");
}

for_each_service! {
    every_size_becomes_every_other => |service| check_content("resizing", &["every-size"], service);
    calloc_becomes_every_other => |service| check_content("resizing", &["calloc"], service);
    no_bytes_are_a_block => |service| check_content("resizing", &["no-bytes"], service);
    aligned_up_to_a_gib_and_resized => |service| check_content("resizing", &["aligned"], service);
}

/// Runs one of `tests/c` under a service, with options beside that. What it skipped, and the figures that it found, are
/// passed on.
fn blocks(program: &str, behaviour: &str, service: &str, options: &str) {
    let Some(path) = c_program(program) else { return };
    if service != "off" && !is_served(service) {
        return;
    }
    let mut command = Command::new(path);
    preload(command.arg(behaviour), format!("service={service}:{options}").trim_end_matches(':'));
    if service == "off" {
        command.env("TEST_UNPATTERNED", "1");
    }
    let outcome = run(&mut command);
    pass_on(&outcome);
    outcome.expect_success();
    assert_eq!(outcome.refpage_lines(), [""; 0], "nothing to complain about");
}

fn pass_on(outcome: &Outcome) {
    for line in outcome.stdout_text().lines() {
        if let Some(reason) = line.strip_prefix("skipped: ") {
            skipped(reason);
        } else if line.starts_with("figure: ") {
            println!("{line}");
        }
    }
}

/// What holds for any malloc: this is also what the C programs are checked with.
#[test]
fn they_need_no_service() {
    for (program, behaviour) in [
        ("pools", "thousands-at-once"),
        ("pools", "one-at-a-time"),
        ("resizing", "every-size"),
        ("resizing", "calloc"),
        ("resizing", "no-bytes"),
        ("ring", "one-to-one"),
        ("ring", "three-to-one"),
        ("accounts", "mallinfo"),
    ] {
        let Some(path) = c_program(program) else { return };
        let mut plain = Command::new(&path);
        run(plain.arg(behaviour).env("TEST_UNPATTERNED", "1")).expect_success();
    }
    for behaviour in ["every-size", "calloc", "no-bytes", "aligned"] {
        blocks("resizing", behaviour, "off", "");
    }
}

/// The checks themselves can tell: a malloc without a pattern does not pass them.
#[test]
fn plain_malloc_fails_these_checks() {
    for (program, behaviour) in
        [("resizing", "every-size"), ("pools", "heirs"), ("ring", "one-to-one")]
    {
        let Some(path) = c_program(program) else { return };
        let outcome = run(Command::new(path).arg(behaviour));
        assert_eq!(outcome.status.code(), Some(1), "{behaviour}: {}", outcome.stderr);
    }
}

/// What every malloc_info says about itself, as glibc's does, in Python: two texts, before and after half of the blocks
/// were freed.
const SUMS: &str = r#"
import sys
from xml.etree import ElementTree

def number(element, name):
    return int(element.get(name))

def the(node, tag, kind):
    found = node.findall(f"{tag}[@type='{kind}']")
    assert len(found) == 1, (tag, kind, len(found))
    return found[0]

usable, *texts = sys.argv[1:]
usable = int(usable)
free = []
for text in texts:
    root = ElementTree.fromstring(text)
    assert root.tag == "malloc" and root.get("version") == "1", root.attrib
    heaps = root.findall("heap")
    assert sorted(number(heap, "nr") for heap in heaps) == list(range(len(heaps))) and heaps
    for kind in "fast", "rest":
        for name in "count", "size":
            sum_of_heaps = sum(number(the(heap, "total", kind), name) for heap in heaps)
            assert number(the(root, "total", kind), name) >= sum_of_heaps, (kind, name)
    for kind in "current", "max":
        sum_of_heaps = sum(number(the(heap, "system", kind), "size") for heap in heaps)
        assert number(the(root, "system", kind), "size") >= sum_of_heaps, kind
    the(root, "total", "mmap")
    for node in [root, *heaps]:
        held = number(the(node, "system", "current"), "size")
        assert held <= number(the(node, "system", "max"), "size")
        assert sum(number(the(node, "total", kind), "size") for kind in ("fast", "rest")) <= held
    free.append(sum(number(the(root, "total", kind), "size") for kind in ("fast", "rest")))
assert free[1] >= free[0] + 1_700_000, free
"#;

/// What it says about free blocks by size: 2000 of 4000 blocks of 1000 bytes are among them.
const SIZES: &str = r#"
counts = []
for text in texts:
    heaps = ElementTree.fromstring(text).findall("heap")
    count = 0
    for heap in heaps:
        sizes = heap.findall("sizes/*")
        assert len(heap.findall("sizes")) == 1
        last = 0
        for size in sizes:
            low, high, total, number_of = (number(size, n) for n in ("from", "to", "total", "count"))
            assert 0 < low <= high and number_of > 0, size.attrib
            assert low * number_of <= total <= high * number_of, size.attrib
            if size.tag == "size":
                assert low > last, (low, last)
                last = high
            # glibc counts a header of 16 bytes at most.
            if low <= usable + 16 and high >= usable:
                count += number_of
        for name, of in ("size", "total"), ("count", "count"):
            most = sum(number(the(heap, "total", kind), name) for kind in ("fast", "rest"))
            assert sum(number(size, of) for size in sizes) <= most, name
    counts.append(count)
assert counts[1] >= counts[0] + 1800, counts
"#;

fn expect_info(service: Option<&str>, script: &str) {
    let Some(program) = c_program("accounts") else { return };
    if !have("python3") || service.is_some_and(|service| service != "off" && !is_served(service)) {
        return;
    }
    let mut command = Command::new(program);
    command.arg("info");
    if let Some(service) = service {
        serve(&mut command, service, DEFAULT);
    }
    let outcome = run(&mut command);
    let text = outcome.expect_success().stdout_text();
    let parts: Vec<_> = text.split("--\n").collect();
    assert_eq!(parts.len(), 3, "{text}");
    run(Command::new("python3").arg("-c").arg(script).args(parts)).expect_success();
}

/// The scripts are right about what glibc says.
#[test]
fn malloc_info_of_glibc_passes() {
    if cfg!(target_env = "gnu") {
        expect_info(None, &[SUMS, SIZES].concat());
    } else {
        skipped("this libc is not glibc");
    }
}

#[test]
fn malloc_stats_counts_small_blocks_on_stderr() {
    let Some(program) = c_program("accounts") else { return };
    for service in ["memset", "off"] {
        let outcome = run(serve(Command::new(&program).arg("stats"), service, DEFAULT));
        assert_eq!(outcome.expect_success().stdout_text(), "");
        let line =
            outcome.stderr.lines().find_map(|line| line.trim().strip_prefix("small_live_bytes "));
        let bytes: usize = line.expect("a line for it").trim().parse().expect("a number");
        assert!((3_700_000..6_000_000).contains(&bytes), "{bytes}");
    }
}
