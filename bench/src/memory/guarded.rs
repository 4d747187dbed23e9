//! Large blocks as hardened_malloc maps them: each a mapping of its own, between pages that nobody may touch.

use std::collections::VecDeque;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use super::page_bytes;

/// How many freed blocks wait before the one that was freed first is unmapped.
const WAITING: usize = 1024;
/// Addresses without access, for which the kernel sets nothing aside.
const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// `size` bytes between two guard pages; null if the kernel has no more.
pub fn map(size: usize) -> *mut u8 {
    let len = size.next_multiple_of(page_bytes());
    let whole = len + 2 * page_bytes();
    // SAFETY: a new mapping where the kernel likes, of which the middle is opened.
    unsafe {
        let start = libc::mmap(null_mut(), whole, libc::PROT_NONE, RESERVED, -1, 0);
        if start == libc::MAP_FAILED {
            return null_mut();
        }
        let block = start.add(page_bytes());
        if libc::mprotect(block, len, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            libc::munmap(start, whole);
            return null_mut();
        }
        block.cast()
    }
}

/// Unmaps a block with its guards.
///
/// # Safety
/// [`map`] returned `block` for this size, and its user gives it up.
pub unsafe fn unmap(block: *mut u8, size: usize) {
    let (start, whole) = whole(block, size);
    // SAFETY: the mapping is the block's alone, which the caller gives up.
    let result = unsafe { libc::munmap(start as *mut libc::c_void, whole) };
    assert_eq!(result, 0, "a block of {size} bytes cannot be unmapped");
}

/// Where a block's mapping begins, its guards included, and how long it is.
fn whole(block: *mut u8, size: usize) -> (usize, usize) {
    (block as usize - page_bytes(), size.next_multiple_of(page_bytes()) + 2 * page_bytes())
}

/// Freed blocks that keep their addresses for a while, without access and without memory.
#[derive(Default)]
pub struct Waiting(Mutex<VecDeque<(usize, usize)>>);

impl Waiting {
    /// Takes a block, and unmaps the one that has waited for [`WAITING`] others.
    ///
    /// # Safety
    /// As for [`unmap`].
    pub unsafe fn put(&self, block: *mut u8, size: usize) {
        let (start, whole) = whole(block, size);
        let flags = RESERVED | libc::MAP_FIXED;
        let at = start as *mut libc::c_void;
        // SAFETY: what is mapped over is the block's alone, which the caller gives up.
        let mapped = unsafe { libc::mmap(at, whole, libc::PROT_NONE, flags, -1, 0) };
        assert_eq!(mapped, at, "a block of {size} bytes cannot be closed");
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back((start, whole));
        if waiting.len() > WAITING
            && let Some((start, whole)) = waiting.pop_front()
        {
            // SAFETY: nobody but this queue has known of these addresses since they were put here.
            let result = unsafe { libc::munmap(start as *mut libc::c_void, whole) };
            assert_eq!(result, 0, "what has waited cannot be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// How the mapping that `address` is in may be accessed; none if there is no such mapping.
    fn access(address: usize) -> Option<String> {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
            (start..end).contains(&address).then(|| rest[..4].to_owned())
        })
    }

    #[test]
    fn a_block_lies_between_pages_without_access() {
        let block = map(3 * page_bytes() - 1);
        let at = block as usize;
        for (address, expected) in [
            (at - 1, "---p"),
            (at, "rw-p"),
            (at + 3 * page_bytes() - 1, "rw-p"),
            (at + 3 * page_bytes(), "---p"),
        ] {
            assert_eq!(access(address).as_deref(), Some(expected), "{address:#x} of {at:#x}");
        }
        // SAFETY: the block is live and of this size.
        unsafe { unmap(block, 3 * page_bytes() - 1) };
    }

    #[test]
    fn a_block_that_waits_keeps_its_addresses_until_enough_others_were_freed() {
        let waiting = Waiting::default();
        let first = map(page_bytes());
        // SAFETY: the block is live and of this size.
        unsafe { waiting.put(first, page_bytes()) };
        for _ in 0..WAITING {
            assert_eq!(access(first as usize).as_deref(), Some("---p"));
            let block = map(page_bytes());
            assert_ne!(block, first);
            // SAFETY: as above.
            unsafe { waiting.put(block, page_bytes()) };
        }
        let queue = waiting.0.into_inner().unwrap();
        assert_eq!(queue.len(), WAITING);
        assert_ne!(queue[0].0, first as usize - page_bytes());
    }
}
