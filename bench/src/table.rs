//! The tables: one a case, and that of the targets.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use crate::measure::Cost;
use crate::memory::Baseline;
use crate::peers::OFF;
use crate::results::{CaseResults, Metric, Row};
use crate::targets::{Verdict, saving};
use refpage_bench::stats::{Summary, summarize};

/// CPU time after the measured part is mentioned if it is this share of the measured part's ...
const LATE_SHARE: f64 = 0.05;
/// ... and so many nanoseconds: falling asleep and waking up cost some by themselves.
const LATE_NS: f64 = 200_000.0;

/// A case's table with its heading and notes.
pub fn of_case(case: &CaseResults) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header: Vec<String> =
        ["peer", "wall", "× off", "CPU", "× off", "peak MiB", "× off", "held MiB", "faults"]
            .map(String::from)
            .into();
    header.extend(case.versus.map(|versus| match saves(versus) {
        true => format!("saves, to {versus}"),
        false => format!("× {versus}"),
    }));
    table.set_header(header);
    let off = case.row(OFF);
    let versus = case.versus.and_then(|versus| case.row(versus));
    for row in &case.rows {
        if row.failure.is_some() {
            table.add_row([&row.peer, "FAILED"]);
            continue;
        }
        let cell =
            |metric, unit: fn(Summary) -> String| row.summary(metric).map(unit).unwrap_or_default();
        let ratio = |metric| ratio(row, metric, off);
        let mut cells = vec![
            row.peer.clone(),
            cell(Metric::Wall, time),
            ratio(Metric::Wall),
            cell(Metric::Cpu, time),
            ratio(Metric::Cpu),
            cell(Metric::Peak, mebibytes),
            ratio(Metric::Peak),
            cell(Metric::Held, |held| amount(held.median / 1024.0)),
            cell(Metric::Faults, |faults| range(faults, "", |number| format!("{number:.0}"))),
        ];
        cells.extend(versus.map(|versus_row| {
            let ratio = row.ratio(Metric::Wall, versus_row);
            ratio.map_or_else(String::new, |ratio| match case.versus.is_some_and(saves) {
                true => format!("{:.1} %", saving(ratio).median),
                false => format!("{:.2}", ratio.median),
            })
        }));
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}: {}; times per {}\n{table}\n", case.name, case.title, case.unit);
    notes(case, &mut text);
    text
}

/// What the columns have no place for.
pub fn notes(case: &CaseResults, text: &mut String) {
    for row in &case.rows {
        if let Some(why) = &row.failure {
            let _ = writeln!(text, "FAILED: {}: {why}", row.peer);
        }
        if row.measured.iter().any(|measured| !measured.cost.peak_was_reset) {
            let _ = writeln!(
                text,
                "{}: the kernel does not reset the peak; it is that of the process from its start",
                row.peer
            );
        }
        let costs = || row.measured.iter().map(|measured| measured.cost);
        let share = |cost: Cost| cost.late_cpu_ns as f64 / cost.cpu_ns.max(1) as f64;
        let late = summarize(costs().map(|cost| cost.late_cpu_ns as f64));
        let late = late.filter(|late| late.median >= LATE_NS);
        let share = summarize(costs().map(share)).filter(|share| share.median >= LATE_SHARE);
        if let (Some(late), Some(share)) = (late, share) {
            let percent = 100.0 * share.median;
            let _ = writeln!(
                text,
                "{}: puts work off: {} of CPU time in the 10 ms after, {percent:.0} % of that measured",
                row.peer,
                time(late),
            );
        }
    }
}

/// Whether the comparison is told as what is saved: the patch's own way.
fn saves(versus: &str) -> bool {
    versus == Baseline::MmapMemset.name()
}

fn ratio(row: &Row, metric: Metric, base: Option<&Row>) -> String {
    let ratio = base.and_then(|base| row.ratio(metric, base));
    ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median))
}

/// The table of the targets.
pub fn of_targets(verdicts: &[Verdict]) -> String {
    of_verdicts(verdicts, ["targets", "target", "reached"], ["pass", "MISS"])
}

/// The table of the promises.
pub fn of_promises(verdicts: &[Verdict]) -> String {
    of_verdicts(verdicts, ["promises", "promise", "kept"], ["kept", "MISSED"])
}

fn of_verdicts(
    verdicts: &[Verdict],
    [all, one, done]: [&str; 3],
    [pass, miss]: [&str; 2],
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["case", "what", one, "measured", ""]);
    for verdict in verdicts {
        table.add_row([
            verdict.case.clone(),
            verdict.what.clone(),
            verdict.bound.clone(),
            verdict.value.map_or_else(
                || "not measured".into(),
                |value| range(value, "", |number| format!("{number:.3}")),
            ),
            match verdict.passed {
                Some(true) => pass.into(),
                Some(false) => miss.into(),
                None => String::new(),
            },
        ]);
    }
    let passed = verdicts.iter().filter(|verdict| verdict.passed == Some(true)).count();
    format!("{all}: {passed} of {} {done}\n{table}\n", verdicts.len())
}

/// A median and its range in a unit that fits the median.
pub fn time(nanoseconds: Summary) -> String {
    let (unit, size) = match nanoseconds.median {
        size if size < 1e3 => ("ns", 1.0),
        size if size < 1e6 => ("us", 1e3),
        size if size < 1e9 => ("ms", 1e6),
        _ => ("s", 1e9),
    };
    range(scaled(nanoseconds, 1.0 / size), unit, amount)
}

/// The same in MiB.
pub fn mebibytes(kibibytes: Summary) -> String {
    range(scaled(kibibytes, 1.0 / 1024.0), "", amount)
}

/// A value without a range.
pub fn exactly(value: f64) -> Summary {
    Summary { median: value, min: value, max: value }
}

fn scaled(summary: Summary, factor: f64) -> Summary {
    let Summary { median, min, max } = summary;
    Summary { median: median * factor, min: min * factor, max: max * factor }
}

/// `median unit (least–greatest)`, or the median alone where that is all that would be seen.
pub fn range(summary: Summary, unit: &str, number: fn(f64) -> String) -> String {
    let [median, min, max] = [summary.median, summary.min, summary.max].map(number);
    let space = if unit.is_empty() { "" } else { " " };
    let spread = if min == max { String::new() } else { format!(" ({min}–{max})") };
    format!("{median}{space}{unit}{spread}")
}

/// Three significant digits or so.
pub fn amount(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_take_the_unit_of_their_median() {
        let summary = |median, min, max| Summary { median, min, max };
        assert_eq!(time(summary(1500.0, 999.0, 2e6)), "1.50 us (1.00–2000)");
        assert_eq!(time(summary(250e6, 250e6, 250e6)), "250 ms");
        assert_eq!(mebibytes(summary(2048.0, 1024.0, 3072.0)), "2.00 (1.00–3.00)");
    }
}
