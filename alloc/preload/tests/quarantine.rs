//! What guards and quarantine cost in the long run, and that nothing is told of programs that make no mistake.

mod common;

use std::process::Command;

use common::traps::{expect_lines, expect_one_of, traps, with};
use common::{DEFAULT, Outcome, c_program, is_quick, is_served, preload, run, skipped};

/// A million where freed memory costs the least and the library is what is used, fewer where they are slow.
fn frees(service: &str) -> &'static str {
    match (is_quick(), cfg!(debug_assertions), service) {
        (true, ..) => "20000",
        (_, false, "lazy") => "1000000",
        _ => "200000",
    }
}

fn freed(behaviour: &str, service: &str, options: &str) -> Option<Outcome> {
    let mut program = Command::new(c_program("quarantine")?);
    program.args([behaviour, frees(service), service]);
    let outcome = run(preload(&mut program, &with(service, options)));
    for line in outcome.stdout_text().lines() {
        if let Some(reason) = line.strip_prefix("skipped: ") {
            skipped(reason);
        } else if line.starts_with("figure: ") {
            println!("{line}");
        }
    }
    Some(outcome)
}

/// Room for a million of them: none is used again, and the first one of all still is what it was.
fn all_are_kept(service: &str) {
    let Some(signals) = traps(service) else { return };
    if service == "cow" {
        return skipped("under cow, each piece of the addresses in use is a mapping");
    }
    let options = "quarantine=256G:quarantine_share=100";
    let Some(outcome) = freed("all-kept", service, options) else { return };
    expect_one_of(&outcome, signals);
    let text = outcome.stdout_text();
    let first = text.lines().find_map(|line| line.strip_prefix("first: "));
    let digits = first.and_then(|first| first.strip_prefix("0x")).expect("a pointer");
    // It may have a tag.
    let address = u64::from_str_radix(digits, 16).expect("a pointer") << 8 >> 8;
    let line = format!(
        "refpage: use after free: reading from byte 0 of a freed allocation of 65536 bytes, by {address:#x}"
    );
    expect_lines(&outcome, &line);
}

fn quiet(behaviour: &str, service: &str, options: &str) {
    if !is_served(service) {
        return;
    }
    let Some(outcome) = freed(behaviour, service, options) else { return };
    outcome.expect_success();
    assert_eq!(outcome.stderr, "", "{}", outcome.what);
}

/// Every operation on large blocks, in eight threads and children: there is nothing to be told.
fn no_mistake(service: &str, options: &str) {
    let Some(program) = c_program("peaceful") else { return };
    if service != "off" && !is_served(service) {
        return;
    }
    let mut command = Command::new(program);
    command.arg(if is_quick() { "90" } else { "450" }).env("TEST_PATTERN", DEFAULT);
    if service == "off" {
        command.env("TEST_UNPATTERNED", "1");
    }
    let outcome = run(preload(&mut command, &with(service, options)));
    outcome.expect_success();
    assert_eq!(outcome.stderr, "", "{}", outcome.what);
}

for_each_service! {
    freed_allocations_are_kept => all_are_kept;
    the_oldest_make_place_for_the_newest =>
        |service| quiet("some-kept", service, "quarantine=64M:quarantine_share=100");
    without_quarantine_there_is_one_place_for_all =>
        |service| quiet("none-kept", service, "quarantine=0:guards=off");

    programs_without_mistakes => |service| no_mistake(service, "guards=on:quarantine_share=100");
    programs_without_mistakes_at_the_ends_of_pages =>
        |service| no_mistake(service, "guards=right:quarantine_share=100");
    programs_without_mistakes_with_little_quarantine =>
        |service| no_mistake(service, "guards=right:quarantine=16M:quarantine_share=100");
    programs_without_mistakes_by_default => |service| no_mistake(service, "guards=on");
    programs_without_mistakes_and_with_samples =>
        |service| no_mistake(service, "sample=3:quarantine_share=100:backtraces=on:verify=on");
    programs_without_mistakes_and_with_samples_at_the_ends_of_pages =>
        |service| no_mistake(service, "sample=3:guards=right:quarantine=16M:quarantine_share=100");
}

#[test]
fn programs_without_mistakes_where_nothing_is_served() {
    for options in ["guards=on", "guards=right:quarantine_share=100", "sample=3"] {
        no_mistake("off", options);
    }
}
