//! What goes wrong: one line that says what, and the exit code that the help states.

mod common;

use std::process::{Command, Output, Stdio};

use common::{BINARY, Directory, command, library, refpage, skipped, stderr, stdout, unprivileged};

/// This code, nothing on stdout, and one line on stderr that holds `part`.
#[track_caller]
fn is_failure(output: &Output, code: i32, part: &str) {
    let line = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with("refpage: ") && line.ends_with('\n'), "{line}");
    assert!(line.contains(part), "no \"{part}\": {line}");
    assert_eq!(stdout(output), "");
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, part: &str) {
    is_failure(&refpage(arguments), code, part);
}

#[test]
fn a_wrong_command_line_gets_one_line_and_code_2() {
    fails(&["--nonsense"], 2, "--nonsense");
    fails(&["nonsense"], 2, "nonsense");
    fails(&["run"], 2, "PROGRAM");
    fails(&["run", "--nonsense", "--", "true"], 2, "--nonsense");
    fails(&["run", "--nonsense", "true"], 2, "--nonsense");
    fails(&["help", "nonsense"], 2, "nonsense");
    fails(&["help", "run", "--markdown"], 2, "refpage help options");
    fails(&["measure", "--touch", "some"], 2, "some");
}

#[test]
fn a_bad_option_value_gets_one_line_and_code_2() {
    fails(&["run", "--pattern", "300", "--", "true"], 2, "bad value \"300\" for pattern: a byte");
    fails(&["run", "--service", "best", "--", "true"], 2, "bad value \"best\" for service");
    fails(&["run", "--quarantine", "1P", "--", "true"], 2, "bad value \"1P\" for quarantine");
    fails(&["run", "--guards", "left", "--", "true"], 2, "bad value \"left\" for guards");
    // It must not become two entries.
    fails(&["run", "--pattern", "1:pool=0", "--", "true"], 2, "bad value \"1:pool=0\" for pattern");
    fails(&["run", "--stats-json", "a:b", "--", "true"], 2, "for stats");
    fails(&["run", "--stats", "--stats-json", "x", "--", "true"], 2, "cannot be used with");
    fails(&["run", "--profile-json", "a:b", "--", "true"], 2, "for profile");
    fails(&["run", "--profile", "--profile-json", "x", "--", "true"], 2, "cannot be used with");
}

#[test]
fn a_bad_inherited_option_gets_one_line_and_code_2() {
    let unknown = "REFPAGE_OPTIONS: unknown option \"foo\"; options are service, pattern";
    let bad = "REFPAGE_OPTIONS: bad value \"300\" for pattern: a byte";
    for arguments in [&["run", "true"][..], &["run", "--pool", "0", "true"], &["doctor"], &[]] {
        for (options, part) in [
            ("foo=1", unknown),
            ("pattern=300", bad),
            ("stats=1:pattern=300:foo=1:threshold=0", bad),
        ] {
            let output = command(arguments).env("REFPAGE_OPTIONS", options).output().unwrap();
            is_failure(&output, 2, part);
        }
    }
    let mut help = command(&["help", "options"]);
    let output = help.env("REFPAGE_OPTIONS", "foo=1").output().unwrap();
    assert!(output.status.success() && stderr(&output).is_empty(), "{}", stderr(&output));
}

/// What `ls` of an empty directory prints under these options, with the library preloaded.
fn preloaded(options: &str) -> Output {
    let directory = Directory::new();
    let mut ls = Command::new("ls");
    ls.arg(&directory.0).env("LD_PRELOAD", library()).env("REFPAGE_OPTIONS", options);
    ls.output().unwrap()
}

#[test]
fn a_program_goes_on_without_a_bad_option_and_says_so() {
    for (entry, part) in [
        ("foo=1", "ignored in REFPAGE_OPTIONS: unknown option \"foo\"; options are service"),
        ("pattern=300", "ignored in REFPAGE_OPTIONS: bad value \"300\" for pattern: a byte"),
        ("pattern", "ignored in REFPAGE_OPTIONS: option \"pattern\" needs a value"),
        // Too long for a line.
        (&"x".repeat(2000), "ignored in REFPAGE_OPTIONS: unknown option \"xxx"),
    ] {
        is_failure(&preloaded(&format!("service=memset:{entry}")), 0, part);
    }
}

#[test]
fn a_program_that_cannot_be_run_gets_the_code_of_a_shell() {
    library();
    // What the environment asks for is for the program that is not there.
    for options in ["", "stats=1", "service=lazy:region=16M:stats=1"] {
        for (program, code, part) in [
            ("/nonexistent/program", 127, "/nonexistent/program: program not found"),
            ("no-such-program-on-any-path", 127, "no-such-program-on-any-path: program not found"),
            ("/etc/passwd", 126, "/etc/passwd: cannot execute: Permission denied"),
        ] {
            let mut run = command(&["run", "--", program]);
            is_failure(&run.env("REFPAGE_OPTIONS", options).output().unwrap(), code, part);
        }
    }
}

#[test]
fn without_the_library_there_is_one_line_and_code_1() {
    let directory = Directory::new();
    let mut alone = Command::new(directory.bring(BINARY));
    let output = alone.args(["run", "true"]).env_remove("REFPAGE_OPTIONS").output().unwrap();
    is_failure(&output, 1, "no librefpage.so in ");
}

#[test]
fn an_output_that_takes_nothing_gets_one_line_and_code_1() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["help"][..], &["doctor"], &["--version"]] {
        let output = command(arguments).stdout(Stdio::from(full())).output().unwrap();
        is_failure(&output, 1, "cannot write to stdout: No space left on device");
    }
}

/// A program that asks for `lazy` and may not open the device is told what it gets instead, and ends as it would.
#[test]
fn an_unreadable_device_gets_one_line_and_the_programs_own_code() {
    let directory = Directory::new();
    let found = unprivileged(&directory, &["doctor", "--json"]).output().unwrap();
    let found: serde_json::Value = serde_json::from_str(&stdout(&found)).unwrap();
    if found["ways"][0]["errno"] != 13 || found["ways"][1]["works"] == true {
        skipped("/dev/userfaultfd is not there, or this user gets a userfaultfd all the same");
        return;
    }
    let mut run = unprivileged(&directory, &["run", "--service", "lazy", "sh", "-c", "exit 7"]);
    let output = run.output().unwrap();
    is_failure(&output, 7, " instead of lazy: no userfaultfd that sees faults in system calls (");
    is_failure(&output, 7, "/dev/userfaultfd: no permission, ");
    is_failure(&output, 7, "; `refpage doctor` tells more");

    // Who asks for nothing gets the best that is to be had: no line, unless that is the least.
    let output = unprivileged(&directory, &["run", "sh", "-c", "exit 7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let lines = stderr(&output).lines().count();
    assert_eq!(lines, usize::from(found["service"] == "memset"), "{}", stderr(&output));
}

/// coreutils close stderr before the statistics are written.
#[test]
fn statistics_that_cannot_be_written_get_one_line_and_the_programs_own_code() {
    library();
    let directory = Directory::new();
    let empty = directory.0.to_str().unwrap();
    for (file, why) in [
        ("/nonexistent/x", "no such file or directory (2)"),
        ("/proc", "a directory (21)"),
        ("/dev/full", "no space left on the device (28)"),
    ] {
        let output =
            refpage(&["run", "--service", "memset", "--stats-json", file, "--", "ls", empty]);
        is_failure(&output, 0, &format!("cannot write the statistics to {file}: {why}\n"));
    }
}

/// A program that closes what it does not know, and uses the numbers again, keeps its files clean.
#[test]
fn statistics_are_not_written_to_a_file_of_the_programs() {
    let directory = Directory::new();
    let file = directory.0.join("file");
    let script = "import os, sys\nos.closerange(3, 2000)\nfile = os.open(sys.argv[1], \
                  os.O_CREAT | os.O_WRONLY)\nfor number in range(900, 1100): os.dup2(file, number)\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&file).env("LD_PRELOAD", library());
    for stats in ["1", "json:/nonexistent/x"] {
        python.env("REFPAGE_OPTIONS", format!("service=memset:stats={stats}"));
        let Ok(output) = python.output() else {
            skipped("python3 is not installed");
            return;
        };
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).starts_with("refpage: "), "{}", stderr(&output));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    }
}
