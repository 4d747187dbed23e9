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

use refpage::Pages;
use refpage::sys::uffd::Fault;

use crate::cache::Memory;
use crate::heap::Heap;
use crate::options::GuardsChoice;
use crate::page_map::Kind;
use crate::report;

/// Whether the fault handler is to refuse the page to who touched it; then it is told.
pub fn refuses(heap: &Heap, page: usize, fault: Fault) -> bool {
    let refused = is_nobodys(heap.memory(), page, heap.options.guards != GuardsChoice::Off);
    if refused {
        report::of_fault(heap, fault);
    }
    refused
}

/// Whether a page belongs to nothing that is in use. Without guards, only what is in quarantine does not.
pub fn is_nobodys(memory: Memory<'_>, page: usize, guards: bool) -> bool {
    let slot = memory.map.slot_of(page);
    let Some(head) = memory.map.head(slot) else { return guards };
    let run = memory.map.run(head);
    let pages = memory.pages(head);
    match run.kind() {
        Kind::Quarantined => pages.contains(page) || guards,
        _ if !guards => false,
        Kind::Large => page >= memory.used(head).end(),
        Kind::Arena => page + 1 == pages.end(),
        Kind::Cached | Kind::Free | Kind::None => true,
        // Those whose threads may touch them.
        Kind::Moving | Kind::Span | Kind::EmptySpan | Kind::BareSpan => false,
    }
}
