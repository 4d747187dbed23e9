//! The processes below this one, and their end.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::*};

/// A process of the tree.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    parent: i32,
    /// Whether it has ended, and waits for its parent to notice.
    pub ended: bool,
}

/// Orphans become this process's children from now on.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: numbers.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: i32) {
    INTERRUPTED.store(true, Relaxed);
}

/// From now on, who ends this process by a signal has it end the tree first.
pub fn end_with_the_tree() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic.
        unsafe { libc::signal(signal, interrupt as extern "C" fn(i32) as usize) };
    }
}

pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// All descendants of this process.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> = numbers.filter_map(about).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut generation = vec![std::process::id() as i32];
    while !generation.is_empty() {
        let is_next = |process: &&Process| generation.contains(&process.parent);
        let next: Vec<_> = all.iter().filter(is_next).cloned().collect();
        generation = next.iter().map(|process| process.pid).collect();
        found.extend(next);
    }
    found
}

fn about(pid: i32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Process { pid, parent: fields.next()?.parse().ok()?, ended })
}

/// How a child ended, if one has.
pub fn ended_child() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status is written, and no child is waited for elsewhere.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Ends all descendants.
pub fn kill_all() {
    loop {
        while ended_child().is_some() {}
        let all = processes();
        if all.is_empty() {
            return;
        }
        for process in all.iter().filter(|process| !process.ended) {
            // SAFETY: numbers. The process is a descendant: its number is not another's before it is waited for, by
            // its parent or, when that is gone, by this process.
            unsafe { libc::kill(process.pid, libc::SIGKILL) };
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// What a status of wait says.
pub fn ending(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("was ended by signal {}", libc::WTERMSIG(status))
    } else {
        format!("ended with exit code {}", libc::WEXITSTATUS(status))
    }
}
