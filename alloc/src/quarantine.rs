//! The quarantine: addresses of freed large runs, which stay out of use for a while.
//!
//! ```text
//!   freed ─▶ its pages move to fresh slots ─▶ those are cached for the next of its size
//!     └▶ the old addresses: missing, and guarded ─▶ first in, first out ─▶ free extents
//! ```
//!
//! What costs is the move: about as much as the program's own use of memory that is in the processor's caches;
//! a huge page's is nothing. So a part of the time is set aside for it, and what is freed beyond that is used
//! again where it is. A run in quarantine holds no memory but its record, and whole page tables are given
//! back where the kernel can.

use core::sync::atomic::Ordering::Relaxed;

use refpage::Service;
use refpage::sys::vm;

use crate::books::part_of;
use crate::cache::{Memory, RunCache};
use crate::extents::List;
use crate::faults;
use crate::options::{Options, ServiceChoice};
use crate::page_map::{Kind, PageMap, Run, SLOT};

/// Nanoseconds that may be saved up.
const PURSE: i64 = 5_000_000;

/// Bytes that the records of runs in quarantine may take in any case, and the share of the memory in use
/// that they may take besides. A record has an OS page to itself where runs are long.
const FEW_BYTES: usize = 64 << 10;
const BYTES_SHARE: usize = 100;

/// Slots whose page tables are not given back, or have markers, that may be there in any case; there may be
/// one besides for each page in memory, which its tables take less than a hundredth of.
const FEW_SLOTS: usize = (256 << 20) / SLOT;

/// Runs that leave at most for one that enters.
const EACH: usize = 4;

/// Pages of a run that are marked at most, where they have to be: half of them at either end.
const MARKED: usize = 1 << 16;

/// What is in quarantine.
#[derive(Debug)]
pub struct Quarantine {
    list: List,
    runs: usize,
    slots: usize,
    /// Those whose page tables stay.
    tabled: usize,
    /// Bytes that their records take.
    bytes: usize,
    /// Slots that may be there.
    budget: usize,
    /// Percent of the time.
    share: u8,
    /// Nanoseconds that may be spent, less than none if more were; and when that was.
    purse: i64,
    filled_ms: u64,
    /// Runs that there was no time for.
    skipped: usize,
}

impl Quarantine {
    /// Empty.
    pub fn new(map: &PageMap, options: &Options) -> Self {
        let budget = match options.service {
            ServiceChoice::Off => 0,
            // There, addresses are not cheap.
            _ if vm::reserving_costs() => 0,
            // The other runs need addresses, too.
            _ => (options.quarantine / SLOT).min(map.slots() / 4),
        };
        Self {
            list: List::EMPTY,
            runs: 0,
            slots: 0,
            tabled: 0,
            bytes: 0,
            budget,
            share: options.quarantine_share,
            purse: PURSE,
            filled_ms: 0,
            skipped: 0,
        }
    }

    /// Runs, slots, and runs that there was no time for.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.runs, self.slots, self.skipped)
    }

    /// Whether there is time for another run.
    fn has_time(&mut self) -> bool {
        let now = vm::now_ms();
        let passed = now.saturating_sub(self.filled_ms).min(1_000) as i64;
        self.filled_ms = now;
        // A percent of a millisecond.
        self.purse = (self.purse + passed * i64::from(self.share) * 10_000).min(PURSE);
        self.share == 100 || self.purse > 0
    }

    /// There is none: false.
    fn skip(&mut self) -> bool {
        self.skipped += 1;
        false
    }

    /// Whether it is larger than it may be.
    fn is_over(&self, memory: Memory<'_>) -> bool {
        let present = memory.engine.region().present().total();
        // There each piece of the addresses is a mapping.
        let more = if memory.engine.service() == Service::Cow { present / 16 } else { present };
        let held = present << memory.engine.region().page_shift();
        let limited = self.share < 100;
        self.slots > self.budget
            || (limited && self.bytes > FEW_BYTES + held / BYTES_SHARE)
            || (limited && self.tabled > FEW_SLOTS + more)
    }

    fn enter(&mut self, memory: Memory<'_>, head: usize) {
        let run = memory.map.run(head);
        self.list.push(memory.map, head);
        let slots = run.slots.load(Relaxed) as usize;
        self.runs += 1;
        self.slots += slots;
        self.bytes += record_bytes(slots);
        run.set_kind(Kind::Quarantined);
        let tabled = !gives_tables_back(memory, head);
        // Its guards are all of it now.
        run.guard.store(tabled.into(), Relaxed);
        if tabled {
            self.tabled += slots;
        } else {
            drop_tables(memory, head);
        }
    }

    /// The run that has been there longest.
    fn leave(&mut self, memory: Memory<'_>) -> Option<usize> {
        let head = self.list.oldest()?;
        let run = memory.map.run(head);
        self.list.remove(memory.map, head);
        let slots = run.slots.load(Relaxed) as usize;
        self.runs -= 1;
        self.slots -= slots;
        self.bytes -= record_bytes(slots);
        if run.guard.swap(0, Relaxed) > 0 {
            self.tabled -= slots;
        }
        run.set_kind(Kind::Moving);
        Some(head)
    }
}

impl RunCache {
    /// Keeps a run in hand for reuse whose present pages hold the content: a large allocation of `size` bytes
    /// until now. If there is time and room for it, elsewhere, and its addresses are put in quarantine.
    pub fn retire(&self, memory: Memory<'_>, head: usize, size: usize) {
        let run = memory.map.run(head);
        let admitted = {
            let mut quarantine = self.quarantine.lock();
            quarantine.budget >= run.slots.load(Relaxed) as usize
                && !memory.engine.has_tags()
                && (quarantine.has_time() || run.sampled.load(Relaxed) || quarantine.skip())
        };
        if !admitted {
            return self.keep(memory, head, Kind::Cached, Some(size));
        }
        let began = vm::now_ns();
        let successor = self.succeed(memory, head);
        run.freed.store(size, Relaxed);
        run.since.store(vm::now_ms(), Relaxed);
        seal(memory, head);
        let mut quarantine = self.quarantine.lock();
        quarantine.enter(memory, head);
        for _ in 0..EACH {
            if !quarantine.is_over(memory) {
                break;
            }
            let Some(oldest) = quarantine.leave(memory) else { break };
            self.let_go(memory, oldest);
        }
        quarantine.purse -= (vm::now_ns() - began) as i64;
        drop(quarantine);
        match successor {
            Some(head) => self.keep(memory, head, Kind::Cached, Some(size)),
            None => self.account(|usage| {
                usage.live_bytes -= size;
                usage.freed += 1;
            }),
        }
    }

    /// A run of the same length in hand that the pages have moved to, and what is known of how it is used.
    /// None where they cannot be moved: then they are gone.
    fn succeed(&self, memory: Memory<'_>, head: usize) -> Option<usize> {
        let (run, pages) = (memory.map.run(head), memory.pages(head));
        let engine = memory.engine;
        let found = if engine.can_relocate(pages) {
            let slots = run.slots.load(Relaxed) as usize;
            let block = memory.map.slot_of(engine.pages_per_block());
            let align = if head.is_multiple_of(block) && slots >= block { block } else { 1 };
            self.take_aligned(memory, slots, align, part_of(memory, head))
        } else {
            None
        };
        if let Some(next) = found {
            let (to, all) = (memory.map.run(next), memory.pages(next));
            engine.convert(all, run.holds());
            to.zeros.store(run.zeros.load(Relaxed), Relaxed);
            to.dirty.store(run.dirty.load(Relaxed), Relaxed);
            to.waste.store(run.waste.load(Relaxed), Relaxed);
            to.thinned.store(run.thinned.load(Relaxed), Relaxed);
            to.saved.store(run.saved.load(Relaxed), Relaxed);
            to.asked.store(run.asked.load(Relaxed), Relaxed);
            to.window.open(all, 0, 1);
            engine.relocate(all, pages);
        }
        engine.drop_pages(pages);
        found
    }

    /// Lets some of the runs go that have been in quarantine longest: how many.
    pub fn release_some(&self, memory: Memory<'_>) -> usize {
        const SOME: usize = 64;
        let mut quarantine = self.quarantine.lock();
        let mut done = 0;
        while done < SOME
            && let Some(head) = quarantine.leave(memory)
        {
            self.let_go(memory, head);
            done += 1;
        }
        done
    }

    fn let_go(&self, memory: Memory<'_>, head: usize) {
        // The run behind it may be in use: the last page is its guard, too.
        let pages = memory.pages(head);
        memory.engine.unguard(pages.prefix(pages.count - 1));
        self.extents(part_of(memory, head)).lock().free(memory.map, head);
    }
}

/// Bytes that the record of a run of so many slots keeps in memory.
fn record_bytes(slots: usize) -> usize {
    // And the record of a free extent behind it.
    (slots * size_of::<Run>()).min(2 * vm::page_size())
}

/// Guards all of a run in hand that has no pages any more.
fn seal(memory: Memory<'_>, head: usize) {
    let pages = memory.pages(head);
    if !memory.engine.refuses_at(pages.first) {
        faults::install();
    }
    if pages.count <= MARKED {
        memory.engine.guard(pages);
    } else {
        memory.engine.guard(pages.prefix(MARKED / 2));
        memory.engine.guard(pages.skip(pages.count - MARKED / 2));
    }
}

/// Whether the page tables of the run at `head` can be given back.
fn gives_tables_back(memory: Memory<'_>, head: usize) -> bool {
    memory.engine.gives_tables_back() && memory.engine.refuses_at(memory.pages(head).first)
}

/// Gives the page tables back that lie under the run at `head`, and under others in quarantine beside it: under
/// their lock, so that none of them leaves.
fn drop_tables(memory: Memory<'_>, head: usize) {
    let (engine, map) = (memory.engine, memory.map);
    let block = map.slot_of(engine.pages_per_block());
    let end = head + map.run(head).slots.load(Relaxed) as usize;
    let (before, behind) = (head / block * block, end.next_multiple_of(block));
    let first = if is_quarantined(map, before, head) { before } else { head };
    let last = if is_quarantined(map, end, behind) { behind } else { end };
    engine.drop_tables(map.pages(first, last - first));
}

/// Whether all slots from `first` to `end` are.
fn is_quarantined(map: &PageMap, first: usize, end: usize) -> bool {
    let mut slot = first;
    while slot < end {
        let Some(head) = map.head(slot).filter(|&head| map.run(head).kind() == Kind::Quarantined)
        else {
            return false;
        };
        let behind = head + map.run(head).slots.load(Relaxed) as usize;
        if behind <= slot {
            return false;
        }
        slot = behind;
    }
    true
}
