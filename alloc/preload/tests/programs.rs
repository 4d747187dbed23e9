//! Real programs do on refpage what they do without it: the same output, byte for byte, and the same end.

mod common;

use std::process::Command;

use common::{Outcome, ScratchDir, have, preload, run};

/// The options each program runs with: the best service, another pattern, and the ones that need nothing.
const OPTIONS: [&str; 4] = ["", "pattern=0xdeadbeef", "service=memset", "service=off"];

/// Runs a script in an empty directory of its own. Its output names no absolute path: no run has the
/// directory of another.
fn outcome(script: &str, options: Option<&str>) -> Outcome {
    let dir = ScratchDir::new("program");
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(&dir.0);
    shell.env("HOME", "/nonexistent").env("LC_ALL", "C").env("TZ", "UTC");
    shell.env_remove("LD_PRELOAD").env_remove("REFPAGE_OPTIONS");
    if let Some(options) = options {
        preload(&mut shell, options);
    }
    run(&mut shell)
}

/// Runs a script that needs these programs without refpage and with it, and compares.
fn check(needs: &[&str], script: &str) {
    if !needs.iter().all(|program| have(program)) {
        return;
    }
    let plain = outcome(script, None);
    assert!(plain.status.success(), "it runs without refpage: {}", plain.stderr);
    assert!(!plain.stdout.is_empty(), "it prints what can be compared");
    for options in OPTIONS {
        let ours = outcome(script, Some(options));
        assert_eq!(ours.status, plain.status, "with options {options:?}: {}", ours.stderr);
        let same = ours.stdout == plain.stdout;
        assert!(same, "with options {options:?}: {}", difference(&plain.stdout, &ours.stdout));
        assert_eq!(ours.refpage_lines(), [""; 0], "with options {options:?}");
    }
}

/// The first line that differs.
fn difference(plain: &[u8], ours: &[u8]) -> String {
    let (plain, ours) = (String::from_utf8_lossy(plain), String::from_utf8_lossy(ours));
    let pair = plain.lines().zip(ours.lines()).find(|(plain, ours)| plain != ours);
    format!("{pair:?}, of {} and {} bytes", plain.len(), ours.len())
}

#[test]
fn python_works_as_ever() {
    check(&["python3"], include_str!("programs/python.sh"));
}

#[test]
fn python_with_all_objects_on_malloc_works_as_ever() {
    check(
        &["python3"],
        concat!("export PYTHONMALLOC=malloc\n", include_str!("programs/python.sh")),
    );
}

#[test]
fn git_makes_the_same_objects() {
    check(&["git", "seq"], include_str!("programs/git.sh"));
}

#[test]
fn gcc_makes_the_same_object_file() {
    check(&["gcc", "awk"], include_str!("programs/gcc.sh"));
}

#[test]
fn sqlite_answers_as_ever() {
    check(&["sqlite3"], include_str!("programs/sqlite.sh"));
}

#[test]
fn tar_and_xz_make_the_round_trip() {
    check(&["tar", "xz", "seq"], include_str!("programs/tar.sh"));
}

#[test]
fn node_works_as_ever() {
    check(&["node"], include_str!("programs/node.sh"));
}

#[test]
fn perl_works_as_ever() {
    check(&["perl"], include_str!("programs/perl.sh"));
}

#[test]
fn bash_with_many_subshells_works_as_ever() {
    check(&["bash"], include_str!("programs/bash.sh"));
}

#[test]
fn sort_with_little_and_much_memory_works_as_ever() {
    check(&["sort", "seq"], include_str!("programs/sort.sh"));
}

#[test]
fn ls_and_find_list_what_is_there() {
    check(&["ls", "find", "seq"], include_str!("programs/ls.sh"));
}

#[test]
fn openssl_works_as_ever() {
    check(&["openssl", "seq"], include_str!("programs/openssl.sh"));
}
