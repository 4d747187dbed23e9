//! `refpage symbolize`: the calls of a report get names, and all else stays as it is.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{command, library, skipped, stderr, stdout};

/// `refpage symbolize` with this text on stdin.
fn symbolize(text: &[u8]) -> Output {
    use std::io::Write;
    let mut command = command(&["symbolize"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    child.wait_with_output().unwrap()
}

/// The program that frees twice, compiled like this; none, and said so, where there is no compiler.
fn program(name: &str, kind: &[&str]) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/freed_twice.c");
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    let mut cc = Command::new("cc");
    match cc.args(["-O1", "-g"]).args(kind).arg(source).arg("-o").arg(&path).status() {
        Ok(status) => assert!(status.success(), "{kind:?}"),
        Err(error) => {
            skipped(format_args!("cc: {error}"));
            return None;
        }
    }
    Some(path)
}

/// What is told of it under the allocator.
fn report(program: &Path) -> Vec<u8> {
    library();
    let program = program.to_str().unwrap();
    let arguments = ["run", "--service", "memset", "--backtraces", "on", program];
    command(&arguments).output().unwrap().stderr
}

#[test]
fn calls_get_their_function_file_and_line() {
    for (name, kind) in [("pie", ["-pie", "-fPIE"]), ("no-pie", ["-no-pie", "-fno-pie"])] {
        let Some(program) = program(name, &kind) else { return };
        let report = report(&program);
        let output = symbolize(&report);
        let text = stdout(&output);
        for (head, function, line) in
            [("refpage:   allocated", "allocated_here", 5), ("refpage:   freed", "freed_here", 10)]
        {
            let after = text.lines().skip_while(|line| !line.starts_with(head)).nth(1);
            let first = after.unwrap_or_else(|| panic!("{head}: {text}"));
            let call = format!("refpage:     #0 {}+0x", program.display());
            assert!(first.starts_with(&call), "{name}: {first}");
            assert!(first.contains(&format!(" in {function} at ")), "{name}: {first}");
            assert!(first.ends_with(&format!("freed_twice.c:{line}")), "{name}: {first}");
        }
        assert!(text.contains(" in main at "), "{text}");
        // What was added stands at the ends of lines.
        let report = String::from_utf8(report).unwrap();
        assert_eq!(text.lines().count(), report.lines().count());
        assert!(text.lines().zip(report.lines()).all(|(line, before)| line.starts_with(before)));
        // The same from a file.
        let file = program.with_extension("txt");
        fs::write(&file, &report).unwrap();
        let output = common::refpage(&["symbolize", file.to_str().unwrap()]);
        assert_eq!(stdout(&output), text);
        fs::remove_file(file).unwrap();
        fs::remove_file(program).unwrap();
    }
}

#[test]
fn text_without_calls_stays_as_it_is() {
    let text = b"refpage: double free of 0x7f00, a large allocation\n\n  #1 of 2+0x3\n\xff\xfe\r\n\
        refpage:     #0 0x7f0012345678\nrefpage:     #0 /no/such/file+0x10\n\
        refpage:     #1 /etc/passwd+0x10\nwithout an end";
    let output = symbolize(text);
    assert!(output.status.success());
    assert_eq!((output.stdout.as_slice(), stderr(&output)), (&text[..], String::new()));
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let output = common::refpage(&["symbolize", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("refpage: cannot open /no/such/file: "));
}
