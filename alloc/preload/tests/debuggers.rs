//! Debuggers and core files, while most pages of the heap are missing: nobody hangs, neither the process nor who looks
//! into it.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{DEFAULT, ScratchDir, c_program, have, is_served, run, serve, skipped};

for_each_service! {
    a_debugger_looks_at_missing_pages => attached;
    a_debugger_runs_a_program => debugged;
    a_core_file_is_written => dumped;
    a_process_is_stopped_and_goes_on => stopped;
}

/// What gdb prints of the block: what was touched; a page that is missing, which it may be told it cannot have; and that
/// it goes on.
const LOOKS: [&str; 6] = [
    "-ex",
    "x/s *(char **)&block + 0x500000",
    "-ex",
    "x/2xb *(char **)&block + 0x2800000",
    "-ex",
    "print 6 * 7",
];

fn gdb() -> Option<Command> {
    if !have("gdb") {
        return None;
    }
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set pagination off", "-ex", "set debuginfod enabled off"]);
    gdb.env_remove("LD_PRELOAD").env_remove("REFPAGE_OPTIONS");
    Some(gdb)
}

/// The program while it waits for the end of its input.
struct Waiting(Child);

impl Waiting {
    fn start(service: &str) -> Option<Self> {
        let program = c_program("debugged")?;
        if !is_served(service) {
            return None;
        }
        let mut command = Command::new(program);
        serve(command.arg("waits"), service, DEFAULT);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where the block is");
        assert!(line.starts_with("0x"), "{line}");
        Some(Self(child))
    }

    /// Ends its input: it finds its heap as it should be.
    fn expect_all_well(mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What gdb wrote, to both. An error in a command is not its end.
fn looked(gdb: &mut Command) -> String {
    let outcome = run(gdb);
    format!("{}{}", outcome.stdout_text(), outcome.stderr)
}

#[track_caller]
fn expect_seen(text: &str) {
    assert!(text.contains("\"touched\"") && text.contains("= 42"), "{text}");
}

fn attached(service: &str) {
    let (Some(mut gdb), Some(waiting)) = (gdb(), Waiting::start(service)) else { return };
    gdb.args(["-p", &waiting.0.id().to_string()]).args(LOOKS).args(["-ex", "thread apply all bt"]);
    let text = looked(&mut gdb);
    if text.contains("Could not attach") {
        skipped(format_args!("gdb may not attach here: {}", text.trim()));
    } else {
        expect_seen(&text);
        assert!(text.contains("waits ()"), "a stack: {text}");
    }
    waiting.expect_all_well();
}

fn debugged(service: &str) {
    let (Some(mut gdb), Some(program)) = (gdb(), c_program("debugged")) else { return };
    if !is_served(service) {
        return;
    }
    let mut preloaded = Command::new("true");
    serve(&mut preloaded, service, DEFAULT);
    for (name, value) in preloaded.get_envs() {
        let (name, value) = (name.to_string_lossy(), value.unwrap_or_default().to_string_lossy());
        gdb.args(["-ex", &format!("set environment {name} {value}")]);
    }
    gdb.args(["-ex", "run aborts"]).args(LOOKS).args(["-ex", "bt", "-ex", "kill"]).arg(program);
    let text = looked(&mut gdb);
    expect_seen(&text);
    assert!(text.contains("SIGABRT") && text.contains("aborts ()"), "a stack: {text}");
}

fn dumped(service: &str) {
    let (Some(mut gdb), Some(program)) = (gdb(), c_program("debugged")) else { return };
    if !is_served(service) {
        return;
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.trim().is_empty() || pattern.contains(['|', '/', '%']) {
        return skipped(format_args!("core files go elsewhere: {}", pattern.trim()));
    }
    let dir = ScratchDir::new("core");
    let mut command = Command::new(&program);
    serve(command.arg("aborts").current_dir(&dir.0), service, DEFAULT);
    common::confine::limit(&mut command, libc::RLIMIT_CORE, u64::MAX);
    run(&mut command).expect_signal(libc::SIGABRT);
    let core = fs::read_dir(&dir.0).expect("the directory").flatten().next();
    let core = core.expect("a core file").path();
    let text = looked(gdb.arg(&program).arg(&core).args(LOOKS).args(["-ex", "bt"]));
    expect_seen(&text);
    assert!(text.contains("aborts ()"), "a stack: {text}");
}

fn stopped(service: &str) {
    let Some(waiting) = Waiting::start(service) else { return };
    let pid = waiting.0.id() as libc::pid_t;
    for signal in [libc::SIGSTOP, libc::SIGCONT, libc::SIGSTOP, libc::SIGCONT] {
        // SAFETY: the child is this process's own, and was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    waiting.expect_all_well();
}
