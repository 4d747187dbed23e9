//! The stacks of all threads of a process, by gdb or else as far as /proc tells.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What gdb may take for a process: it reads the symbols first.
const LIMIT: Duration = Duration::from_secs(60);

/// The stacks as text, and where they come from.
pub fn of_process(pid: i32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.is_empty() {
        return format!("process {pid} ended meanwhile\n");
    }
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let stacks = match by_gdb(pid) {
        Ok(stacks) => stacks,
        Err(reason) => format!("no stacks by gdb: {reason}\n{}", by_proc(pid)),
    };
    format!("process {pid} ({}):\n{stacks}\n", command.trim())
}

fn by_gdb(pid: i32) -> Result<String, String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex", "set debuginfod enabled off"]);
    gdb.args(["-p", &pid.to_string(), "-ex", "thread apply all bt 40"]);
    gdb.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = gdb.spawn().map_err(|error| error.to_string())?;
    // Its stderr is short; its stdout is read aside, lest it waits for us.
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let start = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no end after {} s", LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = reader.join().map_err(|_| "its output could not be read")?;
    if let Some(at) = text.find("\nThread ") {
        text.drain(..=at);
        return Ok(text);
    }
    let mut complaint = String::new();
    let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut complaint));
    Err(complaint.lines().last().unwrap_or("it shows no thread").to_owned())
}

fn by_proc(pid: i32) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let _ = writeln!(text, "thread {}", entry.file_name().display());
        for name in ["stat", "wchan", "syscall", "stack"] {
            let content = fs::read_to_string(entry.path().join(name));
            let content = content.unwrap_or_else(|error| error.to_string());
            let _ = writeln!(text, "  {name}: {}", content.trim().replace('\n', "\n    "));
        }
    }
    text
}
