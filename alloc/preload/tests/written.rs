//! Which pages were written to: by what they hold, until somebody resets; after that as the kernel tells. `memset` has no
//! resets, and says so.

mod common;

use std::process::Command;

use common::{DEFAULT, c_program, check_content, is_served, preload, run, serve, skipped};

fn check(behaviour: &str, service: &str) {
    check_content("written", &[behaviour], service);
}

/// Without a quarantine, where freed addresses are used again at once; the program says that it has seen what it is about.
fn prove(behaviour: &str, service: &str, word: &str) {
    let Some(program) = c_program("written").filter(|_| is_served(service)) else { return };
    let options = format!("service={service}:quarantine=0");
    let outcome = run(preload(Command::new(program).arg(behaviour), &options));
    let text = outcome.expect_success().stdout_text();
    match text.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        Some(reason) => skipped(reason),
        None => assert!(service == "memset" || text.contains(word), "{behaviour}: {text}"),
    }
}

for_each_service! {
    written_pages_of_malloc => |service| check("allocated", service);
    written_pages_of_calloc => |service| check("zeroed", service);
    what_realloc_adds_in_place_is_not_written => |service| {
        check("grown", service);
        prove("grown", service, "stayed");
    };
    what_realloc_moves_begins_anew => |service| check("moved", service);
    what_the_kernel_reads_into_is_written => |service| check("read-into", service);
    the_same_addresses_begin_anew => |service| prove("again", service, "again");
    writes_of_threads_are_not_lost => |service| check("threads", service);
    any_private_anonymous_memory_is_watched => |service| check("elsewhere", service);
    with_little_room_the_rest_is_not_reset => |service| check("little-room", service);
    a_child_of_fork_is_told_too_much_once => |service| check("child", service);
    what_is_no_large_allocation_is_refused => |service| check("nothing-to-tell", service);
}

/// Allocations that begin in the middle of a page.
#[test]
fn allocations_at_their_pages_end() {
    let Some(program) = c_program("written") else { return };
    for behaviour in ["allocated", "zeroed", "again", "little-room"] {
        let options = "guards=right:quarantine=0";
        run(preload(Command::new(&program).arg(behaviour), options)).expect_success();
    }
}

#[test]
fn without_content_what_is_there_is_written() {
    let Some(program) = c_program("written") else { return };
    for behaviour in ["without-content", "nothing-to-tell", "elsewhere"] {
        run(serve(Command::new(&program).arg(behaviour), "off", DEFAULT)).expect_success();
    }
}
