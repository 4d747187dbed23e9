//! Tags by chance.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::instructions;
use crate::tags::{Tag, TagSet, choose, tag_of};

/// A random tag that is not excluded, and not 0 unless no other is left; 0 also if all are excluded.
#[inline]
pub fn random(excluded: TagSet) -> Tag {
    if !crate::AVAILABLE {
        return Tag::ZERO;
    }
    // SAFETY: who asks for tags has seen that there is a level. What they go into is of no interest.
    let tag = tag_of(unsafe { instructions::irg(excluded.mask().into(), excluded.mask()) });
    if tag == Tag::ZERO { random_otherwise(excluded) } else { tag }
}

/// What [`random`] gives where IRG gives 0: to a thread without tags enabled, or if it was the program's
/// choice, or if nothing else is left.
#[cold]
#[inline(never)]
fn random_otherwise(excluded: TagSet) -> Tag {
    /// Weyl's sequence of SplitMix64 (Steele, Lea, Flood 2014), begun where the loader happened to put us.
    static SEED: AtomicU64 = AtomicU64::new(0);
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let place = core::ptr::from_ref(&excluded).addr() ^ core::ptr::from_ref(&SEED).addr() << 20;
    let mut seed = SEED.fetch_add(STEP, Ordering::Relaxed) ^ place as u64;
    seed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ seed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    choose(seed ^ seed >> 31, excluded.insert(Tag::ZERO)).unwrap_or(Tag::ZERO)
}
