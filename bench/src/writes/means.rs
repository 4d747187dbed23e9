//! The means by which written pages are told.

mod kernel;
mod signal;
mod soft_dirty;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::space::Space;

/// How the pages are told that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Means {
    /// refpage::WriteWatch: PAGEMAP_SCAN, and write protection that the kernel resolves.
    WriteWatch,
    /// PROT_READ, and a handler of SIGSEGV that makes each page writable again.
    Mprotect,
    /// The soft-dirty bits of /proc/self/pagemap.
    SoftDirty,
}

impl Means {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::WriteWatch, Self::Mprotect, Self::SoftDirty];

    /// Its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::WriteWatch => "WriteWatch",
            Self::Mprotect => "mprotect + SIGSEGV",
            Self::SoftDirty => "soft-dirty",
        }
    }

    /// Puts it to use. No page counts as written from then on.
    pub fn of(self, space: &Space) -> Result<Result<Box<dyn Tell + '_>, Absent>> {
        Ok(match self {
            Self::WriteWatch => kernel::tell(space)?.map(|tell| Box::new(tell) as _),
            Self::Mprotect => Ok(Box::new(signal::tell(space)?)),
            Self::SoftDirty => soft_dirty::tell(space)?.map(|tell| Box::new(tell) as _),
        })
    }
}

/// Why this kernel has no such means.
#[derive(Debug)]
pub struct Absent(pub String);

/// Who tells the pages of a [`Space`] that were written.
pub trait Tell {
    /// None counts as written from now on.
    fn reset(&mut self) -> Result<()>;

    /// Adds the numbers of the written ones to `told`, the lowest first.
    fn look(&mut self, told: &mut Vec<usize>) -> Result<()>;

    /// Both, in the order that is needed, as cheaply as can be.
    fn take(&mut self, told: &mut Vec<usize>) -> Result<()> {
        self.look(told)?;
        self.reset()
    }
}
