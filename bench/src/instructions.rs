//! `instructions`: what memory tags cost on a machine that emulates them, where time means nothing.
//!
//! ```text
//!     run ─▶ ways ───────────────▶ counter     ways to write and tag a page that is there, in this process
//!      ├───▶ child ─▶ [process, LD_PRELOAD] count ─▶ cases ─▶ tally ─▶ counter     what malloc does
//!      └───▶ table, JSON
//! ```

pub mod cases;
pub mod count;
mod counter;
mod table;
mod tally;
mod ways;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::child;
use crate::memory::page_bytes;
use crate::peers::{self, OFF, Peer};
use crate::progress::Progress;
use cases::Case;
use count::Counted;
use counter::Counter;

/// Count the instructions that tagging and filling memory takes, on an emulated aarch64 machine
///
/// It takes a machine whose virtual counter goes forward by one tick with each instruction, as qemu's does with -icount
/// shift=0, and refuses any other. One processor, so that all threads' instructions are counted. `refpage-kernels
/// costs` boots one.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Only the cases whose names contain this; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    case: Vec<String>,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All that was counted.
#[derive(Debug, Serialize)]
struct Results {
    /// The kernel's release.
    kernel: String,
    /// Bytes of a page.
    page_bytes: usize,
    /// Bytes that DC GVA and DC GZVA are for, if they are to be had.
    block_bytes: Option<usize>,
    /// The kernel's setting for huge pages.
    huge_pages: String,
    runs: u32,
    /// Ways to tag a page.
    ways: Vec<ways::Counted>,
    cases: Vec<CaseResults>,
}

/// One case.
#[derive(Debug, Serialize)]
struct CaseResults {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    rows: Vec<Row>,
}

/// An allocator in a case.
#[derive(Debug, Serialize)]
struct Row {
    peer: String,
    /// One a round.
    counted: Vec<Counted>,
    /// Why there are no more.
    failure: Option<String>,
}

/// An allocator, and how its pointers' tags are to be checked.
struct Subject {
    peer: Peer,
    tags: &'static str,
}

/// Counts, prints, and says by the exit code whether every count came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let counter = Counter::calibrated()?;
    let subjects = subjects()?;
    let wanted = |case: &&Case| {
        let parts = &arguments.case;
        parts.is_empty() || parts.iter().any(|part| case.name.contains(part))
    };
    let cases: Vec<_> = cases::ALL.iter().filter(wanted).collect();
    let of_case = |case: &Case| subjects.iter().filter(|it| it.belongs_to(case)).count();
    let counts: usize = cases.iter().map(|case| of_case(case)).sum();
    let progress = Progress::new((counts * arguments.runs as usize) as u64);
    progress.case("ways to tag a page");
    let ways = ways::count(counter)?;
    let count = |case: &&Case| rounds(case, &subjects, arguments.runs, &progress);
    let cases = cases.iter().map(count).collect();
    progress.finish();
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let results = Results {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        page_bytes: page_bytes(),
        block_bytes: mte::instructions::block(),
        huge_pages: setting.map_or("none".into(), |setting| chosen(&setting).to_owned()),
        runs: arguments.runs,
        ways,
        cases,
    };
    print!("{}", table::report(&results));
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&results)?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let rows = || results.cases.iter().flat_map(|case| &case.rows);
    Ok(match rows().filter(|row| row.failure.is_some()).count() {
        0 => ExitCode::SUCCESS,
        failed => {
            eprintln!("error: {failed} counts FAILED, see above");
            ExitCode::FAILURE
        }
    })
}

/// Services of refpage with tags and without, and what has none.
fn subjects() -> Result<Vec<Subject>> {
    let library = peers::own_library()?;
    let mut subjects = Vec::new();
    for service in ["lazy", "cow", "memset"] {
        for tags in ["sync", "off"] {
            let mut peer = peers::refpage(service, &library, &format!("mte={tags}"));
            peer.name = format!("{service}, {}", if tags == "off" { "no tags" } else { "tags" });
            subjects.push(Subject { peer, tags });
        }
    }
    subjects.push(Subject { peer: peers::refpage(OFF, &library, "mte=off"), tags: "off" });
    subjects.push(Subject { peer: peers::glibc(), tags: "off" });
    Ok(subjects)
}

impl Subject {
    /// Services differ in large blocks alone.
    fn belongs_to(&self, case: &Case) -> bool {
        let of_interest = ["lazy", OFF];
        case.of_services || self.peer.service.is_none_or(|service| of_interest.contains(&service))
    }

    fn count(&self, case: &Case) -> Result<Counted> {
        let arguments = ["count", "--case", case.name, "--tags", self.tags];
        let (counted, messages): (Counted, _) = child::report(&arguments, &self.peer)?;
        anyhow::ensure!(messages.is_empty(), "{messages}");
        let taken = counted.service.as_deref();
        anyhow::ensure!(taken == self.peer.service, "refpage took the service {taken:?}");
        Ok(counted)
    }
}

/// All rounds of a case.
fn rounds(case: &Case, subjects: &[Subject], runs: u32, progress: &Progress) -> CaseResults {
    progress.case(case.name);
    let mut rows = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.belongs_to(case)) {
        let mut row = Row { peer: subject.peer.name.clone(), counted: Vec::new(), failure: None };
        for _ in 0..runs {
            progress.done(1);
            match subject.count(case) {
                Ok(counted) => row.counted.push(counted),
                Err(error) => {
                    progress.say(&format!("FAILED: {} of {}: {error:#}", case.name, row.peer));
                    row.failure = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        rows.push(row);
    }
    CaseResults { name: case.name, title: case.title, unit: case.unit, rows }
}

/// The word in brackets: how the kernel shows a choice among some.
fn chosen(setting: &str) -> &str {
    let word = setting.split('[').nth(1).and_then(|rest| rest.split(']').next());
    word.unwrap_or(setting.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("strange\n"), "strange");
    }
}
