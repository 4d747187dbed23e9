//! The child process of a measurement: what it must refuse to report.

use std::process::{Command, Output};

use refpage_bench::peers::{self, Missing, Peer, Source};

/// Runs one measurement under the C library's malloc.
fn work(arguments: &[&str]) -> Output {
    work_under(&peers::glibc(), arguments)
}

/// Runs one measurement under an allocator.
fn work_under(peer: &Peer, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refpage-bench"));
    command.args(["work", "--case", "sparse-64", "--scale", "tiny", "--timeout", "60"]);
    peers::surround(&mut command, peer);
    if let Source::Preload(library) = &peer.source {
        command.env("LD_PRELOAD", library).arg("--library").arg(library);
    }
    command.args(arguments).output().expect("the benchmark was built")
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

#[test]
fn allocators_that_are_asked_to_fill_large_blocks_do() {
    for (name, byte) in [("glibc-perturb", 0xaa), ("jemalloc-junk", 0xa5_u8)] {
        match peers::named(name).expect("a known name") {
            Ok(peer) => {
                let output = work_under(&peer, &["--promise", &byte.to_string()]);
                assert!(output.status.success(), "{name}: {output:?}");
            }
            Err(Missing { remedy, .. }) => println!("skipped: {name}: {remedy}"),
        }
    }
}
