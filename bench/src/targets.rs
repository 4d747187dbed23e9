//! What is aimed at, and what came of it.

use serde::Serialize;

use crate::memory::Baseline;
use crate::peers::{LARGE_POOL, OFF, REFPAGE};
use crate::results::{CaseResults, Metric, Row};
use refpage_bench::stats::Summary;

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// The ratio is at most this.
    AtMost(f64),
    /// The improvement, one less the ratio, is at least so many percent.
    Saves(f64),
    /// The difference is at most so many microseconds.
    Adds(f64),
}

/// One peer beside another in one case, and its bound.
#[derive(Debug)]
struct Target {
    case: String,
    metric: Metric,
    peer: &'static str,
    base: &'static str,
    bound: Bound,
}

/// What came of a target.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The case.
    pub case: String,
    /// What is compared.
    pub what: String,
    /// The bound, as text.
    pub bound: String,
    /// Median and range of the rounds, in the bound's terms; none if it was not measured.
    pub value: Option<Summary>,
    /// Whether the median keeps to the bound.
    pub passed: Option<bool>,
}

fn targets() -> Vec<Target> {
    use Bound::{Adds, AtMost, Saves};
    use Metric::{Cpu, Peak, Wall};
    let small = Baseline::SmallPages.name();
    let filled = Baseline::SmallMemset.name();
    let huge = Baseline::HugeMemset.name();
    let warm = Baseline::WarmMemset.name();
    let mut targets = Vec::new();
    let mut add = |case: &str, metric, peer, base, bound| {
        targets.push(Target { case: case.into(), metric, peer, base, bound });
    };
    for (case, percent) in [("patch-one", 99.5), ("patch-half", 97.0), ("patch-all", 93.0)] {
        add(case, Wall, REFPAGE, Baseline::MmapMemset.name(), Saves(percent));
        add(case, Peak, REFPAGE, OFF, AtMost(1.04));
    }
    for peer in [REFPAGE, LARGE_POOL] {
        add("dense-warm", Wall, peer, small, AtMost(0.15));
        add("dense-warm", Cpu, peer, small, AtMost(0.20));
    }
    for (base, most) in [(filled, 0.40), (huge, 1.0)] {
        add("dense-cold", Wall, REFPAGE, base, AtMost(most));
        add("dense-cold", Cpu, REFPAGE, base, AtMost(most));
    }
    for case in ["sparse-64", "sparse-random-64"] {
        add(case, Peak, REFPAGE, OFF, AtMost(1.10));
        add(case, Cpu, REFPAGE, "memset", AtMost(0.25));
    }
    for size in ["64K", "256K", "1M", "4M"] {
        for metric in [Wall, Cpu] {
            add(&format!("cycle-{size}-100"), metric, REFPAGE, warm, AtMost(1.05));
            add(&format!("cycle-{size}-10"), metric, REFPAGE, warm, AtMost(0.35));
        }
    }
    for case in ["realloc-2x", "realloc-1.1x"] {
        add(case, Cpu, REFPAGE, "glibc", AtMost(1.2));
        add(case, Cpu, REFPAGE, "mimalloc", AtMost(0.3));
    }
    for heap in ["small", "1G-dense", "1G-sparse"] {
        for ends in ["exit", "exec"] {
            add(&format!("fork-{ends}-{heap}"), Wall, REFPAGE, OFF, Adds(60.0));
        }
    }
    targets
}

/// Judges the targets of the cases that were run.
pub fn judge(cases: &[CaseResults]) -> Vec<Verdict> {
    let of_case = |target: Target| {
        let case = cases.iter().find(|case| case.name == target.case)?;
        Some(target.judge(case))
    };
    targets().into_iter().filter_map(of_case).collect()
}

impl Target {
    fn judge(&self, case: &CaseResults) -> Verdict {
        let rows = case.row(self.peer).zip(case.row(self.base));
        let value = rows.and_then(|(row, base)| self.bound.terms(row, self.metric, base));
        Verdict {
            case: self.case.clone(),
            what: format!("{}, {} against {}", self.metric.name(), self.peer, self.base),
            bound: match self.bound {
                Bound::AtMost(most) => format!("≤ {most:.2}"),
                Bound::Saves(percent) => format!("saves ≥ {percent} %"),
                Bound::Adds(us) => format!("adds ≤ {us} us"),
            },
            value,
            passed: value.map(|value| match self.bound {
                Bound::AtMost(most) => value.median <= most,
                Bound::Saves(percent) => value.median >= percent,
                Bound::Adds(us) => value.median <= us,
            }),
        }
    }
}

impl Bound {
    /// What was measured as the bound counts.
    fn terms(self, row: &Row, metric: Metric, base: &Row) -> Option<Summary> {
        match self {
            Self::AtMost(_) => row.ratio(metric, base),
            Self::Saves(_) => row.ratio(metric, base).map(saving),
            Self::Adds(_) => {
                let Summary { median, min, max } = row.difference(metric, base)?;
                Some(Summary { median: median / 1e3, min: min / 1e3, max: max / 1e3 })
            }
        }
    }
}

/// A ratio as what is saved, in percent.
pub fn saving(ratio: Summary) -> Summary {
    let percent = |ratio: f64| 100.0 * (1.0 - ratio);
    Summary { median: percent(ratio.median), min: percent(ratio.max), max: percent(ratio.min) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{Outcome, Scale, all};
    use crate::measure::Cost;
    use crate::results::Row;
    use crate::work::Measured;

    fn row(peer: &str, wall_ns: u64) -> Row {
        let cost = Cost {
            wall_ns,
            cpu_ns: wall_ns,
            late_cpu_ns: 0,
            peak_kib: 100,
            held_kib: 100,
            minor_faults: 1,
            major_faults: 0,
            peak_was_reset: true,
        };
        let measured = Measured::new(Outcome { cost, operations: 10, checked_bytes: 1 });
        Row { peer: peer.into(), measured: vec![measured], failure: None }
    }

    fn case(name: &str, rows: Vec<Row>) -> CaseResults {
        CaseResults { name: name.into(), title: String::new(), unit: "run", versus: None, rows }
    }

    #[test]
    fn every_target_is_about_a_case_and_a_baseline_of_it() {
        let cases = all(Scale::Tiny);
        for target in targets() {
            let case = cases.iter().find(|case| case.name == target.case).expect(&target.case);
            let baselines: Vec<_> = case.baselines.iter().map(|b| b.name()).collect();
            let allocators = [OFF, "memset", "glibc", "mimalloc"];
            assert!(
                baselines.contains(&target.base) || allocators.contains(&target.base),
                "{target:?}"
            );
        }
    }

    #[test]
    fn a_saving_is_what_is_missing_to_the_whole() {
        let one = case("patch-one", vec![row(REFPAGE, 4), row("mmap+memset", 1000), row(OFF, 1)]);
        let verdicts = judge(&[one]);
        assert_eq!(verdicts.len(), 2);
        assert!((verdicts[0].value.unwrap().median - 99.6).abs() < 1e-9);
        assert_eq!(verdicts[0].passed, Some(true));
    }

    #[test]
    fn what_is_added_counts_in_microseconds_an_operation() {
        // Ten operations in each row.
        let fork = |ns| case("fork-exit-small", vec![row(REFPAGE, ns), row(OFF, 1_000_000)]);
        assert_eq!(judge(&[fork(1_590_000)])[0].passed, Some(true));
        let more = &judge(&[fork(1_610_000)])[0];
        assert_eq!((more.passed, more.value.unwrap().median), (Some(false), 61.0));
    }

    #[test]
    fn what_was_not_measured_neither_passes_nor_fails() {
        let mut failed = row("glibc", 10);
        failed.failure = Some("killed".into());
        let realloc = case("realloc-2x", vec![row(REFPAGE, 10), failed, row("mimalloc", 20)]);
        let verdicts = judge(&[realloc]);
        assert_eq!(verdicts.iter().map(|v| v.passed).collect::<Vec<_>>(), [None, Some(false)]);
    }
}
