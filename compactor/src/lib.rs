//! A heap that is compacted while threads use it, as Android's ART does it with UFFDIO_MOVE; and, to compare,
//! with UFFDIO_COPY and with mremap(2).
//!
//! - **object**: a header, a version, references, and words that follow from its number. None crosses the end of an
//!   OS page. What is alive is given, as a marking phase would have found it.
//! - **from, to**: two arenas of one `refpage::moves::Mover`. All objects are in *from* at first, and in *to* in the
//!   end.
//! - **populated page**: nearly all of it is alive. It moves **whole**, its gaps with it.
//! - **fragmented page**: little of it is alive. Its objects are **gathered** with those of others.
//! - **frame**: a page of *from* whose objects are elsewhere already. The next ones are gathered in it, where it lies, and it
//!   moves as any page does: no page is allocated.
//! - **mutator**: a thread that follows references, checks what it sees, and writes to the objects that are its own. Its
//!   **shadow** knows what they hold.
//! - **flip**: the mutators stand still for a moment, and their roots become new addresses. The pages there are missing.
//! - **claim**: a page is prepared by whoever claims it first: the **compactor**, who goes through all of them and
//!   moves them in batches, or the **answerer** of faults, who moves the one that a mutator waits for.
//!
//! ```text
//!   from: [populated][fragmented][emptied][populated] …        plan: what comes where
//!              │           │ objects  ▲ frame │
//!              │           └─────────▶│       │      prepare: references become new addresses,
//!              ▼                      ▼       ▼      in place, by who has claimed the page
//!   to:   [ missing ] …    ◀── MOVE, COPY or mremap ──  compactor: page after page, in batches
//!              ▲                      ▲
//!              │ touch: fault         └───────────────  answerer: the page of the fault
//!           mutator ─────────── waits ───────────────▶
//! ```
//!
//! In the end, [`run`] looks at every word of every object.

mod account;
mod carry;
mod compaction;
mod emptied;
mod heap;
mod mutator;
mod object;
mod outcome;
mod plan;
mod random;
mod run;
mod verify;
mod worker;

pub use account::{allocated_pages, mappings, minor_faults, thread_cpu};
pub use carry::Way;
pub use heap::Shape;
pub use outcome::{Failure, Outcome};
pub use random::Random;
pub use run::{Setup, run, run_with};
