//! `refpage`: run programs on the allocator, ask what this machine can do, see the demonstration.
//!
//! - **demonstration** (no argument): a table of what the services cost. The parent (`demo`) starts
//!   one child (`measure`) per cell, because a service is chosen once per process.
//! - **run**: a program with `librefpage.so` preloaded; this process becomes that program.
//! - **top**: what a process on the allocator does, from outside; with `run --live`, what the program does.
//! - **doctor**: which services this machine allows, and how to get a better one.
//! - **symbolize**: names the calls in reports of misuse.
//!
//! ```text
//!   main ─▶ demo ─▶ child ─▶ [process] measure ─▶ the allocator under REFPAGE_MEASURE
//!        ─▶ run ─▶ flags, program ─▶ exec
//!        ─▶ top ◀─ live ◀─ run --live
//!        ─▶ doctor ─▶ advice ─▶ machine ─▶ probe
//!        ─▶ symbolize ─▶ program
//!        ─▶ help
//! ```

mod advice;
mod child;
mod demo;
mod doctor;
mod failure;
mod flags;
mod help;
mod live;
mod machine;
mod measure;
mod probe;
mod program;
mod report;
mod run;
mod symbolize;
mod top;

use clap::{Parser, Subcommand};
use failure::{EXIT_STATUS, Failure};
use refpage_alloc::RefPage;
use refpage_alloc::options::{Options, ServiceChoice};
use std::process::ExitCode;

/// The measurements' allocator, which they choose a service of by an environment variable of their
/// own. The commands themselves get by with `memset`: no fault handler beside what is measured, and
/// no complaints and statistics from a process that is about to become another program.
#[global_allocator]
static ALLOCATOR: RefPage = RefPage::with_options(Options::new().service(ServiceChoice::Memset))
    .environment(flags::OWN_VARIABLE);

/// A memory allocator in which every byte that malloc hands out holds a known pattern
///
/// Without a command: the built-in demonstration, a table of what the services cost on this machine.
///
/// `refpage help options` explains the options of the allocator.
#[derive(Parser)]
#[command(name = "refpage", version, disable_help_subcommand = true, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Top(top::Arguments),
    Doctor(doctor::Arguments),
    Symbolize(symbolize::Arguments),
    Help(help::Arguments),
    #[command(hide = true)]
    Measure(measure::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => match arguments.command {
            None => demo::demonstrate(),
            Some(Command::Run(arguments)) => run::run(&arguments).map(|never| match never {}),
            Some(Command::Top(arguments)) => top::watch(&arguments),
            Some(Command::Doctor(arguments)) => doctor::examine(&arguments),
            Some(Command::Symbolize(arguments)) => symbolize::symbolize(&arguments),
            Some(Command::Help(arguments)) => help::explain(&arguments),
            Some(Command::Measure(arguments)) => measure::measure(&arguments),
        },
        Err(error) => failure::from_clap(&error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { line, code }) => {
            eprintln!("refpage: {line}");
            ExitCode::from(code)
        }
    }
}
