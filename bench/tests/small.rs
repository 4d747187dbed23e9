//! The benchmark of small blocks as a command: what it measures, and what it refuses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const OWN: &str = env!("CARGO_BIN_EXE_refpage-bench");

fn run(arguments: &[&str]) -> Output {
    Command::new(OWN).args(arguments).env_remove("LD_PRELOAD").output().expect("it was built")
}

/// Runs one measurement under the C library's malloc.
fn work(arguments: &[&str]) -> Output {
    let fixed = ["small-work", "--scale", "tiny", "--timeout", "60"];
    run(&[&fixed, arguments].concat())
}

fn complaint(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "a failed measurement was reported: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_workload_reports_one_json_object() {
    let workloads = [
        "server",
        "handoff",
        "lifetimes",
        "batches-6",
        "batches-8",
        "cache-scratch",
        "cache-thrash",
        "compiler",
    ];
    for workload in workloads {
        for threads in ["1", "2"] {
            let output = work(&["--workload", workload, "--threads", threads]);
            assert!(output.status.success(), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let fields =
                ["wall_ns", "cpu_ns", "peak_kib", "held_kib", "operations", "checked_bytes"];
            for field in fields {
                assert!(report[field].as_u64() > Some(0), "{workload}: {field}: {report}");
            }
            assert!(report.get("decayed_kib").is_none(), "{report}");
        }
    }
}

#[test]
fn what_is_held_later_is_reported_where_it_is_waited_for() {
    let output = work(&["--workload", "handoff", "--threads", "2", "--decay"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["decayed_kib"].as_u64() > Some(0), "{report}");
}

#[test]
fn memory_without_the_promised_pattern_is_no_result() {
    // Fresh memory of the C library's malloc is zero.
    let output = work(&["--workload", "server", "--threads", "2", "--promise", "170"]);
    let complaint = complaint(&output, 1);
    assert!(complaint.contains("wrong content") && complaint.contains("0xaa"), "{complaint}");
}

#[test]
fn a_library_that_was_not_preloaded_is_no_result() {
    let library = ["--library", "/no/such/librefpage.so"];
    let output = work(&[&["--workload", "server", "--threads", "1"], &library[..]].concat());
    assert!(complaint(&output, 1).contains("not preloaded"));
}

#[test]
fn a_baseline_is_no_allocator() {
    let output = work(&["--workload", "server", "--threads", "1", "--baseline", "warm-memset"]);
    assert!(complaint(&output, 1).contains("not a baseline"));
}

#[test]
fn a_case_that_nobody_knows_is_an_error_that_names_all() {
    let complaint = complaint(&run(&["small", "--case", "no-such-case"]), 1);
    for name in ["no-such-case", "server-8", "cache-thrash-1", "sqlite3"] {
        assert!(complaint.contains(name), "{name}: {complaint}");
    }
}

/// librefpage.so beside the benchmark; without it the command has nothing to measure.
fn own_library() -> Option<PathBuf> {
    let library = PathBuf::from(OWN).with_file_name("librefpage.so");
    if !library.exists() {
        println!("skipped: no librefpage.so beside the benchmark: cargo build -p refpage-preload");
    }
    library.exists().then_some(library)
}

#[test]
fn a_library_that_is_not_there_is_an_error() {
    if own_library().is_some() {
        let output = run(&["small", "--quick", "--with", "mine=/no/such/lib.so"]);
        assert!(complaint(&output, 1).contains("/no/such/lib.so"), "{output:?}");
        let output = run(&["small", "--quick", "--with", "gemalloc"]);
        assert!(complaint(&output, 1).contains("no allocator is called 'gemalloc'"), "{output:?}");
    }
}

#[test]
fn a_run_prints_its_tables_and_keeps_everything_in_files() {
    if own_library().is_none() {
        return;
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let [json, csv] = ["small.json", "small.csv"].map(|name| directory.join(name));
    let output = run(&[
        "small",
        "--quick",
        "--runs",
        "2",
        "--case",
        "handoff",
        "--threads",
        "1",
        "--threads",
        "8",
        "--with",
        "glibc",
        "--json",
        json.to_str().unwrap(),
        "--csv",
        csv.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "handoff: ",
        "× fastest",
        "geometric means over 2 cases",
        "× glibc",
        "targets: ",
        "8 threads, worst: handoff-8",
        "not measured",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(kept["cases"].as_array().unwrap().len(), 2, "{kept}");
    assert!(kept["means"].as_array().unwrap().iter().any(|mean| mean["base"] == "glibc"));
    let lines = fs::read_to_string(csv).unwrap();
    // A heading, and two cases with three peers in two rounds.
    assert_eq!(lines.lines().count(), 1 + 2 * 3 * 2, "{lines}");
}
