//! Runs the tests one by one as one user, in a guest or on this machine, and tells what comes of them.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::event::{Event, Finished, Found, Plan, Suite, Verdict};
use crate::setting;

/// How much of a failed test's output is told: its end says why.
const OUTPUT: usize = 16 << 10;
/// How a test begins a line that says why it, or a part of it, could not run.
const SKIPPED: &str = "skipped: ";

/// What runs the tests.
pub struct Runner<'a> {
    pub plan: &'a Plan,
    pub user: u32,
    /// Whether this is process 1 of a guest: the machine's settings are the tests', and so is every other process.
    pub alone: bool,
}

/// How a process ended, if it did within the limit, and what it wrote.
struct Ended {
    status: Option<ExitStatus>,
    stdout: String,
    stderr: String,
}

impl Runner<'_> {
    /// Runs all that is planned.
    pub fn run(&self, mut tell: impl FnMut(Event) -> Result<()>) -> Result<()> {
        tell(Event::Ready(self.found()?))?;
        for suite in &self.plan.suites {
            let made = suite.setting.filter(|_| self.alone).map(setting::make).transpose()?;
            for test in &suite.tests {
                tell(Event::Begun(format!("{}::{test}", suite.name)))?;
                tell(Event::Over(self.test(suite, test)?))?;
            }
            made.map_or(Ok(()), setting::Made::undo)?;
            tell(Event::SuiteOver(suite.name.clone()))?;
        }
        tell(Event::Done)
    }

    /// What `refpage doctor` finds.
    pub fn found(&self) -> Result<Found> {
        let ended = self.end_of(Command::new(&self.plan.doctor).args(["doctor", "--json"]))?;
        let answer: Value = serde_json::from_str(&ended.stdout)
            .with_context(|| format!("refpage doctor: {:?}\n{}", ended.status, ended.stderr))?;
        let text = |key: &str| answer[key].as_str().unwrap_or("unknown").to_owned();
        Ok(Found { kernel: text("kernel"), service: text("service") })
    }

    fn test(&self, suite: &Suite, test: &str) -> Result<Finished> {
        let start = Instant::now();
        let mut command = Command::new(&suite.binary);
        // Two threads: with one, libtest would run the test on the main thread, as it does nowhere else.
        command.args(["--exact", test, "--show-output", "--test-threads=2"]);
        let ended = self.end_of(&mut command)?;
        let seconds = start.elapsed().as_secs_f64();
        let verdict = self.verdict(test, &ended);
        Ok(Finished { test: format!("{}::{test}", suite.name), verdict, seconds })
    }

    fn verdict(&self, test: &str, ended: &Ended) -> Verdict {
        let how = match ended.status {
            None => format!("no end after {} s", self.plan.limit),
            Some(status) if status.success() && ended.stdout.contains("ok. 1 passed;") => {
                let reasons = reasons(test, ended);
                return if reasons.is_empty() {
                    Verdict::Passed
                } else {
                    Verdict::Skipped(reasons)
                };
            }
            Some(status) if status.success() && ended.stdout.contains("1 ignored;") => {
                return Verdict::Skipped(vec!["ignored".into()]);
            }
            Some(status) => status.to_string(),
        };
        let mut text = format!("{how}\n{}{}", ended.stdout, ended.stderr);
        if text.len() > OUTPUT {
            let end = &text.as_bytes()[text.len() - OUTPUT..];
            text = format!("{how}\n…{}", String::from_utf8_lossy(end));
        }
        Verdict::Failed(text)
    }

    /// Runs a program as the tests' user, and leaves nothing of it behind.
    fn end_of(&self, command: &mut Command) -> Result<Ended> {
        let (mut stdout, mut stderr) = (self.unnamed_file("stdout")?, self.unnamed_file("stderr")?);
        command
            .env_clear()
            .envs(self.plan.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/tmp")
            .process_group(0);
        // Who is that user already may have no right to say so.
        // SAFETY: `geteuid` has no precondition.
        if self.user != unsafe { libc::geteuid() } {
            command.uid(self.user).gid(self.user);
        }
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let mut status = wait_for(&mut child, Duration::from_secs(self.plan.limit))?;
        let timely = status.is_some();
        // From process 1 of a guest, -1 is every process but itself: the test, if it hangs, and what tests have
        // started and left behind. Elsewhere it is the test and what stayed in its group, of which it is the leader.
        let all = if self.alone { -1 } else { -(child.id() as i32) };
        // SAFETY: `kill` takes any numbers. A group's number is not used again while one of it is left.
        unsafe { libc::kill(all, libc::SIGKILL) };
        if !timely {
            status = Some(child.wait()?);
        }
        // Orphans are process 1's to wait for; no child at all is an error that ends the loop.
        // SAFETY: `wait` may be called without a place for the status; the child's own was taken above.
        while self.alone && unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
        Ok(Ended {
            status: status.filter(|_| timely),
            stdout: contents(&mut stdout)?,
            stderr: contents(&mut stderr)?,
        })
    }

    fn unnamed_file(&self, name: &str) -> Result<File> {
        let path = self.plan.scratch.join(format!("{name}.{}", self.user));
        let options = File::options().read(true).append(true).create_new(true).open(&path);
        let file = options.with_context(|| format!("cannot create {}", path.display()))?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

/// How the child ended, or nothing if it does not within the limit.
fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() > deadline {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The reasons that a test gave for what it could not run.
fn reasons(test: &str, ended: &Ended) -> Vec<String> {
    let mut reasons = Vec::new();
    for line in ended.stdout.lines().chain(ended.stderr.lines()) {
        if let Some(reason) = line.strip_prefix(SKIPPED) {
            let own_name = format!("{test}: ");
            let reason = reason.strip_prefix(&own_name).unwrap_or(reason).to_owned();
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
    }
    reasons
}

fn contents(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn verdict(status: Option<i32>, stdout: &str, stderr: &str) -> Verdict {
        let plan = Plan { limit: 7, ..Plan::default() };
        let status = status.map(ExitStatus::from_raw);
        let ended = Ended { status, stdout: stdout.into(), stderr: stderr.into() };
        Runner { plan: &plan, user: 0, alone: false }.verdict("a::test", &ended)
    }

    const OK: &str = "test result: ok. 1 passed; 0 failed;";

    #[test]
    fn only_a_test_that_ran_whole_has_passed() {
        assert_eq!(verdict(Some(0), OK, "something"), Verdict::Passed);
        let skipped = Verdict::Skipped(vec!["no cc".into()]);
        assert_eq!(verdict(Some(0), OK, "skipped: a::test: no cc\nskipped: no cc\n"), skipped);
        assert_eq!(verdict(Some(0), &format!("skipped: no cc\n{OK}"), ""), skipped);
        let none = "test result: ok. 0 passed; 0 failed; 1 ignored;";
        assert_eq!(verdict(Some(0), none, ""), Verdict::Skipped(vec!["ignored".into()]));
    }

    #[test]
    fn all_else_has_failed() {
        let failed = |status, stdout: &str, part: &str| match verdict(status, stdout, "why") {
            Verdict::Failed(text) => {
                assert!(text.contains(part) && text.ends_with("why"), "{text}")
            }
            other => panic!("{other:?}"),
        };
        failed(Some(101 << 8), "skipped: a part\n", "101");
        failed(Some(libc::SIGSEGV), "", "signal: 11");
        failed(Some(0), "test result: ok. 0 passed; 0 failed; 0 ignored;", "exit status: 0");
        failed(None, OK, "no end after 7 s");
        failed(Some(1 << 8), &"much ".repeat(OUTPUT), "…");
    }
}
