//! Watching, until the process ends, or who watches has seen enough: one loop that waits for the clock, keys,
//! signals, the process's end, and its output where that comes through here.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;

use super::process::{Process, Trouble};
use super::sample::{History, Sample, Watched};
use super::screen::{Key, Screen};
use super::signals::{Signal, Signals};
use super::text;
use super::view::View;
use crate::failure::Failure;

/// The shortest interval, and the longest.
pub const SHORTEST: Duration = Duration::from_millis(100);
pub const LONGEST: Duration = Duration::from_secs(3600);

/// How long a process may be without a heap: it takes the dynamic linker a moment, after each exec.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Sooner after the start, the interval does not count: there is nothing to see yet.
const FIRST: Duration = Duration::from_millis(50);

/// Sooner after it was drawn, the view is not drawn again for the program's output, of which there may be much.
const REDRAW: Duration = Duration::from_millis(50);

/// Where looks go.
pub enum Display {
    Screen(Box<Terminal<Screen>>),
    /// A line for each.
    Lines(Box<dyn Write>),
    /// A JSON object for each.
    Objects(Box<dyn Write>),
    /// Nowhere: the view was closed.
    Nowhere,
}

/// What ends the loop.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// A key, or the reader of the lines has gone.
    Quit,
    /// The process has ended.
    Ended,
    /// This process got a signal.
    Signal(Signal),
    /// There is nothing to see, and won't be.
    Lost(String),
}

/// The process's output, if it comes through here.
pub trait Output {
    /// Readable when there is some.
    fn handle(&self) -> Option<BorrowedFd<'_>>;
    /// Takes what there is.
    fn take(&mut self);
    /// The last lines of it.
    fn lines(&self) -> Option<&VecDeque<String>>;
}

/// Of a process that was there already.
pub struct NoOutput;

impl Output for NoOutput {
    fn handle(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn take(&mut self) {}
    fn lines(&self) -> Option<&VecDeque<String>> {
        None
    }
}

/// A process, and how it is watched.
pub struct Session {
    watched: Watched,
    pub signals: Signals,
    pub display: Display,
    interval: Duration,
    paused: bool,
    /// It goes on although there is nothing to see.
    pub is_patient: bool,
    /// What the key `q` does.
    pub quits: &'static str,
    /// The last look.
    pub last: Option<Sample>,
    history: History,
    /// Why there is nothing newer, and since when.
    trouble: Option<(Trouble, Instant)>,
    /// That was said.
    told: bool,
}

impl Session {
    pub fn new(process: Process, signals: Signals, display: Display, interval: Duration) -> Self {
        Self {
            watched: Watched::new(process),
            signals,
            display,
            interval,
            paused: false,
            is_patient: false,
            quits: "quit",
            last: None,
            history: History::default(),
            trouble: None,
            told: false,
        }
    }

    pub fn pid(&self) -> i32 {
        self.watched.process.pid
    }

    /// Goes on until one of the ends.
    pub fn run(&mut self, output: &mut impl Output) -> Result<End, Failure> {
        let mut due = Instant::now();
        // When output is to be drawn that came since.
        let mut stale: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if now >= due {
                if !self.paused
                    && let Some(end) = self.look()?
                {
                    return Ok(end);
                }
                let settled = self.last.is_some() || self.told;
                due = now + if settled { self.interval } else { FIRST };
                stale = Some(now);
            }
            if stale.is_some_and(|since| now >= since) {
                self.draw(output)?;
                stale = None;
            }
            let next = stale.map_or(due, |at| at.min(due));
            let ready = self.wait(output, next.saturating_duration_since(Instant::now()))?;
            if ready.output {
                output.take();
                stale = stale.or(Some(Instant::now() + REDRAW));
            }
            while let Some(signal) = self.signals.next() {
                if signal.number != libc::SIGWINCH {
                    return Ok(End::Signal(signal));
                }
                self.draw(output)?;
            }
            if ready.keys {
                for key in self.keys() {
                    match key {
                        Key::Quit => return Ok(End::Quit),
                        Key::Interrupt => {
                            // In raw mode, the terminal does not send it.
                            let number = libc::SIGINT;
                            return Ok(End::Signal(Signal { number, is_from_terminal: true }));
                        }
                        Key::Pause => self.paused = !self.paused,
                        Key::Slower => self.interval = (self.interval * 2).min(LONGEST),
                        Key::Faster => self.interval = (self.interval / 2).max(SHORTEST),
                        Key::Other => {}
                    }
                    due = due.min(Instant::now() + self.interval);
                }
                self.draw(output)?;
            }
            if ready.end {
                // The last figures are those of the last look: now there are none.
                return Ok(End::Ended);
            }
        }
    }

    fn keys(&mut self) -> Vec<Key> {
        match &mut self.display {
            Display::Screen(terminal) => terminal.backend_mut().keys(),
            _ => Vec::new(),
        }
    }

    fn wait(&self, output: &impl Output, time: Duration) -> Result<Ready, Failure> {
        let screen = match &self.display {
            Display::Screen(terminal) => Some(terminal.backend().handle()),
            _ => None,
        };
        let handles = [
            Some(self.watched.process.handle()),
            Some(self.signals.handle()),
            screen,
            output.handle(),
        ];
        let mut waited: Vec<_> =
            handles.iter().flatten().map(|handle| PollFd::new(handle, PollFlags::IN)).collect();
        // A deadline that no Timespec can have is none.
        let time = Timespec::try_from(time).ok();
        match poll(&mut waited, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Failure::new(format!("cannot wait: {errno}"))),
        }
        let mut ready = waited.iter().map(|waited| !waited.revents().is_empty());
        let mut next =
            |handle: &Option<BorrowedFd<'_>>| handle.is_some() && ready.next().unwrap_or(false);
        let [end, _, keys, output] = handles.each_ref().map(&mut next);
        Ok(Ready { end, keys, output })
    }

    /// Looks, and says what came of it where no view does.
    fn look(&mut self) -> Result<Option<End>, Failure> {
        match self.watched.look() {
            Ok(sample) => {
                self.history.add(&sample);
                (self.trouble, self.told) = (None, false);
                let text = match &self.display {
                    Display::Lines(_) => text::line(&sample),
                    Display::Objects(_) => text::object(&sample),
                    Display::Screen(_) | Display::Nowhere => String::new(),
                };
                self.last = Some(sample);
                self.write(&text)
            }
            Err(Trouble::Ended) => Ok(Some(End::Ended)),
            Err(trouble) => self.note(trouble),
        }
    }

    /// Nothing was to be seen. That may change soon.
    fn note(&mut self, trouble: Trouble) -> Result<Option<End>, Failure> {
        let line = trouble.line(self.pid());
        let passes = matches!(trouble, Trouble::NotOn);
        let is_new = self
            .trouble
            .as_ref()
            .is_none_or(|(old, _)| std::mem::discriminant(old) != std::mem::discriminant(&trouble));
        if is_new {
            (self.trouble, self.told) = (Some((trouble, Instant::now())), false);
        }
        let since = self.trouble.as_ref().map_or_else(Instant::now, |&(_, since)| since);
        if (passes && since.elapsed() < PATIENCE) || self.told {
            return Ok(None);
        }
        self.told = true;
        if !self.is_patient {
            return Ok(Some(End::Lost(line)));
        }
        if !matches!(self.display, Display::Screen(_)) {
            eprintln!("refpage: {line}");
        }
        Ok(None)
    }

    fn write(&mut self, text: &str) -> Result<Option<End>, Failure> {
        let (Display::Lines(to) | Display::Objects(to)) = &mut self.display else {
            return Ok(None);
        };
        match writeln!(to, "{text}").and_then(|()| to.flush()) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(End::Quit)),
            Err(error) => Err(Failure::new(format!("cannot write the figures: {error}"))),
        }
    }

    fn draw(&mut self, output: &impl Output) -> Result<(), Failure> {
        let Display::Screen(terminal) = &mut self.display else { return Ok(()) };
        let pid = self.watched.process.pid;
        let waiting = || "waiting for the first allocation…".to_owned();
        let notice = match (&self.trouble, &self.last) {
            (Some((trouble, _)), _) if self.told => Some(trouble.line(pid)),
            (_, None) => Some(waiting()),
            _ => None,
        };
        let view = View {
            pid,
            sample: self.last.as_ref(),
            history: &self.history,
            notice: notice.as_deref(),
            interval: self.interval,
            paused: self.paused,
            output: output.lines(),
            quits: self.quits,
        };
        match terminal.draw(|frame| view.draw(frame)) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::new(format!("cannot draw: {error}"))),
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug)]
struct Ready {
    end: bool,
    keys: bool,
    output: bool,
}
