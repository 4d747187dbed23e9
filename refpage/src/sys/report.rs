//! One clear line on stderr, and the end of the process where there is no way on.

use core::fmt::{self, Write};

use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};

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
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Line<N> {
    /// What was written so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = N - self.len;
        let take = text.len().min(room);
        if let (Some(to), Some(from)) =
            (self.bytes.get_mut(self.len..self.len + take), text.as_bytes().get(..take))
        {
            to.copy_from_slice(from);
            self.len += take;
        }
        Ok(())
    }
}

/// Writes all of `bytes` to `fd`, as far as it takes them.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) if n > 0 => bytes = bytes.get(n..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Nobody is left who could be told.
            _ => return,
        }
    }
}

/// Prints `refpage: MESSAGE` on the program's stderr, in one write.
pub fn warn(message: fmt::Arguments<'_>) {
    let mut line = Line::<LINE>::default();
    let _ = writeln!(line, "refpage: {message}");
    // SAFETY: descriptor 2 is only borrowed for this write; if the program closed it, write says so.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    write_all(stderr, line.as_bytes());
}

/// Prints the line and ends the process with SIGABRT.
pub fn die(message: fmt::Arguments<'_>) -> ! {
    warn(message);
    abort()
}

/// As [`die`], from the fault handler, whose private descriptor table holds no stderr.
pub fn die_without_stderr(message: fmt::Arguments<'_>) -> ! {
    let mut line = Line::<LINE>::default();
    let _ = writeln!(line, "refpage: {message}");
    if let Ok(fd) = rustix::fs::open(c"/proc/self/fd/2", OFlags::WRONLY, Mode::empty()) {
        write_all(rustix::fd::AsFd::as_fd(&fd), line.as_bytes());
    }
    abort()
}

fn abort() -> ! {
    // SAFETY: libc's abort has no precondition; it allocates nothing and does not return.
    unsafe { libc::abort() }
}
