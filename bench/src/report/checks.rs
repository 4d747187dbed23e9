//! What the report checks of itself.

use super::parts::Part;
use super::reads::Situation;
use super::tables::{owns, readings};
use super::{Results, build};
use crate::memory::PATTERN;
use crate::peers::OFF;
use crate::results::{CaseResults, Row};

/// Something that has to be so.
pub struct Check {
    /// What.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// Whether that is right.
    pub passed: bool,
}

impl Check {
    fn new(what: &'static str, passed: bool, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), passed }
    }
}

/// All checks of what was measured.
pub fn all(results: &Results) -> Vec<Check> {
    let cases = || results.parts.iter().flat_map(|part| &part.cases);
    let mut checks = vec![content(cases()), own(cases()), work(cases()), accounts(results)];
    checks.extend(results.cases(Part::Pdfium).map(pixels));
    checks.extend(results.cases(Part::Reads).map(pattern));
    let how =
        if build::OPTIMISED { "with optimisations" } else { "without: no figure means anything" };
    checks.push(Check::new("built to be measured", build::OPTIMISED, how));
    checks
}

/// Whether every byte that was compared was right: a wrong one fails its measurement.
fn content<'c>(cases: impl Iterator<Item = &'c CaseResults>) -> Check {
    let rows: Vec<&Row> = cases.flat_map(|case| &case.rows).collect();
    let wrong = |row: &&&Row| row.failure.as_ref().is_some_and(|why| why.contains("wrong content"));
    let wrong: Vec<&str> = rows.iter().filter(wrong).map(|row| row.peer.as_str()).collect();
    let measured = rows.iter().flat_map(|row| &row.measured);
    let bytes: u64 = measured.map(|measured| measured.checked_bytes).sum();
    let found = match wrong.as_slice() {
        [] => format!("{:.1} GB compared, all right", bytes as f64 / 1e9),
        wrong => format!("wrong under {}", wrong.join(", ")),
    };
    Check::new("content of memory", wrong.is_empty(), found)
}

/// Whether refpage itself could be measured everywhere.
fn own<'c>(cases: impl Iterator<Item = &'c CaseResults>) -> Check {
    let mut failed = Vec::new();
    for case in cases {
        let own = case.rows.iter().filter(|row| owns(&row.peer) && row.failure.is_some());
        failed.extend(own.map(|row| format!("{} under {}", case.name, row.peer)));
    }
    let found = if failed.is_empty() { "none failed".into() } else { failed.join(", ") };
    Check::new("measurements of refpage", failed.is_empty(), found)
}

/// Whether all did the same in each case: who did not has no figures there.
fn work<'c>(cases: impl Iterator<Item = &'c CaseResults>) -> Check {
    let (mut same, mut other) = (0, Vec::new());
    for case in cases {
        let differs =
            |row: &&Row| row.failure.as_ref().is_some_and(|why| why.contains("did other work"));
        other.extend(
            case.rows.iter().filter(differs).map(|row| format!("{}: {}", case.name, row.peer)),
        );
        let mut works =
            case.rows.iter().flat_map(|row| &row.measured).filter_map(|m| m.work.as_ref());
        let first = works.next();
        let all_same = works.all(|work| Some(work) == first);
        match first {
            Some(_) if all_same => same += 1,
            Some(_) => other.push(case.name.clone()),
            None => {}
        }
    }
    let found = match other.as_slice() {
        [] => format!("the same for all allocators and rounds in each of {same} cases"),
        other => format!("not the same: {}", other.join(", ")),
    };
    Check::new("work done", other.is_empty() && same > 0, found)
}

/// Whether the pixels are the same under every allocator.
fn pixels(cases: &[CaseResults]) -> Check {
    let mut sums = Vec::new();
    let mut differ = Vec::new();
    for case in cases {
        let mut works: Vec<&String> = case
            .rows
            .iter()
            .flat_map(|row| &row.measured)
            .filter_map(|m| m.work.as_ref())
            .collect();
        works.sort();
        works.dedup();
        match works.as_slice() {
            [sum] => sums.push(format!("{} {}", case.name, &sum[..8.min(sum.len())])),
            _ => differ.push(case.name.as_str()),
        }
    }
    let found = match differ.as_slice() {
        [] => format!("one checksum each: {}", sums.join(", ")),
        differ => format!("different or none: {}", differ.join(", ")),
    };
    Check::new("pixels", differ.is_empty(), found)
}

/// Whether refpage's memory reads as it promises, in every situation.
fn pattern(cases: &[CaseResults]) -> Check {
    let mut wrong = Vec::new();
    for row in cases.iter().flat_map(|case| &case.rows) {
        if !owns(&row.peer) || row.peer == OFF {
            continue;
        }
        let Some(all) = readings(row) else {
            wrong.push(format!("{}: not measured", row.peer));
            continue;
        };
        for (situation, reading) in all {
            let promised = if *situation == Situation::Calloc { 0 } else { PATTERN };
            if reading.byte != Some(promised) || reading.stale > 0 {
                wrong.push(format!("{}: {}", row.peer, situation.title()));
            }
        }
    }
    let found = match wrong.as_slice() {
        [] => format!(
            "{PATTERN:#04x} in every byte under each of its services, and zeros from calloc"
        ),
        wrong => wrong.join(", "),
    };
    Check::new("refpage's pattern", wrong.is_empty(), found)
}

/// Whether this process was small enough: a program's peak, as the kernel tells it, is at least what the process had
/// that became the program.
fn accounts(results: &Results) -> Check {
    let floor = results.floor_kib;
    let parts = results.parts.iter().filter(|m| matches!(m.part, Part::Programs | Part::Pdfium));
    let rows = parts.flat_map(|part| &part.cases).flat_map(|case| &case.rows);
    let least = rows.flat_map(|row| &row.measured).map(|measured| measured.cost.peak_kib).min();
    let found = match least {
        Some(least) => {
            format!("the least is {least} KiB, that of a program that does nothing {floor} KiB")
        }
        None => "none was measured".into(),
    };
    Check::new("peaks are the programs' own", least.is_none_or(|least| floor < least), found)
}
