//! The table of one look: what each allocator costs beside the C library's, and what memory reads as under it.

use super::parts::Part;
use super::reads::{Reading, Situation};
use super::tables::{BASE, absent, owns, plain, readings, times};
use super::{Measured, Results};
use crate::page::{Cell, Line, Mood, Table};
use crate::results::{CaseResults, Metric, geometric_ratio};
use refpage_bench::stats::Summary;

/// The columns that are geometric means: head, part, metric.
const MEANS: [(&str, Part, Metric); 7] = [
    ("large blocks, CPU", Part::Large, Metric::Cpu),
    ("small blocks, time", Part::Small, Metric::Wall),
    ("programs, CPU", Part::Programs, Metric::Cpu),
    ("programs, peak RSS", Part::Programs, Metric::Peak),
    ("PDFium, CPU", Part::Pdfium, Metric::Cpu),
    ("PDFium, peak RSS", Part::Pdfium, Metric::Peak),
    ("sparse blocks, peak RSS", Part::Shares, Metric::Peak),
];

/// The share of pages up to which a block counts as sparse, as the cases' names have it.
const SPARSE: &str = "share-fresh-10";

/// The table; allocators that could not run are rows too, with the reason.
pub fn table(results: &Results) -> Table {
    let measured: Vec<_> =
        MEANS.iter().filter(|(_, part, _)| results.cases(*part).is_some()).collect();
    let mut columns = vec!["allocator".to_owned(), "memory reads as".into()];
    columns.extend(measured.iter().map(|(head, ..)| (*head).to_owned()));
    let mut rows: Vec<Line> = Vec::new();
    for peer in &results.peers {
        let mut cells = vec![plain(&peer.name), guarantee(results, &peer.name)];
        for &&(_, part, metric) in &measured {
            let cases = results.cases(part).unwrap_or_default();
            cells.push(mean(cases, part, &peer.name, metric));
        }
        rows.push(Line { own: owns(&peer.name), cells });
    }
    mark_best(&mut rows);
    let mut notes = vec![format!(
        "Geometric means of the cases' ratios to {BASE}, taken round by round: the median of the rounds, and their range. \
         CPU time is of all threads."
    )];
    notes.extend(counts(results));
    Table { caption: format!("Beside {BASE}: less is better"), columns, rows, notes }
}

/// How many cases each mean is over.
fn counts(results: &Results) -> Option<String> {
    let of = |(name, part): (&str, Part)| {
        let count = results.cases(part)?.len();
        Some(format!("{name} {count}"))
    };
    let parts = [
        ("large blocks", Part::Large),
        ("small blocks", Part::Small),
        ("programs", Part::Programs),
        ("PDFium", Part::Pdfium),
    ];
    let counts: Vec<String> = parts.into_iter().filter_map(of).collect();
    (!counts.is_empty()).then(|| {
        format!(
            "Cases: {}. Sparse blocks: fresh ones of 1 MiB, of which the first 10 % are touched.",
            counts.join(", ")
        )
    })
}

fn mean(cases: &[CaseResults], part: Part, peer: &str, metric: Metric) -> Cell {
    let wanted = |case: &&CaseResults| part != Part::Shares || case.name == SPARSE;
    let chosen: Vec<&CaseResults> = cases.iter().filter(wanted).collect();
    let Some((ratio, count)) = geometric_ratio(chosen.iter().copied(), peer, BASE, metric) else {
        return absent("");
    };
    let Summary { median, min, max } = ratio;
    let mut small = if min == max { String::new() } else { format!("{min:.2}–{max:.2}") };
    if count < chosen.len() {
        small.push_str(&format!(" {count} of {} cases", chosen.len()));
    }
    Cell { text: format!("{median:.2}"), small: small.trim().into(), mood: Mood::Plain }
}

/// What memory reads as, in all situations but calloc, which everybody clears.
fn guarantee(results: &Results, peer: &str) -> Cell {
    let row = results.cases(Part::Reads).and_then(|cases| cases.first()?.row(peer));
    let Some(all) = row.and_then(readings) else { return absent("") };
    let read: Vec<&Reading> = all
        .iter()
        .filter(|(situation, _)| *situation != Situation::Calloc)
        .map(|(_, reading)| reading)
        .collect();
    let stale = all.iter().filter(|(_, reading)| reading.stale > 0);
    let stale: Vec<&str> = stale.map(|(situation, _)| situation.title()).collect();
    let byte = read.first().and_then(|reading| reading.byte);
    match byte.filter(|_| read.iter().all(|reading| reading.byte == byte)) {
        _ if !stale.is_empty() => {
            Cell { text: "stale data".into(), small: stale.join(", "), mood: Mood::Bad }
        }
        Some(byte) => {
            Cell { text: format!("{byte:#04x}"), small: "always".into(), mood: Mood::Good }
        }
        None => plain("various"),
    }
}

/// Marks the least number of each column of means.
fn mark_best(rows: &mut [Line]) {
    let columns = rows.first().map_or(0, |row| row.cells.len());
    for column in 2..columns {
        let value = |row: &Line| row.cells[column].text.parse::<f64>().ok();
        let Some(best) = rows.iter().filter_map(value).min_by(f64::total_cmp) else { continue };
        for row in rows.iter_mut().filter(|row| value(row) == Some(best)) {
            row.cells[column].mood = Mood::Good;
        }
    }
}

impl Results {
    /// The cases of a part, if it was measured.
    pub fn cases(&self, part: Part) -> Option<&[CaseResults]> {
        let measured: &Measured = self.parts.iter().find(|measured| measured.part == part)?;
        (!measured.cases.is_empty()).then_some(&measured.cases)
    }
}

/// The ratio of a peer's mean in one sentence of the lead.
pub fn headline(results: &Results, peer: &str) -> Option<String> {
    let programs = results.cases(Part::Programs)?;
    let (cpu, _) = geometric_ratio(programs.iter(), peer, BASE, Metric::Cpu)?;
    let (peak, _) = geometric_ratio(programs.iter(), peer, BASE, Metric::Peak)?;
    Some(format!("{} in CPU time and {} in peak memory", times(cpu), times(peak)))
}
