//! Starts one `refpage measure` and accounts for it: its report, and the CPU time of all its threads
//! from exec to exit.

use crate::failure::Failure;
use crate::flags::{OWN_VARIABLE, VARIABLE};
use crate::measure::{Measurement, Touch, Use};
use clap::ValueEnum;
use refpage_alloc::options::ServiceChoice;
use std::ffi::OsString;
use std::io::Read;
use std::mem::MaybeUninit;
use std::process::{Child, Command, Stdio};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The service to ask for.
    pub service: ServiceChoice,
    /// What becomes of an allocation.
    pub usage: Use,
    /// How much of it is touched.
    pub touch: Touch,
    /// How many allocations.
    pub iterations: usize,
    /// Check everything instead of timing.
    pub verify: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The child's own report.
    pub measurement: Measurement,
    /// CPU time, user and system, of all threads of the child from start to exit, in nanoseconds.
    pub cpu_ns: u64,
}

/// How a process ended.
enum End {
    Code(i32),
    Signal(i32),
}

impl Job {
    /// A job that starts the service and does nothing.
    pub fn empty(service: ServiceChoice) -> Self {
        Self { service, usage: Use::Recycled, touch: Touch::One, iterations: 0, verify: false }
    }

    /// Runs the job in a process of its own and waits for it.
    pub fn run(&self) -> Result<Outcome, Failure> {
        let mut child = self
            .command()?
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start a measurement: {error}")))?;
        // One after the other will do: what a measurement writes fits into a pipe.
        let output = text_of(child.stdout.take())?;
        let complaint = text_of(child.stderr.take())?;
        let (end, cpu_ns) = wait(&child)?;
        let complaint = complaint.lines().last().unwrap_or("no message");
        let complaint = complaint.strip_prefix("refpage: ").unwrap_or(complaint);
        match end {
            End::Code(0) => {}
            End::Code(_) => return Err(Failure::new(format!("{self}: {complaint}"))),
            End::Signal(signal) => {
                return Err(Failure::new(format!(
                    "{self}: killed by signal {signal}: {complaint}"
                )));
            }
        }
        let measurement = Measurement::from_text(&output)
            .ok_or_else(|| Failure::new(format!("{self}: no report")))?;
        Ok(Outcome { measurement, cpu_ns })
    }

    fn command(&self) -> Result<Command, Failure> {
        let executable = std::env::current_exe()
            .map_err(|error| Failure::new(format!("cannot find this executable: {error}")))?;
        let mut options = std::env::var_os(VARIABLE).unwrap_or_default();
        // Appended, so that a pool size in the environment is kept and a service is not; statistics
        // of fifty processes would bury the table.
        options.push(OsString::from(format!(":service={}:stats=0", self.service.as_str())));
        let mut command = Command::new(executable);
        command.args(["measure", "--touch", &name_of(self.touch), "--use", &name_of(self.usage)]);
        command.args(["--iterations", &self.iterations.to_string()]);
        if self.verify {
            command.arg("--verify");
        }
        command.env(OWN_VARIABLE, options).stdin(Stdio::null()).stdout(Stdio::piped());
        // Each of fifty processes would repeat that the service is a lesser one; the table says it once.
        command.stderr(Stdio::piped());
        Ok(command)
    }
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "service {}, {}, touch {}",
            self.service.as_str(),
            name_of(self.usage),
            name_of(self.touch)
        )
    }
}

/// The name of a choice as its flag takes it.
pub fn name_of(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// All that comes out of a pipe.
fn text_of(pipe: Option<impl Read>) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)
            .map_err(|error| Failure::new(format!("cannot read a measurement: {error}")))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for the child; `std` would drop the resource usage.
fn wait(child: &Child) -> Result<(End, u64), Failure> {
    let id = child.id() as libc::pid_t;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live variables of the types that wait4 writes.
    while unsafe { libc::wait4(id, &mut status, 0, usage.as_mut_ptr()) } != id {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(Failure::new(format!("cannot wait for a measurement: {error}")));
        }
    }
    // SAFETY: wait4 has succeeded and filled it; all zeros is a valid rusage besides.
    let usage = unsafe { usage.assume_init() };
    let nanoseconds =
        |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    let end = if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Code(libc::WEXITSTATUS(status))
    };
    Ok((end, nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)))
}
