//! The tables: one a case.

use comfy_table::{CellAlignment, Table, presets};

use super::settings::base;
use super::space::Space;
use crate::results::{CaseResults, Metric, Row};
use crate::table::{amount, mebibytes, notes, range, time};
use crate::work::Measured;
use refpage_bench::stats::summarize;

const HEADER: [&str; 11] = [
    "peer",
    "CPU",
    "× no traps",
    "a page",
    "wall",
    "peak MiB",
    "× no traps",
    "VMAs",
    "page tables KiB",
    "minor\na page",
    "major\na page",
];

/// A case's table with its heading and notes.
pub fn of_case(case: &CaseResults) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    for row in &case.rows {
        if row.failure.is_some() {
            table.add_row([&row.peer, "FAILED"]);
        } else {
            table.add_row(cells(row, case.row(&base(&row.peer))));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{}: {}; times per {}\n{table}\n", case.name, case.title, case.unit);
    notes(case, &mut text);
    text
}

fn cells(row: &Row, base: Option<&Row>) -> [String; HEADER.len()] {
    let ratio = |metric| {
        let ratio = base.and_then(|base| row.ratio(metric, base));
        ratio.map_or_else(String::new, |ratio| range(ratio, "", |number| format!("{number:.2}")))
    };
    let summary = |metric, unit: fn(_) -> String| row.summary(metric).map(unit).unwrap_or_default();
    let middle = |number: &dyn Fn(&Measured, Space) -> f64| {
        let numbers =
            row.measured.iter().filter_map(|measured| Some(number(measured, measured.space?)));
        summarize(numbers)
    };
    let whole = |number: fn(Space) -> u64| {
        let summary = middle(&|_, space| number(space) as f64);
        summary.map_or_else(String::new, |number| format!("{:.0}", number.median))
    };
    let a_page = |number: fn(&Measured) -> u64| {
        middle(&|measured, space| number(measured) as f64 / space.touched_pages.max(1) as f64)
    };
    let faults = |number| a_page(number).map_or_else(String::new, |faults| amount(faults.median));
    let cpu = a_page(|measured| measured.cost.cpu_ns);
    [
        row.peer.clone(),
        summary(Metric::Cpu, time),
        ratio(Metric::Cpu),
        cpu.map_or_else(String::new, |cpu| format!("{} ns", amount(cpu.median))),
        summary(Metric::Wall, time),
        summary(Metric::Peak, mebibytes),
        ratio(Metric::Peak),
        [whole(|s| s.vmas_start), whole(|s| s.vmas_most), whole(|s| s.vmas_end)].join(" "),
        whole(|space| space.page_tables_kib),
        faults(|measured| measured.cost.minor_faults),
        faults(|measured| measured.cost.major_faults),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traps::promise::tests::{case, row};

    #[test]
    fn a_row_has_its_ratios_and_numbers_a_page() {
        let (base, other) =
            (row("refpage, no traps", 3200, 1024, 30), row("scudo", 6400, 3072, 50));
        let expected = [
            "scudo", "3.20 us", "2.00", "400 ns", "3.20 us", "3.00", "3.00", "30 50 31", "64",
            "0.50", "0.25",
        ];
        assert_eq!(cells(&other, Some(&base)), expected);
    }

    #[test]
    fn what_failed_is_in_the_table_and_below_it() {
        let mut failed = row("refpage, all", 1, 1, 1);
        failed.failure = Some("refpage took no guards".into());
        let text = of_case(&case("dense-1M", vec![failed]));
        assert!(text.contains("FAILED") && text.contains("refpage took no guards"), "{text}");
    }
}
