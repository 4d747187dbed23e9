//! The allocator's options as flags: generated from the table, so that no option lacks its flag.

use clap::{Arg, ArgAction, ArgMatches, Command, error::Error as ClapError, value_parser};
use refpage_alloc::options::{Options, TABLE};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::failure::Failure;

/// The environment variable that the allocator reads.
pub const VARIABLE: &str = "REFPAGE_OPTIONS";
/// The one that this program's own heap reads. What stands in the other is meant for the program
/// that `run` becomes, and for the measurements, which get it in this one.
pub const OWN_VARIABLE: &str = "REFPAGE_MEASURE";

/// The options whose value is usually left out: each has two flags, of which the second one takes a
/// file, and is about what they are called here.
const REPORTS: [(&str, &str, &str); 2] = [
    ("stats", "stats-json", "the statistics"),
    ("profile", "profile-json", "a profile of the allocations"),
];

fn is_report(option: &str) -> bool {
    REPORTS.iter().any(|&(name, ..)| name == option)
}

/// The options given as flags, in the order of the table.
#[derive(Debug, Default)]
pub struct HeapFlags {
    entries: Vec<(&'static str, OsString)>,
}

impl HeapFlags {
    /// The value of `REFPAGE_OPTIONS` for the program: what is there already, then the flags, which
    /// override it. `None` if neither says anything.
    pub fn merged_with(&self, inherited: Option<&OsStr>) -> Result<Option<OsString>, Failure> {
        let mut text = inherited.unwrap_or_default().to_owned();
        let mut options = parsed(&text)?;
        for (name, value) in &self.entries {
            // Not by the joined text: there a ':' in the value would start another entry.
            options
                .set(name.as_bytes(), value.as_bytes())
                .map_err(|error| Failure::usage(error.to_string()))?;
            if !text.is_empty() {
                text.push(":");
            }
            text.push(name);
            text.push("=");
            text.push(value);
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// What `REFPAGE_OPTIONS` asks for, if all of it is right.
pub fn inherited() -> Result<Options, Failure> {
    parsed(&std::env::var_os(VARIABLE).unwrap_or_default())
}

fn parsed(text: &OsStr) -> Result<Options, Failure> {
    let mut options = Options::new();
    let mut complaint = None;
    options.apply(text.as_bytes(), &mut |error| {
        complaint.get_or_insert(format!("{VARIABLE}: {error}"));
    });
    complaint.map_or(Ok(options), |line| Err(Failure::usage(line)))
}

impl clap::Args for HeapFlags {
    fn augment_args(command: Command) -> Command {
        let flags = TABLE.iter().filter(|spec| !is_report(spec.name)).map(|spec| {
            let help = format!("{}\n[{}; default {}]", spec.help, spec.accepts, spec.default);
            Arg::new(spec.name)
                .long(spec.name)
                .value_name(spec.value)
                .value_parser(value_parser!(OsString))
                .help(help)
        });
        let reports = REPORTS.into_iter().flat_map(|(name, to_file, what)| {
            let print = Arg::new(name)
                .long(name)
                .action(ArgAction::SetTrue)
                .conflicts_with(to_file)
                .help(format!("print {what} on stderr at exit"));
            let write = Arg::new(to_file)
                .long(to_file)
                .value_name("FILE")
                .value_parser(value_parser!(OsString))
                .help(format!(
                    "write {what} to FILE at exit; its full name has at most 255 bytes and no ':', \
                     and %p in it is the number of the process: each writes its own"
                ));
            [print, write]
        });
        command.args(flags).args(reports)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for HeapFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let mut entries: Vec<(&'static str, OsString)> = TABLE
            .iter()
            .filter(|spec| !is_report(spec.name))
            .filter_map(|spec| Some((spec.name, matches.get_one::<OsString>(spec.name)?.clone())))
            .collect();
        for (name, to_file, _) in REPORTS {
            if matches.get_flag(name) {
                entries.push((name, "1".into()));
            }
            if let Some(file) = matches.get_one::<OsString>(to_file) {
                // The program may be in another directory by the time it exits.
                let full = std::path::absolute(file).unwrap_or_else(|_| file.into());
                let mut value = OsString::from("json:");
                value.push(full);
                entries.push((name, value));
            }
        }
        Ok(Self { entries })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
