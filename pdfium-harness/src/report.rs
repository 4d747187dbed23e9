//! The result as a table, with what refpage says about itself below.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use refpage_bench::peers::OFF;
use refpage_bench::stats::{Summary, ratios, summarize};

use crate::experiment::{Row, baseline};
use crate::run::{Cost, Statistics};

/// The keys of refpage's statistics that are shown, in this order.
const COUNTERS: [&str; 5] =
    ["faults", "pages_moved", "pages_copied", "pages_filled", "region_vmas"];

/// A figure of the table: heading, decimals, and where it comes from.
type Figure = (&'static str, usize, fn(&Cost) -> f64);

const FIGURES: [Figure; 4] = [
    ("wall s", 3, |cost| cost.wall),
    ("CPU s", 3, |cost| cost.cpu),
    ("RSS MiB", 1, |cost| cost.rss),
    ("faults", 0, |cost| cost.faults),
];
/// Those whose ratio to the baseline is shown: the first three.
const RATIOS: usize = 3;

/// The whole report.
pub fn text(rows: &[Row]) -> String {
    let mut out = table(rows).to_string();
    let rounds = rows.iter().map(|row| row.costs.len()).max().unwrap_or(0);
    if rounds > 0 {
        let _ = writeln!(
            out,
            "\n{rounds} interleaved runs each: median, range below; x = times the `{OFF}` run of \
             the same round; all threads counted."
        );
    } else {
        out.push('\n');
    }
    for row in rows {
        if let Some(error) = &row.error {
            let _ = writeln!(out, "{}: not measured: {error}", row.name);
        }
        if let Some(line) = service(row) {
            let _ = writeln!(out, "{line}");
        }
        if let Some(note) = row.note {
            let _ = writeln!(out, "{}: {note}", row.name);
        }
        for message in row.messages.lines() {
            let _ = writeln!(out, "{} wrote: {message}", row.name);
        }
    }
    out.push_str(&pixels(rows));
    out
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut header = vec![String::new()];
    header.extend(FIGURES.iter().map(|(name, ..)| name.to_string()));
    header.extend(
        FIGURES[..RATIOS]
            .iter()
            .map(|(name, ..)| format!("{} x", name.split(' ').next().unwrap_or(name))),
    );
    table.set_header(header);
    let against = baseline(rows);
    for row in rows.iter().filter(|row| row.measured()) {
        let mut cells = vec![Cell::new(&row.name)];
        for (_, decimals, figure) in FIGURES {
            cells.push(cell(summarize(row.values(figure)), decimals));
        }
        for (_, _, figure) in &FIGURES[..RATIOS] {
            let ratio =
                against.and_then(|base| ratios(&row.values(*figure), &base.values(*figure)));
            cells.push(cell(ratio, 3));
        }
        table.add_row(cells);
    }
    for row in rows.iter().filter(|row| !row.measured()) {
        table.add_row(vec![row.name.as_str(), "not measured"]);
    }
    for column in table.column_iter_mut().skip(1) {
        // Eight columns must fit a terminal of 100.
        column.set_padding((0, 1));
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The median over the range, on two lines; a dash when there is nothing to show.
fn cell(summary: Option<Summary>, decimals: usize) -> Cell {
    let Some(Summary { median, min, max }) = summary else {
        return Cell::new("–");
    };
    if min == max {
        return Cell::new(format!("{median:.decimals$}"));
    }
    Cell::new(format!("{median:.decimals$}\n{min:.decimals$}–{max:.decimals$}"))
}

/// What refpage did under this row's name.
fn service(row: &Row) -> Option<String> {
    let is_refpage = row.rendered.as_ref()?.malloc.ends_with("librefpage.so");
    match &row.statistics {
        Some(statistics) => Some(format!("{}: {}", row.name, counters(statistics))),
        None if is_refpage => {
            Some(format!("{}: wrote no statistics, so its service is not known", row.name))
        }
        None => None,
    }
}

fn counters(statistics: &Statistics) -> String {
    let service = statistics["service"].as_str().unwrap_or("not named");
    let mut out = format!("service {service}");
    // How memory tags are checked, where there are some.
    if let Some(tags) = statistics["tags"].as_str().filter(|&tags| tags != "off") {
        let _ = write!(out, ", tags {tags}");
    }
    for key in COUNTERS {
        if let Some(value) = statistics.get(key) {
            let _ = write!(out, ", {key} {value}");
        }
    }
    out
}

/// What was rendered; disagreements are reported apart, as errors.
fn pixels(rows: &[Row]) -> String {
    let Some(rendered) = rows.iter().find_map(|row| row.rendered.as_ref()) else {
        return String::new();
    };
    let same = if crate::experiment::disagreements(rows).is_empty() {
        "the same in all runs"
    } else {
        "NOT the same in all runs"
    };
    let mut out = format!(
        "pixels: {} pages, {:.1} million pixels, XXH3 {}, {same}\n",
        rendered.pages,
        rendered.pixels as f64 / 1e6,
        rendered.checksum
    );
    if rendered.blank_pages > 0 {
        let _ = writeln!(out, "{} of the pages are blank", rendered.blank_pages);
    }
    out
}
