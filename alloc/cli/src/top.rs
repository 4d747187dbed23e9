//! `refpage top`: watches a process on the allocator, which does nothing for it.
//!
//! ```text
//!   top, live ─▶ session ─▶ sample ─▶ heap ──────▶ process ─▶ process_vm_readv, /proc
//!                   │          └────▶ residency ─────┘
//!                   ├─▶ view ─▶ screen: the terminal
//!                   └─▶ text: lines, JSON
//! ```
//!
//! - **Look**: the figures at one time, copied out of the process's memory; the formulas are in [`sample`].
//! - **Heap**: where the words are that count; [`heap`] finds them.
//! - **Residency**: what is in place, as the kernel says; see [`residency`].

pub mod fd;
mod heap;
pub mod process;
mod residency;
mod sample;
pub mod screen;
pub mod session;
pub mod signals;
mod text;
mod view;

#[cfg(test)]
mod view_tests;

use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use ratatui::Terminal;

use crate::failure::{EXIT_STATUS, Failure, print};
use process::{Process, Trouble};
use sample::{Sample, Watched};
use screen::Screen;
use session::{Display, End, LONGEST, NoOutput, SHORTEST, Session};
use signals::{Signals, die_by};

/// How long to wait for a heap in a process that may have been started just now.
const GRACE: Duration = Duration::from_millis(500);

/// Watch a process on the allocator: memory, faults, and what memset would hold
///
/// The process does nothing for it, and need not have been started for it: its memory is read. Keys: q, Esc and
/// Ctrl-C quit, p and space pause, + and - change the interval. Without a terminal, one line for each interval.
/// Ends with 0 when the process ends. docs/top.md explains the figures.
#[derive(clap::Args)]
#[command(after_help = EXIT_STATUS)]
pub struct Arguments {
    /// The process's number
    pid: i32,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print all figures once, and end
    #[arg(long)]
    once: bool,
    /// Print JSON objects, one for each interval
    #[arg(long)]
    json: bool,
}

/// The time between two looks, as a flag has it.
pub fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|interval| (SHORTEST..=LONGEST).contains(interval)).ok_or_else(|| {
        format!("not a number of seconds from {} to {}", SHORTEST.as_secs_f64(), LONGEST.as_secs())
    })
}

/// Watches the process, or looks at it once.
pub fn watch(arguments: &Arguments) -> Result<(), Failure> {
    let pid = arguments.pid;
    let failed = |trouble: Trouble| Failure::new(trouble.line(pid));
    // Also so that what is wrong is said before the terminal is taken.
    let sample = first_look(pid).map_err(failed)?;
    if arguments.once {
        return match arguments.json {
            true => print(&format!("{}\n", text::object(&sample))),
            false => print(&text::block(&sample)),
        };
    }
    let process = Process::open(pid).map_err(failed)?;
    let signals = Signals::block()
        .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
    let screen = if arguments.json || !stdout().is_terminal() { None } else { Screen::open() };
    let display = match screen {
        Some(screen) => on_screen(screen)?,
        None if arguments.json => Display::Objects(Box::new(stdout())),
        None => Display::Lines(Box::new(stdout())),
    };
    let mut session = Session::new(process, signals, display, arguments.interval);
    let end = session.run(&mut NoOutput);
    let had_screen = matches!(session.display, Display::Screen(_));
    session.display = Display::Nowhere;
    match end? {
        End::Quit => Ok(()),
        End::Signal(signal) => die_by(signal.number),
        End::Lost(line) => Err(Failure::new(line)),
        End::Ended => {
            if let Some(sample) = session.last.filter(|_| had_screen) {
                print(&text::block(&sample))?;
            }
            eprintln!("refpage: {}", Trouble::Ended.line(pid));
            Ok(())
        }
    }
}

/// The view on a terminal.
pub fn on_screen(screen: Screen) -> Result<Display, Failure> {
    let terminal = Terminal::new(screen);
    let terminal = terminal.map_err(|error| Failure::new(format!("cannot draw: {error}")))?;
    Ok(Display::Screen(Box::new(terminal)))
}

/// All of the last look, as text.
pub fn last_words(session: &Session) -> Option<String> {
    session.last.as_ref().map(text::block)
}

fn first_look(pid: i32) -> Result<Sample, Trouble> {
    let mut watched = Watched::new(Process::open(pid)?);
    let start = Instant::now();
    loop {
        match watched.look() {
            Err(Trouble::NotOn) if start.elapsed() < GRACE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            looked => return looked,
        }
    }
}
