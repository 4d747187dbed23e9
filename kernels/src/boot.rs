//! One round of the tests, from outside: boots a guest, hears its events, and notices when none come any more; or runs
//! the tests on this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;

use crate::arch::Arch;
use crate::event::{Event, Finished, Plan, Verdict};
use crate::fetch::Kernel;
use crate::progress::Progress;
use crate::results::Row;
use crate::runner::Runner;

/// What this machine's kernel is called in the table.
pub const HOST: &str = "host";
/// What a guest may take beyond the limit of a test: to boot, or to notice the limit.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many of the console's last lines belong to the failure of a lost guest.
const CONSOLE_LINES: usize = 40;

/// What all guests have in common.
pub struct Machine {
    pub arch: &'static Arch,
    pub qemu: PathBuf,
    pub initramfs: PathBuf,
    pub smp: u32,
    pub memory: u32,
}

/// Where a round is run.
pub enum Place<'a> {
    /// On this machine, and its kernel.
    Host,
    /// In a guest.
    Guest {
        kernel: &'a Kernel,
        machine: &'a Machine,
        /// Whether its processor has memory tags.
        tags: bool,
        /// The plan's number.
        number: usize,
        /// Where its kernel's messages go.
        console: PathBuf,
    },
}

/// All tests on one kernel, as one user.
pub struct Round<'a> {
    pub place: Place<'a>,
    pub user: u32,
    pub plan: &'a Plan,
}

impl Round<'_> {
    /// Runs it to its end.
    pub fn run(&self, progress: &Progress) -> Row {
        let start = Instant::now();
        let mut row = Row::new(self.kernel(), &self.machine(), self.user);
        let mut running = None;
        let ended = self.follow(|event| self.note(event, &mut row, &mut running, progress));
        row.seconds = start.elapsed().as_secs_f64();
        let missing = self.plan.tests() - row.tests();
        progress.over(missing);
        if let Err(error) = ended {
            let when =
                running.map_or("before the first test".to_owned(), |test| format!("in {test}"));
            row.lost = Some(format!("{when}: {error:#}; {missing} tests not run"));
        } else if missing > 0 {
            row.lost =
                Some(format!("the guest says that it is done, but {missing} tests were not run"));
        }
        let guest = matches!(self.place, Place::Guest { .. });
        row.conclude(guest.then_some(self.plan));
        progress.say(&row.line());
        row
    }

    fn note(&self, event: Event, row: &mut Row, running: &mut Option<String>, progress: &Progress) {
        match event {
            Event::Ready(found) => row.found = found,
            Event::Begun(test) => {
                progress.begun(&self.name(), &test);
                *running = Some(test);
            }
            Event::Over(Finished { test, verdict, seconds }) => {
                if matches!(verdict, Verdict::Failed(_)) {
                    progress.say(&format!("{}: FAILED: {test}", self.name()));
                }
                row.add(Finished { test, verdict, seconds });
                progress.over(1);
            }
            Event::SuiteOver(suite) => {
                progress.log(&format!("{}: {}", self.name(), row.suite_line(&suite)));
            }
            Event::Done => {}
        }
    }

    fn kernel(&self) -> &str {
        match &self.place {
            Place::Host => HOST,
            Place::Guest { kernel, .. } => &kernel.name,
        }
    }

    fn machine(&self) -> String {
        match &self.place {
            Place::Host => Arch::own().name.into(),
            Place::Guest { machine, tags, .. } => machine.arch.title(*tags),
        }
    }

    fn name(&self) -> String {
        format!("{}, {}, user {}", self.kernel(), self.machine(), self.user)
    }

    /// Passes on the events, until there is an end of them.
    fn follow(&self, mut note: impl FnMut(Event)) -> Result<()> {
        match &self.place {
            Place::Host => {
                let runner = Runner { plan: self.plan, user: self.user, alone: false };
                runner.run(|event| {
                    note(event);
                    Ok(())
                })
            }
            Place::Guest { kernel, machine, tags, number, console } => {
                let mut qemu = machine.qemu(*tags);
                qemu.arg("-kernel").arg(&kernel.image);
                machine.attach(&mut qemu, console, &format!("guest {} {number}", self.user));
                let ended = self.boot(qemu, note);
                ended.map_err(|error| anyhow!("{error:#}\n{}\n", last_words(console).trim_end()))
            }
        }
    }

    /// Boots the guest and passes on its events, until it is done or gives no sign of life any more.
    fn boot(&self, mut qemu: Command, mut note: impl FnMut(Event)) -> Result<()> {
        let mut qemu = qemu.spawn().with_context(|| format!("cannot run {qemu:?}"))?;
        let events = events(qemu.stdout.take().expect("it was piped"));
        let silence = Duration::from_secs(self.plan.limit) + PATIENCE;
        let result = loop {
            match events.recv_timeout(silence) {
                Ok(Ok(Event::Done)) => break Ok(()),
                Ok(Ok(event)) => note(event),
                Ok(Err(line)) => break Err(anyhow!("no event: {line:?}")),
                Err(RecvTimeoutError::Timeout) => {
                    break Err(anyhow!("no sign of life for {} s", silence.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break Err(anyhow!("the guest ended by itself"));
                }
            }
        };
        end(&mut qemu)?;
        result
    }
}

impl Machine {
    /// It, without a kernel.
    pub fn qemu(&self, tags: bool) -> Command {
        let mut qemu = Command::new(&self.qemu);
        qemu.args(["-accel", "tcg", "-nodefaults", "-no-user-config"]);
        qemu.args(self.arch.machine(tags));
        qemu.args(["-display", "none", "-no-reboot"]);
        qemu.arg("-smp").arg(self.smp.to_string());
        qemu.arg("-m").arg(self.memory.to_string());
        qemu.arg("-initrd").arg(&self.initramfs);
        end_with_us(&mut qemu);
        qemu
    }

    /// Says where the kernel's messages and the events go, and what process 1 is told.
    pub fn attach(&self, qemu: &mut Command, console: &Path, told: &str) {
        // The first port is the kernel's, the second the events'.
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.args(["-serial", "stdio"]);
        qemu.arg("-append");
        // With the default log level the console would cost time, as mitigations do on a processor that has no use for
        // them; what a panic prints comes at any level.
        qemu.arg(format!(
            "console={} loglevel=4 mitigations=off oops=panic panic=-1 -- {told}",
            self.arch.console
        ));
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    }
}

/// Has a process killed when this one is.
fn end_with_us(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure makes two system calls on numbers. The signal comes when the thread ends that spawns qemu,
    // which waits for it; who was killed before this asked for it is no parent any more.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::getppid() as u32 != parent {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// The end of what a guest's kernel had to say.
pub fn last_words(console: &Path) -> String {
    let console = fs::read(console).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<_> = console.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// The events as they come; a line that is none is passed on as it is.
pub fn events<T: DeserializeOwned + Send + 'static>(
    lines: ChildStdout,
) -> Receiver<Result<T, String>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(lines).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let event = serde_json::from_str(&line).map_err(|_| line.into_owned());
            if send.send(event).is_err() {
                break;
            }
        }
    });
    receive
}

/// A guest that is done, or lost, has nothing left to lose.
pub fn end(qemu: &mut Child) -> Result<()> {
    qemu.kill().context("cannot end the guest")?;
    qemu.wait()?;
    Ok(())
}
