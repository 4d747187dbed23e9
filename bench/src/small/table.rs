//! The tables: one a workload or program, and that of the means.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::Cell;
use super::means::{self, METRICS, Mean};
use crate::results::{Metric, Row};
use crate::table::{amount, mebibytes, time};
use refpage_bench::stats::{Summary, summarize};

const NOT_MEASURED: &str = "–";

fn plain(header: &[String]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(String::from).into()
}

/// All threads of a workload, or a program.
pub fn of_group(cells: &[&Cell]) -> String {
    let Some(first) = cells.first() else { return String::new() };
    let header = [
        "threads",
        "peer",
        "wall",
        "× fastest",
        "× glibc",
        "CPU",
        "× glibc",
        "peak MiB",
        "× glibc",
        "held MiB",
        "1.5 s later",
        "faults",
    ];
    let mut table = plain(&strings(header));
    let mut failures = String::new();
    for cell in cells {
        let threads = cell.threads.map_or_else(String::new, |threads| threads.to_string());
        let fastest = means::fastest(&[cell]).and_then(|peer| cell.results.row(peer));
        let glibc = cell.results.row("glibc");
        for row in &cell.results.rows {
            if let Some(why) = &row.failure {
                table.add_row([&threads, &row.peer, "FAILED"]);
                let _ = writeln!(failures, "FAILED: {}, {}: {why}", cell.results.name, row.peer);
                continue;
            }
            table.add_row(cells_of(row, &threads, fastest, glibc));
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let results = first.results;
    format!("{}: {}; times per {}\n{table}\n{failures}", first.group, results.title, results.unit)
}

fn cells_of(row: &Row, threads: &str, fastest: Option<&Row>, glibc: Option<&Row>) -> Vec<String> {
    let cell = |metric, unit: fn(Summary) -> String| {
        let summary = row.summary(metric).filter(|summary| summary.max > 0.0);
        summary.map_or_else(|| NOT_MEASURED.into(), unit)
    };
    let ratio = |metric, base: Option<&Row>| {
        let ratio = base.and_then(|base| row.ratio(metric, base));
        ratio.map_or_else(|| NOT_MEASURED.into(), |ratio| format!("{:.2}", ratio.median))
    };
    let decayed = row.measured.iter().filter_map(|measured| measured.decayed_kib);
    let decayed = summarize(decayed.map(|kib| kib as f64));
    let middle = |kibibytes: Summary| amount(kibibytes.median / 1024.0);
    vec![
        threads.into(),
        row.peer.clone(),
        cell(Metric::Wall, time),
        ratio(Metric::Wall, fastest),
        ratio(Metric::Wall, glibc),
        cell(Metric::Cpu, time),
        ratio(Metric::Cpu, glibc),
        cell(Metric::Peak, mebibytes),
        ratio(Metric::Peak, glibc),
        cell(Metric::Held, |held| amount(held.median / 1024.0)),
        decayed.map_or_else(|| NOT_MEASURED.into(), middle),
        cell(Metric::Faults, |faults| format!("{:.0}", faults.median)),
    ]
}

/// The geometric means: a row a peer.
pub fn of_means(means: &[Mean], what: &str) -> String {
    let mut bases: Vec<&str> = Vec::new();
    let mut peers: Vec<&str> = Vec::new();
    for mean in means {
        if !bases.contains(&mean.base.as_str()) {
            bases.push(&mean.base);
        }
        if !peers.contains(&mean.peer.as_str()) {
            peers.push(&mean.peer);
        }
    }
    let metrics = METRICS.into_iter().filter(|&m| means.iter().any(|mean| mean.metric == m));
    let metrics: Vec<Metric> = metrics.collect();
    let mut header = vec!["peer".to_owned()];
    for metric in &metrics {
        header.extend(bases.iter().map(|base| format!("{}\n× {base}", metric.name())));
    }
    let mut table = plain(&header);
    let mut notes = String::new();
    for peer in peers {
        let mut row = vec![peer.to_owned()];
        for &metric in &metrics {
            for base in &bases {
                let found = means
                    .iter()
                    .find(|mean| mean.peer == peer && mean.base == *base && mean.metric == metric);
                row.push(found.map_or_else(
                    || NOT_MEASURED.into(),
                    |mean| format!("{:.2}", mean.ratio.median),
                ));
                if let Some(mean) = found
                    && mean.cases < mean.of
                    && metric == Metric::Wall
                {
                    let (cases, of) = (mean.cases, mean.of);
                    let _ = writeln!(notes, "{peer} × {base}: of {cases} cases, not of all {of}");
                }
            }
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("geometric means over {what}, medians of the rounds\n{table}\n{notes}")
}
