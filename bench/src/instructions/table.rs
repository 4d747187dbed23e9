//! The tables: ways to tag a page, and one a case.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::count::Counted;
use super::{CaseResults, Results, Row};
use crate::peers::OFF;
use refpage_bench::stats::{Summary, summarize};

/// All of them.
pub fn report(results: &Results) -> String {
    let Results { kernel, page_bytes, block_bytes, huge_pages, runs, ways, cases } = results;
    let block = block_bytes.map_or("none".into(), |bytes| format!("{bytes} bytes"));
    let mut text = format!(
        "Linux {kernel}, pages of {page_bytes} bytes, huge pages: {huge_pages}, block of DC GVA: {block}.\n\
         Instructions, medians of {runs} rounds (least–greatest): those of the kernel and of all threads included.\n\
         CPU clock: the same by the process's CPU time. Late: by that clock, in the 50 ms after.\n\n"
    );
    let mut table = new_table(["way", "bytes", "data", "tags", "stores", "instructions"]);
    for way in ways {
        let stores = way.stores.map_or(String::new(), |stores| stores.to_string());
        table.add_row([
            way.name.into(),
            way.bytes.to_string(),
            way.data.name().into(),
            if way.tags { "written" } else { "kept" }.into(),
            stores,
            range(Some(way.instructions)),
        ]);
    }
    align(&mut table, &[1, 4, 5]);
    let _ = writeln!(
        text,
        "memory that is there already, data and tags checked after each:\n{table}\n"
    );
    for case in cases {
        let _ = writeln!(text, "{}", of_case(case));
    }
    let checked = cases.iter().flat_map(|case| &case.rows).flat_map(|row| &row.counted);
    let checked: u64 = checked.map(|counted| counted.checked_bytes).sum();
    let _ = writeln!(text, "content checked: {:.1} GB", checked as f64 / 1e9);
    text
}

fn of_case(case: &CaseResults) -> String {
    let mut table =
        new_table(["allocator", "instructions", "× off", "CPU clock", "late", "faults"]);
    let off = case.rows.iter().find(|row| row.peer == OFF).and_then(|row| each(row, instructions));
    for row in &case.rows {
        if row.failure.is_some() {
            table.add_row([&row.peer, "FAILED"]);
            continue;
        }
        let own = each(row, instructions);
        let ratio = own.zip(off).map(|(own, off)| format!("{:.2}", own.median / off.median));
        let whole = |part: fn(&Counted) -> u64| {
            each(row, part).map_or(String::new(), |it| number(it.median))
        };
        table.add_row([
            row.peer.clone(),
            range(own),
            ratio.unwrap_or_default(),
            whole(|counted| counted.tally.cpu_ns),
            whole(|counted| counted.tally.late_cpu_ns),
            each(row, |counted| counted.tally.faults)
                .map_or(String::new(), |it| format!("{:.3}", it.median)),
        ]);
    }
    align(&mut table, &[1, 2, 3, 4, 5]);
    let mut text = format!("{}: {}; per {}\n{table}\n", case.name, case.title, case.unit);
    for (row, why) in case.rows.iter().filter_map(|row| Some((row, row.failure.as_ref()?))) {
        let _ = writeln!(text, "FAILED: {}: {why}", row.peer);
    }
    text
}

fn instructions(counted: &Counted) -> u64 {
    counted.tally.instructions
}

/// A figure per operation, over the rounds.
fn each(row: &Row, part: fn(&Counted) -> u64) -> Option<Summary> {
    let per_operation = |counted: &Counted| part(counted) as f64 / counted.operations as f64;
    summarize(row.counted.iter().map(per_operation))
}

fn new_table(header: [&str; 6]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn align(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The median with the range, or alone where that is all that would be seen.
fn range(summary: Option<Summary>) -> String {
    let Some(Summary { median, min, max }) = summary else { return String::new() };
    let [median, min, max] = [median, min, max].map(number);
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

/// A whole number, or with a decimal where that tells something.
fn number(value: f64) -> String {
    if value < 1000.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_shown_where_there_is_one() {
        let summary = |median, min, max| Some(Summary { median, min, max });
        assert_eq!(range(summary(512.0, 512.0, 512.0)), "512");
        assert_eq!(range(summary(51.25, 50.0, 2000.4)), "51.2 (50–2000)");
    }
}
