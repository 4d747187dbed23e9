//! refpage: a memory allocator whose memory always reads as something known.
//!
//! Every byte that it hands out holds the pattern (or zero, from calloc), in fresh memory, in
//! recycled memory and in the new part of a realloc; and what a program frees is gone.
//!
//! ```
//! use refpage_alloc::RefPage;
//!
//! #[global_allocator]
//! static ALLOCATOR: RefPage = RefPage::new();
//!
//! let bytes = Box::<[u8]>::new_uninit_slice(1 << 20);
//! // SAFETY: refpage's memory is initialised when it is handed out.
//! assert!(unsafe { bytes.assume_init() }.iter().all(|&byte| byte == 0xAA));
//! ```
//!
//! # The nouns
//!
//! - **Slot**: 64 KiB of the Region, the unit of page runs.
//! - **Large run**: a page run that is one allocation of [`threshold`](options::Options) bytes or
//!   more.
//! - **Span**: a page run that is many small blocks of one **size class**; **arenas** are what
//!   spans are carved from, by talc.
//! - **Magazine**: a thread's free blocks of one class; a **thread cache** is all its magazines.
//! - **Depot**: batches of free blocks between one thread's magazines and another's, a **shelf** for
//!   each class.
//! - **Nested**: in a signal handler that interrupted its own thread inside the heap.
//! - **Page map**: address → run → span → class, outside the memory it describes.
//! - **Guard**: a page beside a large allocation that ends who touches it.
//! - **Quarantine**: freed large runs without pages, whose addresses stay out of use; a run's **successor** has its pages.
//! - **Sampled**: a small allocation that is served as a large one.
//! - **Unseen pages**: those that the kernel itself puts in place when the program touches them,
//!   for calloc and with the service `cow`. It is asked for them when their run is freed.
//!
//! # Who calls whom
//!
//! ```text
//!   RefPage, C symbols ─▶ heap ─▶ threads ─▶ thread_cache
//!                          │        └──────▶ depot ─▶ spans ─┐
//!                          │                                 ├─▶ cache ─▶ books, arena, extents
//!                          └────▶ large ─────────────────────┘
//!   refpage::Engine and page_map: under all of them;  options, start, stats, misuse: around them
//!   tags, tag_faults: which memory tag a run or a block has, where there are any
//!   guards, quarantine: which pages end who touches them; cache puts freed runs there
//!   faults, report, describe, traces: what is told of misuse: what an address is, and how it came to be
//!   written: which pages of a large allocation, and of any other memory, were written to, for who asks
//!   predictor, unseen: what large knows of how runs are used, and of which pages they have
//!   profile: what allocations of each size were used for;  exit: where that and the statistics go
//!   beacon: where another process finds what the heap counts
//!   fork, missing: what a child needs, and when;  nested: what a signal handler may have
//! ```
//!
//! The invariant that makes malloc's fast path a pop: **free memory holds its content or is
//! missing**. Whoever frees restores it; whoever allocates finds it.

mod arena;
pub mod beacon;
mod books;
mod cache;
mod chance;
mod classes;
mod depot;
mod describe;
mod exit;
mod extents;
mod faults;
mod fork;
mod global;
mod guards;
pub mod heap;
mod large;
mod missing;
mod misuse;
mod nested;
pub mod options;
mod page_map;
mod predictor;
mod profile;
mod quarantine;
mod report;
mod spans;
mod start;
mod stats;
mod tag_faults;
mod tags;
mod thread_cache;
mod threads;
mod tls;
mod traces;
mod unseen;
mod written;

pub use describe::{Description, Sort, State, describe};
pub use fork::hook as hook_fork;
pub use global::RefPage;
pub use heap::{compact, stats};
pub use refpage::{Cause, Reset};
pub use stats::{
    FALL_BACKS, Stats, guards, pattern, print_stats, service_name, service_reason, tags_name,
};
pub use written::{NotTold, watch, written, written_upto, written_watched};
