//! Real programs under every allocator: their time, and their peak of memory as the kernel counted it.
//!
//! Their inputs are made for each run of the benchmark in a directory of its own. What a program writes has to be the
//! same under all allocators.

mod inputs;
pub mod process;
mod redis;

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cases::{Outcome, Scale};
use crate::peers::{Missing, Peer, Source, surround};
use crate::work::{self, Measured};
use process::{Finished, Started};

/// A program as a case.
pub struct Program {
    /// The case's name.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// What its times are per.
    pub unit: &'static str,
    /// What has to be there.
    tools: &'static [&'static str],
    /// Debian's packages of them.
    pub packages: &'static [&'static str],
    shape: Shape,
}

/// How a program is run.
#[derive(Clone, Copy)]
enum Shape {
    /// Once, to its end: makes its inputs in the directory, and says what is run.
    Once(fn(&Path, Scale) -> Result<Job>),
    /// A server with a client beside it.
    Redis,
}

/// What is run.
pub struct Job {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// The file that it writes, beside what goes to stdout.
    output: Option<PathBuf>,
}

/// All programs.
pub const PROGRAMS: [Program; 7] = [
    Program {
        name: "gcc",
        title: "gcc -O2 -c of a large generated file",
        unit: "run",
        tools: &["gcc"],
        packages: &["gcc"],
        shape: Shape::Once(inputs::gcc),
    },
    Program {
        name: "python3",
        title: "JSON and dictionaries, all of Python's allocations by malloc",
        unit: "run",
        tools: &["python3"],
        packages: &["python3"],
        shape: Shape::Once(inputs::python),
    },
    Program {
        name: "sqlite3",
        title: "inserts, an index and groups in memory",
        unit: "run",
        tools: &["sqlite3"],
        packages: &["sqlite3"],
        shape: Shape::Once(inputs::sqlite),
    },
    Program {
        name: "redis",
        title: "redis-server under redis-benchmark; held: when the clients are done",
        unit: "request",
        tools: &["redis-server", "redis-benchmark"],
        packages: &["redis-server", "redis-tools"],
        shape: Shape::Redis,
    },
    Program {
        name: "lua",
        title: "tables and strings",
        unit: "run",
        tools: &["lua5.4"],
        packages: &["lua5.4"],
        shape: Shape::Once(inputs::lua),
    },
    Program {
        name: "node",
        title: "JSON and objects",
        unit: "run",
        tools: &["node"],
        packages: &["nodejs"],
        shape: Shape::Once(inputs::node),
    },
    Program {
        name: "git",
        title: "git log -p of a repository made for it",
        unit: "run",
        tools: &["git"],
        packages: &["git"],
        shape: Shape::Once(inputs::git),
    },
];

impl Program {
    /// Whether all that it needs can be found.
    pub fn is_here(&self) -> bool {
        self.tools.iter().all(|tool| find(tool).is_some())
    }
}

/// The first file of that name in a directory of PATH.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|path| path.is_file())
}

/// A directory for the inputs of one run, gone with it.
pub struct Workshop {
    directory: PathBuf,
    scale: Scale,
}

impl Workshop {
    /// Makes the directory.
    pub fn open(scale: Scale) -> Result<Self> {
        let name = format!("refpage-bench-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory, scale })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a program's inputs, or says what it lacks.
    pub fn prepare(&self, program: &'static Program) -> Result<Result<Ready, Missing>> {
        if let Some(tool) = program.tools.iter().find(|tool| find(tool).is_none()) {
            let packages = program.packages.join(", ");
            let remedy = format!("{tool} is not installed; Debian's package is {packages}");
            return Ok(Err(Missing { name: program.name.into(), remedy }));
        }
        let directory = self.directory.join(program.name);
        fs::create_dir_all(&directory)?;
        let job = match program.shape {
            Shape::Redis => None,
            Shape::Once(make) => {
                let made = make(&directory, self.scale);
                Some(made.with_context(|| format!("cannot make what {} needs", program.name))?)
            }
        };
        Ok(Ok(Ready { directory, job, scale: self.scale }))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// A program with its inputs.
pub struct Ready {
    directory: PathBuf,
    /// What is run; the server has its own way.
    job: Option<Job>,
    scale: Scale,
}

impl Ready {
    /// Runs it once under a peer: what it cost, and what refpage said.
    pub fn measure(&self, peer: &Peer) -> Result<(Measured, String)> {
        let Some(job) = &self.job else {
            return redis::measure(&self.directory, peer, self.scale);
        };
        let mut command = Command::new(&job.program);
        command.args(&job.arguments).current_dir(&self.directory);
        preload(&mut command, peer)?;
        command.envs(job.environment.iter().map(|(key, value)| (key, value)));
        let finished = Started::start(&mut command, &self.directory)?.finish()?;
        let messages = accepted(&finished)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&finished.stdout);
        let mut bytes = finished.stdout.len();
        if let Some(output) = &job.output {
            let output = fs::read(output).context("it left no output")?;
            bytes += output.len();
            hasher.write(&output);
        }
        if bytes == 0 {
            bail!("it wrote nothing");
        }
        let outcome = Outcome { cost: finished.cost, operations: 1, checked_bytes: bytes as u64 };
        let work = Some(format!("{:016x}", hasher.finish()));
        let measured = Measured { work, ..Measured::new(outcome) };
        Ok((measured, messages))
    }
}

/// Puts the peer under a command. The C library is preloaded too: a program that is linked with another allocator,
/// as Debian's redis-server is, uses its own otherwise.
pub fn preload(command: &mut Command, peer: &Peer) -> Result<()> {
    surround(command, peer);
    let library = match &peer.source {
        Source::Preload(path) => path.clone(),
        Source::Libc => work::provider().context("the C library's file is not known")?,
        Source::Baseline(_) => bail!("a baseline cannot be put under a program"),
    };
    command.env("LD_PRELOAD", library);
    Ok(())
}

/// What it said, if it came to a good end with its allocator.
pub fn accepted(finished: &Finished) -> Result<String> {
    let messages = finished.messages.trim();
    if let Some(line) = messages.lines().find(|line| line.contains("cannot be preloaded")) {
        bail!("{line}");
    }
    if !finished.success {
        bail!("{}: {}", finished.end, messages.lines().last().unwrap_or("it wrote no message"));
    }
    Ok(messages.to_owned())
}
