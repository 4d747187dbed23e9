//! `engine`: runs the cases round by round and prints what they cost.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use crate::cases::{self, Case, Scale};
use crate::child::{measure, value};
use crate::peers::{self, Missing, Peer};
use crate::progress::Progress;
use crate::results::{CaseResults, Results, Row};
use crate::{table, targets};

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
    /// More of refpage's options, such as decay=0:pool=64M; service and pattern stay the benchmark's
    #[arg(long, value_name = "EXTRA", default_value = "", hide_default_value = true)]
    options: String,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one line a measurement to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// Measures, prints, and says by the exit code whether every measurement came off.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let runs = arguments.runs.unwrap_or(if arguments.quick { 5 } else { 7 }) as usize;
    // Before ten minutes of measuring, not after.
    let create = |path: &PathBuf| {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))
    };
    let json = arguments.json.as_ref().map(create).transpose()?;
    let csv = arguments.csv.as_ref().map(create).transpose()?;
    let cases = chosen(cases::all(scale), &arguments.case)?;
    let (peers, mut missing) = peers::find(&arguments.with, &arguments.options)?;
    let plan: Vec<(Case, Vec<Peer>)> = cases
        .into_iter()
        .map(|case| {
            let peers = peers_of(&case, &peers, &mut missing);
            (case, peers)
        })
        .collect();
    if let Some(age) = peers::age(&peers[0].source) {
        eprintln!("librefpage.so is {age} old");
    }
    for missing in &missing {
        eprintln!("missing: {}: {}", missing.name, missing.remedy);
    }
    let progress = Progress::new(plan.iter().map(|(_, peers)| peers.len() * runs).sum());
    let mut notes = Notes::default();
    let measured: Vec<CaseResults> = plan
        .iter()
        .map(|(case, peers)| rounds(case, peers, scale, runs, &progress, &mut notes))
        .collect();
    progress.finish();
    let results = Results {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        cpus: available_parallelism().map_or(1, usize::from),
        runs,
        scale: value(scale),
        options: arguments.options.clone(),
        notes: notes.lines(&missing),
        targets: targets::judge(&measured),
        cases: measured,
    };
    report(&results);
    if let Some(file) = json {
        results.write_json(file).context("cannot write the JSON file")?;
    }
    if let Some(file) = csv {
        results.write_csv(file).context("cannot write the CSV file")?;
    }
    let failed = results.cases.iter().flat_map(|case| &case.rows).filter(|r| r.failure.is_some());
    Ok(match failed.count() {
        0 => ExitCode::SUCCESS,
        failed => {
            eprintln!("error: {failed} measurements FAILED, see above");
            ExitCode::FAILURE
        }
    })
}

/// The cases whose names contain one of `parts`.
fn chosen(all: Vec<Case>, parts: &[String]) -> Result<Vec<Case>> {
    let names: Vec<String> = all.iter().map(|case| case.name.clone()).collect();
    for part in parts {
        if !names.iter().any(|name| name.contains(part)) {
            bail!("no case's name contains '{part}': {}", names.join(", "));
        }
    }
    let wanted = |case: &Case| parts.is_empty() || parts.iter().any(|p| case.name.contains(p));
    Ok(all.into_iter().filter(wanted).collect())
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

/// All rounds of a case.
fn rounds(
    case: &Case,
    peers: &[Peer],
    scale: Scale,
    runs: usize,
    progress: &Progress,
    notes: &mut Notes,
) -> CaseResults {
    progress.case(&case.name);
    let row = |peer: &Peer| Row { peer: peer.name.clone(), measured: Vec::new(), failure: None };
    let mut rows: Vec<Row> = peers.iter().map(row).collect();
    for round in 0..runs {
        for turn in 0..peers.len() {
            let at = (round + turn) % peers.len();
            let (peer, row) = (&peers[at], &mut rows[at]);
            progress.done();
            if row.failure.is_some() {
                continue;
            }
            match measure(&case.name, scale, peer) {
                Ok((measured, messages)) => {
                    notes.add(peer, measured.service.as_deref(), &messages);
                    row.measured.push(measured);
                }
                Err(error) => {
                    progress.say(&format!("FAILED: {} under {}: {error:#}", case.name, peer.name));
                    row.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    CaseResults {
        name: case.name.clone(),
        title: case.title.clone(),
        unit: case.unit,
        versus: case.baselines.first().map(|baseline| baseline.name()),
        rows,
    }
}

/// What is worth a line about each allocator: each thing once.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, peer: &Peer, service: Option<&str>, messages: &str) {
        let mut note = |text: String| {
            let line = format!("{}: {text}", peer.name);
            if !self.0.contains(&line) {
                self.0.push(line);
            }
        };
        if let peers::Source::Preload(path) = &peer.source {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let service = service.map(|service| format!(", service {service}"));
            note(format!("{file}{}", service.unwrap_or_default()));
        }
        messages.lines().for_each(|line| note(line.to_owned()));
    }

    fn lines(self, missing: &[Missing]) -> Vec<String> {
        let missing = missing.iter().map(|m| format!("{}: MISSING: {}", m.name, m.remedy));
        self.0.into_iter().chain(missing).collect()
    }
}

fn report(results: &Results) {
    let Results { kernel, cpus, runs, scale, .. } = results;
    println!(
        "Linux {kernel}, {cpus} CPUs, scale {scale}, medians of {runs} rounds (least–greatest)."
    );
    println!(
        "CPU: of all threads. Peak and held: the whole process. Faults: of the measured part."
    );
    results.notes.iter().for_each(|note| println!("{note}"));
    let bytes: u64 = results
        .cases
        .iter()
        .flat_map(|case| case.rows.iter().flat_map(|row| &row.measured))
        .map(|measured| measured.checked_bytes)
        .sum();
    println!("Content checked: {:.1} GB.\n", bytes as f64 / 1e9);
    for case in &results.cases {
        println!("{}", table::of_case(case));
    }
    if !results.targets.is_empty() {
        println!("{}", table::of_targets(&results.targets));
    }
}
