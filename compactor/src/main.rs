//! `refpage-compactor`: compacts a heap while threads use it, verifies every object, and shows what it took.
//!
//! ```text
//!     cargo run --release -p refpage-compactor
//!     cargo run --release -p refpage-compactor -- --pages 65536 --mutators 2 --way move --seed 7
//! ```

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, value_parser};
use comfy_table::{CellAlignment, Table, presets};
use refpage::moves::Mover;
use refpage::sys::vm::page_size;
use refpage_compactor::{Outcome, Setup, Shape, Way, run};

const EXIT_CODES: &str = "\
Exit codes:
  0  every object is what it should be
  1  one is not
  2  the arguments make no sense
  3  this kernel does not move pages (Linux 6.8)";

/// Compact a heap while threads use it: by page moves, by copies, by mremap
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    /// OS pages of the heap
    #[arg(long, default_value_t = 16384, value_parser = value_parser!(u32).range(1..=1 << 20))]
    pages: u32,
    /// Threads that use it
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=64))]
    mutators: u8,
    /// How pages are carried: all ways if none is named; may be repeated
    #[arg(long)]
    way: Vec<Way>,
    /// Populated pages that follow each other, on average
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u32).range(1..=1 << 20))]
    populated: u32,
    /// Fragmented pages that follow each other, on average; 0: there are none
    #[arg(long, default_value_t = 8, value_parser = value_parser!(u32).range(0..=1 << 20))]
    fragmented: u32,
    /// References that an object has at most
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u8).range(0..=4))]
    references: u8,
    /// Pages that move together at most
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=512))]
    batch: u32,
    /// What all choices depend on
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(why) = Mover::new() {
        eprintln!("error: {why}");
        return ExitCode::from(3);
    }
    match compact(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compact(arguments: &Arguments) -> Result<()> {
    let shape = Shape {
        pages: arguments.pages as usize,
        populated_run: arguments.populated as usize,
        fragmented_run: arguments.fragmented as usize,
        references: arguments.references.into(),
        seed: arguments.seed,
    };
    let ways = if arguments.way.is_empty() { &Way::ALL[..] } else { &arguments.way };
    let mutators = arguments.mutators.into();
    let batch = arguments.batch as usize;
    let mut outcomes = Vec::new();
    for &way in ways {
        let mover = Mover::new()?;
        let setup = Setup { shape, way, mutators, batch };
        outcomes.push(run(&mover, &setup).with_context(|| way.name())?);
    }
    print!("{}", report(&outcomes));
    Ok(())
}

/// One column for each way.
fn report(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(std::iter::once("").chain(outcomes.iter().map(|outcome| outcome.way.name())));
    let mut row = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
        table.add_row(std::iter::once(name.to_owned()).chain(outcomes.iter().map(cell)));
    };
    row("pages before", &|it| it.pages_before.to_string());
    row("pages after", &|it| it.pages_after.to_string());
    row("  whole", &|it| it.whole.to_string());
    row("  gathered", &|it| it.gathered.to_string());
    row("moved", &|it| it.moved.to_string());
    row("copied", &|it| it.copied.to_string());
    row("mremapped", &|it| match it.mappings_full {
        true => format!("{}, then ENOMEM", it.remapped),
        false => it.remapped.to_string(),
    });
    row("not movable, short, other", &|it| {
        format!("{}, {}, {}", it.not_movable, it.short, it.other_stops)
    });
    row("faults", &|it| it.faults.to_string());
    row("pages answered", &|it| it.answered.to_string());
    row("wall ms", &|it| milliseconds(it.wall));
    row("CPU ms: compactor", &|it| milliseconds(it.compactor_cpu));
    row("CPU ms: answerer", &|it| milliseconds(it.answerer_cpu));
    row("flip ms", &|it| milliseconds(it.pause));
    row("pages allocated (system)", &|it| {
        it.allocated.map_or_else(|| "not told".into(), |pages| pages.to_string())
    });
    row("minor faults", &|it| it.minor_faults.to_string());
    row("VMAs before, after", &|it| format!("{}, {}", it.vmas_before, it.vmas_after));
    row("mutators' walks", &|it| it.walks.to_string());
    row("mutators' writes", &|it| it.writes.to_string());
    row("objects verified", &|it| it.objects.to_string());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("OS pages of {} KiB. Every object was verified.\n{table}\n", page_size() >> 10)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}
