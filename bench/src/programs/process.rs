//! A process that is waited for with what it used.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::measure::Cost;

/// Seconds until a program is given up. The longest ones take a few.
pub const TIMEOUT: u32 = 120;

/// A process under way, whose output goes to files.
pub struct Started {
    id: libc::pid_t,
    begun: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
    waited: bool,
}

/// What came of it.
pub struct Finished {
    /// What it and its children cost; nothing is held, for it is gone.
    pub cost: Cost,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it said.
    pub messages: String,
    /// Whether its exit code is 0.
    pub success: bool,
    /// How it ended.
    pub end: ExitStatus,
}

impl Started {
    /// Starts it; its output goes to files in `directory`.
    pub fn start(command: &mut Command, directory: &Path) -> Result<Self> {
        let (stdout, stderr) = (directory.join("stdout"), directory.join("stderr"));
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        // SAFETY: between fork and exec only alarm is called, which may be; its timer lives on in the new program.
        unsafe {
            command.pre_exec(|| {
                libc::alarm(TIMEOUT);
                Ok(())
            })
        };
        let begun = Instant::now();
        let child = command.spawn().context("cannot start the program")?;
        Ok(Self { id: child.id() as libc::pid_t, begun, stdout, stderr, waited: false })
    }

    /// Its process ID.
    pub fn id(&self) -> libc::pid_t {
        self.id
    }

    /// Waits for it.
    pub fn finish(mut self) -> Result<Finished> {
        let (end, usage) = self.wait()?;
        let wall = self.begun.elapsed();
        let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
        let cost = Cost {
            wall_ns: wall.as_nanos() as u64,
            cpu_ns: cpu.as_nanos() as u64,
            late_cpu_ns: 0,
            peak_kib: usage.ru_maxrss as u64,
            held_kib: 0,
            minor_faults: usage.ru_minflt as u64,
            major_faults: usage.ru_majflt as u64,
            // It is the program's whole life that is measured.
            peak_was_reset: true,
        };
        let messages = String::from_utf8_lossy(&fs::read(&self.stderr)?).into_owned();
        let stdout = fs::read(&self.stdout)?;
        Ok(Finished { cost, stdout, messages, success: end.success(), end })
    }

    fn wait(&mut self) -> Result<(ExitStatus, libc::rusage)> {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        self.waited = true;
        // SAFETY: the pointers are to live variables, for which all zeros is a valid value, and the
        // child is this value's, which nobody else waits for.
        let usage = unsafe {
            if libc::wait4(self.id, &mut status, 0, usage.as_mut_ptr()) != self.id {
                return Err(std::io::Error::last_os_error()).context("cannot wait for the program");
            }
            usage.assume_init()
        };
        Ok((ExitStatus::from_raw(status), usage))
    }
}

impl Drop for Started {
    /// Ends a process that nobody waited for.
    fn drop(&mut self) {
        if !self.waited {
            // SAFETY: the child was not waited for, so that its ID is still its own.
            unsafe { libc::kill(self.id, libc::SIGKILL) };
            let _ = self.wait();
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}
