//! One look at a process, what has happened since the last, and how it went before.
//!
//! - **what memset would hold** = RSS + the pages of live large allocations that are not in place. Allocations of
//!   calloc's are left out: there, filling at allocation means to leave it to the kernel, too.
//! - **RSS in parts** = large allocations in place + the small blocks' spans, which is what else of the Region is
//!   in place and not cached + cached runs + pool + the rest of the process.
//! - **rates**: what was counted between two looks, by the time between them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::heap::{Heap, Look};
use super::process::{Process, Status, Trouble};
use super::residency::{Residency, Surveyor};

/// Looks that are remembered.
const REMEMBERED: usize = 512;

/// Bytes of a huge block.
const BLOCK: u64 = 2 << 20;

/// What was seen at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pub pid: i32,
    pub status: Status,
    pub look: Look,
    /// What is in place, and how long ago that was; or why that is not known.
    pub residency: Result<(Residency, Duration), String>,
    /// The program or library that the heap is in, and how many heaps there are.
    pub file: String,
    pub heaps: usize,
    /// Since the look before it.
    pub rates: Option<Rates>,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub faults_per_second: f64,
    pub large_per_second: f64,
    /// Of the large allocations made meanwhile; none if there were none.
    pub recycled_share: Option<f64>,
    /// Of one processor.
    pub handler_cpu_share: f64,
}

/// RSS by what it is for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub large: u64,
    pub small: u64,
    pub cached: u64,
    pub pool: u64,
    pub rest: u64,
}

impl Sample {
    fn bytes(&self, pages: u64) -> u64 {
        pages << self.look.values.page_shift
    }

    /// The name of the service; `none` before the heap has started.
    pub fn service(&self) -> &'static str {
        if self.look.has_started() { self.look.figures.service().as_str() } else { "none" }
    }

    pub fn large_live_bytes(&self) -> u64 {
        self.look.figures.counted.large_live_bytes
    }

    pub fn small_live_bytes(&self) -> u64 {
        self.look.figures.counted.small_bytes
    }

    /// Large allocations that are live.
    pub fn large_live(&self) -> u64 {
        let counted = self.look.figures.counted;
        counted.large_allocated.saturating_sub(counted.large_freed)
    }

    pub fn pool_bytes(&self) -> u64 {
        let figures = &self.look.figures;
        self.bytes(figures.pool_singles) + figures.counted.pool_blocks * BLOCK
    }

    pub fn cached_bytes(&self) -> u64 {
        self.bytes(self.look.figures.counted.cached_pages)
    }

    /// Bytes of live large allocations that memset would have filled and that are not in place.
    pub fn unfilled_bytes(&self) -> Option<u64> {
        let (residency, _) = self.residency.as_ref().ok()?;
        Some(self.bytes(residency.unfilled))
    }

    pub fn memset_bytes(&self) -> Option<u64> {
        Some(self.status.rss + self.unfilled_bytes()?)
    }

    /// Of the large allocations made so far, the share that reused a run in place.
    pub fn recycled_share(&self) -> Option<f64> {
        let counted = self.look.figures.counted;
        share(counted.large_recycled, counted.large_allocated)
    }

    pub fn parts(&self) -> Option<Parts> {
        let (residency, _) = self.residency.as_ref().ok()?;
        let [region, large] =
            [residency.present, residency.large_present].map(|pages| self.bytes(pages));
        let (cached, pool) = (self.cached_bytes(), self.pool_bytes());
        Some(Parts {
            large,
            small: region.saturating_sub(large + cached),
            cached,
            pool,
            rest: self.status.rss.saturating_sub(region + pool),
        })
    }

    fn rates_since(&self, before: &Sample) -> Option<Rates> {
        // By exec, it has become another program.
        if before.look.values != self.look.values {
            return None;
        }
        let seconds = (self.at - before.at).as_secs_f64();
        let (now, then) = (self.look.figures.counted, before.look.figures.counted);
        let made = now.large_allocated.saturating_sub(then.large_allocated);
        let recycled = now.large_recycled.saturating_sub(then.large_recycled);
        let per_second = |count: u64| count as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            faults_per_second: per_second(now.faults.saturating_sub(then.faults)),
            large_per_second: per_second(made),
            recycled_share: share(recycled, made),
            handler_cpu_share: per_second(now.handler_cpu_ns.saturating_sub(then.handler_cpu_ns))
                / 1e9,
        })
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part.min(whole) as f64 / whole as f64)
}

/// A process that is watched.
#[derive(Debug)]
pub struct Watched {
    pub process: Process,
    heap: Option<Heap>,
    surveyor: Surveyor,
    last: Option<Sample>,
}

impl Watched {
    pub fn new(process: Process) -> Self {
        Self { process, heap: None, surveyor: Surveyor::default(), last: None }
    }

    /// Looks at it now.
    pub fn look(&mut self) -> Result<Sample, Trouble> {
        let looked = self.try_look();
        // Whatever cannot be read of a process that has ended, that is why.
        if looked.is_err() && self.process.has_ended() { Err(Trouble::Ended) } else { looked }
    }

    fn try_look(&mut self) -> Result<Sample, Trouble> {
        let look = match &mut self.heap {
            Some(heap) => heap.look(&self.process)?,
            None => None,
        };
        let look = match look {
            Some(look) => look,
            None => {
                (self.heap, self.surveyor) = (None, Surveyor::default());
                let heap = self.heap.insert(Heap::find(&self.process)?);
                heap.look(&self.process)?.ok_or(Trouble::NotOn)?
            }
        };
        let status = self.process.status()?;
        let (values, counted) = (&look.values, &look.figures.counted);
        let swaps = status.swapped > 0;
        let residency = self.surveyor.ask(&self.process, values, counted, swaps);
        let residency = residency.map_err(|trouble| trouble.line(self.process.pid));
        let heap = self.heap.as_ref().ok_or(Trouble::NotOn)?;
        let mut sample = Sample {
            at: Instant::now(),
            pid: self.process.pid,
            status,
            look,
            residency,
            file: heap.file.clone(),
            heaps: heap.count,
            rates: None,
        };
        sample.rates = self.last.as_ref().and_then(|last| sample.rates_since(last));
        self.last = Some(sample.clone());
        Ok(sample)
    }
}

/// How it went: the newest last.
#[derive(Debug, Default)]
pub struct History {
    pub rss: VecDeque<u64>,
    pub memset: VecDeque<u64>,
    pub faults: VecDeque<u64>,
}

impl History {
    pub fn add(&mut self, sample: &Sample) {
        let faults = sample.rates.map_or(0, |rates| rates.faults_per_second.round() as u64);
        let memset = sample.memset_bytes().unwrap_or(sample.status.rss);
        for (row, value) in [
            (&mut self.rss, sample.status.rss),
            (&mut self.memset, memset),
            (&mut self.faults, faults),
        ] {
            row.push_back(value);
            if row.len() > REMEMBERED {
                row.pop_front();
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use refpage_alloc::beacon::{Figures, Values};

    /// A process that has 256 MiB in a large allocation, a quarter of it in place.
    pub fn sample() -> Sample {
        let mut figures = Figures::default();
        figures.counted.large_live_bytes = 256 << 20;
        figures.counted.small_bytes = 3 << 20;
        figures.counted.large_allocated = 1000;
        figures.counted.large_freed = 999;
        figures.counted.large_recycled = 930;
        figures.counted.cached_pages = 2560;
        figures.counted.pool_blocks = 2;
        figures.counted.faults = 12_345;
        figures.windows = [7, 0, 100, 1000, 0, 0, 20, 0, 3, 11];
        figures.fall_backs[6] = 4;
        figures.pool_singles = 256;
        let values = Values { born_ms: 5, page_shift: 12, ..Values::default() };
        let status = Status {
            command: "python3 a program with a long name.py".into(),
            rss: 120 << 20,
            peak_rss: 130 << 20,
            swapped: 0,
            threads: 4,
            children: Some(2),
        };
        let residency = Residency {
            present: (64 << 8) + 2560 + 1024,
            large: 256 << 8,
            large_present: 64 << 8,
            unfilled: 192 << 8,
        };
        Sample {
            at: Instant::now(),
            pid: 4711,
            status,
            look: Look { values, figures, reason: "as chosen".into() },
            residency: Ok((residency, Duration::ZERO)),
            file: "/usr/lib/librefpage.so".into(),
            heaps: 1,
            rates: None,
        }
    }

    #[test]
    fn what_memset_would_hold_is_more_by_what_is_not_in_place() {
        let sample = sample();
        assert_eq!(sample.unfilled_bytes(), Some(192 << 20));
        assert_eq!(sample.memset_bytes(), Some(312 << 20));
        let parts = sample.parts().expect("known");
        assert_eq!((parts.large, parts.small, parts.cached), (64 << 20, 4 << 20, 10 << 20));
        assert_eq!((parts.pool, parts.rest), (5 << 20, 37 << 20));
        let Parts { large, small, cached, pool, rest } = parts;
        assert_eq!(large + small + cached + pool + rest, sample.status.rss);
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks_of_one_program() {
        let before = sample();
        let mut now = before.clone();
        now.at = before.at + Duration::from_secs(2);
        now.look.figures.counted.faults += 100;
        now.look.figures.counted.large_allocated += 10;
        now.look.figures.counted.large_recycled += 5;
        now.look.figures.counted.handler_cpu_ns += 20_000_000;
        let rates = now.rates_since(&before).expect("the same program");
        assert_eq!((rates.faults_per_second, rates.large_per_second), (50.0, 5.0));
        assert_eq!((rates.recycled_share, rates.handler_cpu_share), (Some(0.5), 0.01));
        now.look.values.born_ms += 1;
        assert!(now.rates_since(&before).is_none());
    }
}
