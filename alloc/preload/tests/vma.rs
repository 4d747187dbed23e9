//! What the heap looks like to the kernel: its VMAs and its pages.

mod common;

use std::process::Command;

use common::{Outcome, c_program, check_content, is_served, run, serve};

/// 10,000 blocks of up to 1 MiB would be 5 GB if their memory were filled: only `lazy` leaves it missing.
#[test]
fn ten_thousand_large_blocks_are_one_vma() {
    check_content("vma", &["many-blocks", "10000", "1048576"], "lazy");
}

#[test]
fn large_blocks_are_one_vma_without_faults_too() {
    check_content("vma", &["many-blocks", "2000", "131072"], "memset");
}

fn peak_kib(outcome: &Outcome) -> i64 {
    outcome.expect_success().stdout_text().trim().parse().expect("a number of KiB")
}

#[test]
fn scattered_pages_of_a_gigabyte_cost_what_they_cost_in_glibc() {
    let Some(program) = c_program("vma") else {
        return;
    };
    let plain = peak_kib(&run(Command::new(&program).arg("scattered-unchecked")));
    for service in ["lazy", "cow"].into_iter().filter(|service| is_served(service)) {
        for pattern in common::patterns() {
            let mut command = Command::new(&program);
            let ours = peak_kib(&run(serve(command.arg("scattered"), service, pattern)));
            assert!(ours <= plain + 25 * 1024, "{service}: peak {ours} KiB, on glibc {plain} KiB");
        }
    }
}
