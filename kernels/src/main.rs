//! `refpage-kernels`: the project's tests on other kernels, each booted in qemu, with a table of what came of it.
//!
//! ```text
//!     cargo run --release -p refpage-kernels                    all kernels, both users
//!     cargo run --release -p refpage-kernels -- --kernel 6.1 --user 65534 --test fork
//! ```
//!
//! - **kernel**: one of Debian's for virtual machines, downloaded and taken apart, never installed.
//! - **guest**: a qemu machine that runs one kernel and, as one user, every test. Nothing is shared with the host:
//!   its files are an initramfs in which all that is needed lies where it lies here.
//! - **suite**: a test binary. Each of its tests runs in a process of its own, so that one that kills its process
//!   or hangs is one failure and says nothing about the others.
//! - **event**: a line of JSON that the guest writes to its second serial port; the kernel has the first.
//!
//! ```text
//!     main ─▶ fetch      a kernel from the package archive
//!       ├───▶ suites     the test binaries and what they need ─▶ initramfs
//!       ├───▶ boot ─▶ [qemu: kernel ─▶ guest ─▶ test, test, …]   events come back
//!       └───▶ results    the table, and what failed
//! ```
//!
//! qemu emulates the processor: that needs no privilege and works inside other virtual machines.

mod boot;
mod event;
mod fetch;
mod guest;
mod initramfs;
mod progress;
mod results;
mod suites;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::boot::{Guest, Machine};
use crate::results::{Outcome, Row};

/// The tests on other kernels, each booted in qemu
#[derive(Parser)]
#[command(name = "refpage-kernels", version, disable_help_subcommand = true)]
struct Arguments {
    /// A kernel, by the beginning of its version, or the newest in the archive (repeatable)
    #[arg(long = "kernel", value_name = "VERSION", default_values = ["6.1", "6.12", "newest"])]
    kernels: Vec<String>,
    /// A user to run the tests as, by number (repeatable)
    #[arg(long = "user", value_name = "UID", default_values = ["0", "65534"])]
    users: Vec<u32>,
    /// Only tests whose name, as in suite::module::test, contains this (repeatable)
    #[arg(long = "test", value_name = "PART")]
    tests: Vec<String>,
    /// No tests whose name contains this (repeatable)
    #[arg(long = "skip", value_name = "PART")]
    skip: Vec<String>,
    /// Processors of each guest
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    smp: u32,
    /// Memory of each guest
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Guests at a time [default: the number of processors]
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,
    /// Seconds that one test may take in a guest
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// Write what came of each test to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the guests' files and consoles, and say where
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be process 1 of a guest
    #[command(hide = true)]
    Guest {
        /// The user that the tests run as
        user: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Guest { user }) => guest::run(user),
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = target_directory()?.join("kernels");
    let scratch = Scratch::new(&directory, arguments.keep)?;
    let mut rows = Vec::new();
    let mut kernels = Vec::new();
    let mut archive = fetch::Archive::new(&directory);
    for wanted in &arguments.kernels {
        match able_to_boot().and_then(|()| archive.kernel(wanted)) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => rows.push(Row::not_done(wanted, format!("{error:#}"))),
        }
    }
    if !kernels.is_empty() {
        let plan = suites::build(&target_directory()?, &scratch.path, arguments)?;
        if plan.tests() == 0 {
            bail!("no test has such a name");
        }
        let initramfs = initramfs::make(&plan, &scratch.path)?;
        let machine = Machine { initramfs, smp: arguments.smp, memory: arguments.memory };
        let mut guests = Vec::new();
        for kernel in &kernels {
            for &user in &arguments.users {
                let console = scratch.path.join(format!("console.{}.{user}", kernel.name));
                guests.push(Guest { kernel, user, machine: &machine, plan: &plan, console });
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        rows.extend(boot_all(&guests, arguments.jobs.unwrap_or(processors)));
    }
    print!("{}", results::report(&rows));
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&rows)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.keep {
        println!("kept: {}", scratch.path.display());
    }
    let failed = rows.iter().any(|row| row.outcome == Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs the guests, `jobs` at a time; the rows come in the guests' order.
fn boot_all(guests: &[Guest], jobs: usize) -> Vec<Row> {
    let progress = progress::Progress::new(guests.iter().map(|guest| guest.plan.tests()).sum());
    let rows: Vec<_> = guests.iter().map(|_| Mutex::new(None)).collect();
    let next = Mutex::new(0..guests.len());
    let take = || next.lock().expect("no worker panics while it takes a guest").next();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, guests.len()) {
            scope.spawn(|| {
                while let Some(index) = take() {
                    let row = guests[index].run(&progress);
                    *rows[index].lock().expect("each row has one writer") = Some(row);
                }
            });
        }
    });
    progress.finish();
    rows.into_iter()
        .map(|row| row.into_inner().ok().flatten().expect("every guest was taken"))
        .collect()
}

/// The reason why no kernel can be booted here, if there is one.
fn able_to_boot() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the tests built here are for {}, the kernels for x86_64", std::env::consts::ARCH);
    }
    for (program, package) in [(boot::QEMU, "qemu-system-x86"), ("cpio", "cpio"), ("cc", "gcc")] {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        });
        if !found {
            bail!("{program} is not installed (package {package})");
        }
    }
    Ok(())
}

/// cargo's target directory, two levels above `<target>/release/refpage-kernels`.
fn target_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    let target =
        executable.ancestors().nth(2).context("this program lies in no target directory")?;
    Ok(target.into())
}

/// What one run makes; it goes away with the run, unless it is to be kept.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(directory: &Path, keep: bool) -> Result<Self> {
        let path = directory.join(format!("run.{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            // A leftover in cargo's target directory does no harm.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
