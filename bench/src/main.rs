//! `refpage-bench`: allocators side by side, one process per measurement.
//!
//! All of it, as a page with tables and plots: see [`report`].
//!
//! ```text
//!     cargo run --release -p refpage-bench -- report --install   every allocator, program and document that can be had
//!     cargo run --release -p refpage-bench -- report             up to an hour; goes on where it was interrupted
//!     cargo run --release -p refpage-bench -- report --quick     smaller and fewer, 3 minutes
//! ```
//!
//! Its parts by themselves, with more cases, other peers and tables on the terminal. Large blocks:
//!
//! ```text
//!     cargo build --release -p refpage-preload
//!     cargo run --release -p refpage-bench -- engine             all cases, 8 to 10 minutes
//!     cargo run --release -p refpage-bench -- engine --quick     smaller and fewer, 90 seconds
//!     cargo run --release -p refpage-bench -- engine --case patch --with glibc --json patch.json
//! ```
//!
//! The small blocks, under the well-known workloads of allocators, and real programs: see [`small`].
//!
//! ```text
//!     cargo run --release -p refpage-bench -- small --install    what no package has, built below target/peers
//!     cargo run --release -p refpage-bench -- small              all workloads, half an hour
//!     cargo run --release -p refpage-bench -- small --quick      smaller and fewer, one to two minutes
//!     cargo run --release -p refpage-bench -- small --programs --case redis --case gcc --with mimalloc
//! ```
//!
//! What guards and quarantine of large blocks cost: see [`traps`].
//!
//! ```text
//!     cargo run --release -p refpage-bench -- traps              all cases, about 10 minutes
//!     cargo run --release -p refpage-bench -- traps --quick      smaller and fewer, 30 seconds
//!     cargo run --release -p refpage-bench -- traps --services --case 1M --with none
//! ```
//!
//! What page moves save a compacting collector, beside copies and mremap: see [`moves`].
//!
//! ```text
//!     cargo run --release -p refpage-bench -- moves              all cases, about 2 minutes
//!     cargo run --release -p refpage-bench -- moves --quick      smaller and fewer, 10 seconds
//! ```
//!
//! What it costs to know which pages were written: see [`writes`].
//!
//! ```text
//!     cargo run --release -p refpage-bench -- writes             256 MiB, one to two minutes
//!     cargo run --release -p refpage-bench -- writes --quick     32 MiB, some seconds
//! ```
//!
//! And, on an emulated Arm machine that counts them, instructions instead of time: see [`instructions`].
//!
//! - **case**: a workload, such as "allocate 256 MiB, write to every page".
//! - **peer**: what provides its memory: an allocator that is preloaded, the C library's own, or a
//!   **baseline** that maps and fills memory itself.
//! - **round**: every peer of a case once, in an order that rotates.
//! - **promise**: the byte that a peer guarantees to be in fresh memory. The child checks it after the
//!   measured part; one wrong byte fails the run.
//!
//! ```text
//!     engine ─▶ peers, cases ─▶ rounds     which peers under which cases, all in each round
//!       ├────▶ child ─▶ [process, LD_PRELOAD] work ─▶ cases ─▶ memory     the allocator under test
//!       │                                              └────▶ measure    clock, CPU, memory, faults
//!       └────▶ results ─▶ table, targets, JSON, CSV
//! ```

mod cases;
mod child;
mod engine;
mod install;
mod instructions;
mod measure;
mod moves;
mod page;
mod programs;
mod progress;
mod report;
mod results;
mod rounds;
mod seed;
mod small;
mod table;
mod targets;
mod traps;
mod work;
mod writes;

use clap::{Parser, Subcommand};
use refpage_bench::{memory, peers};
use std::process::ExitCode;

/// Microbenchmarks of allocators, side by side, one process per measurement
#[derive(Parser)]
#[command(name = "refpage-bench", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Engine(engine::Arguments),
    Small(small::Arguments),
    Traps(traps::Arguments),
    Moves(moves::Arguments),
    Writes(writes::Arguments),
    Instructions(instructions::Arguments),
    Report(report::Arguments),
    #[command(hide = true)]
    PageSample(page::sample::Arguments),
    #[command(hide = true)]
    ReportWork(report::work::Arguments),
    #[command(hide = true)]
    Work(work::Arguments),
    #[command(hide = true)]
    Count(instructions::count::Arguments),
    #[command(hide = true)]
    SmallWork(small::work::Arguments),
    #[command(hide = true)]
    TrapsWork(traps::work::Arguments),
    #[command(hide = true)]
    MovesWork(moves::work::Arguments),
    #[command(hide = true)]
    MovesRaw(moves::raw::Arguments),
    #[command(hide = true)]
    WritesWork(writes::work::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Engine(arguments) => engine::run(&arguments),
        Command::Small(arguments) => small::run(&arguments),
        Command::Traps(arguments) => traps::run(&arguments),
        Command::Moves(arguments) => moves::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Count(arguments) => {
            instructions::count::run(&arguments).map(|()| ExitCode::SUCCESS)
        }
        Command::SmallWork(arguments) => small::work::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::TrapsWork(arguments) => traps::work::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::MovesWork(arguments) => moves::work::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::MovesRaw(arguments) => moves::raw::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Writes(arguments) => writes::run(&arguments),
        Command::WritesWork(arguments) => writes::work::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Report(arguments) => report::run(&arguments),
        Command::PageSample(arguments) => page::sample::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::ReportWork(arguments) => report::work::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Work(arguments) => work::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
