//! Real programs do on refpage what they do without it: the same output, byte for byte, and the same end.

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::confine::{Nobody, only_tracing};
use common::{Outcome, ScratchDir, have, is_served, library, preload, run, skipped};

/// The options each program runs with: the best service, another pattern, and each of the lesser ones.
const OPTIONS: [&str; 6] =
    ["", "pattern=0xdeadbeef", "service=cow", "service=eager", "service=memset", "service=off"];

fn shell(script: &str, dir: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-euc", script]).current_dir(dir);
    shell.env("HOME", "/nonexistent").env("LC_ALL", "C").env("TZ", "UTC");
    shell.env_remove("LD_PRELOAD").env_remove("REFPAGE_OPTIONS");
    shell
}

/// Runs a script in an empty directory of its own. Its output names no absolute path: no run has the
/// directory of another.
fn outcome(script: &str, options: Option<&str>) -> Outcome {
    let dir = ScratchDir::new("program");
    let mut shell = shell(script, &dir.0);
    if let Some(options) = options {
        preload(&mut shell, options);
    }
    run(&mut shell)
}

/// The same, for a user without privileges and with the best service that one gets; with CAP_SYS_PTRACE, which
/// opens a userfaultfd, it is `lazy`.
fn outcome_for_nobody(script: &str, with_refpage: bool, traces: bool) -> Option<Outcome> {
    let nobody = Nobody::new()?;
    let mut shell = shell(script, &nobody.own_dir());
    if traces {
        only_tracing(&mut shell, Nobody::ID);
    } else {
        shell.uid(Nobody::ID).gid(Nobody::ID);
    }
    if with_refpage {
        shell.env("LD_PRELOAD", nobody.bring(&library()));
    }
    Some(run(&mut shell))
}

/// Runs a script that needs these programs without refpage and with it, and compares.
fn check(needs: &[&str], script: &str) {
    check_with(&OPTIONS, needs, script);
}

fn check_with(all_options: &[&str], needs: &[&str], script: &str) {
    if !needs.iter().all(|program| have(program)) {
        return;
    }
    let plain = outcome(script, None);
    assert!(plain.status.success(), "it runs without refpage: {}", plain.stderr);
    assert!(!plain.stdout.is_empty(), "it prints what can be compared");
    for options in all_options {
        let service = options.strip_prefix("service=").filter(|service| *service != "off");
        if service.is_none_or(is_served) {
            compare(&outcome(script, Some(options)), &plain, &format!("with options {options:?}"));
        }
    }
}

/// The same for a user without privileges.
fn check_for_nobody(needs: &[&str], script: &str) {
    if !needs.iter().all(|program| have(program)) {
        return;
    }
    let Some(plain) = outcome_for_nobody(script, false, false) else { return };
    if !plain.status.success() {
        // A program below a home that nobody may enter.
        return skipped(format_args!("nobody cannot run {needs:?} here: {}", plain.stderr.trim()));
    }
    assert!(!plain.stdout.is_empty(), "it prints what can be compared");
    for traces in [false, true] {
        let ours = outcome_for_nobody(script, true, traces).expect("there was one before");
        compare(&ours, &plain, if traces { "for nobody, who traces" } else { "for nobody" });
    }
}

fn compare(ours: &Outcome, plain: &Outcome, how: &str) {
    assert_eq!(ours.status, plain.status, "{how}: {}", ours.stderr);
    let same = ours.stdout == plain.stdout;
    assert!(same, "{how}: {}", difference(&plain.stdout, &ours.stdout));
    assert_eq!(ours.refpage_lines(), [""; 0], "{how}");
}

/// The first line that differs.
fn difference(plain: &[u8], ours: &[u8]) -> String {
    let (plain, ours) = (String::from_utf8_lossy(plain), String::from_utf8_lossy(ours));
    let pair = plain.lines().zip(ours.lines()).find(|(plain, ours)| plain != ours);
    format!("{pair:?}, of {} and {} bytes", plain.len(), ours.len())
}

/// Without privilege, the service is another one.
mod nobody {
    use super::*;

    #[test]
    fn python_works_as_ever() {
        check_for_nobody(&["python3"], include_str!("programs/python.sh"));
    }

    #[test]
    fn git_makes_the_same_objects() {
        check_for_nobody(&["git", "seq"], include_str!("programs/git.sh"));
    }

    #[test]
    fn gcc_makes_the_same_object_file() {
        check_for_nobody(&["gcc", "awk"], include_str!("programs/gcc.sh"));
    }

    #[test]
    fn sqlite_answers_as_ever() {
        check_for_nobody(&["sqlite3"], include_str!("programs/sqlite.sh"));
    }
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

/// Programs of many processes: most of the time of a run is theirs, so they run with less options.
mod forking {
    use super::*;

    const OPTIONS: [&str; 2] = ["", "service=cow"];

    #[test]
    fn redis_writes_snapshots_while_it_serves() {
        let needs = ["redis-server", "redis-cli", "redis-benchmark"];
        check_with(&OPTIONS, &needs, include_str!("programs/redis.sh"));
    }

    #[test]
    fn nginx_replaces_its_workers() {
        check_with(&OPTIONS, &["nginx", "curl"], include_str!("programs/nginx.sh"));
    }

    /// Root may not run it.
    #[test]
    fn postgres_works_in_parallel() {
        if have_postgres() {
            check_for_nobody(&[], include_str!("programs/postgres.sh"));
        }
    }

    /// Debian's programs are not on the path: there may be several versions.
    fn have_postgres() -> bool {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let any = versions.count() > 0;
        if !any {
            skipped(format_args!("postgresql is not installed"));
        }
        any
    }

    #[test]
    fn make_runs_compilers_in_parallel() {
        check_with(&OPTIONS, &["make", "gcc", "seq"], include_str!("programs/make.sh"));
    }

    #[test]
    fn bash_runs_a_configure_script() {
        check_with(&OPTIONS, &["bash", "gcc", "seq"], include_str!("programs/configure.sh"));
    }

    #[test]
    fn python_has_processes_and_threads() {
        check_with(&OPTIONS, &["python3"], include_str!("programs/multiprocessing.sh"));
    }
}
