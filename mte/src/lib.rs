//! Memory tags: Arm's Memory Tagging Extension (MTE), for one who tags memory that he hands out.
//!
//! The nouns, as in the Arm Architecture Reference Manual (DDI 0487, "Memory Tagging Extension",
//! FEAT_MTE2):
//!
//! - **Tag**: a number from 0 to 15. A *logical* tag is the one in an address, an *allocation* tag the
//!   one that the hardware keeps for a granule. An access whose two tags differ is a tag check fault.
//! - **Granule**: 16 bytes, aligned to 16: the unit that has an allocation tag, in memory that is mapped
//!   with `PROT_MTE`. Other memory has none, and tagging it does nothing.
//! - **Excluded tags**: those that a random choice must not give, like `GCR_EL1.Exclude`.
//! - **[`Mode`]**: how a thread hears of tag check faults. Without one nothing is checked.
//! - **[`Level`]**: what the CPU and the kernel have of all this.
//! - **Block**: what `DC GVA` and `DC GZVA` tag at once; 64 bytes on most CPUs.
//!
//! ```text
//!    63      60 59      56 55                                  4 3     0
//!   ┌──────────┬──────────┬─────────────────────────────────────┬────────┐
//!   │          │   tag    │      granule                        │ offset │
//!   └──────────┴──────────┴─────────────────────────────────────┴────────┘
//!    ignored by top-byte-ignore           the address that is translated
//! ```
//!
//! Bits 63 to 60 are ignored like the tag, but no instruction of MTE writes them, and nothing here
//! does: what a program keeps there stays. Bit 55 selects the kernel's or the user's half of the
//! address space; in heap addresses it is clear, which is why untagged means bits 59 to 56 clear.
//!
//! # Who calls whom
//!
//! ```text
//!     allocator ──▶ level, mode, enable ──────────▶ getauxval, ID_AA64PFR1_EL1, prctl
//!         ├───────▶ random, tag_at, without_checks ─┐
//!         ├───────▶ Granules: tag, zero, fill ──────┼──▶ instructions (aarch64)
//!         └───────▶ tags: arithmetic                └──▶ portable (all else: no tags)
//! ```
//!
//! Nothing here allocates, takes a lock or changes errno: it runs inside malloc. What executes an
//! instruction of MTE is for machines on which [`level`] gives one; on an aarch64 without, the process
//! gets SIGILL.

#![no_std]

mod detect;
mod granules;
mod mode;
mod random;
mod tags;

#[cfg(target_arch = "aarch64")]
pub mod instructions;

#[cfg(not(target_arch = "aarch64"))]
#[path = "portable.rs"]
pub mod instructions;

pub use detect::{Level, level};
pub use granules::{Granules, tag_at};
pub use mode::{Mode, Unchecked, enable, mode, without_checks};
pub use random::random;
pub use tags::{
    GRANULE, Tag, TagSet, choose, granule_ceil, granule_floor, tag_of, untag, with_tag,
};

/// Whether there can be tags at all: where there cannot, code behind this folds away.
pub const AVAILABLE: bool = cfg!(target_arch = "aarch64");
