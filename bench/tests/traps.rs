//! The benchmark of guards and quarantine as a command: what it measures, and what it refuses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const OWN: &str = env!("CARGO_BIN_EXE_refpage-bench");

fn run(arguments: &[&str]) -> Output {
    Command::new(OWN).args(arguments).env_remove("LD_PRELOAD").output().expect("it was built")
}

/// Runs one measurement under the C library's malloc.
fn work(arguments: &[&str]) -> Output {
    let fixed = ["traps-work", "--scale", "tiny", "--timeout", "60"];
    run(&[&fixed, arguments].concat())
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "a failed measurement was reported: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_measurement_reports_the_address_space_too() {
    let of_malloc: &[&str] = &[];
    for provider in [of_malloc, &["--baseline", "guarded"], &["--baseline", "guarded-quarantine"]] {
        for case in ["dense-64K", "sparse-1M", "random", "calloc-1M"] {
            let output = work(&[&["--case", case], provider].concat());
            assert!(output.status.success(), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            for field in ["wall_ns", "cpu_ns", "peak_kib", "operations", "checked_bytes"] {
                assert!(report[field].as_u64() > Some(0), "{case}: {field}: {report}");
            }
            let fields =
                ["vmas_start", "vmas_most", "vmas_end", "page_tables_kib", "touched_pages"];
            for field in fields {
                assert!(report["space"][field].as_u64() > Some(0), "{case}: {field}: {report}");
            }
        }
    }
}

#[test]
fn memory_without_the_promised_pattern_is_no_result() {
    // Fresh memory of the C library's malloc is zero.
    for case in ["dense-1M", "sparse-1M"] {
        let complaint = complaint(&work(&["--case", case, "--promise", "170"]));
        assert!(complaint.contains("wrong content") && complaint.contains("0xaa"), "{complaint}");
    }
}

#[test]
fn a_library_that_was_not_preloaded_is_no_result() {
    let output = work(&["--case", "dense-1M", "--library", "/no/such/librefpage.so"]);
    assert!(complaint(&output).contains("not preloaded"));
}

#[test]
fn a_case_that_nobody_knows_is_an_error_that_names_all() {
    let complaint = complaint(&run(&["traps", "--case", "no-such-case"]));
    for name in ["no-such-case", "dense-64K", "sparse-16M", "random", "calloc-1M"] {
        assert!(complaint.contains(name), "{name}: {complaint}");
    }
}

#[test]
fn a_run_prints_its_tables_and_keeps_everything_in_files() {
    if !PathBuf::from(OWN).with_file_name("librefpage.so").exists() {
        println!("skipped: no librefpage.so beside the benchmark: cargo build -p refpage-preload");
        return;
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let [json, csv] = ["traps.json", "traps.csv"].map(|name| directory.join(name));
    let files = ["--json", json.to_str().unwrap(), "--csv", csv.to_str().unwrap()];
    let shape = ["traps", "--quick", "--runs", "2", "--case", "e-1M", "--with", "glibc"];
    let output = run(&[&shape[..], &files].concat());
    let [text, messages] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    // A library without traps refuses the options: that has to be a failure, and the only one.
    let refused = messages.contains("ignored in REFPAGE_OPTIONS");
    assert_eq!(output.status.code(), Some(i32::from(refused)), "{output:?}");
    for expected in
        ["dense-1M: ", "sparse-1M: ", "mmap+mprotect, quarantine", "VMAs", "promises: ", "glibc"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let cases = kept["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2, "{kept}");
    let lines = fs::read_to_string(csv).unwrap();
    let measured: usize = cases
        .iter()
        .flat_map(|case| case["rows"].as_array().unwrap())
        .map(|row| {
            let measured = row["measured"].as_array().unwrap().len();
            assert!(measured == 2 || refused, "{row}");
            measured
        })
        .sum();
    assert_eq!(lines.lines().count(), 1 + measured, "{lines}");
    assert!(lines.contains("dense-1M,\"refpage, no traps\",0,"), "{lines}");
}
