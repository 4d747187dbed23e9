//! What fresh and recycled blocks hold, read byte by byte when the clock has stopped.

use std::thread;

use super::harness::joined;
use crate::cases::Scale;
use crate::memory::{Block, Memory, Wrong};
use crate::seed;
use refpage_compactor::Random;

/// Every size up to this is asked for.
const SMALL: usize = 1024;
/// The largest.
const MOST: usize = 64 << 10;

/// Allocates thousands of blocks of all sizes in each of the threads, reads every byte up to the size asked for, writes
/// over it, frees it, and does it again. Returns how many bytes there was something to compare with.
pub fn check<M: Memory>(memory: &M, threads: usize, scale: Scale) -> Result<u64, Wrong> {
    let large = scale.pick(600, 150, 40) / threads;
    // Together the threads ask for every small size; each for a part of them.
    let each = move |number| {
        let mut random = seed::random(number as u64);
        let mut sizes: Vec<usize> = (1 + number..=SMALL).step_by(threads).collect();
        sizes.extend((0..large).map(|_| {
            // As many of each power of two.
            let most = MOST >> random.below(6);
            SMALL + random.below(most)
        }));
        let mut checked = 0;
        for _ in 0..2 {
            checked += pass(memory, &sizes, &mut random)?;
        }
        Ok(checked)
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || each(number))).collect();
        threads.into_iter().map(joined).sum()
    })
}

/// All sizes once, live at the same time, in random order.
fn pass<M: Memory>(memory: &M, sizes: &[usize], random: &mut Random) -> Result<u64, Wrong> {
    let mut blocks = Vec::with_capacity(2 * sizes.len());
    let mut checked = 0;
    for at in random.permutation(sizes.len()) {
        for zeroed in [false, true] {
            let mut block = match zeroed {
                true => Block::zeroed(memory, sizes[at]),
                false => Block::new(memory, sizes[at]),
            };
            checked += block.check(|_| false)?;
            // What realloc adds to a block is as fresh as a new one.
            if !zeroed && at % 4 == 0 && sizes[at] < MOST / 2 {
                block.grow(sizes[at] * 2);
                checked += block.check(|_| false)?;
            }
            (0..block.pages()).for_each(|page| block.soil(page));
            blocks.push(Some(block));
        }
    }
    // Freed in another order than they were made.
    for at in random.permutation(blocks.len()) {
        blocks[at] = None;
    }
    Ok(checked)
}
