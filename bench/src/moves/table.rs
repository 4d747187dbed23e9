//! The tables: one of the calls, one a case, and what the kernel's authors have seen.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use refpage_bench::stats::{Summary, ratios, summarize};
use refpage_compactor::Way;

use super::work::Compacted;
use super::{CaseResults, Results, Row};
use crate::table::{amount, range, time};

/// What the kernel's authors measured, to stand beside.
const REFERENCES: &str = "\
References. Linux's commit \"userfaultfd: UFFDIO_MOVE uABI\": \"over 40% reduction (on a Google pixel 6 device) in the compacting
thread's completion time\". Its RFC: with UFFDIO_COPY, about half of a compaction went into allocating, copying and madvise.";

/// All of the report.
pub fn report(results: &Results) -> String {
    let Results { kernel, cpus, runs, scale, page_bytes, .. } = results;
    let bytes: usize = results
        .cases
        .iter()
        .flat_map(|case| case.rows.iter().flat_map(|row| &row.measured))
        .map(|measured| measured.checked_bytes)
        .sum();
    let mut text = format!(
        "Linux {kernel}, {cpus} CPUs, scale {scale}, OS pages of {} KiB, medians of {runs} rounds (least–greatest).\n\
         CPU: of the compactor and of who answers faults. × COPY: taken round by round. Pages allocated: by the kernel, for all\n\
         processes of the machine. Objects verified: {:.1} GB.\n\n",
        page_bytes >> 10,
        bytes as f64 / 1e9
    );
    if let Some(table) = of_calls(results) {
        let _ = writeln!(text, "calls: nanoseconds a page\n{table}\n");
    }
    for case in &results.cases {
        let _ = writeln!(text, "{}: {}\n{}\n", case.name, case.title, of_case(case));
    }
    for failure in &results.failures {
        let _ = writeln!(text, "FAILED: {failure}");
    }
    for case in &results.cases {
        savings(case, results, &mut text);
    }
    let _ = writeln!(text, "{REFERENCES}");
    text
}

fn of_calls(results: &Results) -> Option<Table> {
    let mut table = new(&["call", "ns a page"]);
    for (at, raw) in results.calls.first()?.iter().enumerate() {
        let values = results.calls.iter().filter_map(|round| round.get(at)?.page_ns);
        let cell = summarize(values).map(|summary| range(summary, "", amount));
        table.add_row([raw.call.clone(), cell.unwrap_or_else(|| "not to be had".into())]);
    }
    right(&mut table);
    Some(table)
}

fn of_case(case: &CaseResults) -> Table {
    let mut table = new(&[
        "way",
        "wall",
        "× COPY",
        "CPU",
        "× COPY",
        "pages allocated",
        "minor faults",
        "answered",
        "VMAs",
        "pages",
    ]);
    for row in &case.rows {
        let Some(last) = row.measured.last().filter(|_| !row.failed) else {
            table.add_row([row.way, "FAILED"]);
            continue;
        };
        table.add_row([
            row.way.to_owned(),
            row.cell(|it| it.wall_ns as f64, time),
            ratio(case, row, |it| it.wall_ns as f64),
            row.cell(|it| it.cpu_ns as f64, time),
            ratio(case, row, |it| it.cpu_ns as f64),
            row.cell(|it| it.allocated.map_or(f64::NAN, |pages| pages as f64), count),
            row.cell(|it| it.minor_faults as f64, count),
            row.cell(|it| it.answered as f64, count),
            row.cell(|it| it.vmas as f64, count),
            pages(last),
        ]);
    }
    right(&mut table);
    table
}

/// How the pages went, where mremap ended, and how many the heap had.
fn pages(last: &Compacted) -> String {
    let Compacted { pages_before, moved, copied, remapped, .. } = *last;
    let mut parts = Vec::new();
    let stop = if last.mappings_full { ", then ENOMEM" } else { "" };
    for (pages, how) in [(moved, "moved"), (remapped, "mremapped"), (copied, "copied")] {
        if pages > 0 {
            let stop = if how == "mremapped" { stop } else { "" };
            parts.push(format!("{pages} {how}{stop}"));
        }
    }
    format!("{}\nof {pages_before}", parts.join(",\n"))
}

impl Row {
    fn values(&self, value: impl Fn(&Compacted) -> f64) -> Vec<f64> {
        self.measured.iter().map(value).collect()
    }

    fn cell(&self, value: impl Fn(&Compacted) -> f64, unit: impl Fn(Summary) -> String) -> String {
        summarize(self.values(value)).map_or_else(String::new, unit)
    }
}

fn row_of(case: &CaseResults, way: Way) -> Option<&Row> {
    case.rows.iter().find(|row| row.way == way.name() && !row.failed)
}

fn ratio(case: &CaseResults, row: &Row, value: impl Fn(&Compacted) -> f64) -> String {
    let ratio = row_of(case, Way::Copy).and_then(|copy| versus(row, copy, value));
    ratio.map_or_else(String::new, |ratio| range(ratio, "", |number| format!("{number:.2}")))
}

fn versus(row: &Row, base: &Row, value: impl Fn(&Compacted) -> f64) -> Option<Summary> {
    ratios(&row.values(&value), &base.values(&value))
}

/// What moves save of the compaction with copies; and what share of that were allocating, copying and dropping pages, by what
/// these cost alone at least.
fn savings(case: &CaseResults, results: &Results, text: &mut String) {
    let (Some(copy), Some(moved)) = (row_of(case, Way::Copy), row_of(case, Way::Move)) else {
        return;
    };
    let Some(wall) = versus(moved, copy, |it| it.wall_ns as f64) else { return };
    let Some(cpu) = versus(moved, copy, |it| it.cpu_ns as f64) else { return };
    let saved = |ratio: Summary| format!("{:.0} %", 100.0 * (1.0 - ratio.median));
    let _ = write!(
        text,
        "{}: MOVE takes {} less time than COPY, {} less CPU",
        case.name,
        saved(wall),
        saved(cpu)
    );
    let alone = |call: &str| {
        let calls = results.calls.iter().flatten().filter(|raw| raw.call == call);
        // The least: what disturbed the calls did not disturb the cases, which come later.
        summarize(calls.filter_map(|raw| raw.page_ns)).map(|summary| summary.min)
    };
    if let (Some(copies), Some(drops)) = (alone("COPY of 64 pages"), alone("dropping 2048 pages")) {
        let share = |it: &Compacted| {
            let kernel = copies * it.copied as f64 + drops * it.pages_before as f64;
            100.0 * kernel / it.cpu_ns as f64
        };
        let share = row_of(case, Way::Copy).map(|row| row.values(share)).and_then(summarize);
        if let Some(share) = share {
            let _ = write!(
                text,
                "; of COPY's CPU, about {:.0} % are allocating, copying and dropping",
                share.median
            );
        }
    }
    let _ = writeln!(text, ".");
}

fn count(number: Summary) -> String {
    if number.median.is_nan() {
        return "not told".into();
    }
    range(number, "", |number| format!("{number:.0}"))
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
