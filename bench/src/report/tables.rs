//! What was measured, as tables of a page: allocators in rows, cases in columns.

use std::collections::BTreeMap;

use super::reads::{Reading, Readings, Situation};
use super::work::Detail;
use crate::page::{Cell, Line, Mood, Table};
use crate::peers::is_own;
use crate::results::{CaseResults, Metric, Row};
use crate::table::{amount, exactly, mebibytes, range, time};
use refpage_bench::stats::Summary;

/// What ratios are taken to: what a program has without anyone's doing.
pub const BASE: &str = "glibc";

/// Whether a row is refpage's own, in any setting.
pub fn owns(name: &str) -> bool {
    is_own(name.split(',').next().unwrap_or(name))
}

/// A column: one metric of a case.
pub struct Column<'c> {
    /// What stands above it.
    pub head: String,
    /// The case.
    pub case: &'c CaseResults,
    /// What of it.
    pub metric: Metric,
}

/// Medians, and below them the median and range of the ratios to `base`, if it took part.
pub fn matrix(caption: &str, columns: &[Column], base: &str) -> Table {
    let best: Vec<Option<f64>> = columns.iter().map(least).collect();
    let line = |name: &str| {
        let mut cells = vec![plain(name)];
        cells.extend(
            columns.iter().zip(&best).map(|(column, best)| cell(column, name, base, *best)),
        );
        Line { own: owns(name), cells }
    };
    let beside = columns.iter().any(|column| column.case.row(base).is_some());
    let heads = columns.iter().map(|column| column.head.clone());
    Table {
        caption: if beside { format!("{caption}, × {base}") } else { caption.into() },
        columns: ["allocator".to_owned()].into_iter().chain(heads).collect(),
        rows: names(columns).into_iter().map(line).collect(),
        notes: Vec::new(),
    }
}

/// Who took part in any of the cases, in their order.
fn names<'c>(columns: &[Column<'c>]) -> Vec<&'c str> {
    let mut names: Vec<&str> = Vec::new();
    for row in columns.iter().flat_map(|column| &column.case.rows) {
        if !names.contains(&row.peer.as_str()) {
            names.push(&row.peer);
        }
    }
    names
}

/// The least median of a column.
fn least(&Column { case, metric, .. }: &Column) -> Option<f64> {
    let medians = case.rows.iter().filter(|row| row.failure.is_none());
    let medians = medians.filter_map(|row| Some(row.summary(metric)?.median));
    medians.min_by(f64::total_cmp)
}

fn cell(column: &Column, name: &str, base: &str, best: Option<f64>) -> Cell {
    let &Column { case, metric, .. } = column;
    let Some(row) = case.rows.iter().find(|row| row.peer == name) else {
        return absent("");
    };
    if row.failure.is_some() {
        return Cell { text: "failed".into(), small: String::new(), mood: Mood::Bad };
    }
    let Some(summary) = row.summary(metric) else { return absent("") };
    let ratio = case.row(base).filter(|_| name != base).and_then(|base| row.ratio(metric, base));
    let mood = if Some(summary.median) == best { Mood::Good } else { Mood::Plain };
    Cell { text: shown(metric, summary.median), small: ratio.map_or_else(String::new, times), mood }
}

/// A value in its unit.
pub fn shown(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Wall | Metric::Cpu => time(exactly(value)),
        Metric::Peak | Metric::Held => format!("{} MiB", mebibytes(exactly(value))),
        Metric::Faults => format!("{value:.0}"),
    }
}

/// A ratio with its range.
pub fn times(ratio: Summary) -> String {
    format!("× {}", range(ratio, "", amount))
}

/// A cell that is as it is.
pub fn plain(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), ..Cell::default() }
}

/// A cell for what was not measured.
pub fn absent(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), small: String::new(), mood: Mood::Absent }
}

/// Why rows have no figures: each reason once, with the cases.
pub fn failures(cases: &[&CaseResults]) -> Vec<String> {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for case in cases {
        for Row { peer, failure, .. } in &case.rows {
            if let Some(why) = failure {
                reasons.entry((peer, why)).or_default().push(&case.name);
            }
        }
    }
    let line =
        |((peer, why), cases): (_, Vec<&str>)| format!("{peer}: {}: {why}", cases.join(", "));
    reasons.into_iter().map(line).collect()
}

/// What each case is, for a list below its tables.
pub fn legend(cases: &[&CaseResults]) -> Vec<String> {
    cases.iter().map(|case| format!("{}: {} (a {})", case.name, case.title, case.unit)).collect()
}

/// What a row has read of memory that nobody wrote.
pub fn readings(row: &Row) -> Option<&Readings> {
    match row.measured.last()?.detail.as_ref()? {
        Detail::Reads(readings) => Some(readings),
        _ => None,
    }
}

/// What memory reads as that nobody wrote.
pub fn reads(case: &CaseResults) -> Table {
    let mut columns = vec!["allocator".to_owned()];
    columns.extend(Situation::ALL.map(|situation| situation.title().to_owned()));
    let rows = case.rows.iter().map(|row| {
        let mut cells = vec![plain(&row.peer)];
        match readings(row) {
            Some(all) => {
                cells.extend(all.iter().map(|(situation, reading)| read(*situation, reading)))
            }
            None => cells.extend(Situation::ALL.map(|_| absent(""))),
        }
        Line { own: owns(&row.peer), cells }
    });
    Table {
        caption: "What a program reads that did not write: a block of 48 bytes, 1,000, 20,000, 200,000 and 4 MiB, eight of each"
            .into(),
        columns,
        rows: rows.collect(),
        notes: failures(&[case]),
    }
}

fn read(situation: Situation, reading: &Reading) -> Cell {
    let (text, mood) = match reading.byte {
        _ if reading.stale > 0 => ("stale data".into(), Mood::Bad),
        Some(byte) => (format!("{byte:#04x}"), Mood::Good),
        None => ("various".into(), Mood::Plain),
    };
    // Zeros of fresh memory are the kernel's doing, not the allocator's.
    let fresh = situation == Situation::Fresh && reading.byte == Some(0);
    let mood = if fresh { Mood::Plain } else { mood };
    let share = 100.0 * reading.stale as f64 / reading.bytes.max(1) as f64;
    let small =
        if reading.stale > 0 { format!("{} % of the bytes", amount(share)) } else { String::new() };
    Cell { text, small, mood }
}
