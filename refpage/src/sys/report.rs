//! One clear line on stderr, or a block of them, and the end of the process where there is no way on.

use core::fmt::{self, Write};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::sys::descriptor::Descriptor;
use crate::sys::thread;

/// A line longer than this is cut: it is built on the stack, since nothing may allocate here.
const LINE: usize = 512;

/// Text built in a fixed buffer; what does not fit is dropped.
#[derive(Debug)]
pub struct Line<const N: usize = LINE> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Line<N> {
    /// Nothing was written so far; all of it is zeros.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// What was written so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds bytes that need not be text.
    pub fn push(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(N - self.len);
        if let (Some(to), Some(from)) =
            (self.bytes.get_mut(self.len..self.len + take), bytes.get(..take))
        {
            to.copy_from_slice(from);
            self.len += take;
        }
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Has it end with a newline if it was cut, which is when it is full.
    pub fn end_where_cut(&mut self) {
        if self.len == N
            && let Some(last) = self.bytes.last_mut()
        {
            *last = b'\n';
        }
    }
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// `refpage: MESSAGE`, which ends with a newline however long it is.
fn line(message: fmt::Arguments<'_>) -> Line {
    let mut line = Line::default();
    let _ = writeln!(line, "refpage: {message}");
    line.end_where_cut();
    line
}

/// Writes all of `bytes` to `fd`.
///
/// # Errors
/// What write said; a part may be written then.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Prints `refpage: MESSAGE` on the program's stderr, in one write.
pub fn warn(message: fmt::Arguments<'_>) {
    // SAFETY: descriptor 2 is only borrowed for this write; if the program closed it, write says so.
    warn_on(unsafe { BorrowedFd::borrow_raw(2) }, message);
}

/// As [`warn`], under another number for stderr.
pub fn warn_on(stderr: BorrowedFd<'_>, message: fmt::Arguments<'_>) {
    // Nobody is left who could be told that it cannot be told.
    let _ = write_all(stderr, line(message).as_bytes());
}

/// Prints the line and ends the process with SIGABRT.
pub fn die(message: fmt::Arguments<'_>) -> ! {
    warn(message);
    abort()
}

/// Prints a block of lines on the program's stderr, in one write.
pub fn tell(block: &[u8]) {
    // SAFETY: as in `warn`.
    let _ = write_all(unsafe { BorrowedFd::borrow_raw(2) }, block);
}

/// As [`tell`], from whoever [dies without stderr](die_without_stderr).
pub fn tell_without_stderr(block: &[u8]) {
    match stderr_of_the_program() {
        Ok(fd) => {
            // As in `warn_on`.
            let _ = write_all(fd.as_fd(), block);
        }
        Err(_) => tell(block),
    }
}

/// Prints a block of lines and ends the process with SIGABRT.
pub fn die_telling(block: &[u8]) -> ! {
    tell(block);
    abort()
}

/// As [`die`], from whoever puts pages in place: the fault handler among others, whose private
/// descriptor table holds no stderr, and who is no thread to libc's abort. Handlers of SIGABRT are
/// not called: they might touch what cannot be served.
pub fn die_without_stderr(message: fmt::Arguments<'_>) -> ! {
    match stderr_of_the_program() {
        Ok(fd) => warn_on(fd.as_fd(), message),
        // No /proc, or a system call filter. Whose table has a stderr can do without.
        Err(_) => warn(message),
    }
    thread::abort_process()
}

/// The program's own open file, which may be a socket, and has a position if it is a file. To open
/// it anew, where Linux is older than 5.6 or a filter refuses, does for a terminal or a pipe.
fn stderr_of_the_program() -> Result<Descriptor> {
    match shared_stderr() {
        Ok(stderr) => Ok(stderr),
        // From its end: opened again, a file would be written over.
        Err(_) => Descriptor::open(c"/proc/self/fd/2", OFlags::WRONLY | OFlags::APPEND),
    }
}

#[cfg(not(target_os = "android"))]
fn shared_stderr() -> Result<Descriptor> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(process, 2, PidfdGetfdFlags::empty()).map(Descriptor::new)
}

/// rustix has not the calls there.
#[cfg(target_os = "android")]
fn shared_stderr() -> Result<Descriptor> {
    Err(Errno::NOSYS)
}

fn abort() -> ! {
    // SAFETY: libc's abort has no precondition; it allocates nothing and does not return.
    unsafe { libc::abort() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_cut_ends_all_the_same() {
        for length in [0, 1, 500, LINE - 11, LINE - 10, LINE - 9, LINE, 2 * LINE] {
            let message = "x".repeat(length);
            let line = line(format_args!("{message}"));
            let text = core::str::from_utf8(line.as_bytes()).expect("text");
            assert_eq!(text.len(), (length + 10).min(LINE));
            assert!(text.starts_with("refpage: ") && text.ends_with('\n'), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let full = Descriptor::open(c"/dev/full", OFlags::WRONLY).expect("open");
        assert_eq!(write_all(full.as_fd(), b"text"), Err(Errno::NOSPC));
        assert_eq!(write_all(full.as_fd(), b""), Ok(()));
    }
}
