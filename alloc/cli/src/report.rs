//! The demonstration's table: medians, their spread, and ratios to the service `off`.

use crate::child::{Outcome, name_of};
use crate::demo::{Plan, SERVICES};
use crate::machine::Service;
use crate::measure::{SIZE, Touch, Use};
use comfy_table::{CellAlignment, Table, presets};
use refpage_alloc::options::ServiceChoice;
use std::fmt::Write;

/// The values of all rounds.
#[derive(Clone, Debug, Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        }
    }

    /// Largest minus smallest; of five values or more, without those two: one disturbance by
    /// another process is not the spread.
    fn range(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let outliers = usize::from(sorted.len() >= 5);
        match sorted.get(outliers..sorted.len() - outliers) {
            Some([low, .., high]) => high - low,
            _ => 0.0,
        }
    }

    /// The median and half the range in percent of it.
    fn with_spread(&self) -> String {
        let median = self.median();
        let spread = if median > 0.0 { 50.0 * self.range() / median } else { 0.0 };
        format!("{} ±{spread:.0} %", amount(median))
    }
}

/// What the empty jobs of one service took.
#[derive(Clone, Debug, Default)]
pub struct Start {
    cpu_us: Samples,
    rss_mib: Samples,
}

impl Start {
    /// Takes one round's outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.cpu_us.0.push(outcome.cpu_ns as f64 / 1e3);
        self.rss_mib.0.push(outcome.measurement.peak_rss_kib as f64 / 1024.0);
    }
}

/// The outcomes of one service in one cell; times are per allocation.
#[derive(Clone, Debug, Default)]
struct Column {
    time_us: Samples,
    cpu_us: Samples,
    rss_mib: Samples,
}

/// One use and touch, for all services.
#[derive(Debug)]
pub struct Cell {
    /// What becomes of an allocation.
    pub usage: Use,
    /// How much of it is touched.
    pub touch: Touch,
    services: [Column; SERVICES.len()],
}

impl Cell {
    /// A cell without outcomes.
    pub fn new(usage: Use, touch: Touch) -> Self {
        Self { usage, touch, services: Default::default() }
    }

    /// Takes an outcome of the service at `at`, less what this round's and the earlier empty jobs of
    /// that service took (their median) and less the checks.
    pub fn add(&mut self, at: usize, outcome: &Outcome, start: &Start, iterations: usize) {
        let per_allocation = 1.0 / iterations as f64;
        let column = &mut self.services[at];
        let measurement = &outcome.measurement;
        let cpu_us =
            (outcome.cpu_ns as f64 - measurement.check_cpu_ns as f64) / 1e3 - start.cpu_us.median();
        column.time_us.0.push(measurement.elapsed_ns as f64 / 1e3 * per_allocation);
        column.cpu_us.0.push(cpu_us.max(0.0) * per_allocation);
        column.rss_mib.0.push(measurement.peak_rss_kib as f64 / 1024.0);
    }
}

/// The whole output.
pub fn text(
    cells: &[Cell],
    starts: &[Start],
    rounds: usize,
    plan: &Plan,
    checked_bytes: u64,
    service: &Service,
) -> String {
    let mut text = format!(
        "Allocations of {SIZE} bytes: allocate, write one byte to each touched OS page, free. Medians of {rounds} rounds.\n\
         recycled: {} allocations, each freed before the next; fresh: {} that stay live until the end.\n\n",
        plan.iterations(Use::Recycled),
        plan.iterations(Use::Fresh),
    );
    let _ = writeln!(text, "{}\n", table(cells, starts, plan));
    let _ = writeln!(
        text,
        "Time and CPU in us per allocation, CPU of all threads; ± is half their range. Ratios (×) are to off, which"
    );
    let _ = writeln!(
        text,
        "leaves memory unpatterned. \"<\": not told apart from the start of the process, which is not included:"
    );
    for (service, start) in SERVICES.iter().zip(starts) {
        let _ = writeln!(
            text,
            "  start with {:7} {:6} us CPU, {:.1} MiB",
            label(*service),
            amount(start.cpu_us.median()),
            start.rss_mib.median()
        );
    }
    let _ = writeln!(
        text,
        "Pattern checked under memset and refpage: {:.1} million bytes, all right.",
        checked_bytes as f64 / 1e6
    );
    let hint =
        if service.name == "lazy" { "" } else { "; `refpage doctor` says how to get a better one" };
    let _ = writeln!(text, "Service of refpage here: {service}{hint}");
    text
}

fn table(cells: &[Cell], starts: &[Start], plan: &Plan) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["use", "touched", "service", "time", "×", "CPU", "×", "peak RSS MiB", "×"]);
    for cell in cells {
        let off = &cell.services[0];
        for (at, column) in cell.services.iter().enumerate() {
            // What the empty jobs' noise amounts to, spread over the allocations.
            let noise = |at: usize| starts[at].cpu_us.range() / plan.iterations(cell.usage) as f64;
            let resolved = |column: &Column, at: usize| column.cpu_us.median() > noise(at);
            let cpu = if resolved(column, at) {
                column.cpu_us.with_spread()
            } else {
                format!("<{}", amount(noise(at)))
            };
            let cpu_ratio = if resolved(column, at) && resolved(off, 0) {
                ratio(&column.cpu_us, &off.cpu_us)
            } else {
                "".into()
            };
            table.add_row([
                if at == 0 { name_of(cell.usage) } else { String::new() },
                if at == 0 { name_of(cell.touch) } else { String::new() },
                label(SERVICES[at]).into(),
                column.time_us.with_spread(),
                ratio(&column.time_us, &off.time_us),
                cpu,
                cpu_ratio,
                amount(column.rss_mib.median()),
                ratio(&column.rss_mib, &off.rss_mib),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The service `auto` is what the project is about.
fn label(service: ServiceChoice) -> &'static str {
    match service {
        ServiceChoice::Auto => "refpage",
        other => other.as_str(),
    }
}

fn ratio(samples: &Samples, base: &Samples) -> String {
    format!("{:.2}", samples.median() / base.median())
}

/// Three significant digits or so.
fn amount(value: f64) -> String {
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
    fn medians_and_ranges_of_few_values() {
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples(vec![4.0, 1.0]).median(), 2.5);
        assert_eq!(Samples(vec![4.0, 1.0]).range(), 3.0);
        assert_eq!(Samples(vec![9.0, 1.0, 2.0, 3.0, 2.5]).range(), 1.0);
        assert_eq!(Samples(vec![]).range(), 0.0);
        assert!(Samples(vec![]).median().is_nan());
        assert_eq!(Samples(vec![100.0, 110.0, 90.0]).with_spread(), "100 ±10 %");
    }
}
