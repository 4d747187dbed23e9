//! `refpage run`: becomes the program, with `librefpage.so` preloaded.
//!
//! The program replaces this process, so its exit status, its signals and its process number are its
//! own, and nothing of this one stays in memory; but with `--live`, when somebody has to [watch](crate::live).

use crate::failure::{EXIT_STATUS, Failure};
use crate::flags::{HeapFlags, VARIABLE};
use crate::live;
use crate::program;
use crate::top::interval;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The preloaded library's file name.
const LIBRARY: &str = "librefpage.so";
/// The loader's variable.
const PRELOAD: &str = "LD_PRELOAD";
/// What a shell answers for a program that it cannot execute, and for one that it cannot find.
const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a program on the allocator
#[derive(clap::Args)]
#[command(after_help = EXIT_STATUS)]
pub struct Arguments {
    #[command(flatten)]
    heap: HeapFlags,
    /// Watch the program while it runs, as `refpage top` does: this process stays, and ends as the program does.
    /// What it writes to the terminal is shown at the end, and in part in the view; it cannot read from there
    #[arg(long)]
    live: bool,
    /// With --live: seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval, requires = "live")]
    interval: Duration,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only if it cannot.
pub fn run(arguments: &Arguments) -> Result<Infallible, Failure> {
    let options = arguments.heap.merged_with(std::env::var_os(VARIABLE).as_deref())?;
    let (name, rest) =
        arguments.command.split_first().ok_or_else(|| Failure::usage("run needs a program"))?;
    let mut command = Command::new(name);
    command.args(rest).env(PRELOAD, preload(&library()?, std::env::var_os(PRELOAD).as_deref())?);
    if let Some(options) = options {
        command.env(VARIABLE, options);
    }
    if let Some(file) = program::find(name)
        && let Some(reason) = program::ignores_preload(&file)
    {
        eprintln!(
            "refpage: warning: {} {reason}: it will not run on the allocator",
            file.display()
        );
    }
    if arguments.live {
        return live::run(command, arguments.interval, |error| refusal(name, error));
    }
    Err(refusal(name, &command.exec()))
}

/// Why the program was not started.
fn refusal(name: &OsStr, error: &Error) -> Failure {
    let name = Path::new(name).display();
    match error.kind() {
        ErrorKind::NotFound => Failure::with_code(format!("{name}: program not found"), NOT_FOUND),
        _ => Failure::with_code(format!("{name}: cannot execute: {error}"), CANNOT_EXECUTE),
    }
}

/// The library beside this executable, as `cargo build` leaves it, or in `../lib`, as installed.
fn library() -> Result<PathBuf, Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this executable: {error}")))?;
    let directory = executable.parent().unwrap_or(Path::new("/"));
    let candidates = [directory.join(LIBRARY), directory.join("../lib").join(LIBRARY)];
    candidates.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        Failure::new(format!(
            "no {LIBRARY} in {} or ../lib; `cargo build --release` makes both",
            directory.display()
        ))
    })
}

/// The loader's list with the library first, so that its malloc is the one that is found.
fn preload(library: &Path, inherited: Option<&OsStr>) -> Result<OsString, Failure> {
    // The loader splits at both and knows no quoting.
    if library.as_os_str().as_bytes().iter().any(|byte| b": ".contains(byte)) {
        return Err(Failure::new(format!(
            "{}: {PRELOAD} cannot name a path with a space or a ':'",
            library.display()
        )));
    }
    let mut list = library.as_os_str().to_owned();
    if let Some(inherited) = inherited.filter(|text| !text.is_empty()) {
        list.push(":");
        list.push(inherited);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_before_what_was_preloaded_already() {
        let list = |inherited: Option<&str>| {
            preload(Path::new("/x/librefpage.so"), inherited.map(OsStr::new)).unwrap()
        };
        assert_eq!(list(None), "/x/librefpage.so");
        assert_eq!(list(Some("")), "/x/librefpage.so");
        assert_eq!(list(Some("/y.so /z.so")), "/x/librefpage.so:/y.so /z.so");
    }

    #[test]
    fn a_path_that_the_loader_would_split_is_refused() {
        assert!(preload(Path::new("/a b/librefpage.so"), None).is_err());
        assert!(preload(Path::new("/a:b/librefpage.so"), None).is_err());
    }
}
