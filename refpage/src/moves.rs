//! Moving pages between mappings, without an allocator and without splitting a mapping: for compacting
//! collectors, and for taking memory out of a program that goes on using it.
//!
//! - **[`Mover`]**: a userfaultfd, through which the pages of its arenas move. No privilege is needed.
//! - **[`Arena`]**: one private anonymous mapping, in OS pages, each of them present or missing.
//! - **[`Place`]**: a page of an arena.
//! - **[`Missing`]**: what touching a missing page does: it reads as zeros, or it is a **fault**, which waits
//!   until somebody puts a page there.
//! - **[`Moved`]**: how far a move came, and what [stopped](Stop) it.
//! - **[`Batch`]**: moves of single pages, put together to as few system calls as can be.
//!
//! A move takes the page itself, with all that it holds, from one place to the other: nothing is copied,
//! allocated or cleared, what is swapped out stays swapped out, and a huge page goes whole. The place that it
//! leaves is missing. To everyone else, the page is at one of the two places at any moment, so a page may be
//! **taken out** of memory that other threads use: who touches it then waits, if the arena's missing pages
//! are faults.
//!
//! ```text
//!   [ from ] ── prepare in place ── MOVE ──▶ [ to ] ◀── touch ── mutator
//!       ▲                                      │ fault
//!       └──── recycle: emptied pages ◀── compactor ◀──┘
//! ```
//!
//! ```
//! use refpage::moves::{Missing, Mover};
//!
//! // Linux 6.8.
//! let Ok(mover) = Mover::new() else { return Ok(()) };
//! let (from, to) = (mover.arena(8, Missing::Zeros)?, mover.arena(8, Missing::Zeros)?);
//! // SAFETY: the arena's first byte; nobody else uses it.
//! unsafe { from.address(0).write(7) };
//! let moved = to.at(3).move_from(from.at(0), 1);
//! assert_eq!((moved.pages, moved.stop), (1, None));
//! // SAFETY: as above.
//! assert_eq!(unsafe { (to.address(3).read(), from.address(0).read()) }, (7, 0));
//! # Ok::<(), refpage::moves::Refused>(())
//! ```
//!
//! The costs, on one machine, are in `docs/moves.md`.

mod arena;
mod batch;
mod faults;
mod mover;
mod outcome;

pub use arena::{Arena, Place};
pub use batch::{Batch, Unmoved};
pub use faults::MissingFault;
pub use mover::{Missing, Mover, Refused};
pub use outcome::{Moved, Stop};
