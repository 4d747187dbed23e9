//! Guards of large runs: where they lie, and which accesses they end.
//!
//! ```text
//!   slots   | run ............................. | run ........
//!   pages   [ used by the allocation ][x]    [x][ used ...        x: a guard
//!                                      │      └ the last page of every run: the next one begins behind it
//!                                      └ behind the pages of the bytes that were asked for
//! ```
//!
//! Where the fault handler serves the pages, a guard is a page that is missing, and costs nothing: touched, it
//! is refused, as all is that belongs to nobody. Elsewhere it is a marker in the page table, put there
//! when a run gets its slots, and moved when it is used for another length.

use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::uffd::Fault;
use refpage::sys::vm;
use refpage::{Fresh, Pages, Pattern};

use crate::cache::Memory;
use crate::classes::GRANULE;
use crate::faults;
use crate::heap::Heap;
use crate::misuse;
use crate::options::{GuardsChoice, Options, ServiceChoice};
use crate::page_map::Kind;
use crate::report;
use crate::tags;

/// Where an allocation lies between its guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// From the beginning of a page on; the guard is behind the last page, or the pages that the run has
    /// from a former user.
    Left,
    /// To the end of a page, and the guard is the next one.
    Right,
}

/// Which guards runs have.
#[derive(Clone, Copy, Debug)]
pub struct Guards(GuardsChoice);

impl Guards {
    /// As the options say. Sampled allocations have them in any case; with `off` there is nobody to
    /// know which pages are whose, and memory that has tags needs none.
    pub fn new(options: &Options) -> Self {
        Self(match options.guards {
            _ if options.service == ServiceChoice::Off || tags::on() => GuardsChoice::Off,
            GuardsChoice::Off if options.sample > 0 => GuardsChoice::On,
            choice => choice,
        })
    }

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.0 != GuardsChoice::Off
    }

    /// Where a large allocation lies.
    pub fn placement(self) -> Placement {
        match self.0 {
            GuardsChoice::Right => Placement::Right,
            _ => Placement::Left,
        }
    }

    /// Bytes of the run that `size` bytes need.
    pub fn with_room(self, size: usize) -> Option<usize> {
        size.checked_add(if self.any() { vm::page_size() } else { 0 })
    }
}

/// Bytes before an allocation of `size` bytes in its first page. Tags end where it does anyway.
pub fn offset(memory: Memory<'_>, size: usize, align: usize, placement: Placement) -> usize {
    if placement == Placement::Left || memory.engine.has_tags() {
        return 0;
    }
    let spare = size.max(1).next_multiple_of(vm::page_size()) - size.max(1);
    spare / align.max(GRANULE) * align.max(GRANULE)
}

/// Guards the ends of a run that has just got its slots, under the lock of those.
pub fn fence(memory: Memory<'_>, head: usize) {
    let pages = memory.pages(head);
    memory.engine.admit(pages);
    // Also of a time when the handler did not serve them.
    memory.engine.unguard(pages);
    if !memory.cache.guards.any() || memory.engine.refuses_at(pages.first) {
        return;
    }
    memory.engine.guard(pages.skip(pages.count - 1));
    // What is used there has its own.
    let region = memory.engine.region();
    let before = Pages { first: pages.first - 1, count: 1 };
    let part = |page| region.in_zero_part(page);
    if part(before.first) == part(pages.first) && is_free(memory, head - 1) {
        memory.engine.guard(before);
    }
}

/// Whether the slot belongs to no run: of a free extent's last one it is known.
fn is_free(memory: Memory<'_>, slot: usize) -> bool {
    memory.map.head(slot).is_none_or(|head| memory.map.run(head).kind() == Kind::Free)
}

/// The run at `head`, in hand, was cut, or has grown from `old` pages: guards its new end.
pub fn fence_end(memory: Memory<'_>, head: usize, old: Pages) {
    let pages = memory.pages(head);
    if pages.count > old.count {
        let added = Pages::span(old.end() - 1, pages.end());
        memory.engine.admit(added);
        memory.engine.unguard(added);
    }
    if memory.cache.guards.any() {
        close(memory, head, pages.skip(pages.count - 1));
    }
}

/// The run at `head`, in hand, has no guard but at its end.
pub fn forget(memory: Memory<'_>, head: usize) {
    let at = memory.map.run(head).guard.swap(0, Relaxed) as usize;
    if at > 0 {
        memory.engine.unguard(Pages { first: memory.pages(head).first + at, count: 1 });
    }
}

/// Guards the run at `head`, in hand, behind its first `used` pages, which the others hold the content of:
/// exactly there, or where there is a guard already further behind.
pub fn place(memory: Memory<'_>, head: usize, used: usize, placement: Placement) {
    if !memory.cache.guards.any() {
        return;
    }
    let (run, pages) = (memory.map.run(head), memory.pages(head));
    memory.engine.admit(pages.prefix(used));
    let exact = placement == Placement::Right;
    let at = pages.skip(used).prefix(1);
    if memory.engine.refuses_at(pages.first) {
        if exact {
            close(memory, head, at);
        }
        return;
    }
    faults::install();
    let last = pages.count - 1;
    let old = match run.guard.load(Relaxed) as usize {
        0 => last,
        old => old,
    };
    if old == used || (old > used && !exact && old != last) {
        return;
    }
    if old != last {
        memory.engine.unguard(pages.skip(old).prefix(1));
    }
    if used != last {
        memory.engine.guard(at);
    }
    run.guard.store(if used == last { 0 } else { used as u32 }, Relaxed);
}

/// Makes guards of pages of the run at `head`, in hand.
fn close(memory: Memory<'_>, head: usize, pages: Pages) {
    if !memory.engine.refuses_at(pages.first) {
        memory.engine.guard(pages);
    } else if memory.engine.region().present().count(pages) > 0 {
        memory.give_up(head, pages);
    }
}

/// Ends the process if anything was written beside the allocation that the run at `head` was, in the first
/// or last of its pages. Both hold the content there, or one of them zeros, if calloc had them.
pub fn check_edges(memory: Memory<'_>, head: usize) {
    let Some(content) = memory.engine.content().pattern() else { return };
    if !memory.cache.guards.any() {
        return;
    }
    let run = memory.map.run(head);
    let (start, size) = (memory.start(head) as usize, run.size.load(Relaxed));
    let used = memory.used(head);
    let region = memory.engine.region();
    let (first, end) = (region.address(used.first) as usize, region.address(used.end()) as usize);
    for (from, to, page) in [(first, start, used.first), (start + size, end, used.end() - 1)] {
        if from == to || !region.present().get(page) {
            continue;
        }
        // SAFETY: bytes of a page that is present, initialised, and of a run in hand.
        let bytes = unsafe { core::slice::from_raw_parts(from as *const u8, to - from) };
        let Some(at) = content.find_other(bytes) else { continue };
        let zeroed = match run.holds() {
            Fresh::Zero => Pattern::ZERO.find_other(bytes),
            Fresh::Content => Some(at),
        };
        if let Some(at) = zeroed {
            let byte = (from + at) as isize - start as isize;
            misuse::written_beside(start as *const u8, size, byte);
        }
    }
}

/// Ends the process if anything was written to the present pages of the run at `head`, which was free until
/// now.
pub fn check_free(memory: Memory<'_>, head: usize) {
    let run = memory.map.run(head);
    let pattern = match (memory.engine.content().pattern(), run.holds()) {
        (None, _) => return,
        (Some(_), Fresh::Zero) => Pattern::ZERO,
        (Some(pattern), Fresh::Content) => pattern,
    };
    let region = memory.engine.region();
    for stretch in region.present().stretches(memory.pages(head), true) {
        let start = region.address(stretch.first);
        // SAFETY: present pages, initialised, of a run in hand.
        let bytes =
            unsafe { core::slice::from_raw_parts(start, stretch.count << region.page_shift()) };
        if let Some(at) = pattern.find_other(bytes) {
            let byte = start as usize + at - memory.start(head) as usize;
            misuse::written_when_free(memory.start(head), run.freed.load(Relaxed), byte);
        }
    }
}

/// Whether the fault handler is to refuse the page to who touched it; then it is told.
pub fn refuses(heap: &Heap, page: usize, fault: Fault) -> bool {
    let refused = is_nobodys(heap.memory(), page);
    if refused {
        report::of_fault(heap, fault);
    }
    refused
}

/// Whether a page belongs to nothing that is in use. Without guards, only what is in quarantine does not.
pub fn is_nobodys(memory: Memory<'_>, page: usize) -> bool {
    let guards = memory.cache.guards.any();
    let Some(head) = memory.map.head(memory.map.slot_of(page)) else { return guards };
    let (run, pages) = (memory.map.run(head), memory.pages(head));
    match run.kind() {
        Kind::Quarantined => guards || pages.contains(page),
        _ if !guards => false,
        Kind::Large => page >= memory.used(head).end(),
        Kind::Arena => page + 1 == pages.end(),
        Kind::Cached | Kind::Free | Kind::None => true,
        // Those whose threads may touch them.
        Kind::Moving | Kind::Span | Kind::EmptySpan | Kind::BareSpan => false,
    }
}
