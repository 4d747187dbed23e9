//! Geometric means over the cases, and what issue 7 aims at.

use serde::Serialize;

use super::Cell;
use crate::peers::{OFF, REFPAGE, is_own};
use crate::results::{Metric, geometric_ratio};
use crate::targets::Verdict;
use refpage_bench::stats::{Summary, geometric_mean};

/// What means are taken of.
pub const METRICS: [Metric; 4] = [Metric::Wall, Metric::Cpu, Metric::Peak, Metric::Held];

/// One peer beside another, over all cases that both finished.
#[derive(Clone, Debug, Serialize)]
pub struct Mean {
    /// Whether it is over the real programs, not over the workloads.
    pub programs: bool,
    /// The peer.
    pub peer: String,
    /// What it is compared with.
    pub base: String,
    /// What is compared.
    pub metric: Metric,
    /// The geometric mean of the cases' ratios: its median and range over the rounds.
    pub ratio: Summary,
    /// Over how many cases.
    pub cases: usize,
    /// How many there are.
    pub of: usize,
}

/// The peer, refpage's own rows apart, whose times have the least geometric mean; it finished every case.
pub fn fastest<'r>(cells: &[&Cell<'r>]) -> Option<&'r str> {
    let rows = &cells.first()?.results.rows;
    let mean = |peer: &str| {
        let times = cells.iter().map(|cell| {
            let row = cell.results.row(peer)?;
            Some(row.summary(Metric::Wall)?.median)
        });
        geometric_mean(times.collect::<Option<Vec<f64>>>()?)
    };
    let means = rows.iter().filter(|row| !is_own(&row.peer));
    let means = means.filter_map(|row| Some((mean(&row.peer)?, row.peer.as_str())));
    means.min_by(|one, two| one.0.total_cmp(&two.0)).map(|(_, peer)| peer)
}

/// The geometric mean of the ratios, round by round.
pub fn mean(cells: &[&Cell], peer: &str, base: &str, metric: Metric) -> Option<Mean> {
    let (ratio, cases) =
        geometric_ratio(cells.iter().map(|cell| cell.results), peer, base, metric)?;
    Some(Mean {
        programs: cells.iter().any(|cell| cell.threads.is_none()),
        peer: peer.into(),
        base: base.into(),
        metric,
        ratio,
        cases,
        of: cells.len(),
    })
}

/// All peers beside the fastest one, glibc and mimalloc.
pub fn all(cells: &[&Cell]) -> Vec<Mean> {
    let Some(first) = cells.first() else { return Vec::new() };
    let mut means = Vec::new();
    for row in &first.results.rows {
        // Of the programs only the server is looked at before it ends.
        let metrics =
            METRICS.into_iter().filter(|metric| first.threads.is_some() || *metric != Metric::Held);
        for metric in metrics {
            for base in bases(cells) {
                means.extend(mean(cells, &row.peer, base, metric));
            }
        }
    }
    means
}

/// What ratios are taken to: the fastest peer, glibc and mimalloc, each once.
pub fn bases<'r>(cells: &[&Cell<'r>]) -> Vec<&'r str> {
    let mut bases: Vec<&str> = fastest(cells).into_iter().collect();
    for base in ["glibc", "mimalloc"] {
        if !bases.contains(&base) {
            bases.push(base);
        }
    }
    bases
}

/// What issue 7 aims at, of the workloads that were run.
pub fn judge(cells: &[&Cell]) -> Vec<Verdict> {
    if cells.is_empty() {
        return Vec::new();
    }
    let fastest = fastest(cells);
    let all = [
        (OFF, Metric::Wall, fastest, 1.10),
        (OFF, Metric::Peak, Some("mimalloc"), 1.15),
        (REFPAGE, Metric::Wall, Some("jemalloc"), 1.0),
        (REFPAGE, Metric::Wall, Some("scudo"), 0.75),
        (REFPAGE, Metric::Wall, Some("scudo-fill-zero"), 0.5),
    ];
    let mut verdicts: Vec<Verdict> = all
        .into_iter()
        .map(|(peer, metric, base, bound)| of_means(cells, peer, metric, base, bound))
        .collect();
    verdicts.push(worst(cells, REFPAGE, 1.5, "any case"));
    let eight: Vec<&Cell> = cells.iter().filter(|cell| cell.threads == Some(8)).copied().collect();
    for peer in [OFF, REFPAGE] {
        verdicts.push(worst(&eight, peer, 1.3, "8 threads"));
    }
    verdicts
}

fn of_means(
    cells: &[&Cell],
    peer: &str,
    metric: Metric,
    base: Option<&str>,
    bound: f64,
) -> Verdict {
    let mean = base.and_then(|base| mean(cells, peer, base, metric));
    let of = mean.as_ref().filter(|mean| mean.cases < mean.of);
    let of = of.map_or_else(String::new, |mean| format!(", {} of {} cases", mean.cases, mean.of));
    let fastest = if base == fastest(cells) && peer == OFF { ", the fastest" } else { "" };
    let base = base.unwrap_or("the fastest peer");
    let value = mean.map(|mean| mean.ratio);
    Verdict {
        case: format!("geometric mean{of}"),
        what: format!("{}, {peer} against {base}{fastest}", metric.name()),
        bound: format!("≤ {bound:.2}"),
        value,
        passed: value.map(|value| value.median <= bound),
    }
}

/// The case that is the slowest beside glibc.
fn worst(cells: &[&Cell], peer: &str, bound: f64, which: &str) -> Verdict {
    let of_case = |cell: &&Cell| {
        let (row, base) = (cell.results.row(peer)?, cell.results.row("glibc")?);
        Some((row.ratio(Metric::Wall, base)?, cell.results.name.clone()))
    };
    let ratios = cells.iter().filter_map(of_case);
    let worst = ratios.max_by(|one, two| one.0.median.total_cmp(&two.0.median));
    let value = worst.as_ref().map(|worst| worst.0);
    Verdict {
        case: worst.map_or_else(|| which.into(), |worst| format!("{which}, worst: {}", worst.1)),
        what: format!("{}, {peer} against glibc", Metric::Wall.name()),
        bound: format!("≤ {bound:.2}"),
        value,
        passed: value.map(|value| value.median <= bound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Outcome;
    use crate::measure::Cost;
    use crate::results::{CaseResults, Row};
    use crate::work::Measured;

    fn row(peer: &str, walls: &[u64]) -> Row {
        let measured = |&wall_ns: &u64| {
            let cost = Cost {
                wall_ns,
                cpu_ns: wall_ns,
                late_cpu_ns: 0,
                peak_kib: 100,
                held_kib: 0,
                minor_faults: 0,
                major_faults: 0,
                peak_was_reset: true,
            };
            Measured::new(Outcome { cost, operations: 1, checked_bytes: 1 })
        };
        Row { peer: peer.into(), measured: walls.iter().map(measured).collect(), failure: None }
    }

    fn case(name: &str, rows: Vec<Row>) -> CaseResults {
        CaseResults { name: name.into(), title: String::new(), unit: "block", versus: None, rows }
    }

    fn cell(results: &CaseResults, threads: usize) -> Cell<'_> {
        Cell { group: "server", threads: Some(threads), results }
    }

    #[test]
    fn means_are_taken_over_the_cases_of_each_round() {
        let one = case("one", vec![row(OFF, &[10, 40]), row("glibc", &[20, 20])]);
        let two = case("two", vec![row(OFF, &[80, 20]), row("glibc", &[40, 40])]);
        let cells = [cell(&one, 1), cell(&two, 8)];
        let cells: Vec<&Cell> = cells.iter().collect();
        let mean = mean(&cells, OFF, "glibc", Metric::Wall).unwrap();
        assert!((mean.ratio.median - 1.0).abs() < 1e-9, "{mean:?}");
        assert_eq!((mean.cases, mean.of), (2, 2));
        // Nothing was held: that is not measured, and no mean of zeros.
        assert!(super::mean(&cells, OFF, "glibc", Metric::Held).is_none());
    }

    #[test]
    fn the_fastest_peer_is_not_refpage_and_finished_everything() {
        let mut killed = row("tcmalloc", &[1]);
        killed.failure = Some("killed".into());
        let rows = vec![row(OFF, &[1]), row("glibc", &[20]), row("mimalloc", &[10]), killed];
        let one = case("one", rows);
        let cell = cell(&one, 1);
        assert_eq!(fastest(&[&cell]), Some("mimalloc"));
        assert_eq!(bases(&[&cell]), ["mimalloc", "glibc"]);
    }

    #[test]
    fn targets_name_the_worst_case_and_do_not_judge_what_was_not_measured() {
        let slow = case("slow-8", vec![row(OFF, &[31]), row("glibc", &[20])]);
        let fast = case("fast-1", vec![row(OFF, &[10]), row("glibc", &[20])]);
        let cells = [cell(&slow, 8), cell(&fast, 1)];
        let verdicts = judge(&cells.iter().collect::<Vec<_>>());
        let worst = verdicts.iter().find(|verdict| verdict.case.contains("8 threads")).unwrap();
        assert!(worst.case.contains("slow-8") && worst.passed == Some(false), "{worst:?}");
        let unmeasured = verdicts.iter().filter(|verdict| verdict.passed.is_none()).count();
        // mimalloc is not here, nor is refpage with its pattern.
        assert_eq!(unmeasured, 6, "{verdicts:#?}");
    }
}
