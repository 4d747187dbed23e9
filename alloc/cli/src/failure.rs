//! How a command ends: with text on stdout, or with one line on stderr and an exit code.

use std::io::{ErrorKind, Write};

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

/// The exit codes, for the help.
pub const EXIT_STATUS: &str = "\
Exit status: 0; 1 if something failed; 2 if the command line or REFPAGE_OPTIONS is wrong. `run`
ends as its program does, with its code or by its signal; with 126 if the program cannot be
executed, and with 127 if it cannot be found. Every failure gets one line on stderr.";

/// One line for stderr, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The line, without a newline.
    pub line: String,
    /// The exit code.
    pub code: u8,
}

impl Failure {
    /// Something went wrong that is not the command line's fault.
    pub fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: 1 }
    }

    /// The command line is wrong.
    pub fn usage(line: impl Into<String>) -> Self {
        Self { line: line.into(), code: USAGE }
    }

    /// An exit code of its own, such as a shell's 127.
    pub fn with_code(line: impl Into<String>, code: u8) -> Self {
        Self { line: line.into(), code }
    }
}

/// Writes to stdout. `print!` would panic when the reader has gone (`refpage doctor | head -1`).
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same with what need not be text.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Clap's complaint as one line; its requests for `--help` and `--version` as what they ask for.
pub fn from_clap(error: &clap::Error) -> Result<(), Failure> {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return print(&text);
    }
    // The first paragraph says what is wrong; usage and tips follow it.
    let lines: Vec<&str> =
        text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    Err(Failure::usage(format!("{line}; see `refpage help`")))
}
