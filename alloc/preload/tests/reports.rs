//! What is told of accesses to memory that belongs to nobody, to whom, and that the program's own handlers, and the
//! way it ends, are as they would be without.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::traps::expect_one_of;
use common::{DEFAULT, MORE, Outcome, c_program, has_tags, is_served, run, serve, skipped};

/// The behaviour under a service, with options.
fn report(behaviour: &str, service: &str, options: &str) -> Option<Outcome> {
    let program = c_program("reports")?;
    if !is_served(service) {
        return None;
    }
    if has_tags(&format!("service={service}")) {
        skipped("tags tell of it where memory has them");
        return None;
    }
    let mut command = Command::new(program);
    serve(command.arg(behaviour), service, DEFAULT);
    command.env("REFPAGE_OPTIONS", format!("service={service}:{options}"));
    Some(run(&mut command))
}

/// The lines of its only report, and the address that the program printed.
#[track_caller]
fn lines(outcome: &Outcome) -> (Vec<&str>, String) {
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(outcome.refpage_lines().len(), 1, "one report: {}", outcome.stderr);
    assert!(lines[1..].iter().all(|line| line.starts_with(MORE)), "{}", outcome.stderr);
    let text = outcome.stdout_text();
    (lines, text.lines().next().unwrap_or_default().to_owned())
}

/// With `lazy`, whose fault handler refuses.
#[track_caller]
fn refused(behaviour: &str, verdict: &str, about: &str) {
    let Some(outcome) = report(behaviour, "lazy", "") else { return };
    expect_one_of(&outcome, &[libc::SIGSEGV, libc::SIGBUS]);
    let (lines, pointer) = lines(&outcome);
    assert_eq!(lines[0], format!("refpage: {}", verdict.replace("0x", &pointer)));
    assert!(lines[1].starts_with("refpage:   thread "), "{lines:?}");
    assert_eq!(lines.len(), if about.is_empty() { 2 } else { 3 }, "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains(about)), "{about}: {lines:?}");
}

macro_rules! refusals {
    ($($name:ident: $behaviour:literal is $verdict:literal, $about:literal;)*) => {
        $(#[test] fn $name() { refused($behaviour, $verdict, $about) })*
    };
}

refusals! {
    overflow_is_told: "overflow" is
        "overflow: writing to byte 1048576 of an allocation of 1048576 bytes, by 0x",
        "a large allocation of 1048576 bytes at 0x";
    overflow_by_many_bytes_is_told: "overflow-far" is
        "overflow: writing to byte 1028576 of an allocation of 998576 bytes, by 0x",
        "a large allocation of 998576 bytes at 0x";
    reading_too_far_is_told: "overread" is
        "overflow: reading from byte 1048576 of an allocation of 1048576 bytes, by 0x",
        "a large allocation of 1048576 bytes at 0x";
    underflow_is_told: "underflow" is
        "underflow: writing to byte -1 of an allocation of 1028576 bytes, by 0x",
        "a large allocation of 1028576 bytes at 0x";
    reading_before_the_start_is_told: "underread" is
        "underflow: reading from byte -1 of an allocation of 1028576 bytes, by 0x",
        "a large allocation of 1028576 bytes at 0x";
    use_after_free_is_told: "use-after-free" is
        "use after free: writing to byte 524288 of a freed allocation of 1048576 bytes, by 0x",
        " ms ago";
    access_to_what_was_never_anybodys_is_told: "wild" is
        "wild access: reading from 0x, heap memory that belongs to no allocation",
        "";
}

#[test]
fn the_thread_is_named() {
    let Some(outcome) = report("overflow-by-a-thread", "lazy", "") else { return };
    expect_one_of(&outcome, &[libc::SIGSEGV, libc::SIGBUS]);
    let (lines, _) = lines(&outcome);
    assert!(lines[1].ends_with(" (a (writer))"), "{lines:?}");
}

#[test]
fn a_system_call_fails_and_is_told() {
    let Some(outcome) = report("overflow-in-a-system-call", "lazy", "") else { return };
    let (lines, _) = lines(outcome.expect_success());
    assert!(lines[0].starts_with("refpage: overflow: writing to byte 1048576"), "{lines:?}");
}

#[test]
fn who_looks_in_from_outside_is_told_nothing() {
    let Some(outcome) = report("looked-into", "lazy", "") else { return };
    assert_eq!(outcome.expect_success().stderr, "");
    if let Some(reason) = outcome.stdout_text().strip_prefix("skipped: ") {
        skipped(reason.trim());
    }
}

#[test]
fn a_process_is_told_of_so_many_and_no_more() {
    let Some(outcome) = report("many", "lazy", "") else { return };
    outcome.expect_success();
    assert_eq!(outcome.refpage_lines().len(), 16, "{}", outcome.stderr);
    assert!(outcome.stderr.ends_with("refpage:   what comes after this is not told\n"));
}

#[test]
fn the_programs_handler_is_called() {
    for behaviour in ["handled-before", "handled-after"] {
        let Some(outcome) = report(behaviour, "lazy", "") else { return };
        assert_eq!(outcome.status.code(), Some(3), "{}: {}", outcome.what, outcome.stderr);
        let (lines, _) = lines(&outcome);
        assert!(lines[0].starts_with("refpage: overflow: "), "{lines:?}");
        assert!(outcome.stdout_text().ends_with("handled\n"));
    }
}

#[test]
fn other_faults_are_nobodys_business() {
    for service in ["lazy", "memset"] {
        let Some(outcome) = report("foreign", service, "") else { continue };
        expect_one_of(&outcome, &[libc::SIGSEGV, libc::SIGBUS]);
        assert_eq!(outcome.stderr, "");
    }
}

/// A runtime installs a handler of its own only where there is none.
#[test]
fn there_is_no_handler_that_nobody_needs() {
    if let Some(outcome) = report("default-disposition", "lazy", "") {
        assert_eq!(outcome.expect_success().stderr, "");
    }
}

#[test]
fn stacks_are_told() {
    let Some(outcome) = report("use-after-free", "lazy", "backtraces=on") else { return };
    expect_one_of(&outcome, &[libc::SIGSEGV, libc::SIGBUS]);
    let (lines, _) = lines(&outcome);
    let text = &outcome.stderr;
    let at = |part: &str| lines.iter().position(|line| line.contains(part)).expect(part);
    let (allocated, freed) = (at("refpage:   allocated "), at("refpage:   freed by thread "));
    assert!(allocated < freed && lines[allocated].contains(" ms ago by thread "), "{text}");
    let program = c_program("reports").expect("compiled before");
    let first = format!("refpage:     #0 {}+0x", program.display());
    assert!(lines[allocated + 1].starts_with(&first), "none of the library's own: {text}");
    assert!(lines[freed + 1].starts_with(&first), "{text}");
    assert!(!text.contains("librefpage"), "{text}");
}

#[test]
fn stacks_of_a_double_free_are_told() {
    let Some(outcome) = report("double-free", "memset", "backtraces=on") else { return };
    outcome.expect_signal(libc::SIGABRT);
    let (lines, pointer) = lines(&outcome);
    assert!(lines[0].starts_with(&format!("refpage: double free of {pointer}, ")), "{lines:?}");
    assert!(outcome.stderr.contains("refpage:   allocated "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("refpage:   freed by thread "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("refpage:     #0 /"), "{}", outcome.stderr);
}

fn described(service: &str) {
    if let Some(outcome) = report("describe", service, "") {
        assert_eq!(outcome.expect_success().stderr, "");
    }
}

/// Told once, by whoever is there to tell: the handler of faults or that of signals.
fn guarded(behaviour: &str, service: &str) {
    let Some(outcome) = report(behaviour, service, "") else { return };
    if outcome.status.success() {
        return skipped(format_args!("memory has no guards with {service} on this kernel"));
    }
    let signal = outcome.status.signal();
    assert!(matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)), "{}", outcome.stderr);
    let (lines, pointer) = lines(&outcome);
    let verdict = " byte 1048576 of an allocation of 1048576 bytes, by ";
    assert!(lines[0].starts_with("refpage: overflow: "), "{lines:?}");
    assert!(lines[0].ends_with(&format!("{verdict}{pointer}")), "{lines:?}");
}

for_each_service! {
    addresses_are_described => described;
    overflow_is_told_where_there_are_guards => |service| guarded("overflow", service);
    of_calloc_too => |service| guarded("overread-of-calloc", service);
}
