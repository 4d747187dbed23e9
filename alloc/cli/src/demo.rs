//! The built-in demonstration: which jobs run in which order, and what is made of their outcomes.
//!
//! ```text
//!   verify every cell once ─▶ rounds: for each use and touch, the services one after the other
//!                             (the first one changes from round to round) ─▶ medians ─▶ table
//! ```
//!
//! A job's CPU time contains the process's start and end, so each round also runs an empty job per
//! service, whose CPU time is taken off, and which is shown as what the service costs to start.

use crate::child::Job;
use crate::failure::{Failure, print};
use crate::flags;
use crate::machine::Service;
use crate::measure::{SIZE, Touch, Use};
use crate::report::{self, Cell, Start};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use refpage_alloc::options::ServiceChoice;
use std::time::{Duration, Instant};

/// The services that are compared; the ratios are to the first.
pub const SERVICES: [ServiceChoice; 3] =
    [ServiceChoice::Off, ServiceChoice::Memset, ServiceChoice::Auto];
/// At least so many rounds, whatever they take, and at most so many.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=7;
/// No round starts that would probably end after this.
const BUDGET: Duration = Duration::from_secs(15);
/// Fresh allocations take this share of the memory that is available, at most.
const MEMORY_SHARE: usize = 4;

/// Runs the demonstration and prints its table.
pub fn demonstrate() -> Result<(), Failure> {
    flags::inherited()?;
    let begin = Instant::now();
    let plan = Plan::new();
    let progress = progress_bar(plan.verifications().count() + ROUNDS.end() * plan.round_length());
    let mut checked_bytes = 0;
    for job in plan.verifications() {
        checked_bytes += step(&progress, &job, "checking")?.measurement.checked_bytes;
    }
    let mut cells: Vec<Cell> = plan.cells().map(|(usage, touch)| Cell::new(usage, touch)).collect();
    let mut starts: [Start; SERVICES.len()] = Default::default();
    let mut service = Service::default();
    let mut rounds = 0;
    while rounds < *ROUNDS.end() {
        let round_begin = Instant::now();
        for at in order(rounds) {
            let outcome = step(&progress, &Job::empty(SERVICES[at]), "starting")?;
            starts[at].add(&outcome);
            if SERVICES[at] == ServiceChoice::Auto {
                service = outcome.measurement.service;
            }
        }
        for cell in &mut cells {
            for at in order(rounds) {
                let job = plan.job(SERVICES[at], cell.usage, cell.touch);
                let outcome = step(&progress, &job, "measuring")?;
                checked_bytes += outcome.measurement.checked_bytes;
                cell.add(at, &outcome, &starts[at], job.iterations);
            }
        }
        rounds += 1;
        if rounds >= *ROUNDS.start() && begin.elapsed() + round_begin.elapsed() > BUDGET {
            break;
        }
    }
    progress.finish_and_clear();
    print(&report::text(&cells, &starts, rounds, &plan, checked_bytes, &service))
}

/// How many allocations each use gets.
pub struct Plan {
    recycled: usize,
    fresh: usize,
}

impl Plan {
    fn new() -> Self {
        // Enough for the empty job's noise to be small against them, little enough for any machine.
        let affordable = available_memory() / MEMORY_SHARE / SIZE;
        Self { recycled: 300, fresh: affordable.clamp(4, 100) }
    }

    /// How many allocations a job of this use makes.
    pub fn iterations(&self, usage: Use) -> usize {
        match usage {
            Use::Recycled => self.recycled,
            Use::Fresh => self.fresh,
        }
    }

    fn cells(&self) -> impl Iterator<Item = (Use, Touch)> {
        let touches = |usage: &Use| {
            Touch::value_variants().iter().map({
                let usage = *usage;
                move |&touch| (usage, touch)
            })
        };
        Use::value_variants().iter().flat_map(touches)
    }

    fn job(&self, service: ServiceChoice, usage: Use, touch: Touch) -> Job {
        Job { service, usage, touch, iterations: self.iterations(usage), verify: false }
    }

    /// Every cell once with complete checks; fewer allocations, as they are read and overwritten.
    fn verifications(&self) -> impl Iterator<Item = Job> {
        let checked = SERVICES.into_iter().filter(|&service| service != ServiceChoice::Off);
        checked.flat_map(move |service| {
            self.cells().map(move |(usage, touch)| Job {
                iterations: 8.min(self.iterations(usage)),
                verify: true,
                ..self.job(service, usage, touch)
            })
        })
    }

    fn round_length(&self) -> usize {
        (self.cells().count() + 1) * SERVICES.len()
    }
}

/// The services' indices, starting with another one each round: whoever runs after an idle moment or
/// after much memory was freed would otherwise always be the same.
fn order(round: usize) -> impl Iterator<Item = usize> {
    (0..SERVICES.len()).map(move |at| (at + round) % SERVICES.len())
}

fn step(progress: &ProgressBar, job: &Job, verb: &str) -> Result<crate::child::Outcome, Failure> {
    // Drawn between the jobs only: a ticking thread would compete with what is measured.
    progress.set_message(format!("{verb}: {job}"));
    let outcome = job.run().inspect_err(|_| progress.finish_and_clear());
    progress.inc(1);
    outcome
}

fn progress_bar(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}

/// MemAvailable in bytes; a machine that does not say gets the smallest demonstration.
fn available_memory() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    value.and_then(|kib| kib.parse::<usize>().ok()).map_or(0, |kib| kib * 1024)
}
