//! `traps`: what guards and quarantine of large allocations cost, beside allocators that have their own.
//!
//! ```text
//!     run ─▶ settings ─▶ rounds ─▶ child ─▶ [process, LD_PRELOAD] work ─▶ cases ─▶ memory     checks what it reads
//!      └───▶ promise, table                                                └────▶ space      mappings, page tables
//! ```
//!
//! - **trap**: what ends a process that goes beyond a large block, or uses it after it was freed.
//! - **setting**: which traps refpage has, as its options say.
//! - **cycle**: a block is freed, another one allocated and touched.

pub mod cases;
mod promise;
mod settings;
pub mod space;
mod table;
pub mod work;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::cases::Scale;
use crate::child::{measure, value};
use crate::memory::Baseline;
use crate::peers::{self, Missing, Peer, REFPAGE};
use crate::results::Results;
use crate::rounds::{self, Extras, Files, Notes, Plan};
use crate::work::Measured;
use cases::Case;
pub use settings::without_traps as without;

/// Who else, if nobody is named.
const OTHERS: [&str; 5] = ["scudo", "scudo-quarantine", "glibc", "jemalloc", "mimalloc"];
/// What maps every block, with guards of its own.
const BASELINES: [Baseline; 2] = [Baseline::Guarded, Baseline::GuardedQuarantine];
/// Services that refpage is run with besides.
const SERVICES: [&str; 3] = ["memset", "eager", "cow"];
/// What librefpage.so says of an option that it does not take: then something else would be measured.
const REFUSED: &str = "ignored in REFPAGE_OPTIONS";

/// Run large blocks through refpage with and without traps, and through other allocators, side by side
///
/// Each measurement is a process of its own. Every round runs each allocator once, in an order that rotates; the
/// tables show medians with the range of the rounds, and ratios taken round by round. Every cycle checks what it reads.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each case [default: 7, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Only the cases whose names contain this; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    case: Vec<String>,
    /// Only these beside refpage and what maps every block: an allocator's name, NAME=PATH/lib.so, or none; may be repeated
    /// [default: scudo, scudo-quarantine, glibc, jemalloc and mimalloc]
    #[arg(long, value_name = "PEER")]
    with: Vec<String>,
    /// refpage under the services memset, eager and cow, too
    #[arg(long)]
    services: bool,
    /// Smaller and fewer: about 30 seconds
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    extras: Extras,
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 3 } else { 7 }) as usize;
    let all = cases::all(scale);
    let names: Vec<&str> = all.iter().map(|case| case.name.as_str()).collect();
    let wanted = rounds::chosen(&names, &arguments.case)?;
    let (peers, missing) = find(arguments.services, &arguments.with, &arguments.extras.options)?;
    let files = Files::create(&arguments.extras)?;
    let chosen: Vec<&Case> =
        all.iter().filter(|case| wanted.contains(&case.name.as_str())).collect();
    let plans: Vec<Plan> = chosen.iter().map(|case| plan(case, scale, &peers)).collect();
    rounds::announce(peers::age(&peers[0].source), &missing);
    let mut notes = Notes::default();
    let measured = rounds::all(&plans, runs, &mut notes);
    let sizes: Vec<Option<usize>> = chosen.iter().map(|case| case.size).collect();
    let results = Results {
        kernel: rounds::kernel()?,
        cpus: rounds::cpus(),
        runs,
        scale: value(scale),
        options: arguments.extras.options.clone(),
        notes: notes.lines(&missing),
        targets: promise::judge(&measured, &sizes),
        means: Vec::new(),
        cases: measured,
    };
    report(&results);
    files.write(&results)?;
    Ok(rounds::exit_code(&results))
}

/// refpage in every setting, and the others.
pub fn find(
    services: bool,
    with: &[String],
    extra_options: &str,
) -> Result<(Vec<Peer>, Vec<Missing>)> {
    let library = peers::own_library()?;
    let services = if services { &SERVICES[..] } else { &[] };
    let mut peers: Vec<Peer> = [REFPAGE]
        .iter()
        .chain(services)
        .flat_map(|service| settings::of(&peers::refpage(service, &library, extra_options)))
        .collect();
    let (others, mut missing) = peers::find(&[], &OTHERS, with, extra_options)?;
    for peer in others {
        if !peers.iter().any(|known| known.name == peer.name) {
            peers.push(peer);
        }
    }
    for baseline in BASELINES {
        match peers::baseline(baseline) {
            Ok(peer) => peers.push(peer),
            Err(gone) => missing.push(gone),
        }
    }
    Ok((peers, missing))
}

/// How a case is measured.
pub fn plan<'c>(case: &'c Case, scale: Scale, peers: &[Peer]) -> Plan<'c> {
    Plan {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: "cycle",
        versus: None,
        peers: peers.to_vec(),
        weight: 1,
        measure: Box::new(move |peer, _| {
            accepted(measure(
                &["traps-work", "--case", &case.name, "--scale", &value(scale)],
                peer,
            )?)
        }),
    }
}

/// The measurement, if refpage took all of its options.
fn accepted((measured, messages): (Measured, String)) -> Result<(Measured, String)> {
    if let Some(line) = messages.lines().find(|line| line.contains(REFUSED)) {
        bail!("{line}");
    }
    Ok((measured, messages))
}

fn report(results: &Results) {
    let columns = "CPU: of all threads, a cycle and a page written. Peak: the whole process. VMAs: at the start, the most, at the end.\n\
                   Faults: minor and major ones a page written. × no traps: refpage without, under the same service.";
    rounds::heading(results, columns);
    for case in &results.cases {
        println!("{}", table::of_case(case));
    }
    if !results.targets.is_empty() {
        println!("{}", crate::table::of_promises(&results.targets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Outcome;
    use crate::measure::Meter;

    #[test]
    fn an_option_that_was_refused_is_a_failure() {
        let cost = Meter::start().stop();
        let measured = || Measured::new(Outcome { cost, operations: 1, checked_bytes: 0 });
        assert!(accepted((measured(), "refpage: took cow".into())).is_ok());
        let line = "refpage: ignored in REFPAGE_OPTIONS: bad value \"on\" for guards";
        let error = accepted((measured(), format!("refpage: a line\n{line}"))).unwrap_err();
        assert_eq!(error.to_string(), line);
    }
}
