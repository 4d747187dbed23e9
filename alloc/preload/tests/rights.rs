//! Processes that give up rights while their heap is in use: another user, system call filters, no core files.

mod common;

use std::process::Command;

use common::confine::{Nobody, is_root};
use common::{DEFAULT, Outcome, c_program, is_served, patterns, run, serve};

for_each_service! {
    the_handler_is_refused_a_call => refused;
    a_filter_of_one_thread_is_not_the_handlers => |service| {
        for call in CALLS {
            if let Some(outcome) = filtered(service, "errno", call, "one", "lives") {
                assert_eq!(outcome.expect_success().refpage_lines(), [""; 0], "{call}");
            }
        }
    };
    /// Where this ends with SIGSYS, README's list of what the handler does is to be mended, too.
    the_handler_makes_no_other_calls => |service| common::check_content("rights", &["allowed"], service);
    a_child_under_a_filter_is_given_less => |service| gives_up("forks-filtered", service, 1..=1);
    another_user_goes_on => |service| {
        if is_root("become nobody") {
            // Of each child, unless everyone may have a userfaultfd.
            let told = if Nobody::lacks().contains(&service) { 4..=4 } else { 0..=0 };
            gives_up("user-given-up", service, told);
        }
    };
    a_user_namespace_is_entered => |service| common::check_content("rights", &["unshares-user"], service);
    who_cannot_be_looked_into_goes_on => |service| gives_up("dumpable-given-up", service, 0..=0);
}

/// Without these it serves nothing.
const CALLS: [&str; 3] = ["read", "ioctl", "ppoll"];

fn filtered(service: &str, action: &str, call: &str, whom: &str, end: &str) -> Option<Outcome> {
    let program = c_program("rights")?;
    let mut command = Command::new(program);
    command.args(["filtered", action, call, whom, end]);
    is_served(service).then(|| run(serve(&mut command, service, DEFAULT)))
}

/// One clear line, and SIGABRT, though the program has a handler for it. Other services have no handler.
fn refused(service: &str) {
    for call in CALLS {
        let end = if service == "lazy" { "dies" } else { "lives" };
        let Some(outcome) = filtered(service, "errno", call, "all", end) else { return };
        if service == "lazy" {
            let lines = outcome.expect_signal(libc::SIGABRT).refpage_lines();
            assert!(lines.len() == 1 && lines[0].contains("forbidden by a filter"), "{lines:?}");
        } else {
            assert_eq!(outcome.expect_success().refpage_lines(), [""; 0], "{call}");
        }
    }
}

/// SIGSYS for all threads, though the handler blocks all signals.
#[test]
fn a_filter_that_kills_ends_the_process() {
    for action in ["trap", "kill"] {
        for call in CALLS {
            if let Some(outcome) = filtered("lazy", action, call, "all", "dies") {
                outcome.expect_signal(libc::SIGSYS);
            }
        }
    }
}

/// What needs a userfaultfd tells so many times what it does instead.
fn gives_up(behaviour: &str, service: &str, told: std::ops::RangeInclusive<usize>) {
    let Some(program) = c_program("rights") else { return };
    if !is_served(service) {
        return;
    }
    let told = if ["lazy", "eager"].contains(&service) { told } else { 0..=0 };
    for pattern in patterns() {
        let outcome = run(serve(Command::new(&program).arg(behaviour), service, pattern));
        let lines = outcome.expect_success().refpage_lines();
        assert!(told.contains(&lines.len()), "{lines:?}");
    }
}
