//! The soak as its user meets it: it passes when all is well, and whatever goes wrong is noticed and shown.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

/// The binary, with the library that it preloads beside it: testing this package alone does not build that.
fn soak(arguments: &[&str]) -> Output {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let binary = Path::new(env!("CARGO_BIN_EXE_refpage-soak"));
        let profile_dir = binary.parent().expect("target/<profile>/refpage-soak");
        let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("{} names no profile", profile_dir.display()),
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "refpage-preload", "--lib", "--profile", profile]);
        build.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
        build.arg("--target-dir").arg(profile_dir.parent().expect("target"));
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "{build:?}: {built}");
        binary.to_owned()
    });
    let mut command = Command::new(&*BINARY);
    command.args(arguments).env_remove("REFPAGE_OPTIONS").env_remove("LD_PRELOAD");
    command.output().expect("the soak was built")
}

fn skipped(reason: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // libtest captures what is printed, but not this. It has nowhere to go if it fails.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

fn text(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{stdout}{stderr}")
}

/// Some seconds of one service. The test is skipped where it is not to be had.
fn passes(service: &str) {
    let output = soak(&["--service", service, "--seconds", "4"]);
    let text = text(&output);
    if text.contains("is not to be had") {
        return skipped(text);
    }
    assert!(output.status.success(), "{text}");
    assert!(text.contains("seed ") && text.contains("passed"), "{text}");
}

#[test]
fn lazy_passes() {
    passes("lazy");
}

#[test]
fn cow_passes() {
    passes("cow");
}

#[test]
fn eager_passes() {
    passes("eager");
}

#[test]
fn memset_passes() {
    passes("memset");
}

/// What is said when this goes wrong. (memset is to be had everywhere.)
fn failure(inject: &str, patience: &str) -> String {
    let mut arguments = vec!["--service", "memset", "--seconds", "60", "--seed", "8"];
    arguments.extend(["--patience", patience, "--inject", inject]);
    let output = soak(&arguments);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED: service memset, seed 8: "), "{text}");
    text
}

#[test]
fn a_wrong_byte_is_noticed_with_its_place_and_step() {
    let text = failure("wrong-byte", "60");
    for part in [
        "lane 0 ",
        "step 100,",
        "byte 70000 of a block of 100000 bytes",
        "expected 0xaa of Pattern, found 0x01",
        "1 of 1 intervals are wrong",
    ] {
        assert!(text.contains(part), "no '{part}': {text}");
    }
}

#[test]
fn a_hang_is_noticed_and_every_threads_stack_is_shown() {
    let text = failure("hang", "6");
    assert!(text.contains("no progress for 6 s: process "), "{text}");
    // gdb's words, or /proc's.
    let by_gdb = text.contains("Thread 1 (") && text.contains("nanosleep");
    let by_proc = text.contains("no stacks by gdb: ") && text.contains("wchan: ");
    assert!(by_gdb || by_proc, "{text}");
}

#[test]
fn a_signal_an_exit_code_and_a_line_on_stderr_are_noticed() {
    for (inject, part) in [
        ("crash", "was ended by signal 9"),
        ("exit", "ended with exit code 3"),
        ("line", "something was written to stderr"),
    ] {
        let text = failure(inject, "60");
        assert!(text.contains(part), "{inject}: {text}");
    }
    assert!(failure("line", "60").contains("refpage: a line on stderr"));
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    let choices = |seed: &str| {
        let name = format!("choices.{}.{seed}.json", std::process::id());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let path = file.to_str().expect("a path that is text");
        let service = ["--service", "memset", "--seconds", "60", "--steps", "400"];
        let output = soak(&[&service[..], &["--seed", seed, "--json", path]].concat());
        assert!(output.status.success(), "{}", text(&output));
        let json = std::fs::read_to_string(&file).expect("the results");
        // A leftover in cargo's target directory does no harm.
        let _ = std::fs::remove_file(&file);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        json["services"][0]["choices"].clone()
    };
    let first = choices("5");
    assert!(first.as_array().is_some_and(|lanes| lanes.len() == 3), "{first}");
    assert!(!first.to_string().contains("0000000000000000"), "{first}");
    assert_eq!(first, choices("5"));
    assert_ne!(first, choices("6"));
}

#[test]
fn nothing_is_left_of_a_tree() {
    let before = leftovers();
    failure("wrong-byte", "60");
    assert_eq!(leftovers(), before);
}

/// Files of supervisors that have ended.
fn leftovers() -> usize {
    let entries = std::fs::read_dir(std::env::temp_dir()).expect("a directory for temporary files");
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let supervisors = names.filter_map(|name| Some(name.strip_prefix("refpage-soak.")?.to_owned()));
    supervisors.filter(|number| !Path::new("/proc").join(number).exists()).count()
}
