//! Starts a tree, watches it, and says how it ended. The supervisor's own heap is libc's.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::*;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Arguments;
use crate::board::{self, Board, SLOTS};
use crate::lane::ACTIONS;
use crate::progress::Progress;
use crate::{stacks, tree};

/// The environment variable of refpage's options.
const OPTIONS: &str = "REFPAGE_OPTIONS";
/// Lanes that a forked process counts for, with its threads, when the memory is shared out.
const LANES_OF_THREADS: u64 = 4;

/// How long more failures are waited for after the first.
const MORE: Duration = Duration::from_millis(500);

/// How the tree of one service ended.
pub struct Outcome {
    pub service: String,
    pub board: &'static Board,
    pub seconds: f64,
    pub failure: Option<String>,
}

/// What runs trees.
pub struct Supervisor<'a> {
    arguments: &'a Arguments,
    seed: u64,
    program: PathBuf,
    library: PathBuf,
    scratch: Scratch,
}

/// The board's file, and the tree's stderr. They go away with the run.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the directory for temporary files does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The pattern of a seed: half of them have words of different bytes.
pub fn pattern(seed: u64) -> (&'static str, u64) {
    match seed % 2 {
        0 => ("0xaa", u64::from_ne_bytes([0xaa; 8])),
        _ => ("0x0123456789abcdef", 0x0123_4567_89ab_cdef),
    }
}

impl<'a> Supervisor<'a> {
    pub fn new(arguments: &'a Arguments, seed: u64) -> Result<Self> {
        let program = std::env::current_exe().context("cannot tell where this program lies")?;
        let directory = program.parent().context("this program lies in no directory")?;
        let library = directory.join("librefpage.so");
        if !library.exists() {
            bail!("there is no {}: cargo build --release -p refpage-preload", library.display());
        }
        if library.to_string_lossy().contains([' ', ':']) {
            bail!("LD_PRELOAD cannot carry a path with spaces or colons: {}", library.display());
        }
        let name = format!("refpage-soak.{}", std::process::id());
        let scratch = std::env::temp_dir().join(name);
        fs::create_dir(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        tree::adopt_orphans().context("cannot adopt orphans")?;
        tree::end_with_the_tree();
        Ok(Self { arguments, seed, program, library, scratch: Scratch(scratch) })
    }

    fn preloaded(&self, service: &str) -> Command {
        let mut command = Command::new(&self.program);
        let pattern = pattern(self.seed).0;
        command.env("LD_PRELOAD", &self.library);
        // Behind the extra ones, because the last entry counts.
        let extra = &self.arguments.options;
        command.env(OPTIONS, format!("{extra}:service={service}:pattern={pattern}"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Why the service is not to be had here, if it is not.
    pub fn lacks(&self, service: &str) -> Result<Option<String>> {
        let mut command = self.preloaded(service);
        let output = command.arg("service").stdout(Stdio::piped()).output()?;
        let taken = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() {
            bail!("a program with service {service}: {}\n{told}", output.status);
        }
        Ok((taken != service).then(|| format!("{taken} is: {told}")))
    }

    /// Runs the tree of one service to its end, and leaves nothing of it behind.
    pub fn run(&self, service: &str, progress: &Progress) -> Result<Outcome> {
        let path = self.scratch.0.join(format!("board.{service}"));
        let board = Board::create(&path).context("cannot make a board")?;
        let arguments = self.arguments;
        let lanes = u64::from(arguments.threads + arguments.processes) + LANES_OF_THREADS;
        board.seed.store(self.seed, Relaxed);
        board.pattern.store(pattern(self.seed).1, Relaxed);
        board.threads.store(arguments.threads, Relaxed);
        board.processes.store(arguments.processes, Relaxed);
        board.budget.store((arguments.memory << 20) / lanes, Relaxed);
        board.steps.store(arguments.steps, Relaxed);
        board.inject.store(arguments.inject.map_or(0, |inject| inject as u32 + 1), Relaxed);
        let over = board::monotonic_seconds() + arguments.seconds;
        board.stop_at.store(over, Relaxed);
        let name = self.scratch.0.join(format!("stderr.{service}"));
        let options = File::options().read(true).append(true).create_new(true).open(&name);
        let mut stderr = options.context("cannot make a file for the tree's stderr")?;
        let start = Instant::now();
        let mut command = self.preloaded(service);
        command.arg("worker").arg(&path).stderr(stderr.try_clone()?).process_group(0);
        // Its own handle would wait for it; here all children are waited for together.
        let first = command.spawn().context("cannot start the worker")?.id() as i32;
        let mut failure = self.watch(board, first, service, progress, &stderr);
        if tree::is_interrupted() {
            tree::kill_all();
            bail!("interrupted");
        }
        if let Some(text) = &mut failure {
            let mut said = String::new();
            stderr.rewind().and_then(|()| stderr.read_to_string(&mut said)).context("stderr")?;
            text.push_str(&format!("\n{said}"));
            for process in tree::processes().iter().filter(|process| !process.ended) {
                text.push('\n');
                text.push_str(&stacks::of_process(process.pid));
            }
            board.seen.store(1, Release);
        }
        tree::kill_all();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Outcome { service: service.to_owned(), board, seconds, failure })
    }

    /// Until all of the tree have ended: nothing, or what went wrong.
    fn watch(
        &self,
        board: &Board,
        first: i32,
        service: &str,
        progress: &Progress,
        stderr: &File,
    ) -> Option<String> {
        let patience = Duration::from_secs(self.arguments.patience);
        let start = Instant::now();
        let mut slots = [(0, 0, start); SLOTS];
        let mut alive = start;
        loop {
            std::thread::sleep(Duration::from_millis(50));
            if tree::is_interrupted() {
                return None;
            }
            while let Some((pid, status)) = tree::ended_child() {
                alive = Instant::now();
                let who = if pid == first { "the first process" } else { "an orphan" };
                if status != 0 && !board.has_failed() {
                    return Some(format!("{who} ({pid}) {}", tree::ending(status)));
                }
            }
            if board.failure().is_some() {
                std::thread::sleep(MORE);
                return board.failure();
            }
            if stderr.metadata().is_ok_and(|about| about.len() > 0) {
                return Some("something was written to stderr".into());
            }
            let now = Instant::now();
            let mut lanes = 0;
            for (index, slot) in board.taken() {
                lanes += 1;
                let (step, pid) = (slot.step.load(Relaxed), slot.pid.load(Relaxed));
                let seen = &mut slots[index];
                if (seen.0, seen.1) != (step, pid) {
                    *seen = (step, pid, now);
                } else if now - seen.2 > patience {
                    let action = ACTIONS[slot.action.load(Relaxed) as usize].0;
                    let thread = slot.tid.load(Relaxed);
                    return Some(format!(
                        "no progress for {} s: process {pid}, thread {thread}, {step} actions, the last is '{action}'",
                        patience.as_secs()
                    ));
                }
            }
            progress.show(service, board, now - start, lanes);
            if tree::processes().is_empty() {
                return None;
            }
            // No lane is left, but a process.
            if lanes > 0 {
                alive = now;
            } else if now - alive > patience {
                return Some(format!("no end for {} s after the last step", patience.as_secs()));
            }
        }
    }
}
