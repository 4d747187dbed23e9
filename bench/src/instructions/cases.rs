//! What programs do with malloc, counted: small blocks, first touches, blocks that are used again or grow.

use std::hint::black_box;

use anyhow::{Context, Result, bail};

use super::tally::Tally;
use crate::cases::touched::Touched;
use crate::memory::{Block, Memory, page_bytes};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// How often a small block is got and freed.
const PAIRS: usize = 2_000;
/// Small blocks that are live meanwhile.
const SMALL_LIVE: usize = 64;
/// The block whose pages are touched for the first time.
const LARGE: usize = 16 * MIB;
/// Which of its pages.
const EVERY: Touched = Touched::Prefix(100);
const SOME: Touched = Touched::RandomOneIn(64);
/// How often a block is got again, or grows.
const TIMES: usize = 8;

/// A case.
pub struct Case {
    /// Its name, for the child's command line.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// What its figures are per.
    pub unit: &'static str,
    /// Whether it is about how the pattern gets into pages, and so about all services.
    pub of_services: bool,
    work: Work,
}

enum Work {
    /// malloc and free of a block of so many bytes.
    Pairs(usize),
    /// malloc of 16 MiB, and one byte written to these pages, beside so many blocks of which that is true already.
    Touch { touched: Touched, before: usize },
    /// free and malloc of 1 MiB that was written all over.
    Again,
    /// realloc from 1 MiB, written all over, to 2 MiB, where there is no room for it.
    Move,
}

/// All cases, in the order of the output.
pub static ALL: [Case; 10] = [
    small("small-16", "malloc and free of 16 bytes", 16),
    small("small-64", "malloc and free of 64 bytes", 64),
    small("small-256", "malloc and free of 256 bytes", 256),
    small("small-1024", "malloc and free of 1024 bytes", KIB),
    Case {
        name: "touch-all",
        title: "malloc of 16 MiB, the first, and one byte written to every page, in order",
        unit: "page",
        of_services: true,
        work: Work::Touch { touched: EVERY, before: 0 },
    },
    Case {
        name: "touch-random-64",
        title: "malloc of 16 MiB, the first, and one byte written to one page in 64, in random order",
        unit: "page touched",
        of_services: true,
        work: Work::Touch { touched: SOME, before: 0 },
    },
    Case {
        name: "touch-all-later",
        title: "the same beside two such blocks: every page, in order",
        unit: "page",
        of_services: true,
        work: Work::Touch { touched: EVERY, before: 2 },
    },
    Case {
        name: "touch-random-64-later",
        title: "the same beside two such blocks: one page in 64, in random order",
        unit: "page touched",
        of_services: true,
        work: Work::Touch { touched: SOME, before: 2 },
    },
    Case {
        name: "again",
        title: "free and malloc of 1 MiB that was written all over",
        unit: "free and malloc",
        of_services: true,
        work: Work::Again,
    },
    Case {
        name: "move",
        title: "realloc of 1 MiB, written all over, to 2 MiB elsewhere",
        unit: "realloc",
        of_services: true,
        work: Work::Move,
    },
];

const fn small(name: &'static str, title: &'static str, size: usize) -> Case {
    Case { name, title, unit: "malloc and free", of_services: false, work: Work::Pairs(size) }
}

impl Case {
    /// Runs it in this process, whose memory is to have `tags` or none: how many operations were counted, and how many
    /// bytes compared with what they should be.
    pub fn run(&self, tally: &mut Tally, memory: &dyn Memory, tags: bool) -> Result<(usize, u64)> {
        match self.work {
            Work::Pairs(size) => pairs(tally, memory, tags, size),
            Work::Touch { touched, before } => touch(tally, memory, tags, touched, before),
            Work::Again => again(tally, memory, tags),
            Work::Move => moves(tally, memory, tags),
        }
    }
}

fn pairs(tally: &mut Tally, memory: &dyn Memory, tags: bool, size: usize) -> Result<(usize, u64)> {
    let pair = || {
        let block = black_box(memory.allocate(size));
        // SAFETY: the block is live, or null, and nobody else's.
        unsafe { memory.free(block, size) };
    };
    let mut live: Vec<_> = (0..SMALL_LIVE).map(|_| Block::new(memory, size)).collect();
    // The thread's cache is there, and it has a block.
    pair();
    tally.count(|| (0..PAIRS).for_each(|_| pair()));
    live.extend((0..SMALL_LIVE).map(|_| Block::new(memory, size)));
    let mut checked = 0;
    for block in &live {
        checked += check(block, tags, |_| false)?;
    }
    Ok((PAIRS, checked))
}

fn touch(
    tally: &mut Tally,
    memory: &dyn Memory,
    tags: bool,
    touched: Touched,
    before: usize,
) -> Result<(usize, u64)> {
    // Whatever begins with the first large block of a process has begun.
    let _first = written(memory, MIB);
    let order = touched.order(LARGE / page_bytes());
    let pages = order.of_use(0);
    let touched_block = || {
        let mut block = Block::new(memory, LARGE);
        pages.iter().for_each(|&page| block.touch(page));
        block
    };
    let _before: Vec<_> = (0..before).map(|_| touched_block()).collect();
    let mut block = None;
    tally.count(|| block = Some(touched_block()));
    tally.wait_for_what_was_put_off();
    let block = block.context("it was made")?;
    let mask = order.mask_of_use(0);
    Ok((pages.len(), check(&block, tags, |page| mask[page])?))
}

fn again(tally: &mut Tally, memory: &dyn Memory, tags: bool) -> Result<(usize, u64)> {
    let mut block = written(memory, MIB);
    // What is free behind it could become one with it.
    let _behind = written(memory, MIB);
    let mut checked = 0;
    for _ in 0..TIMES {
        let before = block.pointer();
        let mut place = Some(block);
        tally.count(|| {
            drop(place.take());
            place = Some(Block::new(memory, MIB));
        });
        block = place.context("it was made")?;
        if tags && block.pointer() == before {
            bail!("the block has the tag that it had before it was freed");
        }
        checked += check(&block, tags, |_| false)?;
        soil(&mut block);
    }
    Ok((TIMES, checked))
}

fn moves(tally: &mut Tally, memory: &dyn Memory, tags: bool) -> Result<(usize, u64)> {
    // One on either side of each, so that there is no room.
    let mut blocks: Vec<_> = (0..=2 * TIMES).map(|_| Block::new(memory, MIB)).collect();
    for block in &mut blocks {
        (0..block.pages()).for_each(|page| block.touch(page));
    }
    let mut checked = 0;
    for block in blocks.iter_mut().skip(1).step_by(2) {
        let (before, pages) = (address(block), block.pages());
        tally.count(|| block.grow(2 * MIB));
        if address(block) == before {
            bail!("a block grew where it was");
        }
        checked += check(block, tags, |page| page < pages)?;
    }
    Ok((TIMES, checked))
}

/// A block of which every byte was written.
fn written(memory: &dyn Memory, size: usize) -> Block<'_> {
    let mut block = Block::new(memory, size);
    soil(&mut block);
    block
}

fn soil(block: &mut Block) {
    (0..block.pages()).for_each(|page| block.soil(page));
}

fn address(block: &Block) -> u64 {
    mte::untag(block.pointer() as u64)
}

/// Reads the whole block by its pointer, and whether it has a tag, and the memory the same; or none, if there are to
/// be none.
fn check(block: &Block, tags: bool, written: impl Fn(usize) -> bool) -> Result<u64> {
    let tag = mte::tag_of(block.pointer() as u64);
    if (tag != mte::Tag::ZERO) != tags {
        bail!("the pointer has {tag:?}, and tags are {}", if tags { "on" } else { "off" });
    }
    let checked = block.check(written)?;
    if tags {
        let page = page_bytes();
        for number in 0..block.pages() {
            // SAFETY: the page lies in the block.
            let found = unsafe { mte::tag_at(block.pointer().add(number * page)) };
            if found != tag {
                bail!("page {number} has {found:?}, and its pointer {tag:?}");
            }
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Malloc;

    #[test]
    fn every_case_checks_what_it_did() {
        for case in &ALL {
            let (operations, checked) =
                case.run(&mut Tally::uncounted(), &Malloc { promise: None }, false).unwrap();
            assert!(operations > 0, "{}", case.name);
            // Who promises nothing is held to what was written, where something was.
            assert_eq!(checked > 0, case.name.contains("touch") || case.name == "move");
            let wrong = case.run(&mut Tally::uncounted(), &Malloc { promise: None }, true);
            wrong.expect_err("there are no tags");
        }
    }
}
