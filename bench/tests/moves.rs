//! The benchmark of page moves as a command: what it measures, and what it refuses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const OWN: &str = env!("CARGO_BIN_EXE_refpage-bench");

fn run(arguments: &[&str]) -> Output {
    Command::new(OWN).args(arguments).env_remove("LD_PRELOAD").output().expect("it was built")
}

/// Whether this kernel moves pages; if not, says so.
fn moves() -> bool {
    let mover = refpage::moves::Mover::new();
    mover.inspect_err(|why| eprintln!("skipped: {why}")).is_ok()
}

#[test]
fn every_way_reports_where_its_pages_came_from() {
    if !moves() {
        return;
    }
    for case in ["clustered", "scattered, used"] {
        for (way, own) in [("move", "moved"), ("copy", "copied"), ("mremap", "remapped")] {
            let fixed = ["moves-work", "--scale", "tiny", "--timeout", "60"];
            let output = run(&[&fixed[..], &["--case", case, "--way", way]].concat());
            assert!(output.status.success(), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            for field in ["wall_ns", "cpu_ns", "vmas", "checked_bytes", own] {
                assert!(report[field].as_u64() > Some(0), "{case}, {way}: {field}: {report}");
            }
            let of = |field: &str| report[field].as_u64().unwrap();
            let all = of("moved") + of("copied") + of("remapped");
            assert_eq!(all, of("pages_after"), "{case}, {way}: {report}");
            assert_eq!(of("vmas") > 2, way == "mremap", "{case}: {report}");
        }
    }
}

#[test]
fn a_case_that_nobody_knows_is_an_error_that_names_all() {
    if !moves() {
        return;
    }
    let output = run(&["moves", "--case", "no-such-case"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    for name in ["no-such-case", "clustered", "scattered, used", "calls"] {
        assert!(complaint.contains(name), "{name}: {complaint}");
    }
}

#[test]
fn a_run_prints_its_tables_and_keeps_everything_in_a_file() {
    if !moves() {
        return;
    }
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("moves.json");
    let shape = ["moves", "--quick", "--runs", "2", "--case", "without", "--case", "calls"];
    let output = run(&[&shape[..], &["--json", json.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for expected in
        ["MOVE of 512 pages", "without references: ", "MREMAP", "less time than COPY", "over 40%"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(kept["calls"].as_array().unwrap().len(), 2, "{kept}");
    let rows = kept["cases"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{kept}");
    assert!(rows.iter().all(|row| row["measured"].as_array().unwrap().len() == 2), "{kept}");
}
