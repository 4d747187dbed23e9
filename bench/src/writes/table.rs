//! The tables: one a pattern.

use comfy_table::{CellAlignment, Table, presets};

use super::work::{Measured, Report};
use super::{CaseResults, Row};
use crate::table::{amount, range, time};
use refpage_bench::stats::{Summary, ratios, summarize};

const HEADER: [&str; 9] = [
    "by",
    "a first write",
    "reset, a page",
    "look, a page",
    "cycle",
    "× WriteWatch",
    "cycle's CPU",
    "× WriteWatch",
    "VMAs",
];

/// A figure of one measurement.
pub type Figure = fn(&Measured) -> f64;

/// What the first write to a page costs beyond the cost of one more.
pub fn first_write(measured: &Measured) -> f64 {
    let Measured { first_ns, again_ns, written, laps, .. } = *measured;
    first_ns.saturating_sub(again_ns) as f64 / (written as u64 * laps) as f64
}

/// The whole cycle.
pub fn cycle(measured: &Measured) -> f64 {
    measured.cycle_ns as f64 / measured.laps as f64
}

/// The CPU time of it.
pub fn cycle_cpu(measured: &Measured) -> f64 {
    measured.cycle_cpu_ns as f64 / measured.laps as f64
}

fn a_page(sum: u64, measured: &Measured) -> f64 {
    sum as f64 / (measured.pages as u64 * measured.laps) as f64
}

impl Row {
    /// One value a round.
    fn values(&self, figure: Figure) -> Vec<f64> {
        let measured = self.reports.iter().filter_map(|report| match report {
            Report::Measured(measured) => Some(figure(measured)),
            Report::Absent(_) => None,
        });
        measured.collect()
    }

    /// The ratios to another row, round by round.
    pub fn ratio(&self, figure: Figure, base: &Row) -> Option<Summary> {
        ratios(&self.values(figure), &base.values(figure))
    }
}

/// A case's table with its heading, and why rows are empty.
pub fn of_case(case: &CaseResults) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    let mut notes = String::new();
    for row in &case.rows {
        let absent = row.reports.iter().find_map(|report| match report {
            Report::Absent(why) => Some(("not here", why)),
            Report::Measured(_) => None,
        });
        match row.failure.as_ref().map(|why| ("FAILED", why)).or(absent) {
            Some((word, why)) => {
                table.add_row([row.means.name(), word]);
                notes += &format!("{word}: {}: {why}\n", row.means.name());
            }
            None => {
                table.add_row(cells(row, &case.rows[0]));
            }
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{}\n{table}\n{notes}", case.title)
}

fn cells(row: &Row, base: &Row) -> [String; HEADER.len()] {
    let cell = |figure: Figure, unit: fn(Summary) -> String| {
        summarize(row.values(figure)).map(unit).unwrap_or_default()
    };
    let ratio = |figure: Figure| {
        let ratio = row.ratio(figure, base);
        ratio.map_or_else(String::new, |ratio| range(ratio, "", |number| format!("{number:.2}")))
    };
    let count = |figure| cell(figure, |count| amount_of(count.median));
    [
        row.means.name().into(),
        cell(first_write, time),
        cell(|measured| a_page(measured.reset_ns, measured), time),
        cell(|measured| a_page(measured.look_ns, measured), time),
        cell(cycle, time),
        ratio(cycle),
        cell(cycle_cpu, time),
        ratio(cycle_cpu),
        [count(|m| m.vmas_start as f64), count(|m| m.vmas_most as f64)].join(" → "),
    ]
}

fn amount_of(count: f64) -> String {
    if count.fract() == 0.0 { format!("{count:.0}") } else { amount(count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writes::means::Means;

    fn measured(factor: u64) -> Report {
        Report::Measured(Measured {
            pages: 100,
            written: 10,
            laps: 2,
            reset_ns: 2_000 * factor,
            first_ns: 21_000 * factor,
            again_ns: 1_000 * factor,
            look_ns: 400,
            cycle_ns: 30_000 * factor,
            cycle_cpu_ns: 28_000 * factor,
            vmas_start: 30,
            vmas_most: 31 * factor,
            checked_pages: 1,
        })
    }

    #[test]
    fn a_row_has_its_figures_and_ratios() {
        let row = |means, factor| Row { means, reports: vec![measured(factor)], failure: None };
        let (base, other) = (row(Means::WriteWatch, 1), row(Means::Mprotect, 3));
        let expected = [
            "mprotect + SIGSEGV",
            "3.00 us",
            "30.0 ns",
            "2.00 ns",
            "45.0 us",
            "3.00",
            "42.0 us",
            "3.00",
            "30 → 93",
        ];
        assert_eq!(cells(&other, &base), expected);
    }

    #[test]
    fn what_is_not_here_says_why() {
        let reports = vec![Report::Absent("no such bits".into())];
        let row = Row { means: Means::SoftDirty, reports, failure: None };
        let text = of_case(&CaseResults { title: String::new(), rows: vec![row] });
        assert!(text.contains("not here: soft-dirty: no such bits"), "{text}");
    }
}
