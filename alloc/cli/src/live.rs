//! `refpage run --live`: the program as a child, and the view while it runs.
//!
//! Somebody has to watch, so this process stays, and ends as the program does: with its exit code, or by its signal.
//!
//! ```text
//!   terminal ◀── view, keys ──▶ this process ── signals, Ctrl-C ──▶ the program, in a process group of its own
//!      ▲                              │ ◀── pty ── its stdout and stderr, where they are a terminal
//!      └─── all of it, at the end ── file
//! ```
//!
//! - What the program writes to a **terminal** would destroy the view, so it goes to a pty: the view has the last
//!   lines of it, and all of it is written to the terminal when the view is closed. What goes
//!   to files or pipes goes there as ever.
//! - A **stdin** that is the terminal belongs to the view: the program reads its end.
//! - Without a terminal of its own in the foreground there is no view, but a line on stderr at each interval; then the program
//!   has stdin, stdout and stderr as they are, and stays in this process's group.

mod output;

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::failure::Failure;
use crate::top::process::Process;
use crate::top::screen::Screen;
use crate::top::session::{Display, End, Session};
use crate::top::signals::{self, Signals, die_by};
use crate::top::{last_words, on_screen};
use output::Captured;

/// Runs the program and watches it, then ends as it does. Returns only if it cannot; `refused` says why the
/// program was not started.
pub fn run(
    mut command: Command,
    interval: Duration,
    refused: impl FnOnce(&io::Error) -> Failure,
) -> Result<Infallible, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot {what} for --live: {error}"))
    };
    let signals = Signals::block().map_err(|error| failed("wait for signals", &error))?;
    let mask = signals.mask_before();
    // SAFETY: between fork and exec, pthread_sigmask is allowed: it is async-signal-safe.
    unsafe { command.pre_exec(move || signals::set_mask(&mask)) };
    let screen = Screen::open();
    let has_view = screen.is_some();
    let mut captured = Captured::nothing();
    if let Some(screen) = &screen {
        captured = Captured::of(&mut command, screen)
            .map_err(|error| failed("take the program's output", &error))?;
        if stdin().is_terminal() {
            command.stdin(Stdio::null());
        }
        command.process_group(0);
    }
    let display = match screen {
        Some(screen) => on_screen(screen)?,
        None => Display::Lines(Box::new(stderr())),
    };
    // On the way out, the terminal is given back before anything is told.
    let mut child = command.spawn().map_err(|error| refused(&error))?;
    // With its copies of the pty's other end, which would never end.
    drop(command);
    let pid = child.id() as i32;
    let watched = Process::open(pid).map_err(|trouble| failed("watch", &trouble.line(pid)))?;
    let mut session = Session::new(watched, signals, display, interval);
    session.is_patient = true;
    session.quits = "close the view";
    loop {
        match session.run(&mut captured)? {
            End::Ended | End::Lost(_) => break,
            End::Quit => {
                session.display = Display::Nowhere;
                captured.release();
            }
            End::Signal(signal) => pass_on(&child, signal, has_view),
        }
    }
    let had_view = matches!(session.display, Display::Screen(_));
    session.display = Display::Nowhere;
    captured.release();
    if had_view {
        let words = last_words(&session).unwrap_or_else(|| {
            format!(
                "refpage: nothing was seen of process {pid}: it was too short, or not on refpage\n"
            )
        });
        // The program's exit code is what counts.
        let _ = stderr().write_all(words.as_bytes());
        let _ = writeln!(stderr(), "refpage: process {pid} has ended");
    }
    end_as(&mut child)
}

/// What would have reached the program if it had taken this process's place.
fn pass_on(child: &Child, signal: signals::Signal, has_group: bool) {
    let (Some(pid), Some(number)) =
        (Pid::from_raw(child.id() as i32), Signal::from_named_raw(signal.number))
    else {
        return;
    };
    // It may be ending. Without a group of its own, it has got the terminal's signals.
    let _ = match (signal.is_from_terminal, has_group) {
        (true, true) => kill_process_group(pid, number),
        (true, false) => Ok(()),
        (false, _) => kill_process(pid, number),
    };
}

fn end_as(child: &mut Child) -> Result<Infallible, Failure> {
    let status = child
        .wait()
        .map_err(|error| Failure::new(format!("cannot learn how the program ended: {error}")))?;
    // As it would have been at the end of this process; what is left has no reader.
    let _ = stdout().flush();
    match (status.code(), status.signal()) {
        (Some(code), _) => std::process::exit(code),
        (None, Some(signal)) => die_by(signal),
        (None, None) => Err(Failure::new(format!("the program ended as nothing known: {status}"))),
    }
}
