//! What traps may cost, and what came of it.

use super::settings::{ALL, service, without_traps};
use crate::results::{CaseResults, Metric, Row};
use crate::targets::Verdict;
use refpage_bench::stats::{Summary, summarize};

/// CPU time of one cycle beside one without traps, from that size on.
const CPU: [(usize, f64); 2] = [(64 << 10, 1.25), (1 << 20, 1.10)];
/// Peak of the resident set beside that without traps.
const RSS: f64 = 1.02;
/// So many mappings more than at the start are as many: threads that begin to allocate have some.
const VMAS: f64 = 4.0;

/// Judges what was measured, of blocks of these sizes: refpage as it comes and with all traps, under each service.
pub fn judge(cases: &[CaseResults], sizes: &[Option<usize>]) -> Vec<Verdict> {
    let rows = cases.first().map_or(&[][..], |case| &case.rows);
    let mut services: Vec<&str> = rows.iter().filter_map(|row| service(&row.peer)).collect();
    services.dedup();
    let mut verdicts = Vec::new();
    for service in services {
        for peer in [service.to_owned(), format!("{service}{ALL}")] {
            for (case, size) in cases.iter().zip(sizes) {
                if let Some(most) = size.and_then(most_cpu) {
                    let value = ratio(case, &peer, service, Metric::Cpu);
                    let bound = format!("≤ {most:.2}");
                    verdicts.push(verdict(&case.name, "CPU × no traps", &peer, bound, value, most));
                }
            }
            let worst = |value: &dyn Fn(&CaseResults) -> Option<Summary>| {
                let all = cases.iter().filter_map(|case| Some((case.name.as_str(), value(case)?)));
                let worst = all.max_by(|one, two| one.1.median.total_cmp(&two.1.median));
                let case =
                    worst.map_or_else(|| "any".into(), |worst| format!("worst: {}", worst.0));
                (case, worst.map(|worst| worst.1))
            };
            let (case, value) = worst(&|case| ratio(case, &peer, service, Metric::Peak));
            let bound = format!("≤ {RSS:.2}");
            verdicts.push(verdict(&case, "peak RSS × no traps", &peer, bound, value, RSS));
            let (case, value) = worst(&|case| growth(case.row(&peer)?));
            let bound = format!("≤ {VMAS:.0}");
            verdicts.push(verdict(&case, "VMAs more than at the start", &peer, bound, value, VMAS));
        }
    }
    verdicts
}

/// The bound for blocks of that size; none where nothing is promised.
fn most_cpu(size: usize) -> Option<f64> {
    match CPU {
        [(least, most), _] if size == least => Some(most),
        [_, (from, most)] if size >= from => Some(most),
        _ => None,
    }
}

fn ratio(case: &CaseResults, peer: &str, service: &str, metric: Metric) -> Option<Summary> {
    case.row(peer)?.ratio(metric, case.row(&without_traps(service))?)
}

/// How many mappings more there were than at the start.
fn growth(row: &Row) -> Option<Summary> {
    summarize(row.measured.iter().filter_map(|m| m.space).map(|space| space.growth() as f64))
}

fn verdict(
    case: &str,
    what: &str,
    peer: &str,
    bound: String,
    value: Option<Summary>,
    most: f64,
) -> Verdict {
    Verdict {
        case: case.into(),
        what: format!("{peer}: {what}"),
        bound,
        value,
        passed: value.map(|value| value.median <= most),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cases::Outcome;
    use crate::measure::Cost;
    use crate::traps::space::Space;
    use crate::work::Measured;

    /// A row of one round, of two cycles.
    pub fn row(peer: &str, cpu_ns: u64, peak_kib: u64, vmas_most: u64) -> Row {
        let cost = Cost {
            wall_ns: cpu_ns,
            cpu_ns,
            late_cpu_ns: 0,
            peak_kib,
            held_kib: 100,
            minor_faults: 8,
            major_faults: 4,
            peak_was_reset: true,
        };
        let space = Some(Space {
            vmas_start: 30,
            vmas_most,
            vmas_end: 31,
            page_tables_kib: 64,
            touched_pages: 16,
        });
        let outcome = Outcome { cost, operations: 2, checked_bytes: 1 };
        let measured = Measured { space, ..Measured::new(outcome) };
        Row { peer: peer.into(), measured: vec![measured], failure: None }
    }

    /// A case of these rows.
    pub fn case(name: &str, rows: Vec<Row>) -> CaseResults {
        CaseResults { name: name.into(), title: String::new(), unit: "cycle", versus: None, rows }
    }

    #[test]
    fn small_and_large_blocks_have_bounds_and_those_between_have_none() {
        assert_eq!(most_cpu(64 << 10), Some(1.25));
        assert_eq!(most_cpu(256 << 10), None);
        assert_eq!(most_cpu(1 << 20), Some(1.10));
        assert_eq!(most_cpu(16 << 20), Some(1.10));
    }

    #[test]
    fn the_worst_case_stands_for_all_where_the_bound_is_the_same() {
        let rows = |cpu, peak, vmas| {
            let rows = [("refpage, no traps", 100, 1000, 30), ("refpage", cpu, peak, vmas)];
            rows.map(|(peer, cpu, peak, vmas)| row(peer, cpu, peak, vmas)).into()
        };
        let cases = [
            case("dense-64K", rows(120, 1000, 90)),
            case("dense-1M", rows(120, 1010, 30)),
            case("random", rows(900, 1000, 30)),
        ];
        let verdicts = judge(&cases, &[Some(64 << 10), Some(1 << 20), None]);
        let of_default: Vec<_> =
            verdicts.iter().filter(|verdict| verdict.what.starts_with("refpage: ")).collect();
        let told: Vec<_> = of_default.iter().map(|v| (v.case.as_str(), v.passed)).collect();
        let expected = [
            ("dense-64K", Some(true)),
            ("dense-1M", Some(false)),
            ("worst: dense-1M", Some(true)),
            ("worst: dense-64K", Some(false)),
        ];
        assert_eq!(told, expected);
        assert_eq!(of_default[3].value.unwrap().median, 60.0);
    }

    #[test]
    fn what_was_not_measured_is_neither_kept_nor_missed() {
        let mut failed = row("refpage, all", 1, 1, 1);
        failed.failure = Some("ignored in REFPAGE_OPTIONS".into());
        let rows = vec![row("refpage, no traps", 1, 1, 30), row("refpage", 1, 1, 30), failed];
        let verdicts = judge(&[case("dense-1M", rows)], &[Some(1 << 20)]);
        let passed: Vec<_> = verdicts.iter().map(|verdict| verdict.passed).collect();
        assert_eq!(passed, [Some(true), Some(true), Some(true), None, None, None]);
    }
}
