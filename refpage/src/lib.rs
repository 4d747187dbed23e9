//! Memory whose missing pages hold a known content: pages are moved in, not filled on demand.
//!
//! # The nouns
//!
//! - **OS page**: what sysconf says, 4, 16 or 64 KiB. Here "page" alone means an OS page.
//! - [`Region`]: the one big reservation, in two parts: what is missing from the **content part**
//!   is the engine's business, from the **zero part** the kernel's. Each part is two VMAs, what has
//!   been in use and the rest, never split further; but with `cow`, one for each piece.
//! - **Page run**: contiguous pages of the Region that belong together; who divides the Region
//!   into runs implements [`Runs`] and keeps a [`RunWindow`] for each.
//! - [`Content`]: what an untouched byte reads as; a [`Pattern`] is a byte or a word.
//! - **Page pool** : pages that already hold their content, in VMAs of their own; **huge blocks**
//!   are its 2 MiB pages, moved whole.
//! - [`Service`]: how content gets under the program's accesses in this process: `lazy`, `cow`,
//!   `eager`, `memset` or `off`.
//! - **Channel**: the userfaultfd through which pages are put in place.
//! - **Fault handler**, of `lazy`: the thread that answers missing faults on the channel with a
//!   *window* of pages from the pool. Before it is needed, `lazy` is **asleep**: there is none, and
//!   memory is filled when it is allocated.
//! - **Backing**, of `cow`: a sealed memory file full of content, which the content part shows while
//!   it is missing; a **piece** is one mapping of it. The kernel copies from it on the first write.
//! - **Tag**: where the processor has memory tags, what a run's memory and the pointers to it carry
//!   alike; see the crate `mte`.
//! - **Guard**: a page that ends who touches it; it has no mapping of its own.
//! - **Compaction**, of `lazy`: huge pages of which little is used are given up for small ones; a **tray** is
//!   where the handler has the block meanwhile.
//! - **Mover**, of `cow` and `eager`: a channel for user mode only, which sees no faults, but through
//!   which anonymous memory is filled by moves when it is allocated.
//!
//! # Who calls whom
//!
//! ```text
//!     allocator ── provide, prefill, refill, release ──▶ Engine ───────────▶ Region
//!         ▲                                                │ place()           ▲
//!         │ run_at, purge                                  ▼                   │ MOVE, COPY
//!      Handler ◀── missing fault ── the program         Pool, Sources ─────────┤
//!         └───────────── place() ─────────────────────────▲                    │ mmap
//!     allocator ── back: addresses come into use ──────▶ Engine ──▶ Backing ───┘
//! ```
//!
//! # Without a Region
//!
//! What the engine rests on is there for others, too, on memory of their own:
//!
//! - [`moves`]: **arenas**, whose pages a [`Mover`](moves::Mover) moves from one to the other, also while
//!   threads use them: for compacting collectors, and for putting memory away.
//! - [`WriteWatch`]: which pages of a range were **written** to since the last look.
//!
//! Everything here is `no_std` and allocates nothing: it runs inside malloc.

#![no_std]

#[cfg(test)]
extern crate std;

mod backing;
mod bits;
mod blocks;
mod compact;
mod content;
mod counters;
mod engine;
mod guards;
mod handler;
mod huge;
mod launch;
mod memory_file;
pub mod moves;
mod patience;
mod place;
mod pool;
mod region;
mod requests;
mod runs;
mod service;
pub mod sys;
mod tag_files;
mod tagged;
mod take;
mod words;
mod write_watch;

pub use bits::{PageBits, Pages};
pub use content::{Content, Pattern, SHORT};
pub use counters::{Cause, Count, Counters, FallBacks, Histogram};
pub use engine::{Config, Engine, Failure, Reason, Reasons, probe_channel};
pub use guards::Guard;
pub use moves::Refused;
pub use place::Fresh;
pub use region::Region;
pub use requests::Touched;
pub use runs::{RunWindow, Runs};
pub use service::{Attempts, Service};
pub use words::Words;
pub use write_watch::{Reset, WriteWatch, Written};
