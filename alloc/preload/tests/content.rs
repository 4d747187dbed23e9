//! What blocks hold when they are handed out, under every service and with two patterns.

mod common;

use std::process::Command;

use common::{DEFAULT, c_program, check_content, run, serve};

for_each_service! {
    fresh_memory_reads_as_the_pattern => |service| check_content("content", &["fresh"], service);
    recycled_memory_reads_as_the_pattern => |service| check_content("content", &["recycled"], service);
    memory_reused_at_once_reads_as_the_pattern => |service| check_content("content", &["same-block"], service);
    calloc_reads_as_zero => |service| check_content("content", &["zeroed"], service);
    realloc_keeps_the_old_part_and_patterns_the_new => |service| check_content("content", &["resized"], service);
    realloc_of_many_blocks_mixes_none_up => |service| check_content("content", &["many-resized"], service);
    realloc_of_calloc_keeps_its_zeros => |service| check_content("content", &["resized-calloc"], service);
    aligned_memory_is_aligned_and_patterned => |service| check_content("content", &["aligned"], service);
    realloc_of_aligned_memory_keeps_its_content =>
        |service| check_content("content", &["aligned-then-resized"], service);
    blocks_pass_between_threads => |service| check_content("threads", &["exchange"], service);
    one_thread_makes_what_another_frees => |service| check_content("threads", &["make-and-free"], service);
    a_thousand_short_lived_threads_leave_no_trace => |service| check_content("threads", &["come-and-go"], service);
    threads_ask_for_one_blocks_size => |service| check_content("threads", &["ask-at-once"], service);
    threads_share_one_fresh_block => |service| check_content("threads", &["one-block"], service);
}

/// What holds for any malloc: this is also what the C program is checked with.
#[test]
fn calloc_and_realloc_need_no_service() {
    let Some(program) = c_program("content") else {
        return;
    };
    run(Command::new(&program).arg("unpatterned")).expect_success();
    for service in ["off", "memset", "eager", "cow", "lazy"] {
        run(serve(Command::new(&program).arg("unpatterned"), service, DEFAULT)).expect_success();
    }
}

/// The checks themselves can tell: a plain malloc does not pass them.
#[test]
fn plain_malloc_fails_these_checks() {
    let Some(program) = c_program("content") else {
        return;
    };
    for behaviour in ["fresh", "recycled", "resized"] {
        let outcome = run(Command::new(&program).arg(behaviour));
        assert_eq!(outcome.status.code(), Some(1), "{behaviour}: {}", outcome.stderr);
    }
}
