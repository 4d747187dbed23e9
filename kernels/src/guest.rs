//! Process 1 of a guest: mounts what programs expect, runs the tests one by one, and tells what comes of them.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::event::{Event, Finished, Found, PLAN, Plan, Suite, Verdict};

/// The serial port that is not the console.
const EVENTS: &str = "/dev/ttyS1";
/// How much of a failed test's output is told: its end says why.
const OUTPUT: usize = 16 << 10;
/// How a test begins a line that says why it, or a part of it, could not run.
const SKIPPED: &str = "skipped: ";

/// Does all that process 1 has to do; never returns if it is process 1.
pub fn run(user: u32) -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is for process 1 of a guest alone");
    }
    let mut events = set_up()?;
    let plan = fs::read(PLAN).context("a guest has a plan")?;
    let plan: Plan = serde_json::from_slice(&plan)?;
    let guest = Guest { plan, user };
    tell(&mut events, &Event::Ready(guest.found()?))?;
    for suite in &guest.plan.suites {
        for test in &suite.tests {
            tell(&mut events, &Event::Begun(format!("{}::{test}", suite.name)))?;
            tell(&mut events, &Event::Over(guest.test(suite, test)?))?;
        }
    }
    tell(&mut events, &Event::Done)?;
    // The host ends the machine when it has heard that; process 1 must not end by itself.
    loop {
        std::thread::park();
    }
}

/// Mounts file systems and opens the port for events.
fn set_up() -> Result<File> {
    mount(c"proc", c"/proc", c"")?;
    mount(c"sysfs", c"/sys", c"")?;
    mount(c"devtmpfs", c"/dev", c"")?;
    fs::create_dir("/dev/shm")?;
    mount(c"tmpfs", c"/dev/shm", c"mode=1777")?;
    File::options().write(true).open(EVENTS).context(EVENTS)
}

fn mount(kind: &CStr, place: &CStr, options: &CStr) -> Result<()> {
    // SAFETY: all are strings that end with a zero byte and live on; these kinds of file systems take a string as
    // their data.
    let result = unsafe {
        libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot mount {place:?}")),
    }
}

fn tell(events: &mut File, event: &Event) -> Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(events.write_all(&line)?)
}

struct Guest {
    plan: Plan,
    user: u32,
}

/// How a process ended, if it did within the limit, and what it wrote.
struct Ended {
    status: Option<ExitStatus>,
    stdout: String,
    stderr: String,
}

impl Guest {
    /// What `refpage doctor` finds.
    fn found(&self) -> Result<Found> {
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

    /// Runs a program as the guest's user, and leaves nothing of it behind.
    fn end_of(&self, command: &mut Command) -> Result<Ended> {
        let (mut stdout, mut stderr) = (unnamed_file("stdout")?, unnamed_file("stderr")?);
        command
            .env_clear()
            .envs(self.plan.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/tmp")
            .uid(self.user)
            .gid(self.user)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let mut status = wait_for(&mut child, Duration::from_secs(self.plan.limit))?;
        let timely = status.is_some();
        // SAFETY: `kill` takes any numbers. From process 1, -1 is every process but itself: the test, if it hangs,
        // and what tests have started and left behind.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        if !timely {
            status = Some(child.wait()?);
        }
        // Orphans are process 1's to wait for; no child at all is an error that ends the loop.
        // SAFETY: `wait` may be called without a place for the status; the child's own was taken above.
        while unsafe { libc::wait(std::ptr::null_mut()) } > 0 {}
        Ok(Ended {
            status: status.filter(|_| timely),
            stdout: contents(&mut stdout)?,
            stderr: contents(&mut stderr)?,
        })
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

fn unnamed_file(name: &str) -> Result<File> {
    let path = Path::new("/tmp").join(format!(".guest.{name}"));
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
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
        let plan = Plan {
            suites: Vec::new(),
            doctor: "/doctor".into(),
            programs: Vec::new(),
            scratch: "/scratch".into(),
            environment: Vec::new(),
            limit: 7,
        };
        let status = status.map(ExitStatus::from_raw);
        let ended = Ended { status, stdout: stdout.into(), stderr: stderr.into() };
        Guest { plan, user: 0 }.verdict("a::test", &ended)
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
