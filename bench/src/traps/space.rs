//! The address space while a case runs: how many mappings, how large the page tables.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::measure::{Cost, field, nanoseconds, thread_cpu};

/// What the looks at the address space saw, all with the same number of live blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Mappings (lines of /proc/self/maps) when the measured part begins.
    pub vmas_start: u64,
    /// The most.
    pub vmas_most: u64,
    /// When it ends.
    pub vmas_end: u64,
    /// The most page tables (VmPTE), in KiB.
    pub page_tables_kib: u64,
    /// How many pages the measured part wrote to.
    pub touched_pages: u64,
}

/// Looks at the address space now and then, and keeps account of what the looks cost.
pub struct Watch {
    space: Space,
    wall: Duration,
    cpu: Duration,
}

impl Watch {
    /// The first look.
    pub fn start() -> Self {
        let vmas = mappings();
        let space = Space {
            vmas_start: vmas,
            vmas_most: vmas,
            vmas_end: vmas,
            page_tables_kib: page_tables_kib(),
            touched_pages: 0,
        };
        Self { space, wall: Duration::ZERO, cpu: Duration::ZERO }
    }

    /// Another one, in the measured part.
    pub fn look(&mut self) {
        let (wall, cpu) = (Instant::now(), thread_cpu());
        let space = &mut self.space;
        space.vmas_end = mappings();
        space.vmas_most = space.vmas_most.max(space.vmas_end);
        space.page_tables_kib = space.page_tables_kib.max(page_tables_kib());
        self.cpu += thread_cpu() - cpu;
        self.wall += wall.elapsed();
    }

    /// What was seen, and what the measured part cost without the looks.
    pub fn settle(self, mut cost: Cost, touched_pages: u64) -> (Cost, Space) {
        // Of this thread alone: what others did meanwhile is the allocator's.
        cost.cpu_ns = cost.cpu_ns.saturating_sub(nanoseconds(self.cpu));
        cost.wall_ns = cost.wall_ns.saturating_sub(nanoseconds(self.wall));
        (cost, Space { touched_pages, ..self.space })
    }
}

impl Space {
    /// How many mappings more there were at some time than at the start.
    pub fn growth(&self) -> u64 {
        self.vmas_most - self.vmas_start
    }
}

/// Lines of /proc/self/maps, counted without allocating: the heap here is the one under test.
pub fn mappings() -> u64 {
    let mut file = File::open("/proc/self/maps").expect("/proc is mounted");
    let mut text = [0; 16 << 10];
    let mut lines = 0;
    loop {
        let length = file.read(&mut text).expect("/proc/self/maps is readable");
        if length == 0 {
            return lines;
        }
        lines += text[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
}

fn page_tables_kib() -> u64 {
    let mut text = [0; 4096];
    let mut file = File::open("/proc/self/status").expect("/proc is mounted");
    let length = file.read(&mut text).expect("/proc/self/status is readable");
    field(&text[..length], b"VmPTE:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Meter;
    use crate::memory::{Baseline, Block, Mapped, page_bytes};

    #[test]
    fn mappings_that_were_made_meanwhile_are_seen_and_those_that_are_gone_remembered() {
        let memory = Mapped::new(Baseline::Guarded);
        let meter = Meter::start();
        let mut watch = Watch::start();
        let blocks: Vec<Block> = (0..100).map(|_| Block::new(&memory, page_bytes())).collect();
        watch.look();
        drop(blocks);
        watch.look();
        let (cost, space) = watch.settle(meter.stop(), 7);
        // Guards of neighbours are one mapping; other tests of this process map and unmap besides.
        assert!(space.growth() > 100, "{space:?}");
        assert!(space.vmas_end < space.vmas_start + 100, "{space:?}");
        assert!(space.page_tables_kib > 0 && space.touched_pages == 7, "{space:?}");
        assert!(cost.wall_ns > 0);
    }
}
