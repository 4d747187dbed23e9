//! `refpage-soak`: random programs of many processes on refpage, against a shadow model of every byte.
//!
//! ```text
//!     cargo run --release -p refpage-soak                            a minute for each service
//!     cargo run --release -p refpage-soak -- --seconds 3600 --service lazy --seed 7
//! ```
//!
//! - **tree**: a process with several threads, and all that they fork and execute. All of it runs on `librefpage.so`.
//! - **lane**: a thread of the tree with its blocks and its own random choices, which depend on its seed alone.
//! - **step**: one thing that a lane does: allocate, touch, check, free, fork, send a signal, close descriptors, …
//! - **shadow**: what each byte of a block has to read as. A forked child has the shadow of the lane that forked.
//! - **board**: memory that all of the tree share with the supervisor: progress, counts, and the first failure.
//! - **supervisor**: starts the tree, sees that every lane goes on, shows the stacks of all threads when one does not,
//!   and leaves no process behind. It does not run on refpage.
//!
//! ```text
//!     main ─▶ supervise ─▶ [worker: lane ─▶ block ─▶ shadow     ]
//!       │       │ ▲        [          ├──▶ process: fork, exec ─┼─▶ more of the tree
//!       │       │ └ board ◀[          ├──▶ signals              ]
//!       │       └▶ stacks  [          └──▶ system: kernel, fds  ]
//!       └───▶ results      the table, and what failed
//! ```
//!
//! A failure is a wrong byte, memory that is refused, a process that ends as it should not, a line on stderr, or a lane
//! that makes no progress.

mod block;
mod board;
mod inject;
mod lane;
mod process;
mod progress;
mod random;
mod results;
mod shadow;
mod signals;
mod stacks;
mod supervise;
mod system;
mod tree;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, value_parser};

use crate::board::MAX_THREADS;
use crate::inject::Inject;
use crate::progress::Progress;
use crate::supervise::{Supervisor, pattern};

/// The services, best first.
const SERVICES: [&str; 4] = ["lazy", "cow", "eager", "memset"];
const EXIT_CODES: &str = "\
Exit codes:
  0  all passed
  1  something failed, or a service that was named is not to be had
  2  the arguments make no sense";

/// Random programs of many processes under each service, against a shadow model of every byte
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What all choices depend on; without it, another one each time, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// For each service
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Of the first process
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=MAX_THREADS as i64))]
    threads: u32,
    /// At one time, besides the first
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u32).range(0..=24))]
    processes: u32,
    /// Live in all processes together, in MiB
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u64).range(16..))]
    memory: u64,
    /// Of each thread of the first process, at most; 0 is as many as there is time for
    #[arg(long, default_value_t = 0)]
    steps: u64,
    /// Seconds without progress that are a hang
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Only this service, or these; without it, all that are to be had
    #[arg(long = "service", value_parser = SERVICES, value_delimiter = ',')]
    services: Vec<String>,
    /// More of refpage's options, as in REFPAGE_OPTIONS
    #[arg(long, default_value = "", value_name = "KEY=VALUE:…")]
    options: String,
    /// Write the results there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Have something go wrong
    #[arg(long, hide = true)]
    inject: Option<Inject>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be a process of the tree
    #[command(hide = true)]
    Worker(worker::Worker),
    /// Say which service this process has
    #[command(hide = true)]
    Service,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Worker(worker)) => worker.run().map(|()| ExitCode::SUCCESS),
        Some(Command::Service) => service().map(|name| {
            println!("{name}");
            ExitCode::SUCCESS
        }),
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(any_seed);
    println!("seed {seed}, pattern {}", pattern(seed).0);
    let supervisor = Supervisor::new(arguments, seed)?;
    let named = !arguments.services.is_empty();
    let mut services = Vec::new();
    for service in SERVICES {
        if named && !arguments.services.iter().any(|name| name == service) {
            continue;
        }
        match supervisor.lacks(service)? {
            None => services.push(service),
            Some(reason) if named => bail!("service {service} is not to be had, {reason}"),
            Some(reason) => println!("skipped: service {service} is not to be had, {reason}"),
        }
    }
    let mut progress = Progress::new(arguments.seconds * services.len() as u64);
    let mut outcomes = Vec::new();
    for service in services {
        let outcome = supervisor.run(service, &progress)?;
        progress.over(arguments.seconds);
        if let Some(failure) = &outcome.failure {
            progress.say(&format!("FAILED: service {service}, seed {seed}: {failure}"));
        }
        outcomes.push(outcome);
    }
    progress.finish();
    println!("{}", results::table(&outcomes));
    if let Some(file) = &arguments.json {
        let json = results::json(&outcomes, seed, arguments.threads);
        std::fs::write(file, serde_json::to_vec_pretty(&json)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed = outcomes.iter().any(|outcome| outcome.failure.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A seed of few digits, which somebody may have to type.
fn any_seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    random::mix(now.as_nanos() as u64) % 1_000_000
}

/// What refpage says of itself in this process.
fn service() -> Result<String> {
    // SAFETY: a constant name; any object may be searched.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"refpage_service".as_ptr()) };
    if function.is_null() {
        bail!("librefpage.so is not preloaded");
    }
    // SAFETY: it is the function of this name in refpage.h, which returns a constant string.
    let name = unsafe {
        let function: extern "C" fn() -> *const libc::c_char = std::mem::transmute(function);
        std::ffi::CStr::from_ptr(function())
    };
    Ok(name.to_str().context("a name that is no text")?.to_owned())
}
