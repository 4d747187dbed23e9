//! What is written when the process exits: statistics and profile, on stderr or to files.
//!
//! ```text
//!   atexit ─▶ each report that the options ask for ─▶ the stderr that the process started with
//!                                                  └▶ its file, %p in the name: the process's number
//! ```

use core::fmt::{self, Write};

use refpage::sys::descriptor::{Descriptor, OUT_OF_THE_WAY};
use refpage::sys::errno::name;
use refpage::sys::number::Number;
use refpage::sys::report::{self, Line, warn};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::fork::Inside;
use crate::options::{Options, PathText, ReportChoice};
use crate::{profile, start, stats};

/// A second number for the stderr that the process started with: many programs close theirs
/// before the functions of atexit have all run.
static STDERR: Number = Number::new();

/// Has done at exit what the options ask for.
pub(crate) fn register(options: &Options) {
    if (options.stats, options.profile) == (ReportChoice::Off, ReportChoice::Off) {
        return;
    }
    // SAFETY: the callback lives for ever.
    if unsafe { libc::atexit(at_exit) } != 0 {
        return warn(format_args!("cannot register for exit: no statistics and no profile"));
    }
    // For the block, or for what is wrong with the file.
    if let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(borrow(2), OUT_OF_THE_WAY) {
        STDERR.keep(Descriptor::new(copy));
    }
}

/// The stderr that was kept; if the program closed that too, whatever it has for one now.
fn kept_stderr() -> BorrowedFd<'static> {
    borrow(STDERR.get().filter(|&number| STDERR.is_ours(number)).unwrap_or(2))
}

/// For one call: if the number is closed, that says so.
pub(crate) fn borrow(number: i32) -> BorrowedFd<'static> {
    // SAFETY: borrowed for one call each.
    unsafe { BorrowedFd::borrow_raw(number) }
}

extern "C" fn at_exit() {
    let Some(heap) = start::try_heap() else { return };
    if Inside::is_interrupted() {
        // Its locks may be held, for ever now.
        let why = "the process exits in a signal handler that interrupted malloc or free";
        return report::warn_on(kept_stderr(), format_args!("no statistics and no profile: {why}"));
    }
    write("the statistics", &heap.options.stats, stats::write_block, stats::write_json);
    write("the profile", &heap.options.profile, profile::write_block, profile::write_json);
}

/// Writes a report to where it is to go; says so if it cannot.
fn write(
    what: &str,
    choice: &ReportChoice,
    block: fn(&mut Pieces<'_>) -> fmt::Result,
    json: fn(&mut Pieces<'_>) -> fmt::Result,
) {
    match choice {
        ReportChoice::Off => {}
        // A stderr that takes nothing is its owner's business.
        ReportChoice::Stderr => drop(write_to(kept_stderr(), block)),
        ReportChoice::Json(template) => {
            let path = path_of(template);
            let written = create(path.as_bytes()).and_then(|file| write_to(file.as_fd(), json));
            if let Err(errno) = written {
                report::warn_on(
                    kept_stderr(),
                    format_args!(
                        "cannot write {what} to {}: {} ({})",
                        path.as_bytes().escape_ascii(),
                        name(errno),
                        errno.raw_os_error()
                    ),
                );
            }
        }
    }
}

/// Writes what `text` says to a descriptor, in pieces.
///
/// # Errors
/// What write says; a part may be written then.
pub(crate) fn write_to(
    fd: BorrowedFd<'_>,
    text: impl FnOnce(&mut Pieces<'_>) -> fmt::Result,
) -> Result<()> {
    let mut pieces = Pieces { fd, held: Line::new(), failed: None };
    let _ = text(&mut pieces);
    pieces.flush();
    pieces.failed.map_or(Ok(()), Err)
}

/// A file name may be a little longer than its template.
type Path = Line<{ PathText::MAX + 16 }>;

/// The file name that a template stands for in this process.
fn path_of(template: &PathText) -> Path {
    let mut path = Path::new();
    let mut rest = template.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match rest.strip_prefix(b"%p") {
            Some(tail) => {
                let _ = write!(path, "{}", rustix::process::getpid().as_raw_nonzero());
                rest = tail;
            }
            None => {
                path.push(&[byte]);
                rest = tail;
            }
        }
    }
    path
}

fn create(path: &[u8]) -> Result<Descriptor> {
    if path.len() > PathText::MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map(Descriptor::new)
}

/// Bytes that are written at once: the block for people in one write, whoever else writes there.
pub(crate) const PIECE: usize = 8192;

/// Text of any length on its way to a descriptor.
pub(crate) struct Pieces<'a> {
    fd: BorrowedFd<'a>,
    held: Line<PIECE>,
    /// What write said first.
    failed: Option<Errno>,
}

impl Pieces<'_> {
    fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = report::write_all(self.fd, self.held.as_bytes()).err();
        }
        self.held.clear();
    }
}

impl Write for Pieces<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(PIECE) {
            if self.held.as_bytes().len() + piece.len() > PIECE {
                self.flush();
            }
            self.held.push(piece);
        }
        if self.failed.is_some() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_may_have_the_process_number_in_it() {
        let number = std::process::id().to_string();
        for (template, path) in [
            ("a.json", "a.json".to_owned()),
            ("%p", number.clone()),
            ("/x/%p-%p.json", format!("/x/{number}-{number}.json")),
            ("100%.%d%", "100%.%d%".to_owned()),
        ] {
            let template = PathText::new(template.as_bytes()).expect("a name");
            assert_eq!(path_of(&template).as_bytes(), path.as_bytes());
        }
    }

    #[test]
    fn a_file_name_that_becomes_too_long_is_refused() {
        let template = PathText::new("%p".repeat(127).as_bytes()).expect("a name");
        let path = path_of(&template);
        if std::process::id() > 999 {
            assert_eq!(create(path.as_bytes()).err(), Some(Errno::NAMETOOLONG));
        }
    }

    #[test]
    fn text_of_any_length_arrives_as_a_whole() {
        let path = std::env::temp_dir().join(format!("refpage-pieces-{}", std::process::id()));
        let text = "0123456789abcde\n".repeat(PIECE / 5);
        let file = create(path.as_os_str().as_encoded_bytes()).expect("a file");
        write_to(file.as_fd(), |pieces| {
            text.split_inclusive('\n').try_for_each(|line| pieces.write_str(line))?;
            pieces.write_str(&text)
        })
        .expect("written");
        let written = std::fs::read_to_string(&path).expect("read back");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(written, text.clone() + &text);
    }

    #[test]
    fn what_cannot_be_written_is_said_and_ends_it() {
        let full = Descriptor::open(c"/dev/full", OFlags::WRONLY).expect("open");
        let mut ended = false;
        let written = write_to(full.as_fd(), |pieces| {
            let all = (0..10_000).try_for_each(|_| pieces.write_str("0123456789"));
            ended = all.is_err();
            all
        });
        assert_eq!((written, ended), (Err(Errno::NOSPC), true));
    }
}
