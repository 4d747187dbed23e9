//! Compaction in programs: what is used stays, what is not goes back to the kernel, and nobody notices.

mod common;

use std::process::Command;

use common::{c_program, check_content, has_tags, is_served, preload, run, skipped};

for_each_service! {
    threads_go_on_meanwhile => |service| check_content("compact", &["threads"], service);
    trimming_gives_back_what_is_free => |service| check_content("compact", &["trim"], service);
    what_was_never_written_reads_as_before => |service| check_content("compact", &["sparse"], service);
}

/// Where there are huge pages to be had, and somebody who serves what is missing.
#[test]
fn most_of_a_sparse_block_is_given_back() {
    let Some(program) = c_program("compact").filter(|_| is_served("lazy")) else { return };
    if has_tags("") {
        return skipped("memory with tags is not compacted");
    }
    let outcome =
        run(preload(Command::new(program).arg("sparse"), "service=lazy:quarantine=0:stats=1"));
    let text = outcome.expect_success().stdout_text();
    match text.lines().next() {
        Some("gave most") => {}
        // For a time, where memory was slow to come.
        _ if outcome.stderr.contains("no_huge_page") => skipped("huge pages are hard to get"),
        _ if outcome.stderr.contains("huge_moved           0\n") => {
            skipped("this kernel cannot move pages")
        }
        told => panic!("{told:?}\n{}", outcome.stderr),
    }
}
