//! `writes`: what it costs to know which pages were written, by three means.
//!
//! ```text
//!     run ─▶ rounds ─▶ child ─▶ [process] work ─▶ means     checks that the written pages are told, and no others
//!      └───▶ table, targets, JSON                  └────▶ space
//! ```
//!
//! - **means**: who tells the written pages: refpage's write watch, mprotect with a signal handler, soft-dirty bits.
//! - **reset**: no page counts as written from then on.
//! - **look**: to find out which ones were.
//! - **cycle**: writes, look, reset.

pub mod means;
mod space;
mod table;
pub mod work;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::child::{self, report, value};
use crate::peers;
use crate::progress::Progress;
use crate::rounds::{cpus, kernel};
use crate::targets::Verdict;
use means::Means;
use table::Figure;
use work::{Pattern, Report};

/// By how much the write watch is to be cheaper than mprotect, where few pages are written.
const CHEAPER: f64 = 10.0;

/// Tell which pages were written by PAGEMAP_SCAN, by mprotect and SIGSEGV, and by soft-dirty bits, side by side
///
/// Each measurement is a process of its own. Every round runs each means once, in an order that rotates; the tables
/// show medians with the range of the rounds, and ratios taken round by round. Each look is checked: the
/// written pages, and no others.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each pattern [default: 7, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Size of the memory [default: 256, with --quick 32]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65536))]
    mib: Option<u32>,
    /// Smaller and fewer: some seconds
    #[arg(long)]
    quick: bool,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
struct Results {
    kernel: String,
    cpus: usize,
    runs: u32,
    mib: u32,
    page_bytes: usize,
    cases: Vec<CaseResults>,
    targets: Vec<Verdict>,
}

/// One pattern.
#[derive(Debug, Serialize)]
struct CaseResults {
    title: String,
    rows: Vec<Row>,
}

/// A means under a pattern.
#[derive(Debug, Serialize)]
struct Row {
    means: Means,
    /// One a round.
    reports: Vec<Report>,
    /// Why there are no more.
    failure: Option<String>,
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runs = arguments.runs.unwrap_or(if arguments.quick { 3 } else { 7 });
    let mib = arguments.mib.unwrap_or(if arguments.quick { 32 } else { 256 });
    let create = |path: &PathBuf| {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))
    };
    let json = arguments.json.as_ref().map(create).transpose()?;
    let progress = Progress::new((Pattern::ALL.len() * Means::ALL.len() * runs as usize) as u64);
    let cases: Vec<_> =
        Pattern::ALL.iter().map(|&pattern| rounds(pattern, mib, runs, &progress)).collect();
    progress.finish();
    let results = Results {
        kernel: kernel()?,
        cpus: cpus(),
        runs,
        mib,
        page_bytes: crate::memory::page_bytes(),
        targets: judge(&cases[0]),
        cases,
    };
    print(&results);
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &results).context("cannot write the JSON file")?;
    }
    let rows = results.cases.iter().flat_map(|case| &case.rows);
    Ok(match rows.filter(|row| row.failure.is_some()).count() {
        0 => ExitCode::SUCCESS,
        failed => {
            eprintln!("error: {failed} measurements FAILED, see above");
            ExitCode::FAILURE
        }
    })
}

/// All rounds of a pattern.
fn rounds(pattern: Pattern, mib: u32, runs: u32, progress: &Progress) -> CaseResults {
    let (name, peer) = (value(pattern), peers::glibc());
    progress.case(&name);
    let row = |&means: &Means| Row { means, reports: Vec::new(), failure: None };
    let mut rows: Vec<Row> = Means::ALL.iter().map(row).collect();
    for round in 0..runs as usize {
        for turn in 0..rows.len() {
            let at = (round + turn) % rows.len();
            let row = &mut rows[at];
            progress.done(1);
            if row.failure.is_some() {
                continue;
            }
            let (means, mib) = (value(row.means), mib.to_string());
            let arguments = ["writes-work", "--pattern", &name, "--means", &means, "--mib", &mib];
            match report(&arguments, &peer) {
                Ok((report, _)) => row.reports.push(report),
                Err(error) => {
                    progress.say(&format!("FAILED: {name} by {means}: {error:#}"));
                    row.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    let which = match pattern {
        Pattern::Sparse => "one page in a hundred is written, anywhere",
        Pattern::Tenth => "one page in ten is written, anywhere",
        Pattern::All => "all pages are written, from the first to the last",
    };
    CaseResults { title: format!("{name}: {which}"), rows }
}

/// What is aimed at where few pages are written.
fn judge(sparse: &CaseResults) -> Vec<Verdict> {
    let row = |means| sparse.rows.iter().find(|row| row.means == means && row.failure.is_none());
    let figures: [(&str, Figure); 3] = [
        ("a first write", table::first_write),
        ("cycle", table::cycle),
        ("cycle's CPU", table::cycle_cpu),
    ];
    let verdict = |(what, figure): (&str, Figure)| {
        let (watch, other) = (row(Means::WriteWatch), row(Means::Mprotect));
        let value = watch.zip(other).and_then(|(watch, other)| other.ratio(figure, watch));
        Verdict {
            case: child::value(Pattern::Sparse),
            what: format!("{what}: mprotect × WriteWatch"),
            bound: format!("≥ {CHEAPER:.0}"),
            value,
            passed: value.map(|value| value.median >= CHEAPER),
        }
    };
    figures.map(verdict).into()
}

fn print(results: &Results) {
    let Results { kernel, cpus, runs, mib, page_bytes, .. } = results;
    println!(
        "Linux {kernel}, {cpus} CPUs, {mib} MiB in pages of {page_bytes} bytes, all there; medians of {runs} rounds (least–greatest)."
    );
    println!(
        "A first write: beyond what one more costs. Reset and look: for each page there is. Cycle: writes, look, reset.\n\
         VMAs: before and after the writes."
    );
    let reports = results.cases.iter().flat_map(|case| &case.rows).flat_map(|row| &row.reports);
    let checked = reports.map(|report| match report {
        Report::Measured(measured) => measured.checked_pages,
        Report::Absent(_) => 0,
    });
    println!("Pages that were told, all of them rightly: {}.\n", checked.sum::<u64>());
    results.cases.iter().for_each(|case| println!("{}", table::of_case(case)));
    println!("{}", crate::table::of_targets(&results.targets));
}
