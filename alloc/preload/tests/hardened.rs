//! The options `verify` and `random`: small blocks are looked at before they are handed out again, and come in an
//! order that nobody foresees.

mod common;

use std::process::Command;

use common::{DEFAULT, Outcome, c_program, has_tags, is_served, run, serve, skipped};

fn hardened(behaviour: &str, service: &str, options: &str) -> Option<Outcome> {
    let mut command = Command::new(c_program("hardened")?);
    serve(command.arg(behaviour), service, DEFAULT);
    command.env("REFPAGE_OPTIONS", format!("service={service}:{options}"));
    Some(run(&mut command))
}

fn seen(behaviour: &str, verdict: &str) {
    if has_tags("service=auto") {
        return skipped("the write itself ends the process where memory has tags");
    }
    let Some(outcome) = hardened(behaviour, "memset", "verify=on") else { return };
    outcome.expect_signal(libc::SIGABRT);
    let pointer = outcome.stdout_text().trim().to_owned();
    assert_eq!(outcome.refpage_lines().len(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("{verdict} of {pointer}")), "{}", outcome.stderr);
}

#[test]
fn a_write_to_a_free_small_block_is_seen() {
    seen("write-small", "write to freed memory: byte 23");
}

#[test]
fn a_write_to_a_free_medium_block_is_seen() {
    seen("write-medium", "write to freed memory: byte 12345");
}

#[test]
fn without_the_option_it_is_not_looked_for() {
    if has_tags("service=auto") {
        return skipped("the write itself ends the process where memory has tags");
    }
    let Some(outcome) = hardened("write-small", "memset", "verify=off") else { return };
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("went unseen"), "{}", outcome.stderr);
}

#[test]
fn blocks_come_in_another_order_each_time() {
    let orders: Option<Vec<String>> = (0..2)
        .map(|_| {
            let outcome = hardened("order", "memset", "random=on")?;
            Some(outcome.expect_success().stdout_text().to_string())
        })
        .collect();
    let Some(orders) = orders else { return };
    assert_ne!(orders[0], orders[1]);
}

#[test]
fn without_the_option_blocks_come_in_order() {
    let Some(outcome) = hardened("order", "memset", "random=off") else { return };
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
}

fn work(service: &str) {
    if is_served(service)
        && let Some(outcome) = hardened("work", service, "verify=on:random=on")
    {
        outcome.expect_success();
    }
}

macro_rules! services {
    ($($service:ident),*) => {
        mod ordinary_work_goes_on {
            $(#[test] fn $service() { super::work(stringify!($service)) })*
        }
    };
}

services!(lazy, cow, eager, memset);
