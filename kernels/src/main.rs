//! `refpage-kernels`: the project's tests on several kernels and as several users, with a table of what came of it.
//!
//! ```text
//!     cargo run --release -p refpage-kernels                    all kernels, both users
//!     cargo run --release -p refpage-kernels -- --kernel 6.1 --user 65534 --test fork
//!     cargo run --release -p refpage-kernels -- --arch aarch64 --mte off --kernel newest-16k
//! ```
//!
//! - **kernel**: one of Debian's for virtual machines, downloaded and taken apart, never installed; or this machine's,
//!   on which the tests are run as they are in a guest, without one.
//! - **architecture**: this machine's, or another one, for which the tests are built by a compiler from the archive and
//!   listed by qemu's emulation of a process; both are downloaded and taken apart, too.
//! - **guest**: a qemu machine that runs one kernel and, as one user, every test. Nothing is shared with the host:
//!   its files are an initramfs in which all that is needed lies where it lies here.
//! - **suite**: a test binary. Each of its tests runs in a process of its own, so that one that kills its process
//!   or hangs is one failure and says nothing about the others.
//! - **event**: a line of JSON that the guest writes to its second serial port; the kernel has the first.
//!
//! ```text
//!     main ─▶ rounds     what is asked for
//!       ├───▶ fetch      a kernel from the package archive ─▶ apt
//!       ├───▶ toolchain  what builds for another architecture ─▶ apt
//!       ├───▶ suites     the test binaries and what they need ─▶ initramfs
//!       ├───▶ boot ─▶ [qemu: kernel ─▶ guest ─▶ runner ─▶ test, test, …]   events come back
//!       │       └───▶ runner ─▶ test, test, …                              on this machine
//!       ├───▶ results    the table, and what failed
//!       └───▶ costs      no tests: what memory tags cost, counted in a guest
//! ```
//!
//! qemu emulates the processor: that needs no privilege and works inside other virtual machines.

mod apt;
mod arch;
mod boot;
mod costs;
mod event;
mod fetch;
mod guest;
mod initramfs;
mod progress;
mod results;
mod rounds;
mod runner;
mod setting;
mod suites;
mod toolchain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::arch::Arch;
use crate::boot::{HOST, Machine, Place, Round};
use crate::fetch::Kernel;
use crate::results::{Outcome, Row};
use crate::rounds::Wish;
use crate::runner::Runner;
use crate::suites::Choice;
use crate::toolchain::Toolchain;

/// The exit code when all that could be run passed, and something could not be.
const INCOMPLETE: u8 = 3;
const EXIT_CODES: &str = "\
Exit codes:
  0  all passed
  1  something failed, or a kernel that was named cannot be had
  2  the arguments make no sense
  3  all that could be run passed, the rest is `not done`";

/// The tests on this machine's kernel, and on others booted in qemu
#[derive(Parser)]
#[command(name = "refpage-kernels", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
struct Arguments {
    /// The architecture of the guests [default: this machine's]
    #[arg(long, value_parser = Arch::named, default_value = std::env::consts::ARCH, hide_default_value = true)]
    arch: &'static Arch,
    /// A kernel, by the beginning of its version, the `newest` in the archive, or this machine's, the `host`
    /// (repeatable); for aarch64 with -16k behind it one with pages of 16 KiB
    /// [default: host, if it is of the architecture, and 6.1, 6.12, newest of all page sizes]
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
    /// Whether the processor of aarch64 guests has memory tags (repeatable) [default: on]
    #[arg(long = "mte", value_name = "ON|OFF", value_enum)]
    tags: Vec<Tags>,
    /// A user to run the tests as, by number (repeatable) [default: 0, 65534]
    #[arg(long = "user", value_name = "UID")]
    users: Vec<u32>,
    /// Only tests whose name, as in suite::module::test, contains this (repeatable)
    #[arg(long = "test", value_name = "PART")]
    tests: Vec<String>,
    /// No tests whose name contains this (repeatable)
    #[arg(long = "skip", value_name = "PART")]
    skip: Vec<String>,
    /// Leave out what takes long: tests of limits and of memory used, and all patterns but one; on aarch64, if nothing
    /// else is said, run a part of the tests on some of the kernels
    #[arg(long)]
    quick: bool,
    /// Processors of each guest
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    smp: u32,
    /// Memory of each guest
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Rounds at a time: a kernel and a user each [default: the number of processors]
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

/// Whether a processor has memory tags.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tags {
    On,
    Off,
}

#[derive(Subcommand)]
enum Command {
    Costs(costs::Arguments),
    /// Be process 1 of a guest
    #[command(hide = true)]
    Guest {
        /// The user that the tests run as
        user: u32,
        /// The number of the plan
        plan: usize,
    },
    /// Be process 1 of the guest of `costs`
    #[command(hide = true)]
    CostsGuest,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Some(Command::Guest { user, plan }) => guest::run(*user, *plan),
        Some(Command::Costs(costs)) => costs::run(costs),
        Some(Command::CostsGuest) => costs::guest(),
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let arch = arguments.arch;
    if !arguments.tags.is_empty() && !arch.tags {
        bail!("no {} has memory tags", arch.name);
    }
    let target = target_directory()?;
    let directory = target.join("kernels");
    let scratch = Scratch::new(&directory, arguments.keep)?;
    let mut rows = Vec::new();
    let wishes = rounds::wishes(arguments);
    let (mut on_host, in_guests): (Vec<_>, Vec<_>) =
        wishes.iter().partition(|wish| wish.kernel == HOST);
    if arch.is_foreign() {
        for wish in on_host.drain(..) {
            let reason = format!("this machine is {}", Arch::own().name);
            rows.push(Row::not_done(HOST, arch.name, Some(wish.user), reason));
        }
    }
    let (kernels, toolchain) = needs(arguments, &in_guests, &target, &mut rows);

    if let Some(toolchain) = toolchain.filter(|_| !on_host.is_empty() || !kernels.is_empty()) {
        let built = suites::build(&toolchain, &scratch.path)?;
        let plan = |wish: &&&Wish| {
            let (quick, limit) = (arguments.quick, arguments.limit);
            built.plan(&Choice { tests: &wish.tests, skip: &wish.skip, quick, limit })
        };
        let had = |wish: &&&Wish| kernels.contains_key(&wish.kernel);
        let in_guests: Vec<_> = in_guests.iter().filter(had).collect();
        let host_plans = on_host.iter().map(|wish| plan(&wish)).collect::<Result<Vec<_>>>()?;
        let plans = in_guests.iter().map(plan).collect::<Result<Vec<_>>>()?;
        if host_plans.iter().chain(&plans).all(|plan| plan.tests() == 0) {
            bail!("no test has such a name");
        }
        let mut rounds = Vec::new();
        for (wish, plan) in on_host.iter().zip(&host_plans) {
            let user = wish.user;
            match able_to_run(&Runner { plan, user, alone: false }) {
                Ok(()) => rounds.push(Round { place: Place::Host, user, plan }),
                Err(error) => {
                    rows.push(Row::not_done(HOST, arch.name, Some(user), format!("{error:#}")));
                }
            }
        }
        let machine;
        if !in_guests.is_empty() {
            let initramfs = initramfs::make(&toolchain, &built, &plans, &scratch.path)?;
            let (smp, memory) = (arguments.smp, arguments.memory);
            machine = Machine { arch, qemu: toolchain.qemu(), initramfs, smp, memory };
            for (number, (wish, plan)) in in_guests.iter().zip(&plans).enumerate() {
                let (kernel, tags, user) = (&kernels[&wish.kernel], wish.tags, wish.user);
                let console = scratch.path.join(format!("console.{number}.{}", kernel.name));
                let place = Place::Guest { kernel, machine: &machine, tags, number, console };
                rounds.push(Round { place, user, plan });
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        rows.extend(run_all(&rounds, arguments.jobs.unwrap_or(processors)));
    }
    print!("{}", results::report(&rows));
    if arguments.quick {
        print!("{}", rounds::left_out(arguments));
    }
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&rows)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.keep {
        println!("kept: {}", scratch.path.display());
    }
    Ok(exit_code(&rows, !arguments.kernels.is_empty()))
}

/// What guests need: the kernels that can be had and booted, by what was asked for, each of them once, and what builds
/// for them. What cannot be had becomes rows.
fn needs(
    arguments: &Arguments,
    wishes: &[&Wish],
    target: &Path,
    rows: &mut Vec<Row>,
) -> (BTreeMap<String, Kernel>, Option<Toolchain>) {
    let arch = arguments.arch;
    let directory = target.join("kernels").join(arch.name);
    let mut wanted: Vec<&str> = Vec::new();
    for wish in wishes {
        if !wanted.contains(&&*wish.kernel) {
            wanted.push(&wish.kernel);
        }
    }
    let toolchain = if arch.is_foreign() {
        Toolchain::cross(arch, &directory)
    } else {
        Ok(Toolchain::own(target))
    };
    let able = toolchain
        .as_ref()
        .map_err(|error| format!("{error:#}"))
        .and_then(|toolchain| able_to_boot(toolchain).map_err(|error| format!("{error:#}")));
    let mut kernels: BTreeMap<String, Kernel> = BTreeMap::new();
    let mut archive = fetch::Archive::new(arch, &directory);
    for wanted in wanted {
        let kernel = match &able {
            Ok(()) => archive.kernel(wanted).map_err(|error| format!("{error:#}")),
            Err(reason) => Err(reason.clone()),
        };
        match kernel {
            Ok(kernel) if kernels.values().any(|other| other.name == kernel.name) => {
                println!("{wanted} is {}, which is run already", kernel.name);
            }
            Ok(kernel) => drop(kernels.insert(wanted.into(), kernel)),
            Err(reason) => rows.push(Row::not_done(wanted, arch.name, None, reason)),
        }
    }
    if !archive.complaints().is_empty() {
        println!("the kernels may not be the newest of their kind: {}", archive.complaints());
    }
    (kernels, toolchain.ok())
}

/// What came of it all, where the kernels were `named` or not.
fn exit_code(rows: &[Row], named: bool) -> ExitCode {
    let incomplete = rows.iter().any(|row| matches!(row.outcome, Outcome::NotDone(_)));
    let failed = rows.iter().any(|row| row.outcome == Outcome::Failed);
    if failed || (named && incomplete) {
        ExitCode::FAILURE
    } else if incomplete {
        INCOMPLETE.into()
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs the rounds, `jobs` at a time; the rows come in the rounds' order.
fn run_all(rounds: &[Round], jobs: usize) -> Vec<Row> {
    let progress = progress::Progress::new(rounds.iter().map(|round| round.plan.tests()).sum());
    let rows: Vec<_> = rounds.iter().map(|_| Mutex::new(None)).collect();
    let next = Mutex::new(0..rounds.len());
    let take = || next.lock().expect("no worker panics while it takes a round").next();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(rounds.len()).max(1) {
            scope.spawn(|| {
                while let Some(index) = take() {
                    let row = rounds[index].run(&progress);
                    *rows[index].lock().expect("each row has one writer") = Some(row);
                }
            });
        }
    });
    progress.finish();
    rows.into_iter()
        .map(|row| row.into_inner().ok().flatten().expect("every round was taken"))
        .collect()
}

/// The reason why this user's tests cannot be run on this machine, if there is one.
fn able_to_run(runner: &Runner) -> Result<()> {
    // SAFETY: `geteuid` has no precondition.
    let own = unsafe { libc::geteuid() };
    if own != 0 && own != runner.user {
        bail!("not root, who alone can run tests as another user");
    }
    runner.found().map(drop)
}

/// The reason why no kernel can be booted here, if there is one.
fn able_to_boot(toolchain: &Toolchain) -> Result<()> {
    let mut programs = vec![("cpio", "cpio")];
    if !toolchain.arch.is_foreign() {
        programs.extend([(toolchain.arch.qemu, toolchain.arch.package), ("cc", "gcc")]);
    }
    for (program, package) in programs {
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
        remove_leftovers(directory);
        let path = directory.join(format!("run.{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, keep })
    }
}

/// What runs have left behind that were killed: `<what>.<process>`, of no process that there is.
fn remove_leftovers(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = ["run.", "unpacked."].iter().find_map(|what| name.strip_prefix(what));
        let Some(process) = process.and_then(|number| number.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(process.to_string()).exists() {
            // A leftover in cargo's target directory does no harm.
            let _ = std::fs::remove_dir_all(entry.path());
        }
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
