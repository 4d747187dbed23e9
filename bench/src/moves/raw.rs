//! Single calls by themselves: what a page costs in a move, in a copy, in an mremap.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use refpage::Pages;
use refpage::moves::{Arena, Missing, Moved, Mover};
use serde::{Deserialize, Serialize};

use crate::memory::page_bytes;
use crate::work::Provider;

/// Pages of each arena: a multiple of every count, and of a huge page.
const PAGES: usize = 8192;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Single calls
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    provider: Provider,
}

/// What a call costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Raw {
    /// Which call, of how many pages.
    pub call: String,
    /// Nanoseconds a page; none where it is not to be had.
    pub page_ns: Option<f64>,
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    arguments.provider.malloc()?;
    let mover = Mover::new()?;
    // Not measured: the processor and the kernel's lists of free pages get going.
    moves(&mover, 16)?;
    let mut all = Vec::new();
    let mut add = |call: String, page_ns| all.push(Raw { call, page_ns });
    for count in [1, 16, 64, 512] {
        add(format!("MOVE of {}", pages(count)), Some(moves(&mover, count)?));
    }
    add("MOVE of whole huge pages".into(), huge(&mover)?);
    for count in [1, 64, 512] {
        add(format!("COPY of {}", pages(count)), Some(copies(&mover, count)?));
    }
    for count in [64, 2048] {
        add(format!("dropping {}", pages(count)), Some(drops(&mover, count)?));
    }
    add("mremap of 1 page".into(), Some(remaps(&mover)?));
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

fn pages(count: usize) -> String {
    if count == 1 { "1 page".into() } else { format!("{count} pages") }
}

/// There and back: the page tables are there the second time.
fn moves(mover: &Mover, count: usize) -> Result<f64> {
    let (one, other) = (filled(mover, PAGES)?, mover.arena(PAGES, Missing::Zeros)?);
    each(count, |page| other.at(page).move_from(one.at(page), count))?;
    each(count, |page| one.at(page).move_from(other.at(page), count))?;
    let time = each(count, |page| other.at(page).move_from(one.at(page), count))?;
    check(&other, 1)?;
    Ok(time)
}

fn huge(mover: &Mover) -> Result<Option<f64>> {
    let (one, other) = (mover.arena(PAGES, Missing::Zeros)?, mover.arena(PAGES, Missing::Zeros)?);
    if !one.prefer_huge_pages() {
        return Ok(None);
    }
    fill(&one);
    if huge_bytes(one.addresses().start)? != PAGES * page_bytes() {
        return Ok(None);
    }
    let count = HUGE / page_bytes();
    let time = each(count, |page| other.at(page).move_from(one.at(page), count))?;
    check(&other, 1)?;
    Ok((huge_bytes(other.addresses().start)? == PAGES * page_bytes()).then_some(time))
}

/// Into pages whose page tables are there.
fn copies(mover: &Mover, count: usize) -> Result<f64> {
    let to = filled(mover, PAGES)?;
    to.drop_pages(Pages { first: 0, count: PAGES })?;
    let mut bytes = vec![0u8; count * page_bytes()];
    for (page, bytes) in bytes.chunks_mut(page_bytes()).enumerate() {
        bytes[..8].copy_from_slice(&(page as u64).to_ne_bytes());
    }
    let time = each(count, |page| to.at(page).copy_from(&bytes))?;
    for page in 0..PAGES {
        // SAFETY: the arena's page.
        let found = unsafe { to.address(page).cast::<u64>().read() };
        if found != (page % count) as u64 {
            bail!("page {page} holds {found} after a copy");
        }
    }
    Ok(time)
}

fn drops(mover: &Mover, count: usize) -> Result<f64> {
    let arena = filled(mover, PAGES)?;
    let start = Instant::now();
    for first in (0..PAGES).step_by(count) {
        arena.drop_pages(Pages { first, count })?;
    }
    Ok(start.elapsed().as_nanos() as f64 / PAGES as f64)
}

/// Each second page, so that none can be one mapping with the last.
fn remaps(mover: &Mover) -> Result<f64> {
    let (one, other) = (filled(mover, PAGES)?, mover.arena(PAGES, Missing::Zeros)?);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let page_bytes = page_bytes();
    let start = Instant::now();
    for page in (0..PAGES).step_by(2) {
        let [from, to] = [&one, &other].map(|arena| arena.address(page).cast());
        // SAFETY: pages of the two arenas, to which there are no references; both are unmapped as a whole.
        let result = unsafe { libc::mremap(from, page_bytes, page_bytes, flags, to) };
        if result == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("mremap");
        }
    }
    let time = start.elapsed().as_nanos() as f64 / (PAGES / 2) as f64;
    check(&other, 2)?;
    Ok(time)
}

/// All pages, so many at a time: nanoseconds a page.
fn each(count: usize, step: impl Fn(usize) -> Moved) -> Result<f64> {
    let start = Instant::now();
    for page in (0..PAGES).step_by(count) {
        let Moved { pages, stop } = step(page);
        if pages != count {
            bail!("stopped after {pages} of {count} pages: {stop:?}");
        }
    }
    Ok(start.elapsed().as_nanos() as f64 / PAGES as f64)
}

fn filled(mover: &Mover, pages: usize) -> Result<Arena<'_>> {
    let arena = mover.arena(pages, Missing::Zeros)?;
    fill(&arena);
    Ok(arena)
}

/// Each page holds its number.
fn fill(arena: &Arena<'_>) {
    for page in 0..arena.pages() {
        // SAFETY: the arena's page, which nobody else uses.
        unsafe { arena.address(page).cast::<u64>().write(page as u64 + 1) };
    }
}

fn check(arena: &Arena<'_>, step: usize) -> Result<()> {
    for page in (0..arena.pages()).step_by(step) {
        // SAFETY: as above.
        let found = unsafe { arena.address(page).cast::<u64>().read() };
        if found != page as u64 + 1 {
            bail!("page {page} holds {found}");
        }
    }
    Ok(())
}

/// Bytes in huge pages of the mapping that begins there.
fn huge_bytes(start: usize) -> Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let from = smaps.find(&format!("{start:x}-")).context("the mapping")?;
    let line = smaps[from..].lines().find(|line| line.starts_with("AnonHugePages:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    Ok(number.map_or(0, |kib| kib << 10))
}
