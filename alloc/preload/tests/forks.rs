//! Fork where it is seldom looked for, and very often.

mod common;

use std::process::Command;

use common::{
    DEFAULT, c_library, c_program, check_content, is_served, library, patterns, run, serve,
};

for_each_service! {
    a_signal_handler_forks => |service| check_content("forks", &["from-a-signal-handler"], service);
    a_signal_handler_forks_amid_malloc => |service| check_content("forks", &["amid-malloc"], service);
    the_fork_handlers_of_others_have_a_heap => |service| check_content("forks", &["amid-fork-handlers"], service);
    the_fork_handlers_of_early_libraries_have_a_heap => beside_a_library;
    a_fork_without_fork_handlers_is_noticed => |service| check_content("forks", &["without-fork-handlers"], service);
    children_outlive_their_parents => |service| check_content("forks", &["outlives"], service);
    a_daemon_closes_everything => |service| check_content("forks", &["as-a-daemon"], service);
    pipes_end_with_the_programs_own_writers => |service| check_content("forks", &["pipes-end"], service);
    the_programs_descriptors_are_its_own =>
        |service| check_content("forks", &["descriptors-out-of-the-way"], service);
    children_need_no_descriptors => without_descriptors;
    forks_without_end => |service| storm("forks", service);
    forks_without_end_that_close_every_descriptor => |service| storm("closing", service);
}

/// A library whose constructor registers fork handlers that allocate, preloaded behind and before the heap.
fn beside_a_library(service: &str) {
    let (Some(program), Some(other)) = (c_program("forks"), c_library("atfork")) else { return };
    if !is_served(service) {
        return;
    }
    for order in [[library(), other.clone()], [other, library()]] {
        let mut command = Command::new(&program);
        serve(command.arg("amid-fork-handlers"), service, DEFAULT);
        command.env("LD_PRELOAD", format!("{}:{}", order[0].display(), order[1].display()));
        assert_eq!(run(&mut command).expect_success().refpage_lines(), [""; 0]);
    }
}

/// Where a child needs a descriptor and gets none, it says what it does instead, and its child does no more.
fn without_descriptors(service: &str) {
    let Some(program) = c_program("forks") else { return };
    if !is_served(service) {
        return;
    }
    for pattern in patterns() {
        let outcome =
            run(serve(Command::new(&program).arg("without-descriptors"), service, pattern));
        let lines = outcome.expect_success().refpage_lines();
        let told = usize::from(["lazy", "eager"].contains(&service));
        assert_eq!(lines.len(), told, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("out of file descriptors")), "{lines:?}");
    }
}

/// By hand: `storm forks 100000`.
fn storm(kind: &str, service: &str) {
    let Some(program) = c_program("storm") else { return };
    if is_served(service) {
        let outcome = run(serve(Command::new(program).args([kind, "150"]), service, DEFAULT));
        let text = outcome.expect_success().stdout_text();
        assert!(text.starts_with("160 forks, "), "{text}");
        assert_eq!(outcome.refpage_lines(), [""; 0]);
    }
}
