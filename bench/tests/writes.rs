//! The benchmark of written pages as a command: what it measures, and what it reports of means that are not here.

use std::process::{Command, Output};

const OWN: &str = env!("CARGO_BIN_EXE_refpage-bench");

fn run(arguments: &[&str]) -> Output {
    Command::new(OWN).args(arguments).env_remove("LD_PRELOAD").output().expect("it was built")
}

/// One measurement's report.
fn work(pattern: &str, means: &str) -> serde_json::Value {
    let fixed = ["writes-work", "--mib", "4", "--timeout", "60"];
    let output = run(&[&fixed[..], &["--pattern", pattern, "--means", means]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[test]
fn every_means_tells_the_written_pages_or_why_it_is_not_here() {
    for means in ["write-watch", "mprotect", "soft-dirty"] {
        for (pattern, share) in [("sparse", 100), ("tenth", 10), ("all", 1)] {
            let report = work(pattern, means);
            if let Some(why) = report["absent"].as_str() {
                assert!(means != "mprotect" && !why.is_empty(), "{report}");
                println!("skipped: {means}: {why}");
                continue;
            }
            let number = |field: &str| report["measured"][field].as_u64().expect(field);
            assert_eq!(number("written"), (number("pages") / share).max(1), "{report}");
            // Five laps of both kinds.
            assert_eq!(number("checked_pages"), 10 * number("written"), "{report}");
            for field in ["reset_ns", "first_ns", "look_ns", "cycle_ns", "cycle_cpu_ns"] {
                assert!(number(field) > 0, "{means}: {field}: {report}");
            }
        }
    }
}

#[test]
fn mprotect_splits_the_mapping_where_single_pages_are_written() {
    let report = work("tenth", "mprotect");
    let number = |field: &str| report["measured"][field].as_u64().expect(field);
    let more = number("vmas_most") - number("vmas_start");
    assert!(more > number("written"), "{report}");
}

#[test]
fn the_command_prints_a_table_for_each_pattern_and_the_targets() {
    let output = run(&["writes", "--mib", "2", "--runs", "1"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["sparse: ", "tenth: ", "all: ", "mprotect + SIGSEGV", "targets: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!run(&["writes", "--runs", "0"]).status.success());
}
