//! `small`: what small blocks cost, under the well-known workloads of allocators and under real programs.
//!
//! ```text
//!     run ─▶ rounds ─▶ child ─▶ [process, LD_PRELOAD] work ─▶ workloads ─▶ harness ─▶ block     stamps, checks
//!      │        │                                       └───▶ promise                 every byte, afterwards
//!      ├─▶ programs ─▶ [a real program, LD_PRELOAD]
//!      ├─▶ install        the allocators that no package has
//!      └─▶ means, table   geometric means, targets
//! ```
//!
//! - **workload**: what threads do with small blocks, the same for every allocator.
//! - **case**: a workload with a number of threads, or a program.
//! - **survivors**: the few blocks that are still live when the memory held is looked at.

mod block;
mod harness;
pub mod means;
mod promise;
mod table;
pub mod work;
pub mod workloads;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::cases::Scale;
use crate::child::{measure, value};
use crate::peers::{self, OFF, Peer, REFPAGE};
use crate::programs::{PROGRAMS, Program, Workshop};
use crate::results::{CaseResults, Results};
use crate::rounds::{self, Extras, Files, Notes, Plan};
use workloads::Workload;

/// What refpage itself takes part as.
const OWN: [&str; 2] = [OFF, REFPAGE];
/// Who else, if nobody is named.
const OTHERS: [&str; 9] = [
    "glibc",
    "jemalloc",
    "mimalloc",
    "tcmalloc",
    "scudo",
    "scudo-fill",
    "scudo-fill-zero",
    "snmalloc",
    "rpmalloc",
];

/// Run the workloads of small blocks under every allocator, side by side
///
/// Each measurement is a process of its own. Every round runs each allocator once, in an order that rotates; the
/// tables show medians with the range of the rounds, and ratios taken round by round. Every block is stamped, and its
/// stamp checked when it is freed.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each case [default: 5, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Only the cases whose names contain this, programs among them; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    case: Vec<String>,
    /// Only these beside off and refpage: an allocator's name, NAME=PATH/lib.so, another service of refpage, or none; may be
    /// repeated [default: glibc, jemalloc, mimalloc, tcmalloc, scudo, scudo-fill, scudo-fill-zero, snmalloc and rpmalloc]
    #[arg(long, value_name = "PEER")]
    with: Vec<String>,
    /// Only so many threads; may be repeated [default: 1, 2, 4 and 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Vec<u16>,
    /// Smaller and fewer: about 2 minutes
    #[arg(long)]
    quick: bool,
    /// Real programs too: gcc, python3, sqlite3, redis, lua, node and git
    #[arg(long)]
    programs: bool,
    /// Install the allocators that are missing, with --programs the programs too, and measure nothing
    #[arg(long)]
    install: bool,
    #[command(flatten)]
    extras: Extras,
}

/// What is run.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A workload, with so many threads.
    Workload(Workload, u16),
    /// A program.
    Program(&'static Program),
}

/// A case and what came of it.
pub struct Cell<'r> {
    /// The workload's name, or the program's.
    pub group: &'r str,
    /// How many threads; none of a program.
    pub threads: Option<usize>,
    /// What was measured.
    pub results: &'r CaseResults,
}

impl Kind {
    /// Its name as a case.
    pub fn name(self) -> String {
        match self {
            Self::Workload(workload, threads) => format!("{}-{threads}", value(workload)),
            Self::Program(program) => program.name.into(),
        }
    }

    fn group(self) -> String {
        match self {
            Self::Workload(workload, _) => value(workload),
            Self::Program(program) => program.name.into(),
        }
    }

    fn threads(self) -> Option<usize> {
        match self {
            Self::Workload(_, threads) => Some(threads.into()),
            Self::Program(_) => None,
        }
    }
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.install {
        return crate::install::run(arguments.programs);
    }
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 3 } else { 5 }) as usize;
    let kinds = chosen(arguments)?;
    let (peers, mut missing) =
        peers::find(&OWN, &OTHERS, &arguments.with, &arguments.extras.options)?;
    let files = Files::create(&arguments.extras)?;
    let workshop = Workshop::open(scale)?;
    let mut plans = Vec::new();
    let mut run = Vec::new();
    for kind in kinds {
        match plan(kind, scale, &peers, &workshop)? {
            Ok(plan) => {
                plans.push(plan);
                run.push(kind);
            }
            Err(gone) => missing.push(gone),
        }
    }
    rounds::announce(peers::age(&peers[0].source), &missing);
    let mut notes = Notes::default();
    let measured = rounds::all(&plans, runs, &mut notes);
    let groups: Vec<String> = run.iter().map(|kind| kind.group()).collect();
    let cells: Vec<Cell> = run
        .iter()
        .zip(&groups)
        .zip(&measured)
        .map(|((kind, group), results)| Cell { group, threads: kind.threads(), results })
        .collect();
    let (workloads, programs): (Vec<&Cell>, Vec<&Cell>) =
        cells.iter().partition(|cell| cell.threads.is_some());
    let means: Vec<_> = [&workloads, &programs].into_iter().flat_map(|c| means::all(c)).collect();
    let targets = means::judge(&workloads);
    let tables: Vec<String> = cells
        .chunk_by(|one, next| one.group == next.group)
        .map(|group| table::of_group(&group.iter().collect::<Vec<_>>()))
        .collect();
    let counts = [workloads.len(), programs.len()];
    let results = Results {
        kernel: rounds::kernel()?,
        cpus: rounds::cpus(),
        runs,
        scale: value(scale),
        options: arguments.extras.options.clone(),
        notes: notes.lines(&missing),
        targets,
        means,
        cases: measured,
    };
    report(&results, &tables, counts);
    files.write(&results)?;
    Ok(rounds::exit_code(&results))
}

/// The cases that are asked for: the workloads, and programs if they are named or asked for as such.
fn chosen(arguments: &Arguments) -> Result<Vec<Kind>> {
    let threads = match arguments.threads.as_slice() {
        [] => &[1, 2, 4, 8],
        threads => threads,
    };
    let mut kinds: Vec<Kind> = Vec::new();
    for &workload in Workload::value_variants() {
        kinds.extend(threads.iter().map(|&threads| Kind::Workload(workload, threads)));
    }
    kinds.extend(PROGRAMS.iter().map(Kind::Program));
    let names: Vec<String> = kinds.iter().map(|kind| kind.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = rounds::chosen(&names, &arguments.case)?;
    let without_programs = arguments.case.is_empty() && !arguments.programs;
    kinds.retain(|kind| {
        let left_out = without_programs && matches!(kind, Kind::Program(_));
        wanted.contains(&kind.name().as_str()) && !left_out
    });
    if kinds.is_empty() {
        bail!("nothing is left to run");
    }
    Ok(kinds)
}

/// How a case is measured; or what it lacks.
pub fn plan(
    kind: Kind,
    scale: Scale,
    peers: &[Peer],
    workshop: &Workshop,
) -> Result<Result<Plan<'static>, peers::Missing>> {
    let plan = |title: &str, unit, measure| Plan {
        name: kind.name(),
        title: title.into(),
        unit,
        versus: None,
        peers: peers.to_vec(),
        weight: 1,
        measure,
    };
    let (workload, threads) = match kind {
        Kind::Workload(workload, threads) => (workload, threads),
        Kind::Program(program) => {
            return Ok(workshop.prepare(program)?.map(|ready| {
                let measure = Box::new(move |peer: &Peer, _| ready.measure(peer));
                plan(program.title, program.unit, measure)
            }));
        }
    };
    let measure = Box::new(move |peer: &Peer, round| {
        let (name, threads, scale_name) = (value(workload), threads.to_string(), value(scale));
        let mut arguments =
            vec!["small-work", "--workload", &name, "--threads", &threads, "--scale", &scale_name];
        // Once is enough for what takes longer than the measurement itself.
        if scale == Scale::Full && round == 0 {
            arguments.push("--decay");
        }
        measure(&arguments, peer)
    });
    Ok(Ok(plan(workload.title(), "allocation", measure)))
}

fn report(results: &Results, tables: &[String], [workloads, programs]: [usize; 2]) {
    let columns = "CPU: of all threads. Peak: the whole process. Held: when all is freed but one of about a \
                   thousand blocks, and 1.5 s later in the first round.\n\
                   Fastest: the peer that is fastest in the case, refpage's own rows apart.";
    rounds::heading(results, columns);
    tables.iter().for_each(|table| println!("{table}"));
    for (count, of_programs, what) in
        [(workloads, false, "workloads"), (programs, true, "programs")]
    {
        let means: Vec<_> =
            results.means.iter().filter(|mean| mean.programs == of_programs).cloned().collect();
        if !means.is_empty() {
            let what = if of_programs {
                format!("{count} {what}")
            } else {
                format!("{count} cases of the {what}")
            };
            println!("{}", table::of_means(&means, &what));
        }
    }
    if !results.targets.is_empty() {
        println!("{}", crate::table::of_targets(&results.targets));
    }
}
