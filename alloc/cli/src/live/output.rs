//! What the program writes to a terminal: through a pty, into a file, and from there to the terminal when the view
//! is gone. The last lines are kept for the view.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, Write, stderr, stdout};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use ratatui::backend::Backend;
use rustix::fd::BorrowedFd;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};

use crate::top::fd::lent;
use crate::top::screen::Screen;
use crate::top::session::Output;

/// Lines that are kept for the view, and bytes of one.
const LINES: usize = 200;
const LINE: usize = 4096;

/// The program's output as far as it would go to a terminal.
#[derive(Debug)]
pub struct Captured {
    /// The pty's end that is read; none once nobody writes to the other.
    master: Option<File>,
    /// What was read, until it is written to the terminal.
    file: Option<File>,
    /// Why the file does not have all of it, and how many bytes are lost.
    lost: Option<(io::Error, usize)>,
    lines: Lines,
    /// Both of the program's streams went elsewhere.
    is_empty: bool,
}

impl Captured {
    /// Of a program that keeps its streams.
    pub fn nothing() -> Self {
        Self { master: None, file: None, lost: None, lines: Lines::default(), is_empty: true }
    }

    /// Gives the program a pty in the place of each stream that is a terminal.
    pub fn of(command: &mut Command, screen: &Screen) -> io::Result<Self> {
        if !stdout().is_terminal() && !stderr().is_terminal() {
            return Ok(Self::nothing());
        }
        let (master, slave) = open_pty(screen)?;
        if stdout().is_terminal() {
            command.stdout(Stdio::from(slave.try_clone()?));
        }
        if stderr().is_terminal() {
            command.stderr(Stdio::from(slave));
        }
        Ok(Self {
            master: Some(master),
            file: Some(unnamed_file()?),
            lost: None,
            lines: Lines::default(),
            is_empty: false,
        })
    }

    /// Writes all that was kept to the terminal, and what comes from now on.
    pub fn release(&mut self) {
        self.take();
        if let Some(mut file) = self.file.take() {
            let copied = file.rewind().and_then(|()| io::copy(&mut file, &mut terminal()));
            if let Err(error) = copied {
                eprintln!("refpage: cannot show all of the program's output: {error}");
            }
        }
        if let Some((error, bytes)) = self.lost.take() {
            eprintln!("refpage: {bytes} bytes of the program's output are lost: {error}");
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.lines.add(bytes);
        let kept = match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => terminal().write_all(bytes),
        };
        if let Err(error) = kept {
            let (_, lost) = self.lost.get_or_insert((error, 0));
            *lost += bytes.len();
        }
    }
}

impl Output for Captured {
    fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.master.as_ref().map(lent)
    }

    fn take(&mut self) {
        let mut bytes = [0; 16 << 10];
        // Not for ever: the view has to be drawn, too.
        for _ in 0..64 {
            let Some(master) = &mut self.master else { return };
            match master.read(&mut bytes) {
                Ok(count) if count > 0 => self.keep(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: nobody has the other end open any more.
                _ => self.master = None,
            }
        }
    }

    fn lines(&self) -> Option<&VecDeque<String>> {
        (!self.is_empty).then_some(&self.lines.all)
    }
}

/// The stream of this process that is one.
fn terminal() -> Box<dyn Write> {
    if stdout().is_terminal() { Box::new(stdout()) } else { Box::new(stderr()) }
}

/// A pty of the terminal's size that changes nothing of what is written to it.
fn open_pty(screen: &Screen) -> io::Result<(File, OwnedFd)> {
    let size = screen.size()?;
    let size =
        libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the pointers are to live variables, and null where there is nothing to say.
    let opened = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    if opened != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors, which nobody else has.
    let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let error = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
    let mut modes = tcgetattr(lent(&slave)).map_err(error)?;
    modes.output_modes.remove(OutputModes::OPOST);
    modes.local_modes.remove(LocalModes::ECHO);
    tcsetattr(lent(&slave), OptionalActions::Now, &modes).map_err(error)?;
    for end in [lent(&master), lent(&slave)] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).map_err(error)?;
    }
    let flags = rustix::fs::fcntl_getfl(lent(&master)).map_err(error)?;
    rustix::fs::fcntl_setfl(lent(&master), flags | rustix::fs::OFlags::NONBLOCK).map_err(error)?;
    Ok((master, slave))
}

/// A file for the time of this process.
fn unnamed_file() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let directory = std::env::temp_dir();
    match options.clone().custom_flags(libc::O_TMPFILE).open(&directory) {
        Ok(file) => Ok(file),
        // Not every file system has files without names.
        Err(_) => {
            let path = directory.join(format!("refpage-output-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
    }
}

/// The last lines of a stream, without what moves the cursor or sets colors.
#[derive(Debug, Default)]
struct Lines {
    all: VecDeque<String>,
    /// The bytes of the last one so far.
    last: Vec<u8>,
    /// A carriage return came: what follows takes the line's place, unless it ends there.
    returned: bool,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// Behind an escape.
    Escape,
    /// Within a control sequence, which a letter ends.
    Sequence,
    /// Within a string, which a bell or an escape ends.
    Command,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        if self.all.is_empty() {
            self.all.push_back(String::new());
        }
        for &byte in bytes {
            self.state = match (&self.state, byte) {
                (State::Command, 0x07) => State::Text,
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Sequence,
                (State::Escape, b']' | b'P' | b'_' | b'^') => State::Command,
                (State::Escape, _) | (State::Sequence, 0x40..=0x7e) => State::Text,
                (State::Sequence, _) => State::Sequence,
                (State::Command, _) => State::Command,
                (State::Text, byte) => {
                    self.add_byte(byte);
                    State::Text
                }
            };
        }
        self.update();
    }

    fn add_byte(&mut self, byte: u8) {
        match byte {
            b'\n' => {
                self.update();
                self.last.clear();
                self.returned = false;
                self.all.push_back(String::new());
                if self.all.len() > LINES {
                    self.all.pop_front();
                }
            }
            b'\r' => self.returned = true,
            byte => {
                if std::mem::take(&mut self.returned) {
                    self.last.clear();
                }
                if self.last.len() < LINE {
                    self.last.push(if byte == b'\t' { b' ' } else { byte });
                }
            }
        }
    }

    fn update(&mut self) {
        if let Some(line) = self.all.back_mut() {
            let text = String::from_utf8_lossy(&self.last);
            *line = text.chars().filter(|letter| !letter.is_control()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&str]) -> Vec<String> {
        let mut lines = Lines::default();
        parts.iter().for_each(|part| lines.add(part.as_bytes()));
        lines.all.into()
    }

    #[test]
    fn lines_come_in_parts_and_without_what_is_for_a_terminal() {
        assert_eq!(lines(&["a", "b\ncd", "\n"]), ["ab", "cd", ""]);
        assert_eq!(lines(&["\x1b[1;3", "1mred\x1b[0m\ttext\x07"]), ["red text"]);
        assert_eq!(lines(&["\x1b]0;title\x07x\x1b]0;t\x1b\\y"]), ["xy"]);
        assert_eq!(lines(&["10 %\r20 %\r", "\nend\r\n"]), ["20 %", "end", ""]);
        assert_eq!(lines(&["é".repeat(3).as_str()]), ["ééé"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let text: String = (0..LINES * 2).map(|n| format!("{n}\n")).collect();
        let kept = lines(&[&text]);
        assert_eq!((kept.len(), kept[LINES - 2].as_str()), (LINES, "399"));
        assert_eq!(lines(&["x".repeat(LINE * 2).as_str()])[0].len(), LINE);
    }
}
