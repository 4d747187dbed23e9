//! PAGEMAP_SCAN (Linux 6.7+): which pages of a range are in certain states, in one call, and write
//! protection of just those: `admin-guide/mm/pagemap.rst`, `fs/proc/task_mmu.c`.

use core::ops::Range;

use linux_raw_sys::general as k;
use rustix::fd::BorrowedFd;
use rustix::io::Result;
use rustix::ioctl::{self, Opcode, opcode};

/// States of a page (`PAGE_IS_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u64);

impl States {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// In memory.
    pub const PRESENT: Self = Self(k::PAGE_IS_PRESENT as u64);
    /// Swapped out, or on its way; a guard's or poison's marker counts as this, too.
    pub const SWAPPED: Self = Self(k::PAGE_IS_SWAPPED as u64);
    /// Written to since it was last write-protected, or never protected.
    pub const WRITTEN: Self = Self(k::PAGE_IS_WRITTEN as u64);
    /// A file's, not a copy of it. The kernel looks at each page for this, not only at the page table, and
    /// takes ten times as long.
    pub const FILE: Self = Self(k::PAGE_IS_FILE as u64);
    /// The zero page, which who reads a missing page gets.
    pub const ZERO_PAGE: Self = Self(k::PAGE_IS_PFNZERO as u64);

    /// These and others.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn includes(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Which pages are looked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// In all of these states.
    pub all: States,
    /// In at least one of these, unless there is none of them.
    pub any: States,
    /// In none of these.
    pub none: States,
    /// Whether they are write-protected in the same step: nobody writes to them between the look and that.
    pub protect: bool,
    /// So many of them at most; the search ends there. 0: all.
    pub most: usize,
}

/// Adjacent pages that were found: addresses.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Stretch(k::page_region);

impl Default for Stretch {
    fn default() -> Self {
        Self(k::page_region { start: 0, end: 0, categories: 0 })
    }
}

impl Stretch {
    /// From the first byte of the first page to the end of the last.
    pub fn addresses(&self) -> Range<usize> {
        self.0.start as usize..self.0.end as usize
    }
}

/// Looks through `range`, which begins and ends at OS pages, until it ends, as many were found as are wanted, or
/// `found` is full: how many stretches were found, and where the rest of the range begins.
///
/// `pagemap` is `/proc/self/pagemap` or another process's; protecting works in the own one alone.
///
/// # Errors
/// NOTTY: this kernel has no such call, or the descriptor is none of a page map: no other file knows it. PERM:
/// it is asked what was written, and a part of the range is not registered with a userfaultfd for that (with
/// `UFFD_FEATURE_WP_ASYNC`).
pub fn scan(
    pagemap: BorrowedFd<'_>,
    range: Range<usize>,
    query: Query,
    found: &mut [Stretch],
) -> Result<(usize, usize)> {
    let protect = if query.protect { k::PM_SCAN_WP_MATCHING } else { 0 };
    let about_writes = query.protect || query.all.includes(States::WRITTEN);
    let flags = protect | if about_writes { k::PM_SCAN_CHECK_WPASYNC } else { 0 };
    let mut arg = k::pm_scan_arg {
        size: size_of::<k::pm_scan_arg>() as u64,
        flags: u64::from(flags),
        start: range.start as u64,
        end: range.end as u64,
        walk_end: 0,
        vec: found.as_mut_ptr() as u64,
        vec_len: found.len() as u64,
        max_pages: query.most as u64,
        category_inverted: query.none.0,
        category_mask: query.all.or(query.none).0,
        category_anyof_mask: query.any.0,
        return_mask: query.all.or(query.any).0,
    };
    const OP: Opcode = opcode::read_write::<k::pm_scan_arg>(b'f', 16);
    // SAFETY: PAGEMAP_SCAN reads and writes a `pm_scan_arg`, and writes `vec_len` regions at most to
    // `vec`. Write protection is resolved by the kernel without anyone's noticing.
    let count = unsafe { ioctl::ioctl(pagemap, Count::<OP>(&mut arg))? };
    Ok((count, arg.walk_end as usize))
}

/// An ioctl whose result counts.
struct Count<'a, const OP: Opcode>(&'a mut k::pm_scan_arg);

// SAFETY: opcode and calling convention are those of `linux/fs.h`.
unsafe impl<const OP: Opcode> ioctl::Ioctl for Count<'_, OP> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OP
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(out: ioctl::IoctlOutput, _: *mut core::ffi::c_void) -> Result<usize> {
        Ok(usize::try_from(out).unwrap_or(0))
    }
}
