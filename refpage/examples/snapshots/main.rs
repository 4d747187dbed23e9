//! Incremental snapshots of a key-value heap that threads go on writing to.
//!
//! ```text
//!     cargo run --release -p refpage --example snapshots              a heap of 32 MiB
//!     cargo run --release -p refpage --example snapshots -- 256       of 256 MiB
//! ```
//!
//! The writers stop for as long as it takes to ask the kernel which pages were written since the last snapshot, and to copy
//! those. Each snapshot is appended to a file; the file is restored into other memory and compared with the heap, byte by byte
//! and key by key. Exit code 1: something differs. 3: the kernel cannot tell written pages (Linux 6.7).
//!
//! ```text
//!     writers ─▶ live ─▶ store ─▶ memory ◀─ restore ─┐
//!                  └──── written pages ─▶ chain ─▶ file
//! ```

mod chain;
mod live;
mod memory;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use refpage::WriteWatch;

use chain::{Chain, Pages};
use live::{Live, Taken, check_refusals};

/// Shares of the pages that are written between two snapshots.
const SHARES: [f64; 3] = [0.01, 0.1, 1.0];
/// Snapshots with each.
const EACH: usize = 3;
const WRITERS: u64 = 2;

fn main() -> ExitCode {
    let mebibytes: usize = match std::env::args().nth(1).map(|text| text.parse()) {
        None => 32,
        Some(Ok(number @ 1..=65536)) => number,
        Some(_) => {
            eprintln!("snapshots [MiB of the heap]");
            return ExitCode::from(2);
        }
    };
    let watch = match WriteWatch::new() {
        Ok(watch) => watch,
        Err(why) => {
            eprintln!("written pages cannot be told here: {why}");
            return ExitCode::from(3);
        }
    };
    let file = TemporaryFile::new();
    match run(watch, mebibytes << 20, &file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(watch: WriteWatch<'static>, bytes: usize, file: &TemporaryFile) -> Result<(), String> {
    let live = Live::create(watch, bytes)?;
    let mut chain = Chain::create(&file.0, live.len()).map_err(|error| error.to_string())?;
    let mut pages = Pages::with_room_for(live.len());
    println!(
        "{:>7} │ {:^38} │ {:^23} │",
        "", "snapshot of what was written", "a full copy instead"
    );
    println!(
        "{:>7} │ {:>9} {:>7} {:>9} {:>10} │ {:>9} {:>13} │ {:>13}",
        "goal", "pages", "share", "KiB", "pause µs", "KiB", "pause µs", "keys compared"
    );
    let goals = SHARES.iter().flat_map(|&share| [share; EACH]);
    for share in [0.0].into_iter().chain(goals) {
        let (taken, copy) = live.while_written(WRITERS, || live.snapshot(share, &mut pages))?;
        let file_bytes = chain.append(&pages).map_err(|error| error.to_string())?;
        copy.check(&file.0)?;
        print(share, taken, file_bytes);
    }
    println!(
        "Each was restored with those before it: the heap again, byte by byte and key by key."
    );
    println!("Refused:");
    check_refusals(&file.0, live.len())?.iter().for_each(|refusal| println!("  {refusal}"));
    Ok(())
}

fn print(share: f64, taken: Taken, file_bytes: usize) {
    let goal = match share {
        0.0 => "full".into(),
        share => format!("{:.0} %", 100.0 * share),
    };
    let kib = |bytes: usize| bytes >> 10;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{goal:>7} │ {:>9} {:>5.1} % {:>9} {:>10.0} │ {:>9} {:>13.0} │ {:>13}",
        taken.written / refpage::sys::vm::page_size(),
        100.0 * taken.written as f64 / taken.full as f64,
        kib(file_bytes),
        micros(taken.pause),
        kib(taken.full),
        micros(taken.full_pause),
        taken.pairs,
    );
}

/// A file that goes with the process.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new() -> Self {
        let name = format!("refpage-snapshots-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
