//! What came of the guests: a table, why tests were skipped, and what failed with what it wrote.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::event::{Finished, Found, Verdict};

/// The user who may have a userfaultfd on every kernel here, and the service that one gets with it.
const ROOT: (u32, &str) = (0, "lazy");
/// How many of the slowest tests are named.
const SLOWEST: usize = 3;

/// What came of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// No test failed, and some passed.
    Passed,
    /// A test failed, or the guest did.
    Failed,
    /// There was no guest, for this reason.
    NotDone(String),
}

/// A line of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The kernel that was to be run, and, once it told, the one that was.
    pub kernel: String,
    pub user: Option<u32>,
    pub found: Found,
    pub finished: Vec<Finished>,
    pub seconds: f64,
    /// Why the guest did not come to its end, if it did not.
    pub lost: Option<String>,
    /// What else was not as it has to be.
    pub complaints: Vec<String>,
    pub outcome: Outcome,
}

impl Row {
    /// A guest that is about to be run.
    pub fn new(kernel: &str, user: u32) -> Self {
        Self {
            kernel: kernel.into(),
            user: Some(user),
            found: Found::default(),
            finished: Vec::new(),
            seconds: 0.0,
            lost: None,
            complaints: Vec::new(),
            outcome: Outcome::Failed,
        }
    }

    /// A kernel that no guest ran.
    pub fn not_done(kernel: &str, reason: String) -> Self {
        Self { user: None, outcome: Outcome::NotDone(reason), ..Self::new(kernel, 0) }
    }

    /// A test is over.
    pub fn add(&mut self, finished: Finished) {
        self.finished.push(finished);
    }

    /// How many tests are over.
    pub fn tests(&self) -> usize {
        self.finished.len()
    }

    /// The guest is over: judges it.
    pub fn conclude(&mut self) {
        let (user, service) = ROOT;
        if self.user == Some(user) && self.lost.is_none() && self.found.service != service {
            let found = &self.found.service;
            self.complaints.push(format!("root gets the service {found} instead of {service}"));
        }
        let [passed, _, failed] = self.counts();
        let bad = failed > 0 || self.lost.is_some() || !self.complaints.is_empty();
        if !bad && passed == 0 {
            self.complaints.push("no test passed".into());
        }
        let good = !bad && passed > 0;
        self.outcome = if good { Outcome::Passed } else { Outcome::Failed };
    }

    /// Passed, skipped, failed.
    fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for finished in &self.finished {
            match finished.verdict {
                Verdict::Passed => counts[0] += 1,
                Verdict::Skipped(_) => counts[1] += 1,
                Verdict::Failed(_) => counts[2] += 1,
            }
        }
        counts
    }

    /// Which guest this is.
    fn name(&self) -> String {
        let user = self.user.map_or_else(String::new, |user| format!(", user {user}"));
        format!("{}{user}", self.kernel)
    }

    /// It in one line, and its slowest tests.
    pub fn line(&self) -> String {
        let [passed, skipped, failed] = self.counts();
        let mut slowest: Vec<_> = self.finished.iter().collect();
        slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        slowest.truncate(SLOWEST);
        let slowest = slowest.iter().map(|test| format!("{} {:.0} s", test.test, test.seconds));
        let slowest = slowest.collect::<Vec<_>>().join(", ");
        let lost = if self.lost.is_some() { ", then the guest was lost" } else { "" };
        format!(
            "{}: {passed} passed, {skipped} skipped, {failed} failed{lost} in {:.0} s (slowest: {slowest})",
            self.name(),
            self.seconds
        )
    }
}

/// The table and what belongs to it.
pub fn report(rows: &[Row]) -> String {
    let mut text = format!("{}\n", table(rows));
    for row in rows {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for finished in &row.finished {
            if let Verdict::Skipped(why) = &finished.verdict {
                why.iter().for_each(|why| *reasons.entry(why).or_default() += 1);
            }
        }
        for (reason, count) in reasons {
            let _ = writeln!(text, "skipped on {}: {reason} ({count} tests)", row.name());
        }
    }
    for row in rows {
        if let Outcome::NotDone(reason) = &row.outcome {
            let _ = writeln!(text, "not done: {}: {reason}", row.name());
        }
        for complaint in &row.complaints {
            let _ = writeln!(text, "FAILED on {}: {complaint}", row.name());
        }
        for Finished { test, verdict, seconds } in &row.finished {
            if let Verdict::Failed(output) = verdict {
                let name = row.name();
                let _ = writeln!(text, "FAILED on {name}: {test}, {seconds:.0} s: {output}");
            }
        }
        if let Some(lost) = &row.lost {
            let _ = writeln!(text, "FAILED: the guest of {} was lost {lost}", row.name());
        }
    }
    text
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "user", "service", "passed", "skipped", "failed", "seconds", ""]);
    for row in rows {
        let [passed, skipped, failed] = row.counts();
        let verdict = match &row.outcome {
            Outcome::Passed => "passed".into(),
            Outcome::Failed if row.lost.is_some() => "LOST".into(),
            Outcome::Failed => "FAILED".into(),
            Outcome::NotDone(_) => {
                let nothing = String::new;
                let mut cells: [String; 8] = std::array::from_fn(|_| nothing());
                cells[0] = row.kernel.clone();
                cells[7] = "not done".into();
                table.add_row(cells);
                continue;
            }
        };
        let kernel = if row.found.kernel.is_empty() { &row.kernel } else { &row.found.kernel };
        table.add_row([
            kernel.clone(),
            row.user.map_or_else(String::new, |user| user.to_string()),
            row.found.service.clone(),
            passed.to_string(),
            skipped.to_string(),
            failed.to_string(),
            format!("{:.0}", row.seconds),
            verdict,
        ]);
    }
    for index in 3..7 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(user: u32, service: &str, verdicts: &[Verdict]) -> Row {
        let mut row = Row::new("6.1", user);
        row.found = Found { kernel: "6.1.0".into(), service: service.into() };
        for verdict in verdicts {
            row.add(Finished { test: "a::b".into(), verdict: verdict.clone(), seconds: 1.0 });
        }
        row.conclude();
        row
    }

    #[test]
    fn a_guest_passes_when_tests_passed_and_none_failed() {
        let skipped = Verdict::Skipped(vec!["no privilege".into()]);
        let failed = Verdict::Failed("output".into());
        let passed = Verdict::Passed;
        for (user, service, verdicts, outcome) in [
            (0, "lazy", vec![passed.clone(), skipped.clone()], Outcome::Passed),
            (0, "memset", vec![passed.clone()], Outcome::Failed),
            (1, "memset", vec![passed.clone()], Outcome::Passed),
            (1, "memset", vec![passed, failed], Outcome::Failed),
            (1, "memset", vec![skipped], Outcome::Failed),
            (1, "memset", vec![], Outcome::Failed),
        ] {
            assert_eq!(row(user, service, &verdicts).outcome, outcome, "{verdicts:?}");
        }
        let mut lost = row(0, "lazy", &[Verdict::Passed]);
        lost.lost = Some("in a::c".into());
        lost.conclude();
        assert_eq!(lost.outcome, Outcome::Failed);
    }

    #[test]
    fn the_report_names_what_was_skipped_failed_and_not_done() {
        let verdicts = [
            Verdict::Passed,
            Verdict::Skipped(vec!["no privilege".into()]),
            Verdict::Failed("exit status: 101\nwhy".into()),
        ];
        let text = report(&[row(1, "memset", &verdicts), Row::not_done("9", "no package".into())]);
        for part in [
            "skipped on 6.1, user 1: no privilege (1 tests)",
            "FAILED on 6.1, user 1: a::b, 1 s: exit status: 101\nwhy",
            "not done: 9: no package",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
