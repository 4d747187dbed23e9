//! `engine`: runs the cases of the fault engine round by round and prints what they cost.

use std::process::ExitCode;

use anyhow::Result;

use crate::cases::{self, Case, Scale};
use crate::child::{measure, value};
use crate::peers::{self, Missing, OFF, Peer, REFPAGE};
use crate::results::Results;
use crate::rounds::{self, Extras, Files, Notes, Plan};
use crate::{table, targets};

/// What refpage itself takes part as.
const OWN: [&str; 3] = [OFF, "memset", REFPAGE];
/// Who else, if nobody is named.
const OTHERS: [&str; 5] = ["glibc", "jemalloc", "mimalloc", "tcmalloc", "scudo-fill"];

/// Run the cases of the fault engine under every allocator, side by side
///
/// Each measurement is a process of its own. Every round runs each allocator once, in an order that
/// rotates; the tables show medians with the range of the rounds, and ratios taken round by round.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each case [default: 7, with --quick 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Only the cases whose names contain this; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    case: Vec<String>,
    /// Only these beside off, memset and refpage: an allocator's name, NAME=PATH/lib.so, another service of refpage, or none;
    /// may be repeated [default: glibc, jemalloc, mimalloc, tcmalloc and scudo-fill]
    #[arg(long, value_name = "PEER")]
    with: Vec<String>,
    /// Smaller and fewer: about 90 seconds
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    extras: Extras,
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 5 } else { 7 }) as usize;
    let files = Files::create(&arguments.extras)?;
    let all = cases::all(scale);
    let names: Vec<&str> = all.iter().map(|case| case.name.as_str()).collect();
    let wanted = rounds::chosen(&names, &arguments.case)?;
    let (peers, mut missing) =
        peers::find(&OWN, &OTHERS, &arguments.with, &arguments.extras.options)?;
    let plans: Vec<Plan> = all
        .iter()
        .filter(|case| wanted.contains(&case.name.as_str()))
        .map(|case| plan(case, scale, peers_of(case, &peers, &mut missing)))
        .collect();
    rounds::announce(peers::age(&peers[0].source), &missing);
    let mut notes = Notes::default();
    let measured = rounds::all(&plans, runs, &mut notes);
    let results = Results {
        kernel: rounds::kernel()?,
        cpus: rounds::cpus(),
        runs,
        scale: value(scale),
        options: arguments.extras.options.clone(),
        notes: notes.lines(&missing),
        targets: targets::judge(&measured),
        means: Vec::new(),
        cases: measured,
    };
    report(&results);
    files.write(&results)?;
    Ok(rounds::exit_code(&results))
}

/// How a case is measured.
pub fn plan(case: &Case, scale: Scale, peers: Vec<Peer>) -> Plan<'_> {
    Plan {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: case.unit,
        versus: case.baselines.first().map(|baseline| baseline.name()),
        peers,
        weight: 1,
        measure: Box::new(move |peer, _| {
            measure(&["work", "--case", &case.name, "--scale", &value(scale)], peer)
        }),
    }
}

/// The allocators and what else belongs to a case; what cannot be run goes to `missing`, once.
fn peers_of(case: &Case, allocators: &[Peer], missing: &mut Vec<Missing>) -> Vec<Peer> {
    let mut peers = allocators.to_vec();
    if case.with_large_pool
        && let Some(at) = peers.iter().position(|peer| peer.name == "refpage")
    {
        peers.insert(at + 1, peers::with_large_pool(&peers[at]));
    }
    for &baseline in case.baselines {
        match peers::baseline(baseline) {
            Ok(peer) => peers.push(peer),
            Err(gone) if missing.iter().any(|known| known.name == gone.name) => {}
            Err(gone) => missing.push(gone),
        }
    }
    peers
}

fn report(results: &Results) {
    let columns =
        "CPU: of all threads. Peak and held: the whole process. Faults: of the measured part.";
    rounds::heading(results, columns);
    for case in &results.cases {
        println!("{}", table::of_case(case));
    }
    if !results.targets.is_empty() {
        println!("{}", table::of_targets(&results.targets));
    }
}
