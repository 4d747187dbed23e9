//! Rounds of measurements, whatever is measured: every peer of a case once in each, in an order that rotates.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use crate::peers::{Missing, Peer, Source};
use crate::progress::Progress;
use crate::results::{CaseResults, Results, Row};
use crate::work::Measured;

/// What came of a measurement, and what the peer said in it.
pub type Came = Result<(Measured, String)>;

/// How one peer is measured in one round.
pub type Measure<'a> = Box<dyn Fn(&Peer, usize) -> Came + 'a>;

/// A case that is to be measured.
pub struct Plan<'a> {
    /// Its name.
    pub name: String,
    /// What it does.
    pub title: String,
    /// What its times are per.
    pub unit: &'static str,
    /// The baseline that has a column of ratios.
    pub versus: Option<&'static str>,
    /// Who takes part.
    pub peers: Vec<Peer>,
    /// How long one measurement takes beside those of other cases, for the progress bar.
    pub weight: u64,
    /// What is done with each.
    pub measure: Measure<'a>,
}

/// The names that contain one of `parts`, all without any; a part that none contains is an error.
pub fn chosen<'n>(names: &[&'n str], parts: &[String]) -> Result<Vec<&'n str>> {
    for part in parts {
        if !names.iter().any(|name| name.contains(part)) {
            bail!("no case's name contains '{part}': {}", names.join(", "));
        }
    }
    let wanted = |name: &&&str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
    Ok(names.iter().filter(wanted).copied().collect())
}

/// All rounds of all cases.
pub fn all(plans: &[Plan], runs: usize, notes: &mut Notes) -> Vec<CaseResults> {
    let progress = Progress::new(plans.iter().map(|plan| plan.whole_weight(runs)).sum());
    let mut measure = |plan: &Plan, peer: &Peer, round| {
        let came = (plan.measure)(peer, round);
        progress.done(plan.weight);
        came
    };
    let measured = plans.iter().map(|plan| plan.rounds(runs, &progress, notes, &mut measure));
    let measured = measured.collect();
    progress.finish();
    measured
}

impl Plan<'_> {
    /// The weight of all its measurements in so many rounds.
    pub fn whole_weight(&self, runs: usize) -> u64 {
        (self.peers.len() * runs) as u64 * self.weight
    }

    /// All rounds of this case, each measurement by `measure`.
    pub fn rounds(
        &self,
        runs: usize,
        progress: &Progress,
        notes: &mut Notes,
        measure: &mut dyn FnMut(&Self, &Peer, usize) -> Came,
    ) -> CaseResults {
        progress.case(&self.name);
        let mut first: Option<(String, String)> = None;
        let row =
            |peer: &Peer| Row { peer: peer.name.clone(), measured: Vec::new(), failure: None };
        let mut rows: Vec<Row> = self.peers.iter().map(row).collect();
        for round in 0..runs {
            for turn in 0..self.peers.len() {
                let at = (round + turn) % self.peers.len();
                let (peer, row) = (&self.peers[at], &mut rows[at]);
                if row.failure.is_some() {
                    continue;
                }
                let measured = measure(self, peer, round);
                match measured.and_then(|measured| same_work(&mut first, peer, measured)) {
                    Ok((measured, messages)) => {
                        notes.add(peer, measured.service.as_deref(), &messages);
                        row.measured.push(measured);
                    }
                    Err(error) => {
                        let (case, peer) = (&self.name, &peer.name);
                        progress.say(&format!("FAILED: {case} under {peer}: {error:#}"));
                        row.failure = Some(format!("{error:#}"));
                        progress.skip((runs - round - 1) as u64 * self.weight);
                    }
                }
            }
        }
        CaseResults {
            name: self.name.clone(),
            title: self.title.clone(),
            unit: self.unit,
            versus: self.versus,
            rows,
        }
    }
}

/// The measurement, if what was done in it is what was done in the case's `first`.
fn same_work(
    first: &mut Option<(String, String)>,
    peer: &Peer,
    (measured, messages): (Measured, String),
) -> Came {
    if let Some(work) = &measured.work {
        let (expected, whose) = first.get_or_insert_with(|| (work.clone(), peer.name.clone()));
        if work != expected {
            bail!("it did other work, or wrote something else, than {whose} before");
        }
    }
    Ok((measured, messages))
}

/// What is worth a line about each allocator: each thing once.
#[derive(Default)]
pub struct Notes(Vec<String>);

impl Notes {
    fn add(&mut self, peer: &Peer, service: Option<&str>, messages: &str) {
        let mut note = |text: String| {
            let line = format!("{}: {text}", peer.name);
            if !self.0.contains(&line) {
                self.0.push(line);
            }
        };
        if let Source::Preload(path) = &peer.source {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let service = service.map(|service| format!(", service {service}"));
            note(format!("{file}{}", service.unwrap_or_default()));
        }
        peer.note.iter().for_each(|line| note((*line).to_owned()));
        messages.lines().for_each(|line| note(line.to_owned()));
    }

    /// The lines, and one for each that is missing.
    pub fn lines(self, missing: &[Missing]) -> Vec<String> {
        let missing = missing.iter().map(|m| format!("{}: MISSING: {}", m.name, m.remedy));
        self.0.into_iter().chain(missing).collect()
    }
}

/// Says what is missing before the measuring begins.
pub fn announce(library: Option<String>, missing: &[Missing]) {
    if let Some(age) = library {
        eprintln!("librefpage.so is {age} old");
    }
    for missing in missing {
        eprintln!("missing: {}: {}", missing.name, missing.remedy);
    }
}

/// The kernel's release.
pub fn kernel() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// How many CPUs this process may use.
pub fn cpus() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// What every comparison may be told besides.
#[derive(clap::Args)]
pub struct Extras {
    /// More of refpage's options, such as decay=0:pool=64M; service and pattern stay the benchmark's
    #[arg(long, value_name = "EXTRA", default_value = "", hide_default_value = true)]
    pub options: String,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one line a measurement to this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// The files that keep the results, made before the measuring and not after it.
pub struct Files {
    json: Option<File>,
    csv: Option<File>,
}

impl Files {
    /// Creates those that are asked for.
    pub fn create(extras: &Extras) -> Result<Self> {
        let create = |path: &PathBuf| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        let (json, csv) = (extras.json.as_ref(), extras.csv.as_ref());
        Ok(Self { json: json.map(create).transpose()?, csv: csv.map(create).transpose()? })
    }

    /// Writes them.
    pub fn write(self, results: &Results) -> Result<()> {
        if let Some(file) = self.json {
            results.write_json(file).context("cannot write the JSON file")?;
        }
        if let Some(file) = self.csv {
            results.write_csv(file).context("cannot write the CSV file")?;
        }
        Ok(())
    }
}

/// The head of the report: the machine, what the columns are, and the notes.
pub fn heading(results: &Results, columns: &str) {
    let Results { kernel, cpus, runs, scale, .. } = results;
    println!(
        "Linux {kernel}, {cpus} CPUs, scale {scale}, medians of {runs} rounds (least–greatest)."
    );
    println!("{columns}");
    results.notes.iter().for_each(|note| println!("{note}"));
    let bytes: u64 = results
        .cases
        .iter()
        .flat_map(|case| case.rows.iter().flat_map(|row| &row.measured))
        .map(|measured| measured.checked_bytes)
        .sum();
    println!("Content checked: {:.1} GB.\n", bytes as f64 / 1e9);
}

/// Whether every measurement came off.
pub fn exit_code(results: &Results) -> ExitCode {
    let failed = results.cases.iter().flat_map(|case| &case.rows).filter(|r| r.failure.is_some());
    match failed.count() {
        0 => ExitCode::SUCCESS,
        failed => {
            eprintln!("error: {failed} measurements FAILED, see above");
            ExitCode::FAILURE
        }
    }
}
