//! First touch, in order, when each fault is answered with a window of so many pages.
//!
//! The allocator chooses its windows by what a program does; here the engine is asked directly, with runs that are as
//! long as a window and expected to be used whole.

use anyhow::{Result, anyhow, ensure};
use refpage::{Config, Engine, Pages, Pattern, Region, RunWindow, Runs, Service};

use crate::cases::{Outcome, Scale};
use crate::measure::Meter;
use crate::memory::PATTERN;

/// The alignment of the Region: that of a huge page.
const ALIGNMENT: usize = 2 << 20;

/// Runs of equal length, one behind the other.
struct Equal {
    pages: usize,
    windows: Vec<RunWindow>,
}

impl Runs for Equal {
    fn run_at(&self, page: usize) -> Option<&RunWindow> {
        self.windows.get(page / self.pages)
    }

    fn purge(&self, _: u64) -> Option<u64> {
        None
    }
}

/// Touches every page of fresh memory in windows of `window` pages, and checks that each held the pattern.
pub fn measure(window: usize, scale: Scale) -> Result<Outcome> {
    let reserved = Region::reserve(scale.pick(256, 64, 4) << 20, ALIGNMENT);
    let region = reserved.map_err(|error| anyhow!("no address space for a Region: {error}"))?;
    let page_bytes = 1usize << region.page_shift();
    let count = region.len() / page_bytes / window;
    let windows = (0..count).map(|_| RunWindow::default()).collect();
    let runs: &'static Equal = Box::leak(Box::new(Equal { pages: window, windows }));
    let pattern = Pattern::byte(PATTERN);
    let config = Config { service: Some(Service::Lazy), pattern, pool: 16 << 20, pool_low: 0 };
    let engine =
        Engine::new(region, &config, runs).map_err(|error| anyhow!("no engine: {error}"))?;
    let engine: &'static Engine = Box::leak(Box::new(engine));
    engine.launch();
    ensure!(engine.wake(), "no fault handler: {}", engine.reasons());
    let pages = count * window;
    for (number, run) in runs.windows.iter().enumerate() {
        run.open(Pages { first: number * window, count: window }, 0, window);
    }
    engine.provide(Pages { first: 0, count: pages });
    let meter = Meter::start();
    let mut wrong = 0;
    for page in 0..pages {
        let start = engine.region().address(page);
        // SAFETY: the page lies in the Region, and this thread is its only user.
        unsafe {
            wrong += usize::from(start.add(page_bytes - 1).read_volatile() != PATTERN);
            start.write_volatile(1);
        }
    }
    let cost = meter.stop();
    ensure!(wrong == 0, "wrong content: {wrong} of {pages} pages did not end with {PATTERN:#04x}");
    let faults = engine.counters().faults.get();
    // A huge page at a time runs ahead, and then fewer faults are needed; more are never.
    ensure!(faults <= count as u64, "{faults} faults for {count} windows of {window} pages");
    Ok(Outcome { cost, operations: pages, checked_bytes: pages as u64 })
}
