//! What came of the guests: a table, why tests were skipped, and what failed with what it wrote.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::boot::HOST;
use crate::event::{Finished, Found, Plan, Verdict};

/// The first kernel that can move pages.
const MOVES: [u32; 2] = [6, 8];
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
    /// The machine that the kernel was to run on.
    pub machine: String,
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
    pub fn new(kernel: &str, machine: &str, user: u32) -> Self {
        Self {
            kernel: kernel.into(),
            machine: machine.into(),
            user: Some(user),
            found: Found::default(),
            finished: Vec::new(),
            seconds: 0.0,
            lost: None,
            complaints: Vec::new(),
            outcome: Outcome::Failed,
        }
    }

    /// What was not run: a kernel, or one as this user.
    pub fn not_done(kernel: &str, machine: &str, user: Option<u32>, reason: String) -> Self {
        Self { user, outcome: Outcome::NotDone(reason), ..Self::new(kernel, machine, 0) }
    }

    /// A test is over.
    pub fn add(&mut self, finished: Finished) {
        self.finished.push(finished);
    }

    /// How many tests are over.
    pub fn tests(&self) -> usize {
        self.finished.len()
    }

    /// All is over: judges it. What a guest must be able to do is known; this machine does what it can.
    pub fn conclude(&mut self, guest: Option<&Plan>) {
        if let Some(plan) = guest.filter(|_| self.lost.is_none()) {
            self.expect_services();
            let set_up = plan.suites.iter().filter(|suite| suite.setting.is_some());
            for suite in set_up {
                let prefix = format!("{}::", suite.name);
                self.expect_some(&suite.name, |test| test.starts_with(&prefix));
            }
        }
        let [passed, _, failed] = counts(&self.finished);
        let bad = failed > 0 || self.lost.is_some() || !self.complaints.is_empty();
        if !bad && passed == 0 {
            self.complaints.push("no test passed".into());
        }
        let good = !bad && passed > 0;
        self.outcome = if good { Outcome::Passed } else { Outcome::Failed };
    }

    /// The services that every kernel here has for this user, and the best of them for who asks for none.
    fn expect_services(&mut self) {
        let mut services = vec!["cow", "memset"];
        if self.user == Some(0) {
            services.insert(0, "lazy");
        }
        let (best, found) = (services[0], &self.found);
        if found.service != best {
            self.complaints.push(format!("the service is {} instead of {best}", found.service));
        }
        let numbers = found.kernel.split(|c: char| !c.is_ascii_digit());
        if numbers.map_while(|number| number.parse::<u32>().ok()).take(2).ge(MOVES) {
            services.push("eager");
        }
        for service in services {
            let suffix = format!("::{service}");
            self.expect_some(&format!("service {service}"), |test| test.ends_with(&suffix));
        }
    }

    /// Complains if tests of `what` were to be run, and all of them were skipped.
    fn expect_some(&mut self, what: &str, of: impl Fn(&str) -> bool) {
        let tests = self.finished.iter().filter(|finished| of(&finished.test));
        let all_skipped = |verdict: &Verdict| matches!(verdict, Verdict::Skipped(_));
        let verdicts: Vec<_> = tests.map(|finished| &finished.verdict).collect();
        if !verdicts.is_empty() && verdicts.into_iter().all(all_skipped) {
            self.complaints.push(format!("{what}: all tests were skipped"));
        }
    }

    /// Which guest this is.
    fn name(&self) -> String {
        let user = self.user.map_or_else(String::new, |user| format!(", user {user}"));
        format!("{}, {}{user}", self.kernel, self.machine)
    }

    /// A suite in one line.
    pub fn suite_line(&self, suite: &str) -> String {
        let prefix = format!("{suite}::");
        let tests = self.finished.iter().filter(|finished| finished.test.starts_with(&prefix));
        let [passed, skipped, failed] = counts(tests.clone());
        let seconds: f64 = tests.map(|finished| finished.seconds).sum();
        format!("{suite}: {passed} passed, {skipped} skipped, {failed} failed in {seconds:.0} s")
    }

    /// It in one line, and its slowest tests.
    pub fn line(&self) -> String {
        let [passed, skipped, failed] = counts(&self.finished);
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

/// Passed, skipped, failed.
fn counts<'a>(tests: impl IntoIterator<Item = &'a Finished>) -> [usize; 3] {
    let mut counts = [0; 3];
    for finished in tests {
        match finished.verdict {
            Verdict::Passed => counts[0] += 1,
            Verdict::Skipped(_) => counts[1] += 1,
            Verdict::Failed(_) => counts[2] += 1,
        }
    }
    counts
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

fn user(row: &Row) -> String {
    row.user.map_or_else(String::new, |user| user.to_string())
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "kernel", "machine", "user", "service", "passed", "skipped", "failed", "seconds", "",
    ]);
    for row in rows {
        let [passed, skipped, failed] = counts(&row.finished);
        let verdict = match &row.outcome {
            Outcome::Passed => "passed".into(),
            Outcome::Failed if row.lost.is_some() => "LOST".into(),
            Outcome::Failed => "FAILED".into(),
            Outcome::NotDone(_) => {
                let mut cells: [String; 9] = Default::default();
                cells[0] = row.kernel.clone();
                cells[1] = row.machine.clone();
                cells[2] = user(row);
                cells[8] = "not done".into();
                table.add_row(cells);
                continue;
            }
        };
        let (kernel, found) = (&row.kernel, &row.found.kernel);
        let kernel = match kernel.as_str() {
            _ if found.is_empty() => kernel.clone(),
            HOST => format!("{found} ({HOST})"),
            _ => found.clone(),
        };
        table.add_row([
            kernel,
            row.machine.clone(),
            user(row),
            row.found.service.clone(),
            passed.to_string(),
            skipped.to_string(),
            failed.to_string(),
            format!("{:.0}", row.seconds),
            verdict,
        ]);
    }
    for index in 4..8 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Setting, Suite};

    const PASSED: Verdict = Verdict::Passed;

    fn skipped() -> Verdict {
        Verdict::Skipped(vec!["no privilege".into()])
    }

    fn failed() -> Verdict {
        Verdict::Failed("exit status: 101\nwhy".into())
    }

    /// Of a guest in which tests with these names ended so.
    fn row(kernel: &str, user: u32, service: &str, tests: &[(&str, Verdict)]) -> Row {
        let mut row = Row::new("6.x", "x86_64", user);
        row.found = Found { kernel: kernel.into(), service: service.into() };
        for (test, verdict) in tests {
            let (test, verdict) = (test.to_string(), verdict.clone());
            row.add(Finished { test, verdict, seconds: 1.0 });
        }
        let suite = |name: &str, setting| Suite {
            name: name.into(),
            binary: "/a".into(),
            tests: Vec::new(),
            setting,
        };
        let suites = vec![suite("a", None), suite("s", Some(Setting::StrictCommitment))];
        row.conclude(Some(&Plan { suites, ..Plan::default() }));
        row
    }

    #[test]
    fn a_guest_passes_when_tests_passed_and_none_failed() {
        for (tests, outcome) in [
            (vec![("a::b", PASSED), ("a::c", skipped())], Outcome::Passed),
            (vec![("a::b", PASSED), ("a::c", failed())], Outcome::Failed),
            (vec![("a::b", skipped())], Outcome::Failed),
            (vec![], Outcome::Failed),
        ] {
            assert_eq!(row("6.12.1", 0, "lazy", &tests).outcome, outcome, "{tests:?}");
        }
        let mut lost = row("6.12.1", 0, "lazy", &[("a::b", PASSED)]);
        lost.lost = Some("in a::c".into());
        lost.conclude(None);
        assert_eq!(lost.outcome, Outcome::Failed);
    }

    #[test]
    fn each_user_has_to_get_the_best_service_of_the_kernel() {
        for (kernel, user, service, outcome) in [
            ("6.1.0-50", 0, "lazy", Outcome::Passed),
            ("6.1.0-50", 0, "cow", Outcome::Failed),
            ("6.1.0-50", 65534, "cow", Outcome::Passed),
            ("6.1.0-50", 65534, "memset", Outcome::Failed),
            ("7.3-cloud", 65534, "eager", Outcome::Failed),
            ("7.3-cloud", 65534, "unknown", Outcome::Failed),
        ] {
            let row = row(kernel, user, service, &[("a::b", PASSED)]);
            assert_eq!(row.outcome, outcome, "{kernel}, {user}, {service}");
        }
    }

    #[test]
    fn no_service_that_has_to_work_is_skipped_as_a_whole() {
        for (kernel, user, service, outcome) in [
            ("6.1.0-50", 0, "lazy", Outcome::Failed),
            ("6.1.0-50", 0, "eager", Outcome::Passed),
            ("6.8.0", 0, "eager", Outcome::Failed),
            ("6.12.107+deb13", 65534, "lazy", Outcome::Passed),
            ("6.12.107+deb13", 65534, "cow", Outcome::Failed),
            ("6.12.107+deb13", 65534, "eager", Outcome::Failed),
            ("7.3", 65534, "eager", Outcome::Failed),
        ] {
            let best = if user == 0 { "lazy" } else { "cow" };
            let (one, other) = (format!("a::b::{service}"), format!("a::c::{service}"));
            let mut tests = vec![("a::d", PASSED), (&*one, skipped()), (&*other, skipped())];
            let judged = row(kernel, user, best, &tests);
            assert_eq!(judged.outcome, outcome, "{kernel}, {user}, {service}");
            tests[1].1 = PASSED;
            assert_eq!(row(kernel, user, best, &tests).outcome, Outcome::Passed);
        }
    }

    #[test]
    fn what_a_guest_was_set_up_for_is_not_skipped() {
        let tests = |verdict| [("a::b", PASSED), ("s::b", verdict), ("s::c", skipped())];
        assert_eq!(row("6.1.0", 0, "lazy", &tests(skipped())).outcome, Outcome::Failed);
        assert_eq!(row("6.1.0", 0, "lazy", &tests(PASSED)).outcome, Outcome::Passed);
    }

    #[test]
    fn the_report_names_what_was_skipped_failed_and_not_done() {
        let tests = [("a::a", PASSED), ("a::b", failed()), ("a::c", skipped())];
        let text = report(&[
            row("6.1.0", 1, "memset", &tests),
            Row::not_done("9", "x86_64", None, "no package".into()),
            Row::not_done("host", "x86_64", Some(7), "not root".into()),
        ]);
        for part in [
            "skipped on 6.x, x86_64, user 1: no privilege (1 tests)",
            "FAILED on 6.x, x86_64, user 1: a::b, 1 s: exit status: 101\nwhy",
            "FAILED on 6.x, x86_64, user 1: the service is memset instead of cow",
            "not done: 9, x86_64: no package",
            "not done: host, x86_64, user 7: not root",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
