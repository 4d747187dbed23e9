//! `moves`: what a concurrent compaction takes by page moves, by copies and by mremap, on the same heap.
//!
//! ```text
//!     run ─▶ rounds ─▶ child ─▶ [process] work ─▶ refpage-compactor     one compaction, every object verified
//!      │       └─────▶ child ─▶ [process] raw ──▶ refpage::moves        single calls, content checked
//!      └───▶ table, JSON
//! ```
//!
//! - **way**: MOVE, COPY or MREMAP. COPY is what ratios are taken to.
//! - **round**: each way once, in an order that rotates.

pub mod raw;
mod table;
pub mod work;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use refpage_compactor::{Shape, Way};
use serde::Serialize;

use crate::cases::Scale;
use crate::child::{report, value};
use crate::peers::{Peer, Source};
use crate::progress::Progress;
use crate::rounds;
use raw::Raw;
use work::Compacted;

/// Compact the same heap by page moves, by copies and by mremap, and measure the calls by themselves
///
/// Each measurement is a process of its own, which verifies every object. Every round has each way once, in an order that
/// rotates; the tables show medians with the range of the rounds, and ratios to COPY taken round by round.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each case [default: 7, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Only the cases whose names contain this; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    case: Vec<String>,
    /// Smaller and fewer: about 10 seconds
    #[arg(long)]
    quick: bool,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A heap, and who uses it.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    /// How the heap looks.
    pub shape: Shape,
    /// Threads that use it.
    pub mutators: usize,
}

/// The name of the single calls, among those of the cases.
const CALLS: &str = "calls";

/// All of them.
pub fn cases(scale: Scale) -> Vec<Case> {
    let pages = scale.pick(65536, 8192, 512);
    let clustered = Shape { pages, populated_run: 16, fragmented_run: 8, references: 4, seed: 1 };
    let scattered = Shape { populated_run: 1, fragmented_run: 1, ..clustered };
    let mut cases = vec![
        Case {
            name: "clustered",
            title: "16 populated pages, 8 fragmented ones, and so on, on average",
            shape: clustered,
            mutators: 0,
        },
        Case {
            name: "clustered, used",
            title: "the same while a thread uses it",
            shape: clustered,
            mutators: 1,
        },
        Case {
            name: "scattered",
            title: "each second page is fragmented",
            shape: scattered,
            mutators: 0,
        },
        Case {
            name: "scattered, used",
            title: "the same while a thread uses it",
            shape: scattered,
            mutators: 1,
        },
        Case {
            name: "without references",
            title: "clustered, and no reference to be updated",
            shape: Shape { references: 0, ..clustered },
            mutators: 0,
        },
    ];
    if scale == Scale::Full {
        cases.push(Case {
            name: "beyond the mappings",
            title: "scattered, and more populated pages than there may be mappings, as many as Linux has them by default",
            shape: Shape { pages: 3 * pages, ..scattered },
            mutators: 0,
        });
    }
    cases
}

/// A whole run of the command.
#[derive(Debug, Serialize)]
struct Results {
    /// The kernel's release.
    kernel: String,
    /// How many CPUs this process may use.
    cpus: usize,
    /// Bytes of an OS page.
    page_bytes: usize,
    /// Rounds of each case.
    runs: usize,
    /// How large the cases were.
    scale: String,
    /// Single calls, one measurement a round.
    calls: Vec<Vec<Raw>>,
    cases: Vec<CaseResults>,
    /// What did not come off.
    failures: Vec<String>,
}

/// One case.
#[derive(Debug, Serialize)]
struct CaseResults {
    name: &'static str,
    title: &'static str,
    mutators: usize,
    /// In the order of [`Way::ALL`].
    rows: Vec<Row>,
}

/// A way in a case.
#[derive(Debug, Serialize)]
struct Row {
    way: &'static str,
    /// One measurement a round.
    measured: Vec<Compacted>,
    failed: bool,
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    refpage::moves::Mover::new().context("this machine cannot move pages")?;
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 3 } else { 7 }) as usize;
    let cases = cases(scale);
    let names: Vec<&str> = cases.iter().map(|case| case.name).chain([CALLS]).collect();
    let wanted = rounds::chosen(&names, &arguments.case)?;
    let json = arguments
        .json
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())));
    let json = json.transpose()?;
    let chosen: Vec<&Case> = cases.iter().filter(|case| wanted.contains(&case.name)).collect();
    let calls = if wanted.contains(&CALLS) { runs } else { 0 };
    let progress = Progress::new((chosen.len() * Way::ALL.len() * runs + calls) as u64);
    let mut failures = Vec::new();
    let mut fail = |what: String, progress: &Progress| {
        progress.say(&format!("FAILED: {what}"));
        failures.push(what);
    };
    progress.case(CALLS);
    let calls = (0..calls).filter_map(|_| {
        let measured = report(&["moves-raw"], &plain(CALLS));
        progress.done(1);
        measured.map_err(|error| fail(format!("{CALLS}: {error:#}"), &progress)).ok()
    });
    let calls = calls.map(|(raw, _)| raw).collect();
    let mut measured = Vec::new();
    for case in chosen {
        measured.push(of_case(case, scale, runs, &progress, &mut fail));
    }
    progress.finish();
    let results = Results {
        kernel: rounds::kernel()?,
        cpus: rounds::cpus(),
        page_bytes: crate::memory::page_bytes(),
        runs,
        scale: value(scale),
        calls,
        cases: measured,
        failures,
    };
    print!("{}", table::report(&results));
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &results).context("cannot write the JSON file")?;
    }
    if results.failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {} measurements FAILED, see above", results.failures.len());
    Ok(ExitCode::FAILURE)
}

/// All rounds of a case. A way that failed once is left out of the others.
fn of_case(
    case: &Case,
    scale: Scale,
    runs: usize,
    progress: &Progress,
    fail: &mut impl FnMut(String, &Progress),
) -> CaseResults {
    progress.case(case.name);
    let row = |way: &Way| Row { way: way.name(), measured: Vec::new(), failed: false };
    let mut rows: Vec<Row> = Way::ALL.iter().map(row).collect();
    for round in 0..runs {
        for turn in 0..rows.len() {
            let at = (round + turn) % rows.len();
            let (way, row) = (Way::ALL[at], &mut rows[at]);
            progress.done(1);
            if row.failed {
                continue;
            }
            let arguments =
                ["moves-work", "--case", case.name, "--scale", &value(scale), "--way", &value(way)];
            match report(&arguments, &plain(way.name())) {
                Ok((measured, _)) => row.measured.push(measured),
                Err(error) => {
                    row.failed = true;
                    fail(format!("{}, {}: {error:#}", case.name, way.name()), progress);
                }
            }
        }
    }
    CaseResults { name: case.name, title: case.title, mutators: case.mutators, rows }
}

/// A process of its own with the C library's malloc: memory for bookkeeping only.
fn plain(name: &str) -> Peer {
    Peer {
        name: name.into(),
        source: Source::Libc,
        promise: None,
        environment: Vec::new(),
        service: None,
        note: None,
    }
}
