//! The faults of heap memory that the Juliet test suite is made of, each where it is made and where it is not: large
//! allocations, and small ones that are sampled.

mod common;

use std::process::Command;

use common::traps::{RIGHT, expect_lines, expect_one_of, traps, with};
use common::{c_program, is_served, preload, run};

/// Whole pages of any size, so that both ends are at a guard.
const LARGE: &str = "131072";
const SMALL: &str = "48";

/// Allocations that end where their pages do.
const SMALL_GUARDED: &str = "guards=right:quarantine_share=100:sample=1";

/// What is told of a fault: of a touch with the size, of a free with its address.
fn fault(name: &str, verdict: &str, service: &str) {
    let is_free = verdict.contains("free of");
    // Who frees is told in any case.
    let signals: &[i32] = match is_free {
        true if is_served(service) => &[libc::SIGABRT],
        true => return,
        false => match traps(service) {
            Some(signals) => signals,
            None => return,
        },
    };
    let Some(program) = c_program("juliet") else { return };
    for (options, size) in [(RIGHT, LARGE), (SMALL_GUARDED, SMALL)] {
        let run_variant = |variant| {
            let mut command = Command::new(&program);
            run(preload(command.args([name, variant, size]), &with(service, options)))
        };
        let good = run_variant("good");
        good.expect_success();
        assert_eq!(good.stderr, "", "{}", good.what);

        let bad = run_variant("bad");
        expect_one_of(&bad, signals);
        expect_lines(&bad, &format!("refpage: {verdict} "));
        let line = bad.stderr.lines().next().unwrap_or_default();
        let size_told = format!(" allocation of {size} bytes, by 0x");
        assert!(is_free || line.contains(&size_told), "of {size} bytes: {line}");
    }
}

macro_rules! faults {
    ($($verdict:literal: $($name:ident)*;)*) => {
        for_each_service! { $($($name => |service| fault(stringify!($name), $verdict, service);)*)* }
    };
}

faults! {
    "overflow: writing to byte":
        memcpy_of_one_more
        memmove_of_one_more
        memset_of_one_more
        strcpy_without_room_for_the_end
        strncpy_by_the_sources_size
        strcat_of_one_more
        sprintf_of_one_more
        snprintf_with_the_wrong_bound
        wcscpy_counted_in_bytes
        loop_to_the_end_inclusive
        one_element_too_many
        elements_allocated_as_bytes
        index_that_is_the_count
        use_of_what_realloc_has_cut_off
        character_appended_to_a_strdup
        product_that_overflows;
    "overflow: reading from byte":
        memcpy_from_one_more
        memcmp_of_one_more
        memchr_in_one_more
        strlen_without_an_end
        strchr_without_an_end
        sum_to_the_end_inclusive
        length_that_the_sender_claims;
    "underflow: writing to byte":
        memset_from_before
        memcpy_to_before
        loop_downwards_that_writes
        index_of_what_was_not_found;
    "underflow: reading from byte":
        memcpy_from_before
        spaces_trimmed_beyond_the_first
        sum_downwards;
    "double free of":
        freed_twice
        freed_by_callee_and_caller
        freed_by_both_of_two_copies
        freed_after_realloc_moved_it
        freed_in_a_loop_that_comes_again;
    "use after free: writing to byte":
        written_after_free
        memset_after_free;
    "use after free: reading from byte":
        read_after_free
        strlen_after_free
        list_walked_by_freed_nodes
        read_after_realloc_moved_it
        function_called_out_of_freed_memory;
    "invalid free of":
        free_of_an_array_on_the_stack
        free_of_a_static_array
        free_of_a_string_in_the_program
        free_of_alloca
        free_of_a_mapping
        free_of_where_a_search_ended
        free_of_what_a_parser_has_left
        free_of_the_next_byte
        free_of_a_member;
}
