//! `report`: the comparison that anyone can repeat, as a page with tables and plots.
//!
//! ```text
//!   run ─▶ build ─▶ cargo                       what is measured
//!    ├──▶ parts ─▶ engine, small, traps, programs, pdfium     the cases, each with a process for every measurement
//!    │      └────▶ work ─▶ latency, reads, windows            what only the report measures
//!    ├──▶ rounds, journal                       every peer in each round; what is done stays done
//!    └──▶ sections ─▶ page ─▶ files: html, markdown, svg      what came of it, shown
//! ```
//!
//! - **part**: cases that belong together, and a section of the page.
//! - **journal**: all measurements so far, from which an interrupted run goes on.
//! - **warm-up**: the first round of each case, which does not count.

mod build;
mod checks;
mod files;
mod journal;
mod latency;
mod machine;
mod parts;
mod pdfium;
mod plots;
mod profile;
mod reads;
mod sections;
mod summary;
mod tables;
mod timeline;
mod windows;
pub mod work;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cases::{self, Scale};
use crate::child::value;
use crate::install;
use crate::page;
use crate::peers::{self, Missing, OFF, Peer, REFPAGE};
use crate::programs::Workshop;
use crate::programs::process::Started;
use crate::progress::Progress;
use crate::results::CaseResults;
use crate::rounds::{self, Notes, Plan};
use crate::seed;
use journal::{Journal, Run};
use parts::{Part, Sources};
use pdfium::Pdfium;

/// What refpage itself takes part as.
const OWN: [&str; 4] = [OFF, "memset", "cow", REFPAGE];
/// Who else, if nobody is named.
const OTHERS: [&str; 10] = [
    "glibc",
    "glibc-perturb",
    "jemalloc",
    "jemalloc-junk",
    "mimalloc",
    "tcmalloc",
    "scudo",
    "scudo-fill",
    "snmalloc",
    "rpmalloc",
];

/// Compare refpage with every allocator that is here, and write a page of tables and plots
///
/// Builds what it measures. Every measurement is a process of its own; each round runs every allocator once, in an order
/// that rotates, after a round that does not count. A run that was interrupted goes on where it was.
#[derive(clap::Args)]
pub struct Arguments {
    /// Smaller and fewer: about 3 minutes instead of up to an hour
    #[arg(long)]
    quick: bool,
    /// Just to see that it works
    #[arg(long, hide = true, conflicts_with = "quick")]
    tiny: bool,
    /// Rounds of each case that count [default: 3, of short cases 5 unless --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// First get the allocators, programs and documents that are missing, from Debian's packages and from crates
    #[arg(long)]
    install: bool,
    /// Only these beside off, memset, cow and refpage: an allocator's name, NAME=PATH/lib.so, another service of refpage, or
    /// none; may be repeated [default: glibc, jemalloc, mimalloc, tcmalloc, scudo, snmalloc, rpmalloc and those that fill]
    #[arg(long, value_name = "PEER")]
    with: Vec<String>,
    /// Only these parts; may be repeated [default: all]
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// What all chance in the workloads comes from: the same seed gives the same work
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// More of refpage's options, such as decay=0:pool=64M; service and pattern stay the report's
    #[arg(long, value_name = "EXTRA", default_value = "", hide_default_value = true)]
    options: String,
    /// Where the report is written
    #[arg(long, value_name = "DIRECTORY", default_value = "report")]
    output: PathBuf,
    /// Measure anew, also what a run before has measured
    #[arg(long)]
    anew: bool,
}

/// What was measured of a part.
pub struct Measured {
    /// The part.
    pub part: Part,
    /// Its cases, without the rounds that do not count.
    pub cases: Vec<CaseResults>,
}

/// All that a page is made of.
pub struct Results {
    /// What run it is: the same as in the journal.
    pub run: Run,
    /// How large everything was.
    pub scale: Scale,
    /// Who took part.
    pub peers: Vec<Peer>,
    /// What was measured.
    pub parts: Vec<Measured>,
    /// What could not be.
    pub missing: Vec<Missing>,
    /// One line on each allocator: its library, its service, what it said.
    pub notes: Vec<String>,
    /// The peak of a program that does nothing, started as all others are, in KiB.
    pub floor_kib: u64,
}

/// Builds, measures, and writes the report; says by the exit code whether refpage and the checks came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    fs::create_dir_all(&arguments.output)
        .with_context(|| format!("cannot make {}", arguments.output.display()))?;
    build::all()?;
    if arguments.install && install::run(true)? == ExitCode::FAILURE {
        eprintln!("not everything could be installed: the report names what is missing");
    }
    seed::set(arguments.seed);
    let scale = arguments.scale();
    let runs = arguments.runs.map(|runs| runs as usize);
    let (peers, mut missing) = peers::find(&OWN, &OTHERS, &arguments.with, &arguments.options)?;
    let pdfium = Pdfium::open(arguments.install, &mut missing).inspect_err(|error| {
        missing.push(Missing { name: "PDFium".into(), remedy: format!("{error:#}") });
    });
    let run = this_run(arguments, scale, &peers);
    let (mut journal, message) = Journal::open(&arguments.output, &run, arguments.anew)?;
    message.iter().for_each(|line| eprintln!("{line}"));
    if journal.len() > 0 {
        eprintln!("{} measurements are there from before", journal.len());
    }
    let workshop = Workshop::open(scale)?;
    let (large, traps) = (cases::with_shares(scale), crate::traps::cases::all(scale));
    let sources = Sources {
        scale,
        options: &arguments.options,
        peers: &peers,
        large: &large,
        traps: &traps,
        workshop: &workshop,
        pdfium: pdfium.as_ref().ok(),
    };
    let mut plans = Vec::new();
    for part in Part::chosen(&arguments.part) {
        let rounds = Rounds { warm_up: part.warm_up(), counted: part.runs(runs, scale) };
        plans.push((part, rounds, sources.plans(part, &mut missing)?));
    }
    rounds::announce(None, &missing);
    let mut notes = Notes::default();
    let parts = measure(&plans, &mut journal, &mut notes)?;
    drop(plans);
    let floor_kib = floor_kib(&workshop)?;
    let notes = notes.lines(&[]);
    let results = Results { run, scale, peers, parts, missing, notes, floor_kib };
    conclude(&results, arguments)
}

/// The peak of a program that does nothing, in KiB.
fn floor_kib(workshop: &Workshop) -> Result<u64> {
    let finished = Started::start(&mut Command::new("true"), workshop.directory())?.finish()?;
    Ok(finished.cost.peak_kib)
}

impl Arguments {
    fn scale(&self) -> Scale {
        match self {
            Self { tiny: true, .. } => Scale::Tiny,
            Self { quick: true, .. } => Scale::Quick,
            _ => Scale::Full,
        }
    }
}

/// What tells this run from others: measurements of another one do not belong beside these.
fn this_run(arguments: &Arguments, scale: Scale, peers: &[Peer]) -> Run {
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    let library = peers::own_library().map(|path| machine::digest(&path)).unwrap_or_default();
    let rounds = match (arguments.runs, scale) {
        (Some(runs), _) => runs.to_string(),
        (None, Scale::Full) => "3, of short cases 5".into(),
        (None, _) => "3".into(),
    };
    let mut run: Run = [
        ("scale", value(scale)),
        ("rounds", rounds),
        ("seed", arguments.seed.to_string()),
        ("options", arguments.options.clone()),
        ("commit", machine::commit()),
        ("librefpage.so", library),
        ("allocators", names.join(", ")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    run.extend(machine::facts());
    run
}

/// Rounds of each case of a part.
#[derive(Clone, Copy)]
struct Rounds {
    warm_up: usize,
    counted: usize,
}

impl Rounds {
    fn all(self) -> usize {
        self.warm_up + self.counted
    }
}

/// All rounds of all cases, those of the journal taken from there.
fn measure(
    parts: &[(Part, Rounds, Vec<Plan>)],
    journal: &mut Journal,
    notes: &mut Notes,
) -> Result<Vec<Measured>> {
    let weight = |(_, rounds, plans): &(Part, Rounds, Vec<Plan>)| {
        plans.iter().map(|plan| plan.whole_weight(rounds.all())).sum::<u64>()
    };
    let progress = Progress::new(parts.iter().map(weight).sum());
    let mut measured = Vec::new();
    for (part, rounds, plans) in parts {
        let mut cases = Vec::new();
        for plan in plans {
            let id = format!("{}/{}", value(*part), plan.name);
            let mut lost = Ok(());
            let mut one = |plan: &Plan, peer: &Peer, round| {
                if let Some(kept) = journal.kept(&id, &peer.name, round) {
                    progress.skip(plan.weight);
                    return Ok(kept.clone());
                }
                let came = (plan.measure)(peer, round);
                progress.done(plan.weight);
                if let Ok(came) = &came
                    && let Err(error) = journal.keep(&id, &peer.name, round, came)
                {
                    lost = Err(error);
                }
                came
            };
            let mut results = plan.rounds(rounds.all(), &progress, notes, &mut one);
            lost?;
            for row in &mut results.rows {
                row.measured.drain(..rounds.warm_up.min(row.measured.len()));
            }
            cases.push(results);
        }
        measured.push(Measured { part: *part, cases });
    }
    progress.finish();
    Ok(measured)
}

/// Writes the files, and says what they are and whether the checks passed.
fn conclude(results: &Results, arguments: &Arguments) -> Result<ExitCode> {
    let checks = checks::all(results);
    let page = sections::page(results, &checks);
    page::write(&page, &arguments.output)?;
    files::write(results, &page, &arguments.output)?;
    for check in checks.iter().filter(|check| !check.passed) {
        eprintln!("FAILED: {}: {}", check.what, check.found);
    }
    println!("{}", arguments.output.join("index.html").display());
    let passed = checks.iter().all(|check| check.passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
