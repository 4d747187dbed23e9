//! `refpage measure`: the demonstration's child, one process per measurement.
//!
//! The reference-page patch's microbenchmark: allocations of 4,096,000 bytes, of which one OS page,
//! the first half of the pages, or all are touched by one write each, then freed. Two uses, because
//! each hides what the other shows:
//!
//! - **recycled**: each allocation is freed before the next one. Costs of a first touch appear once.
//! - **fresh**: all stay live until the end, so every page is touched for the first time.
//!
//! What is inside the timed part: malloc, the touches, free. Outside: one block that stays allocated
//! throughout, which makes the service set itself up, and the checks, in front of which the clock is
//! stopped. The main thread's CPU time of the checks is reported, so that the parent can take it off.
//!
//! **The checks.** A timed run reads only pages that it touched, since reading an untouched page
//! would make it present: every byte of them in the first and the last block that is still live,
//! one byte in [`STRIDE`] of the others. With `--verify` nothing is timed, and every block is read
//! before it is freed, untouched pages too (first and last block entirely, the others by the
//! stride); then its touched part is overwritten, so that what is recycled is dirty. Under the
//! service `off` nothing is checked.

use crate::failure::{Failure, print};
use crate::flags::OWN_VARIABLE;
use crate::machine::Service;
use clap::ValueEnum;
use refpage_alloc::options::{Options, Pattern, ServiceChoice};
use rustix::time::{ClockId, clock_gettime};
use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// The patch's allocation size: a thousand pages of 4,000 bytes would fit, 1,000 OS pages of 4 KiB do.
pub const SIZE: usize = 4_096_000;
/// Sampled checks read one byte in this many: prime, so that the position in the page wanders.
const STRIDE: usize = 509;

/// How much of an allocation is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Touch {
    /// The first OS page.
    One,
    /// The first half of the pages.
    Half,
    /// Every page.
    All,
}

impl Touch {
    /// The bytes of the prefix that is touched.
    fn bytes(self, os_page: usize) -> usize {
        match self {
            Self::One => os_page.min(SIZE),
            Self::Half => SIZE / 2,
            Self::All => SIZE,
        }
    }
}

/// What becomes of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Use {
    /// It is freed before the next.
    Recycled,
    /// It stays live until all are made.
    Fresh,
}

/// One measurement of the demonstration
#[derive(clap::Args)]
pub struct Arguments {
    /// How much of each allocation is touched
    #[arg(long)]
    touch: Touch,
    /// What becomes of an allocation
    #[arg(long = "use")]
    usage: Use,
    /// How many allocations; 0 measures the start alone
    #[arg(long)]
    iterations: usize,
    /// Check everything instead of timing
    #[arg(long)]
    verify: bool,
}

/// What a child reports, one `name value` per line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// Wall time of the timed part, in nanoseconds.
    pub elapsed_ns: u64,
    /// Main thread's CPU time of the checks, in nanoseconds.
    pub check_cpu_ns: u64,
    /// Peak resident set before the checks (VmHWM), in KiB.
    pub peak_rss_kib: u64,
    /// How many bytes were compared.
    pub checked_bytes: u64,
    /// The service that was taken.
    pub service: Service,
}

impl Measurement {
    fn to_text(&self) -> String {
        let Self { elapsed_ns, check_cpu_ns, peak_rss_kib, checked_bytes, service } = self;
        let Service { name, reason, guards } = service;
        format!(
            "elapsed_ns {elapsed_ns}\ncheck_cpu_ns {check_cpu_ns}\npeak_rss_kib {peak_rss_kib}\n\
             checked_bytes {checked_bytes}\nservice {name}\nreason {reason}\nguards {guards}\n"
        )
    }

    /// Reads what [`to_text`](Self::to_text) wrote; `None` if a number is missing.
    pub fn from_text(text: &str) -> Option<Self> {
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = |name: &str| field(name)?.parse().ok();
        Some(Self {
            elapsed_ns: number("elapsed_ns")?,
            check_cpu_ns: number("check_cpu_ns")?,
            peak_rss_kib: number("peak_rss_kib")?,
            checked_bytes: number("checked_bytes")?,
            service: Service {
                name: field("service")?.to_owned(),
                reason: field("reason")?.to_owned(),
                guards: field("guards")?.to_owned(),
            },
        })
    }
}

/// Measures, checks and reports.
pub fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let mut options = Options::new();
    if let Some(text) = std::env::var_os(OWN_VARIABLE) {
        options.apply(text.as_bytes(), &mut |_| {});
    }
    let mut run = Run {
        os_page: rustix::param::page_size(),
        pattern: options.pattern,
        touched: arguments.touch.bytes(rustix::param::page_size()),
        checked: options.service != ServiceChoice::Off,
        verify: arguments.verify,
        report: Measurement::default(),
        elapsed: Duration::ZERO,
    };
    let mut warm_up = Block::new()?;
    run.touch_first_page(&mut warm_up);
    match arguments.usage {
        Use::Recycled => run.recycled(arguments.iterations)?,
        Use::Fresh => run.fresh(arguments.iterations)?,
    }
    drop(warm_up);
    run.report.elapsed_ns = run.elapsed.as_nanos().try_into().unwrap_or(u64::MAX);
    run.report.service = Service::of_this_process();
    print(&run.report.to_text())
}

/// One allocation.
struct Block(*mut u8);

impl Block {
    const LAYOUT: Layout = match Layout::from_size_align(SIZE, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("not a layout"),
    };

    fn new() -> Result<Self, Failure> {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(Self::LAYOUT) };
        if start.is_null() {
            return Err(Failure::new("out of memory"));
        }
        // So that the compiler cannot know that the memory is new, and drop reads or writes of it.
        Ok(Self(black_box(start)))
    }

    fn write(&mut self, at: usize, byte: u8) {
        assert!(at < SIZE);
        // SAFETY: `at` is inside the block, which this owns.
        unsafe { self.0.add(at).write_volatile(byte) }
    }

    fn read(&self, at: usize) -> u8 {
        assert!(at < SIZE);
        // SAFETY: `at` is inside the block, which this owns. Its bytes are initialised: the allocator
        // under test promises that, and black_box hides their origin from the compiler.
        unsafe { self.0.add(at).read_volatile() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block came from `alloc` with this layout and is freed once.
        unsafe { dealloc(self.0, Self::LAYOUT) }
    }
}

/// The state of one measurement.
struct Run {
    os_page: usize,
    pattern: Pattern,
    touched: usize,
    checked: bool,
    verify: bool,
    report: Measurement,
    elapsed: Duration,
}

impl Run {
    fn recycled(&mut self, iterations: usize) -> Result<(), Failure> {
        if self.verify {
            for number in 0..iterations {
                let mut block = Block::new()?;
                self.touch(&mut block);
                self.check(&block, number, number == 0 || number + 1 == iterations)?;
                self.scribble(&mut block);
            }
            return self.stop_for_checks(|_| Ok(()));
        }
        let start = Instant::now();
        let mut last = None;
        for number in 0..iterations {
            let mut block = Block::new()?;
            self.touch(&mut block);
            if number + 1 == iterations {
                last = Some(block);
            }
        }
        self.elapsed += start.elapsed();
        self.stop_for_checks(|run| {
            last.iter().try_for_each(|block| run.check(block, iterations - 1, true))
        })?;
        let start = Instant::now();
        drop(last);
        self.elapsed += start.elapsed();
        Ok(())
    }

    fn fresh(&mut self, iterations: usize) -> Result<(), Failure> {
        let mut blocks = Vec::with_capacity(iterations);
        let start = Instant::now();
        for _ in 0..iterations {
            let mut block = Block::new()?;
            self.touch(&mut block);
            blocks.push(block);
        }
        self.elapsed += start.elapsed();
        self.stop_for_checks(|run| {
            let mut numbered = blocks.iter().enumerate();
            numbered.try_for_each(|(number, block)| {
                run.check(block, number, number == 0 || number + 1 == iterations)
            })
        })?;
        let start = Instant::now();
        // The vector's own memory goes with the blocks: one small free.
        drop(blocks);
        self.elapsed += start.elapsed();
        Ok(())
    }

    /// One write per touched OS page.
    fn touch(&self, block: &mut Block) {
        for at in (0..self.touched).step_by(self.os_page) {
            block.write(at, !self.pattern.byte_at(at));
        }
    }

    fn touch_first_page(&self, block: &mut Block) {
        block.write(0, !self.pattern.byte_at(0));
    }

    /// Overwrites the touched part, as a program would.
    fn scribble(&self, block: &mut Block) {
        (0..self.touched).for_each(|at| block.write(at, !self.pattern.byte_at(at)));
    }

    /// Takes the peak of the memory, then runs `checks` with their CPU time noted.
    fn stop_for_checks(
        &mut self,
        checks: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let start = thread_cpu_ns();
        self.report.peak_rss_kib = peak_rss_kib()?;
        let outcome = checks(self);
        self.report.check_cpu_ns += thread_cpu_ns() - start;
        outcome
    }

    /// Compares a block's bytes with what they must be: every byte, or one in [`STRIDE`].
    fn check(&mut self, block: &Block, number: usize, entirely: bool) -> Result<(), Failure> {
        if !self.checked {
            return Ok(());
        }
        let end = if self.verify { SIZE } else { self.touched };
        for at in (0..end).step_by(if entirely { 1 } else { STRIDE }) {
            let written = at < self.touched && at.is_multiple_of(self.os_page);
            // Blocks are aligned to 16: the pattern begins where they do.
            let untouched = self.pattern.byte_at(at);
            let expected = if written { !untouched } else { untouched };
            let found = block.read(at);
            if found != expected {
                return Err(Failure::new(format!(
                    "pattern check failed: byte {at} of allocation {number} reads {found:#04x} instead of {expected:#04x}"
                )));
            }
            self.report.checked_bytes += 1;
        }
        Ok(())
    }
}

/// The calling thread's CPU time.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// This process's peak resident set. `ru_maxrss` would not do: it survives exec, so a child starts
/// with its parent's.
fn peak_rss_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    value
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| Failure::new("no VmHWM in /proc/self/status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = Measurement {
            elapsed_ns: 1,
            check_cpu_ns: 2,
            peak_rss_kib: 3,
            checked_bytes: 4,
            service: Service {
                name: "memset".into(),
                reason: "why not".into(),
                guards: "none".into(),
            },
        };
        assert_eq!(Measurement::from_text(&report.to_text()), Some(report));
        assert_eq!(Measurement::from_text("elapsed_ns 1\n"), None);
    }

    #[test]
    fn half_is_the_first_half_and_one_is_one_os_page() {
        assert_eq!(Touch::One.bytes(4096), 4096);
        assert_eq!(Touch::Half.bytes(4096), SIZE / 2);
        assert_eq!(Touch::All.bytes(65536), SIZE);
    }

    #[test]
    fn a_wrong_byte_is_found_touched_or_not() {
        let mut run = Run {
            os_page: 4096,
            pattern: Pattern::byte(0xaa),
            touched: 8192,
            checked: true,
            verify: true,
            report: Measurement::default(),
            elapsed: Duration::ZERO,
        };
        let mut block = Block::new().unwrap();
        run.touch(&mut block);
        assert!(run.check(&block, 0, true).is_ok());
        assert_eq!(run.report.checked_bytes, SIZE as u64);
        for at in [1, 4096, SIZE - 1] {
            block.write(at, 0);
            let line = run.check(&block, 7, true).unwrap_err().line;
            let expected = if at == 4096 { "0x55" } else { "0xaa" };
            let part = format!("byte {at} of allocation 7 reads 0x00 instead of {expected}");
            assert!(line.contains(&part), "{line}");
            block.write(at, if at == 4096 { 0x55 } else { 0xaa });
        }
    }
}
