//! What touches memory that is not its own ends at once, and the first line on stderr says what it was. Each misuse has
//! a control, which is the same without it.

mod common;

use common::traps::{
    GUARDED, RIGHT, SAMPLED, Touch, expect_lines, expect_no_trap, expect_one_of, touch, traps,
    traps_of, with,
};
use common::{has_tags, is_quick, is_served, skipped};

/// From the least large one on: whole pages, a part of one more, huge pages and a little.
fn sizes() -> &'static [&'static str] {
    const ALL: [&str; 6] = ["65536", "100000", "1048576", "2097152", "3145733", "67108864"];
    if is_quick() { &ALL[..2] } else { &ALL }
}

const READ_AND_WRITE: [&str; 2] = ["read", "write"];

/// A touch ends with a signal, and its line says exactly this of it.
#[track_caller]
fn ends(service: &str, options: &str, words: [&str; 5], verdict: &str) {
    let Some(signals) = traps_of(service, words[0]) else { return };
    let options = with(service, options);
    expect_no_trap(&options, words);
    let Some((outcome, touch)) = touch(&options, words) else { return };
    match words[4] {
        // The parent's exit code tells.
        "child" | "born-child" => {
            let code = outcome.status.code().unwrap_or_default();
            assert!(signals.contains(&(code - 100)), "{outcome:?}");
        }
        _ => expect_one_of(&outcome, signals),
    }
    expect_lines(&outcome, &touch.line(verdict, words[3]));
}

/// The same by reads and writes, of allocations of every size.
#[track_caller]
fn all_end(service: &str, options: &str, allocation: &str, places: &[&str], verdict: &str) {
    if traps_of(service, allocation).is_none() {
        return;
    }
    for size in sizes() {
        for place in places {
            for access in READ_AND_WRITE {
                ends(service, options, [allocation, size, place, access, "here"], verdict);
            }
        }
    }
}

const EVERYWHERE: &[&str] = &["first", "middle", "last"];

for_each_service! {
    the_page_behind_a_large_allocation =>
        |service| all_end(service, GUARDED, "malloc", &["behind", "page-behind"], "overflow");
    the_page_before_a_large_allocation =>
        |service| all_end(service, GUARDED, "malloc", &["before", "page-before"], "underflow");
    a_freed_large_allocation =>
        |service| all_end(service, GUARDED, "freed", EVERYWHERE, "use after free");
    a_freed_large_allocation_that_was_never_touched =>
        |service| all_end(service, GUARDED, "untouched-freed", &["first", "last"], "use after free");
    a_large_allocation_freed_a_thousand_frees_ago => freed_long_ago;
    the_page_behind_a_large_calloc =>
        |service| all_end(service, GUARDED, "calloc", &["behind"], "overflow");
    the_page_before_a_large_calloc =>
        |service| all_end(service, GUARDED, "calloc", &["before"], "underflow");
    a_freed_large_calloc =>
        |service| all_end(service, GUARDED, "freed-calloc", EVERYWHERE, "use after free");
    the_page_behind_an_aligned_allocation =>
        |service| all_end(service, GUARDED, "aligned-alloc", &["behind"], "overflow");
    the_page_before_an_aligned_allocation =>
        |service| all_end(service, GUARDED, "aligned-alloc", &["before"], "underflow");
    one_byte_beside_one_among_others => |service| {
        all_end(service, GUARDED, "among-others", &["behind"], "overflow");
        all_end(service, GUARDED, "among-others", &["before"], "underflow");
    };
    /// As soon as malloc's alignment allows.
    the_first_byte_behind_one_at_its_pages_end => |service| {
        all_end(service, RIGHT, "malloc", &["rounded"], "overflow");
        all_end(service, RIGHT, "calloc", &["rounded"], "overflow");
    };
    what_realloc_has_moved_from =>
        |service| all_end(service, GUARDED, "moved-from", EVERYWHERE, "use after free");
    what_realloc_has_moved_to =>
        |service| all_end(service, GUARDED, "moved-to", &["behind"], "overflow");
    what_realloc_has_cut_off =>
        |service| all_end(service, GUARDED, "shrunk", &["behind"], "overflow");
    what_realloc_has_cut_off_at_the_pages_end =>
        |service| all_end(service, RIGHT, "shrunk", &["rounded"], "overflow");
    what_is_behind_one_that_grew_again =>
        |service| all_end(service, GUARDED, "grown-again", &["behind"], "overflow");

    another_thread_ends_it_all => elsewhere_all;
    a_child_ends_and_its_parent_lives => children;
    what_another_thread_freed =>
        |service| all_end(service, GUARDED, "freed-by-a-thread", EVERYWHERE, "use after free");
    a_system_call_fails_and_the_process_goes_on => system_calls;
    the_programs_own_handler_runs => handled;
    the_programs_own_handler_jumps_and_the_program_goes_on => jumped;

    bytes_behind_are_looked_at_when_it_is_freed => slack;
    a_large_allocation_is_freed_twice => freed_twice;
    another_byte_of_a_large_allocation_is_freed => freed_inside;

    sampled_small_allocations_trap => sampled;
    sampled_small_allocations_are_looked_at_when_they_are_freed => sampled_slack;
    sampled_small_allocations_are_freed_once => sampled_freed_twice;
    guards_are_on_by_default =>
        |service| all_end(service, "", "malloc", &["behind"], "overflow");
    a_lower_threshold_makes_more_of_them_large => |service| {
        let options = "threshold=4096:quarantine_share=100";
        for (allocation, place, verdict) in [
            ("malloc", "behind", "overflow"),
            ("calloc", "before", "underflow"),
            ("freed", "middle", "use after free"),
        ] {
            ends(service, options, [allocation, "5000", place, "write", "here"], verdict);
        }
    };
    backtraces_follow_the_line => backtraced;
    without_guards_nothing_is_told => unguarded;
}

fn freed_long_ago(service: &str) {
    for size in ["65536", "100000", "1048576"] {
        for (place, access) in [("first", "write"), ("middle", "read"), ("last", "write")] {
            let words = ["freed-long-ago", size, place, access, "here"];
            ends(service, GUARDED, words, "use after free");
        }
    }
}

/// What is misused in main's stead, or by someone else than who allocated it.
const ELSEWHERE: [([&str; 3], &str); 4] = [
    (["malloc", "65536", "behind"], "overflow"),
    (["calloc", "2097152", "before"], "underflow"),
    (["freed", "100000", "last"], "use after free"),
    (["freed-calloc", "3145733", "middle"], "use after free"),
];

/// Those that trap under a service.
fn elsewhere_in(service: &str) -> impl Iterator<Item = ([&'static str; 3], &'static str)> {
    let traps =
        move |&([allocation, ..], _): &([&str; 3], &str)| traps_of(service, allocation).is_some();
    ELSEWHERE.into_iter().filter(traps)
}

fn elsewhere(service: &str, place_of: &str) {
    for ([allocation, size, place], verdict) in ELSEWHERE {
        for access in READ_AND_WRITE {
            ends(service, GUARDED, [allocation, size, place, access, place_of], verdict);
        }
    }
}

fn elsewhere_all(service: &str) {
    elsewhere(service, "thread");
}

fn children(service: &str) {
    elsewhere(service, "child");
    elsewhere(service, "born-child");
}

/// Whether the fault handler is asked for every page of such an allocation: a large calloc's are the kernel's.
fn is_asked(service: &str, allocation: &str) -> bool {
    service == "lazy" && !allocation.contains("calloc")
}

fn system_calls(service: &str) {
    if traps(service).is_none() {
        return;
    }
    for ([allocation, size, place], verdict) in elsewhere_in(service) {
        for (call, access) in [("read-call", "write"), ("write-call", "read")] {
            let options = with(service, GUARDED);
            let words = [allocation, size, place, call, "here"];
            let Some((outcome, touch)) = touch(&options, words) else { return };
            outcome.expect_success();
            // Who was asked for the page tells. Others do not learn of it.
            if is_asked(service, allocation) || !outcome.stderr.is_empty() {
                expect_lines(&outcome, &touch.line(verdict, access));
            }
        }
    }
}

fn handled(service: &str) {
    let Some(_) = traps(service) else { return };
    for ([allocation, size, place], verdict) in elsewhere_in(service) {
        for access in READ_AND_WRITE {
            let options = with(service, GUARDED);
            let words = [allocation, size, place, access, "handled"];
            expect_no_trap(&options, words);
            let Some((outcome, touch)) = touch(&options, words) else { return };
            assert_eq!(outcome.status.code(), Some(7), "{outcome:?}");
            // A handler of the program's takes the place of one of ours.
            if is_asked(service, allocation) || !outcome.stderr.is_empty() {
                expect_lines(&outcome, &touch.line(verdict, access));
            }
        }
    }
}

fn jumped(service: &str) {
    let Some(_) = traps(service) else { return };
    for ([allocation, size, place], verdict) in elsewhere_in(service) {
        let options = with(service, GUARDED);
        let words = [allocation, size, place, "write", "jumped"];
        expect_no_trap(&options, words);
        let Some((outcome, touch)) = touch(&options, words) else { return };
        outcome.expect_success();
        let first = touch.line(verdict, "write");
        let told = outcome.refpage_lines();
        if is_asked(service, allocation) || !told.is_empty() {
            assert!(told.first() == Some(&&*first), "{first:?} expected: {outcome:?}");
        }
    }
}

/// Ends with SIGABRT and one line, which may go on behind a blank at its end.
#[track_caller]
fn aborts(options: &str, words: [&str; 5], line: impl Fn(&Touch) -> String) {
    if has_tags("") {
        return skipped("memory has tags, which tell otherwise: the suite `tags`");
    }
    expect_no_trap(options, words);
    let Some((outcome, touch)) = touch(options, words) else { return };
    outcome.expect_signal(libc::SIGABRT);
    expect_lines(&outcome, &line(&touch));
}

/// What is behind an allocation in its last page does not trap. Any service can look at it.
fn slack(service: &str) {
    if !is_served(service) {
        return;
    }
    for allocation in ["malloc", "calloc", "moved-to", "shrunk"] {
        for size in ["65552", "100000", "1048592"] {
            for place in ["rounded", "end-of-page"] {
                let words = [allocation, size, place, "write", "then-freed"];
                aborts(&with(service, GUARDED), words, written_before_freed);
            }
        }
    }
}

fn written_before_freed(touch: &Touch) -> String {
    let Touch { byte, size, block, .. } = touch;
    format!(
        "refpage: overflow: byte {byte} of an allocation of {size} bytes at {block} was written before it was freed"
    )
}

fn freed_twice(service: &str) {
    if !is_served(service) {
        return;
    }
    for options in [GUARDED, RIGHT, "guards=off:quarantine_share=100"] {
        for (allocation, size) in [
            ("freed", "65536"),
            ("freed", "100000"),
            ("freed", "3145733"),
            ("freed-calloc", "2097152"),
            ("freed-long-ago", "100000"),
            ("freed-by-a-thread", "100000"),
            ("moved-from", "100000"),
        ] {
            let words = [allocation, size, "first", "free", "here"];
            aborts(&with(service, options), words, |touch| {
                format!("refpage: double free of {}, a large allocation", touch.address)
            });
        }
    }
}

fn freed_inside(service: &str) {
    if !is_served(service) {
        return;
    }
    for options in [GUARDED, RIGHT] {
        for place in ["middle", "last", "rounded", "before"] {
            let words = ["among-others", "100000", place, "free", "here"];
            aborts(&with(service, options), words, |touch| {
                format!("refpage: invalid free of {}, ", touch.address)
            });
        }
    }
}

fn sampled(service: &str) {
    for (allocation, size, place, verdict) in [
        ("malloc", "24", "rounded", "overflow"),
        ("malloc", "48", "rounded", "overflow"),
        ("malloc", "5000", "rounded", "overflow"),
        ("malloc", "24", "page-behind", "overflow"),
        ("calloc", "24", "rounded", "overflow"),
        ("among-others", "24", "rounded", "overflow"),
        ("moved-to", "800", "rounded", "overflow"),
        ("malloc", "24", "before", "underflow"),
        ("calloc", "24", "before", "underflow"),
        ("among-others", "24", "before", "underflow"),
        ("freed", "24", "first", "use after free"),
        ("freed", "24", "last", "use after free"),
        ("freed", "5000", "middle", "use after free"),
        ("freed-calloc", "24", "first", "use after free"),
        ("freed-long-ago", "24", "first", "use after free"),
        ("freed-by-a-thread", "24", "first", "use after free"),
        ("moved-from", "24", "first", "use after free"),
    ] {
        for access in READ_AND_WRITE {
            for place_of in ["here", "thread", "child"] {
                ends(service, SAMPLED, [allocation, size, place, access, place_of], verdict);
            }
        }
    }
}

fn sampled_slack(service: &str) {
    if traps(service).is_none() {
        return;
    }
    for size in ["17", "24", "31"] {
        let words = ["malloc", size, "end-of-page", "write", "then-freed"];
        aborts(&with(service, SAMPLED), words, written_before_freed);
    }
}

fn sampled_freed_twice(service: &str) {
    if traps(service).is_none() {
        return;
    }
    for allocation in ["freed", "freed-calloc", "freed-long-ago", "moved-from"] {
        let words = [allocation, "24", "first", "free", "here"];
        aborts(&with(service, SAMPLED), words, |touch| {
            format!("refpage: double free of {}, a ", touch.address)
        });
    }
}

/// What they say is not looked at here, but that they are there, and leave the first line as it is.
fn backtraced(service: &str) {
    let options = format!("{SAMPLED}:backtraces=on");
    for ([allocation, size, place], verdict) in [
        (["freed", "100000", "first"], "use after free"),
        (["malloc", "24", "rounded"], "overflow"),
    ] {
        let words = [allocation, size, place, "write", "here"];
        ends(service, &options, words, verdict);
        if traps(service).is_none() {
            return;
        }
        let Some((outcome, _)) = touch(&with(service, &options), words) else { return };
        assert!(outcome.stderr.lines().count() > 1, "{outcome:?}");
    }
}

/// Nor is there one who looks: what is in the last page is anybody's.
fn unguarded(service: &str) {
    if !is_served(service) {
        return;
    }
    for options in ["guards=off", "guards=off:quarantine=0"] {
        for words in [
            ["malloc", "100000", "rounded", "write", "then-freed"],
            ["calloc", "100000", "end-of-page", "write", "then-freed"],
        ] {
            let Some((outcome, _)) = touch(&with(service, options), words) else { return };
            // The program minds.
            assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
            assert!(outcome.stderr.contains("nobody minds"), "{outcome:?}");
            assert_eq!(outcome.refpage_lines(), [""; 0], "{outcome:?}");
        }
    }
}
