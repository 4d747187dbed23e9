//! `refpage top` tells of a process what is so, whatever the service, and says why if it cannot.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{BINARY, Directory, command, library, refpage, skipped, stderr, stdout, unprivileged};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 256 * MIB;
const NOBODY: u32 = 65534;

/// The program that does as it is told.
fn program() -> &'static PathBuf {
    static PROGRAM: LazyLock<(Directory, PathBuf)> = LazyLock::new(|| {
        let directory = Directory::new();
        let program = directory.0.join("obedient");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/obedient.c");
        let compiled = Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source).status();
        assert!(compiled.expect("a C compiler").success());
        (directory, program)
    });
    &PROGRAM.1
}

/// A child that does as it is told, and ends with its owner.
struct Obedient {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Obedient {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    fn on_refpage(options: &str) -> Self {
        let mut command = Command::new(program());
        command.env("LD_PRELOAD", library()).env("REFPAGE_OPTIONS", options);
        Self::start(command)
    }

    /// Has it done: how many pages of the block are present.
    fn tell(&mut self, order: &str) -> u64 {
        writeln!(self.stdin, "{order}").expect("it reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("it answers");
        let present: i64 =
            answer.strip_prefix("ok ").expect("ok").trim().parse().expect("a number");
        present.max(0) as u64
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn top(&self) -> Value {
        let output = refpage(&["top", &self.pid(), "--once", "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name}: {value}"))
}

#[track_caller]
fn fails(arguments: &[&str], part: &str) {
    let output = refpage(arguments);
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.lines().count() == 1 && line.contains(part), "no \"{part}\": {line}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn a_sparse_block_is_told_as_it_is() {
    let page = rustix::param::page_size() as u64;
    for service in ["lazy", "cow", "eager", "memset", "off"] {
        let mut child = Obedient::on_refpage(&format!("service={service}"));
        child.tell("d 1");
        let before = child.top();
        child.tell(&format!("m {BLOCK}"));
        let allocated = child.top();
        if allocated["service"] != service {
            skipped(format!("no {service} here: {}", allocated["reason"]));
            continue;
        }
        let grown = |name| number(&allocated, name) - number(&before, name);
        assert_eq!(grown("large_live_bytes"), BLOCK, "{service}");
        assert_eq!((grown("large_live"), grown("large_allocated")), (1, 1), "{service}");
        // One page in 64.
        let present = child.tell(&format!("t {}", 64 * page)) * page;
        let touched = child.top();
        assert_eq!(number(&touched, "large_resident_bytes"), present, "{service}: {touched}");
        let (rss, unfilled) = (number(&touched, "rss_bytes"), number(&touched, "unfilled_bytes"));
        assert_eq!(unfilled, BLOCK - present, "{service}: {touched}");
        assert_eq!(number(&touched, "memset_would_hold_bytes"), rss + unfilled, "{service}");
        let memset = number(&touched, "memset_would_hold_bytes");
        assert!((BLOCK..BLOCK + 64 * MIB).contains(&memset), "{service}: {touched}");
        let fills = matches!(service, "eager" | "memset");
        assert_eq!(unfilled == 0, fills, "{service}: {touched}");
        assert!(fills || rss < BLOCK / 2, "{service}: {touched}");
        let faults = number(&touched, "faults");
        assert_eq!(faults > number(&allocated, "faults"), service == "lazy", "{touched}");
        let windows = touched["window_pages"].as_object().expect("counts").values();
        let windows: u64 = windows.map(|count| count.as_u64().expect("a count")).sum();
        assert!(windows <= faults && (windows > 0) == (faults > 0), "{touched}");
        child.tell("f 0");
        let freed = child.top();
        assert_eq!(number(&freed, "large_live_bytes"), number(&before, "large_live_bytes"));
        assert_eq!(number(&freed, "large_freed"), number(&before, "large_freed") + 1);
        assert_eq!(number(&freed, "unfilled_bytes"), number(&before, "unfilled_bytes"));
    }
}

#[test]
fn nobody_would_fill_what_calloc_gives() {
    let mut child = Obedient::on_refpage("");
    let page = rustix::param::page_size() as u64;
    child.tell(&format!("c {BLOCK}"));
    let present = child.tell(&format!("t {}", 64 * page)) * page;
    let seen = child.top();
    assert_eq!(number(&seen, "large_resident_bytes"), present, "{seen}");
    assert_eq!(number(&seen, "unfilled_bytes"), 0, "{seen}");
}

#[test]
fn recycled_runs_are_counted() {
    let mut child = Obedient::on_refpage("");
    child.tell("r 1000");
    let seen = child.top();
    assert_eq!(number(&seen, "large_allocated"), number(&seen, "large_freed"));
    assert!(number(&seen, "large_recycled") >= 990, "{seen}");
    assert!(seen["recycled_share"].as_f64().expect("a share") > 0.98, "{seen}");
    assert!(seen["faults_per_second"].is_null(), "{seen}");
}

#[test]
fn the_same_figures_are_told_as_text() {
    let mut child = Obedient::on_refpage("service=memset");
    child.tell(&format!("m {}", 16 * MIB));
    let output = refpage(&["top", &child.pid(), "--once"]);
    let text = stdout(&output);
    for part in ["service            memset (as chosen)", "large 16.0 MiB in 1", "not shown"] {
        let is_there = text.contains(part);
        assert_eq!(is_there, part != "not shown", "\"{part}\": {text}");
    }
}

#[test]
fn a_rust_programs_own_heap_is_found_also_without_symbols() {
    let directory = Directory::new();
    let stripped = directory.bring(BINARY);
    let strip = Command::new("strip").arg("--strip-all").arg(&stripped).status();
    let mut programs = vec![PathBuf::from(BINARY)];
    match strip {
        Ok(status) if status.success() => programs.push(stripped),
        _ => skipped("no `strip`"),
    }
    for program in programs {
        let mut command = Command::new(&program);
        // It waits for its stdin.
        command.arg("symbolize").env_remove("LD_PRELOAD").env_remove("REFPAGE_MEASURE");
        let child = Obedient::start(command);
        sleep(Duration::from_millis(100));
        let seen = child.top();
        assert_eq!(seen["service"], "memset", "{seen}");
        assert_eq!(seen["heap_file"].as_str(), program.to_str());
    }
}

#[test]
fn files_may_be_gone() {
    let directory = Directory::new();
    let (program, library) = (directory.bring(program()), directory.bring(library()));
    let mut command = Command::new(&program);
    command.env("LD_PRELOAD", &library);
    let mut child = Obedient::start(command);
    child.tell(&format!("m {BLOCK}"));
    fs::remove_file(program).expect("it was there");
    fs::remove_file(library).expect("it was there");
    assert_eq!(number(&child.top(), "large_live_bytes"), BLOCK);
}

#[test]
fn another_build_is_told_from_this_one() {
    let directory = Directory::new();
    let library = directory.bring(library());
    let mut bytes = fs::read(&library).expect("a library");
    let note = b"\x08\0\0\0\x10\0\0\0\x01\0\0\0refpage\0";
    let at = bytes.windows(note.len()).position(|part| part == note).expect("a note");
    bytes[at + note.len()] ^= 1;
    fs::write(&library, bytes).expect("its owner may");
    let mut command = Command::new(program());
    command.env("LD_PRELOAD", &library);
    let mut child = Obedient::start(command);
    child.tell("m 1");
    fails(&["top", &child.pid(), "--once"], "runs another version of refpage (");
}

#[test]
fn what_is_no_process_on_refpage_is_told() {
    let mut command = Command::new(program());
    command.env_remove("LD_PRELOAD");
    let child = Obedient::start(command);
    fails(&["top", &child.pid()], "is not on refpage: start it with `refpage run`");
    fails(&["top", "2147483647"], "no process 2147483647");
    fails(&["top", "0", "--json"], "no process 0");
    let output = refpage(&["top", "self"]);
    assert_eq!(output.status.code(), Some(2));
    let output = refpage(&["top", "1", "--interval", "0"]);
    assert!(stderr(&output).contains("not a number of seconds from 0.1 to 3600"));
    // A child that nobody has waited for.
    let mut ended = Command::new("true").spawn().expect("true");
    sleep(Duration::from_millis(100));
    fails(&["top", &ended.id().to_string()], "has ended");
    ended.wait().expect("ours");
}

#[test]
fn who_may_not_look_is_told_who_may() {
    if !rustix::process::geteuid().is_root() {
        skipped("root can be two users, others cannot");
        return;
    }
    let directory = Directory::new();
    let (program, library) = (directory.bring(program()), directory.bring(library()));
    let as_nobody = |uid| {
        let mut command = Command::new(&program);
        command.env("LD_PRELOAD", &library).uid(uid).gid(uid).current_dir("/");
        Obedient::start(command)
    };
    let top = |child: &Obedient| {
        unprivileged(&directory, &["top", &child.pid(), "--once"]).output().expect("it runs")
    };
    let mut own = as_nobody(NOBODY);
    own.tell(&format!("m {BLOCK}"));
    let output = top(&own);
    assert!(stdout(&output).contains("large 256.0 MiB in 1"), "{}", stderr(&output));
    own.tell("d 0");
    let output = top(&own);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("it is not dumpable"), "{}", stderr(&output));
    for user in [0, 12345] {
        let mut other = as_nobody(user);
        other.tell("m 1");
        let output = top(&other);
        assert_eq!(output.status.code(), Some(1));
        let line = format!("it belongs to user {user}; be that user, or root");
        assert!(stderr(&output).contains(&line), "{}", stderr(&output));
    }
}

/// `top` while it goes on, an object for each tenth of a second.
fn watch(child: &Obedient) -> (Child, impl Iterator<Item = Value> + use<>) {
    let mut command = command(&["top", &child.pid(), "--json", "--interval", "0.1"]);
    let mut top = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let lines = BufReader::new(top.stdout.take().expect("piped")).lines();
    (top, lines.map(|line| serde_json::from_str(&line.expect("text")).expect("JSON")))
}

fn end(mut top: Child) -> (Option<i32>, String) {
    let mut line = String::new();
    let _ = top.stderr.take().expect("piped").read_to_string(&mut line);
    (top.wait().expect("ours").code(), line)
}

#[test]
fn the_end_of_the_process_ends_the_watching() {
    let mut child = Obedient::on_refpage("");
    child.tell("m 1");
    let (top, mut seen) = watch(&child);
    assert!(seen.next().expect("a look")["faults_per_second"].is_null());
    assert!(seen.next().expect("another")["faults_per_second"].is_number());
    drop(child);
    let start = Instant::now();
    assert!(seen.last().is_none_or(|last| last.is_object()));
    assert!(start.elapsed() < Duration::from_secs(5));
    let (code, line) = end(top);
    assert_eq!(code, Some(0));
    assert!(line.starts_with("refpage: process ") && line.ends_with(" has ended\n"), "{line}");
}

#[test]
fn it_goes_on_with_what_the_process_becomes() {
    let mut child = Obedient::on_refpage("");
    child.tell(&format!("m {BLOCK}"));
    let (top, mut seen) = watch(&child);
    assert_eq!(number(&seen.next().expect("a look"), "large_live_bytes"), BLOCK);
    writeln!(child.stdin, "x 1 sleep").expect("it reads");
    let other = |value: &Value| value["command"].as_str().is_some_and(|c| c.starts_with("sleep"));
    let after = seen.find(|value| other(value)).expect("it goes on");
    assert_eq!(number(&after, "large_live"), 0, "{after}");
    drop(child);
    drop(seen);
    end(top);
}

#[test]
fn it_ends_if_the_process_leaves_refpage() {
    let mut child = Obedient::on_refpage("");
    child.tell("m 1");
    let (top, mut seen) = watch(&child);
    seen.next().expect("a look");
    writeln!(child.stdin, "x 0 sleep").expect("it reads");
    seen.for_each(drop);
    let (code, line) = end(top);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("is not on refpage"), "{line}");
}
