//! All that was measured, and the files that keep it.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::small::means::Mean;
use crate::targets::Verdict;
use crate::traps::space::Space;
use crate::work::Measured;
use refpage_bench::stats::{Summary, differences, geometric_mean, ratios, summarize};

/// A whole run of the command.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The kernel's release.
    pub kernel: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// Rounds of each case.
    pub runs: usize,
    /// How large the cases were.
    pub scale: String,
    /// Options of refpage that the user added.
    pub options: String,
    /// One line on each allocator: its library, its service, what it said.
    pub notes: Vec<String>,
    /// The cases that were run.
    pub cases: Vec<CaseResults>,
    /// Geometric means over the cases, of the runs that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub means: Vec<Mean>,
    /// What was aimed at, and what came of it.
    pub targets: Vec<Verdict>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseResults {
    /// Its name.
    pub name: String,
    /// What it does.
    pub title: String,
    /// What its times are per.
    pub unit: &'static str,
    /// The baseline that has a column of ratios.
    pub versus: Option<&'static str>,
    /// Who took part.
    pub rows: Vec<Row>,
}

/// A peer in a case.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub peer: String,
    /// One measurement a round.
    pub measured: Vec<Measured>,
    /// Why there are no more.
    pub failure: Option<String>,
}

/// Something that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Wall time, nanoseconds an operation.
    Wall,
    /// CPU time of all threads, nanoseconds an operation.
    Cpu,
    /// Peak resident set, KiB.
    Peak,
    /// Resident set at the end, KiB.
    Held,
    /// Page faults.
    Faults,
}

impl Metric {
    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Cpu => "CPU",
            Self::Peak => "peak RSS",
            Self::Held => "held RSS",
            Self::Faults => "faults",
        }
    }

    fn of(self, measured: &Measured) -> f64 {
        let Measured { cost, operations, .. } = measured;
        let each = 1.0 / *operations as f64;
        match self {
            Self::Wall => cost.wall_ns as f64 * each,
            Self::Cpu => cost.cpu_ns as f64 * each,
            Self::Peak => cost.peak_kib as f64,
            Self::Held => cost.held_kib as f64,
            Self::Faults => (cost.minor_faults + cost.major_faults) as f64,
        }
    }
}

/// What the lines have of the address space.
fn of_space(space: Space) -> String {
    let Space { vmas_start, vmas_most, vmas_end, page_tables_kib, touched_pages } = space;
    format!("{vmas_start},{vmas_most},{vmas_end},{page_tables_kib},{touched_pages}")
}

/// A name as a field of a line: in quotes where it has a comma.
fn quoted(name: &str) -> String {
    if name.contains(',') { format!("\"{name}\"") } else { name.into() }
}

impl CaseResults {
    /// The row of a peer that finished.
    pub fn row(&self, peer: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer == peer && row.failure.is_none())
    }
}

impl Row {
    /// One value a round.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.measured.iter().map(|measured| metric.of(measured)).collect()
    }

    /// The median and range of all rounds.
    pub fn summary(&self, metric: Metric) -> Option<Summary> {
        summarize(self.values(metric))
    }

    /// The median and range of the rounds' ratios to another row.
    pub fn ratio(&self, metric: Metric, base: &Row) -> Option<Summary> {
        ratios(&self.values(metric), &base.values(metric))
    }

    /// The median and range of the rounds' differences to another row.
    pub fn difference(&self, metric: Metric, base: &Row) -> Option<Summary> {
        differences(&self.values(metric), &base.values(metric))
    }
}

/// The geometric mean of a peer's ratios to another over all cases that both finished: its median and range over the
/// rounds, and over how many cases it is.
pub fn geometric_ratio<'c>(
    cases: impl Iterator<Item = &'c CaseResults>,
    peer: &str,
    base: &str,
    metric: Metric,
) -> Option<(Summary, usize)> {
    let ratios: Vec<Vec<f64>> =
        cases.filter_map(|case| of_rounds(case.row(peer)?, case.row(base)?, metric)).collect();
    let rounds = ratios.iter().map(Vec::len).min()?;
    let means = (0..rounds).map(|round| geometric_mean(ratios.iter().map(|case| case[round])));
    Some((summarize(means.collect::<Option<Vec<f64>>>()?)?, ratios.len()))
}

/// The ratios of a case, one a round; none if something was not measured.
fn of_rounds(row: &Row, base: &Row, metric: Metric) -> Option<Vec<f64>> {
    let (values, base) = (row.values(metric), base.values(metric));
    let measured = values.iter().chain(&base).all(|&value| value > 0.0);
    (measured && !values.is_empty() && values.len() == base.len())
        .then(|| values.iter().zip(&base).map(|(value, base)| value / base).collect())
}

impl Results {
    /// Writes everything as JSON.
    pub fn write_json(&self, file: File) -> io::Result<()> {
        let mut file = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, self)?;
        writeln!(file)?;
        file.flush()
    }

    /// Writes one line a measurement.
    pub fn write_csv(&self, file: File) -> io::Result<()> {
        write_lines(self.cases.iter(), file)
    }
}

/// Writes one line a measurement of some cases.
pub fn write_lines<'c>(cases: impl Iterator<Item = &'c CaseResults>, file: File) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    writeln!(
        file,
        "case,peer,round,operations,wall_ns,cpu_ns,late_cpu_ns,peak_kib,held_kib,minor_faults,major_faults,decayed_kib,vmas_start,vmas_most,vmas_end,page_tables_kib,touched_pages"
    )?;
    for case in cases {
        for row in &case.rows {
            for (round, measured) in row.measured.iter().enumerate() {
                let Measured { cost, operations, decayed_kib, space, .. } = measured;
                let decayed = decayed_kib.map_or_else(String::new, |kib| kib.to_string());
                let space = space.map_or_else(|| ",,,,".into(), of_space);
                writeln!(
                    file,
                    "{},{},{round},{operations},{},{},{},{},{},{},{},{decayed},{space}",
                    case.name,
                    quoted(&row.peer),
                    cost.wall_ns,
                    cost.cpu_ns,
                    cost.late_cpu_ns,
                    cost.peak_kib,
                    cost.held_kib,
                    cost.minor_faults,
                    cost.major_faults
                )?;
            }
        }
    }
    file.flush()
}
