//! The child process of a measurement: what it must refuse to report.

use std::process::{Command, Output};

/// Runs one measurement under the C library's malloc.
fn work(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_refpage-bench"))
        .args(["work", "--case", "sparse-64", "--scale", "tiny", "--timeout", "60"])
        .args(arguments)
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the benchmark was built")
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "a failed measurement was reported: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_measurement_is_reported_as_one_json_object() {
    let output = work(&[]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in ["wall_ns", "cpu_ns", "peak_kib", "held_kib", "operations", "checked_bytes"] {
        assert!(report[field].as_u64() > Some(0), "{field}: {report}");
    }
}

#[test]
fn memory_without_the_promised_pattern_is_no_result() {
    // Fresh memory of the C library's malloc is zero.
    let complaint = complaint(&work(&["--promise", "170"]));
    assert!(complaint.contains("wrong content") && complaint.contains("0xaa"), "{complaint}");
}

#[test]
fn a_library_that_was_not_preloaded_is_no_result() {
    let complaint = complaint(&work(&["--library", "/no/such/librefpage.so"]));
    assert!(complaint.contains("not preloaded"), "{complaint}");
}
