//! The soft-dirty bits: `admin-guide/mm/soft-dirty.rst`. They are of the whole process, and to look and to reset are
//! two steps, between which a write is lost: here, nobody writes then.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};

use super::{Absent, Tell};
use crate::memory::page_bytes;
use crate::writes::space::Space;

/// The bit of an entry.
const SOFT_DIRTY: u64 = 1 << 55;
/// Entries that are read at a time.
const BATCH: usize = 4096;

struct SoftDirty<'s> {
    space: &'s Space,
    pagemap: File,
    clear: File,
    entries: Vec<u8>,
}

pub fn tell(space: &Space) -> Result<Result<impl Tell, Absent>> {
    let pagemap = File::open("/proc/self/pagemap").context("/proc/self/pagemap")?;
    let clear = File::options().write(true).open("/proc/self/clear_refs");
    let clear = clear.context("/proc/self/clear_refs")?;
    let mut tell = SoftDirty { space, pagemap, clear, entries: vec![0; 8 * BATCH] };
    if let Err(error) = tell.reset() {
        return Ok(Err(Absent(format!("{error:#}"))));
    }
    // A kernel without CONFIG_MEM_SOFT_DIRTY takes the reset all the same.
    // (To add 0 would be compiled to a read.)
    space.word(0).fetch_add(1, Relaxed);
    let mut told = Vec::new();
    tell.look(&mut told)?;
    if told.is_empty() {
        let why = "a page that was written has no soft-dirty bit: no CONFIG_MEM_SOFT_DIRTY";
        return Ok(Err(Absent(why.into())));
    }
    tell.reset()?;
    Ok(Ok(tell))
}

impl Tell for SoftDirty<'_> {
    fn reset(&mut self) -> Result<()> {
        // 4: clear the soft-dirty bits (proc_pid_clear_refs(5)).
        self.clear.write_all(b"4").context("4 to /proc/self/clear_refs")
    }

    fn look(&mut self, told: &mut Vec<usize>) -> Result<()> {
        let first = self.space.start() as usize / page_bytes();
        for at in (0..self.space.pages()).step_by(BATCH) {
            let count = BATCH.min(self.space.pages() - at);
            let entries = &mut self.entries[..8 * count];
            self.pagemap.read_exact_at(entries, 8 * (first + at) as u64)?;
            let (entries, _) = entries.as_chunks();
            for (page, entry) in entries.iter().enumerate() {
                if u64::from_ne_bytes(*entry) & SOFT_DIRTY != 0 {
                    told.push(at + page);
                }
            }
        }
        Ok(())
    }
}
