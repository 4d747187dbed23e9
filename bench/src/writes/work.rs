//! The child: one pattern by one means, reported as JSON on stdout.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::means::{Absent, Means, Tell};
use super::space::Space;
use crate::measure::{nanoseconds, process_cpu};
use crate::memory::page_bytes;
use crate::seed;
use crate::traps::space::mappings;

/// How often everything is done, after the first time, which does not count.
const LAPS: u64 = 5;

/// Which pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// One in a hundred, anywhere.
    Sparse,
    /// One in ten, anywhere.
    Tenth,
    /// All, from the first to the last.
    All,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sparse, Self::Tenth, Self::All];

    /// The pages, as they are written in turn.
    fn order(self, pages: usize) -> Vec<usize> {
        let some = |share: usize| {
            let mut order = seed::random(1).permutation(pages);
            order.truncate((pages / share).max(1));
            order
        };
        match self {
            Self::Sparse => some(100),
            Self::Tenth => some(10),
            Self::All => (0..pages).collect(),
        }
    }
}

/// One measurement of a means to tell written pages
#[derive(clap::Args)]
pub struct Arguments {
    /// Which pages are written
    #[arg(long)]
    pattern: Pattern,
    /// How they are told
    #[arg(long)]
    means: Means,
    /// Size of the memory
    #[arg(long)]
    mib: usize,
    /// Seconds until this process gives up
    #[arg(long)]
    timeout: u32,
}

/// What the child reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// What came of it.
    Measured(Measured),
    /// Why this kernel has no such means.
    Absent(String),
}

/// What was measured: times are sums over all laps, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Pages of the memory.
    pub pages: usize,
    /// Pages that are written in each lap.
    pub written: usize,
    /// Laps of both kinds.
    pub laps: u64,
    /// To have no page count as written.
    pub reset_ns: u64,
    /// To write to the pages after that.
    pub first_ns: u64,
    /// To write to the same pages once more: nothing happens then.
    pub again_ns: u64,
    /// To find out which ones were written.
    pub look_ns: u64,
    /// The whole cycle, in laps of its own: writes, then to look and reset in the cheapest way.
    pub cycle_ns: u64,
    /// CPU time of that.
    pub cycle_cpu_ns: u64,
    /// Mappings of the process before the writes.
    pub vmas_start: u64,
    /// Mappings after them.
    pub vmas_most: u64,
    /// Pages that were told, each of them rightly, and none was missing.
    pub checked_pages: u64,
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    // SAFETY: alarm only sets a timer, whose signal ends this process.
    unsafe { libc::alarm(arguments.timeout) };
    let space = Space::map((arguments.mib << 20) / page_bytes())?;
    let report = match arguments.means.of(&space)? {
        Ok(tell) => Report::Measured(Laps::new(&space, tell, arguments.pattern).measure()?),
        Err(Absent(why)) => Report::Absent(why),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What is done again and again.
struct Laps<'s> {
    space: &'s Space,
    tell: Box<dyn Tell + 's>,
    order: Vec<usize>,
    expected: Vec<usize>,
    told: Vec<usize>,
    value: u64,
}

impl<'s> Laps<'s> {
    fn new(space: &'s Space, tell: Box<dyn Tell + 's>, pattern: Pattern) -> Self {
        let order = pattern.order(space.pages());
        let mut expected = order.clone();
        expected.sort_unstable();
        let told = Vec::with_capacity(space.pages());
        Self { space, tell, order, expected, told, value: 0 }
    }

    fn measure(mut self) -> Result<Measured> {
        let mut measured = Measured {
            pages: self.space.pages(),
            written: self.order.len(),
            laps: LAPS,
            ..Measured::default()
        };
        measured.vmas_start = mappings();
        self.apart(&mut Measured::default())?;
        measured.vmas_most = mappings();
        for _ in 0..LAPS {
            self.apart(&mut measured)?;
        }
        self.tell.reset()?;
        self.whole(&mut Measured::default())?;
        for _ in 0..LAPS {
            self.whole(&mut measured)?;
        }
        self.see_that_none_is_told()?;
        for page in &self.order {
            let value = self.space.word(*page).load(Relaxed);
            ensure!(value == self.value, "page {page} has not what was written there");
        }
        Ok(measured)
    }

    /// Each step by itself.
    fn apart(&mut self, measured: &mut Measured) -> Result<()> {
        let clock = Instant::now();
        self.tell.reset()?;
        add(&mut measured.reset_ns, clock.elapsed());
        for time in [&mut measured.first_ns, &mut measured.again_ns] {
            let clock = Instant::now();
            self.write();
            add(time, clock.elapsed());
        }
        self.told.clear();
        let clock = Instant::now();
        self.tell.look(&mut self.told)?;
        add(&mut measured.look_ns, clock.elapsed());
        measured.checked_pages += self.check()?;
        Ok(())
    }

    /// All of it, as it would be done.
    fn whole(&mut self, measured: &mut Measured) -> Result<()> {
        self.told.clear();
        let (clock, cpu) = (Instant::now(), process_cpu());
        self.write();
        self.tell.take(&mut self.told)?;
        add(&mut measured.cycle_cpu_ns, process_cpu() - cpu);
        add(&mut measured.cycle_ns, clock.elapsed());
        measured.checked_pages += self.check()?;
        Ok(())
    }

    fn write(&mut self) {
        self.value += 1;
        self.order.iter().for_each(|&page| self.space.word(page).store(self.value, Relaxed));
    }

    fn see_that_none_is_told(&mut self) -> Result<()> {
        self.told.clear();
        self.tell.look(&mut self.told)?;
        ensure!(self.told.is_empty(), "{} pages were told after a reset", self.told.len());
        Ok(())
    }

    /// Sees that just the written pages were told: how many.
    fn check(&self) -> Result<u64> {
        let (told, expected) = (&self.told, &self.expected);
        if told != expected {
            let wrong = told.iter().filter(|page| expected.binary_search(page).is_err()).count();
            let lost = expected.len() - (told.len() - wrong);
            anyhow::bail!("{wrong} pages were told wrongly, and {lost} were lost");
        }
        Ok(told.len() as u64)
    }
}

fn add(sum: &mut u64, time: Duration) {
    *sum += nanoseconds(time);
}
