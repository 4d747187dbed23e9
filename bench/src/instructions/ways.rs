//! Ways to tag memory, and to write it: what a page takes that is there already.

use std::ptr::NonNull;
use std::{io, iter};

use anyhow::{Context, Result, bail};
use mte::{Granules, Tag, instructions};
use serde::Serialize;

use super::counter::Counter;
use crate::memory::page_bytes;
use refpage_bench::stats::{Summary, summarize};

/// How often each way is counted.
const ROUNDS: usize = 9;
/// The page that figures are given for; and the machine's own, if it has others.
const PAGE: usize = 4096;
/// Of mmap: memory that can have tags (uapi/asm/mman.h).
const PROT_MTE: i32 = 0x20;
/// What lies in memory before a way is tried, and its tag.
const BEFORE: (u64, u8) = (0x5555_5555_5555_5555, 3);
/// The tag that it then gets.
const TAG: u8 = 9;
const BYTE: u8 = 0xaa;
const WORD: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// What a way does to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    Kept,
    Zeros,
    Pattern,
}

impl Data {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Zeros => "zeros",
            Self::Pattern => "pattern",
        }
    }

    /// What every word holds afterwards.
    fn word(self) -> u64 {
        match self {
            Self::Kept => BEFORE.0,
            Self::Zeros => 0,
            Self::Pattern => WORD,
        }
    }
}

/// Memory to be written: the pointer carries the tag.
#[derive(Clone, Copy)]
struct Range {
    start: *mut u8,
    len: usize,
}

/// One way.
struct Way {
    name: &'static str,
    data: Data,
    tags: bool,
    /// Bytes that one of its stores is for, where it consists of one kind of store.
    step: Option<usize>,
    write: fn(Range),
}

/// What came of one.
#[derive(Debug, Serialize)]
pub struct Counted {
    pub name: &'static str,
    pub data: Data,
    pub tags: bool,
    /// Bytes of the memory.
    pub bytes: usize,
    /// How many stores of the one kind that is, if it is one.
    pub stores: Option<usize>,
    /// Instructions in all.
    pub instructions: Summary,
}

/// Counts all ways.
pub fn count(counter: Counter) -> Result<Vec<Counted>> {
    if mte::level().is_none() {
        bail!("this machine has no memory tags: boot it with -machine virt,mte=on");
    }
    let sizes = iter::once(PAGE).chain(Some(page_bytes()).filter(|&page| page != PAGE));
    let memory = Mapping::new(page_bytes().max(PAGE))?;
    let mut counted = Vec::new();
    for bytes in sizes {
        for way in ways() {
            let range = memory.range(bytes);
            way.try_on(range)?;
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                prepare(range);
                rounds.push(counter.of(|| (way.write)(range)) as f64);
                way.check(range)?;
            }
            counted.push(Counted {
                name: way.name,
                data: way.data,
                tags: way.tags,
                bytes,
                stores: way.step.map(|step| bytes / step),
                instructions: summarize(rounds).context("there are rounds")?,
            });
        }
    }
    Ok(counted)
}

impl Way {
    /// Once without counting: what is called for the first time is looked up by the dynamic loader.
    fn try_on(&self, range: Range) -> Result<()> {
        prepare(range);
        (self.write)(range);
        self.check(range)
    }

    fn check(&self, range: Range) -> Result<()> {
        let expected = match self.tags {
            _ if mte::level().is_none() => Tag::ZERO,
            true => tag(TAG),
            false => tag(BEFORE.1),
        };
        let word = self.data.word();
        for at in (0..range.len).step_by(mte::GRANULE) {
            // SAFETY: the granule lies in the range, which is readable; this thread checks no tags.
            let (found, words) = unsafe {
                let granule = range.start.add(at);
                (mte::tag_at(granule), granule.cast::<[u64; 2]>().read_volatile())
            };
            if (found, words) != (expected, [word; 2]) {
                bail!("{}: byte {at} has tag {found:?} and holds {words:#x?}", self.name);
            }
        }
        Ok(())
    }
}

fn tag(number: u8) -> Tag {
    Tag::new(number).expect("a tag is less than 16")
}

fn prepare(range: Range) {
    let (word, number) = BEFORE;
    // SAFETY: the range is this module's own, whole granules.
    unsafe { Granules::new(range.start, range.len) }.fill_and_tag(word, tag(number));
}

/// A plain loop over the range. Not unrolled, so that it shows what a loop adds to each store.
#[inline(always)]
fn each(range: Range, step: usize, store: unsafe fn(*mut u8)) {
    let (mut at, end) = (range.start, range.start.wrapping_add(range.len));
    while at != end {
        // SAFETY: of each store: it stays in the range, which is this module's own and a page or more. Ranges with tags
        // are there only where there is a level, and blocks are stored only where there are some.
        unsafe { store(at) };
        at = at.wrapping_add(step);
    }
}

/// STGP of the pattern.
#[inline(always)]
unsafe fn stgp(at: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { instructions::stgp(at, WORD) }
}

fn memset(range: Range, byte: u8) {
    // SAFETY: the range is this module's own; this thread checks no tags.
    unsafe { libc::memset(range.start.cast(), byte.into(), range.len) };
}

fn granules(range: Range) -> Granules {
    // SAFETY: the range is this module's own, whole granules.
    unsafe { Granules::new(range.start, range.len) }
}

/// Bytes that DC GVA and DC GZVA are for; 0 where they are not to be had.
fn block() -> usize {
    instructions::block().unwrap_or(0)
}

/// All of them, as far as this machine has them.
fn ways() -> Vec<Way> {
    use Data::{Kept, Pattern, Zeros};
    let one = mte::GRANULE;
    let store = |name, data, step, write| Way { name, data, tags: true, step: Some(step), write };
    let other = |name, data, tags, write| Way { name, data, tags, step: None, write };
    let stores = [
        store("STG", Kept, one, |range| each(range, 16, instructions::stg)),
        store("ST2G", Kept, 32, |range| each(range, 32, instructions::st2g)),
        store("DC GVA", Kept, block(), |range| {
            each(range, block(), instructions::dc_gva);
        }),
        store("STZG", Zeros, one, |range| each(range, 16, instructions::stzg)),
        store("STZ2G", Zeros, 32, |range| each(range, 32, instructions::stz2g)),
        store("DC GZVA", Zeros, block(), |range| {
            each(range, block(), instructions::dc_gzva);
        }),
        store("STGP", Pattern, one, |range| {
            each(range, 16, stgp);
        }),
    ];
    let others = [
        other("Granules::tag", Kept, true, |range| granules(range).tag(tag(TAG))),
        other("Granules::zero_and_tag", Zeros, true, |range| {
            granules(range).zero_and_tag(tag(TAG));
        }),
        other("Granules::fill_and_tag", Pattern, true, |range| {
            granules(range).fill_and_tag(WORD, tag(TAG));
        }),
        other("memset to 0", Zeros, false, |range| memset(range, 0)),
        other("memset", Pattern, false, |range| memset(range, BYTE)),
        other("memset, then ST2G", Pattern, true, |range| {
            memset(range, BYTE);
            each(range, 32, instructions::st2g);
        }),
        other("memset, then Granules::tag", Pattern, true, |range| {
            memset(range, BYTE);
            granules(range).tag(tag(TAG));
        }),
    ];
    let usable = |way: &Way| way.step != Some(0);
    stores.into_iter().chain(others).filter(usable).collect()
}

/// Pages that can have tags, of this process alone.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE | PROT_MTE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("no memory that can have tags");
        }
        let start = NonNull::new(start.cast()).context("no mapping lies at null")?;
        Ok(Self { start, len })
    }

    /// The first bytes of it, by a pointer with the tag that they are to get.
    fn range(&self, len: usize) -> Range {
        assert!(len <= self.len);
        let tagged = |address: usize| mte::with_tag(address as u64, tag(TAG)) as usize;
        Range { start: self.start.as_ptr().map_addr(tagged), len }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_does_what_it_says() {
        if mte::level().is_some() {
            let memory = Mapping::new(page_bytes()).unwrap();
            ways().iter().for_each(|way| way.try_on(memory.range(PAGE)).unwrap());
        } else if !mte::AVAILABLE {
            // Without tags the pointer is what it is, and the data is to be checked.
            let mut memory = vec![[0u64; 2]; PAGE / 16 + 1];
            let start = memory.as_mut_ptr().cast::<u8>();
            let start = start.wrapping_add(start.align_offset(mte::GRANULE));
            ways().iter().for_each(|way| way.try_on(Range { start, len: PAGE }).unwrap());
        }
    }

    #[test]
    fn what_was_not_done_is_noticed() {
        let mut memory = vec![[0u64; 2]; PAGE / 16 + 1];
        let start = memory.as_mut_ptr().cast::<u8>();
        let start = start.wrapping_add(start.align_offset(mte::GRANULE));
        let write = |range: Range| memset(Range { len: range.len - 1, ..range }, BYTE);
        let way = Way { name: "short", data: Data::Pattern, tags: false, step: None, write };
        if !mte::AVAILABLE {
            way.try_on(Range { start, len: PAGE }).unwrap_err();
        }
    }
}
