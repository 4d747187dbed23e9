//! Memory that the kernel has swapped out.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sys::{thread, vm};

/// Pages that are asked for at a time: a byte of the stack each.
const BATCH: usize = 1024;

/// Milliseconds for which an answer about the whole machine is good.
const GOOD_FOR: u64 = 50;

/// Whether anything on this machine is swapped out: for most, no page need be asked for.
pub fn is_in_use() -> bool {
    static ANSWER: AtomicBool = AtomicBool::new(false);
    static ASKED_AT: AtomicU64 = AtomicU64::new(0);
    let now = vm::now_ms();
    if now.saturating_sub(ASKED_AT.load(Ordering::Relaxed)) >= GOOD_FOR {
        let info = rustix::system::sysinfo();
        ANSWER.store(info.freeswap < info.totalswap, Ordering::Relaxed);
        ASKED_AT.store(now, Ordering::Relaxed);
    }
    ANSWER.load(Ordering::Relaxed)
}

/// Calls `tell` for each of `count` populated pages from `start` with its place and whether it is
/// in memory; what is missing altogether is not. Nothing of the rest is told if the kernel does not
/// answer.
///
/// This is mincore(2), which unlike the page map needs no descriptor, so that the fault handler may
/// ask too. A page that is on its way elsewhere counts as in memory.
pub fn read(start: *mut u8, count: usize, mut tell: impl FnMut(usize, bool)) {
    let mut answers = [0u8; BATCH];
    for at in (0..count).step_by(BATCH) {
        let Some(batch) = answers.get_mut(..BATCH.min(count - at)) else { return };
        let (from, len) = (start as usize + at * vm::page_size(), batch.len() * vm::page_size());
        // SAFETY: the kernel writes a byte for each page, for which there is room.
        let result = unsafe {
            thread::raw_call(libc::SYS_mincore, from, len, batch.as_mut_ptr() as usize, 0)
        };
        if result != 0 {
            return;
        }
        for (i, answer) in batch.iter().enumerate() {
            tell(at + i, answer & 1 != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use rustix::mm::Advice;

    use super::*;

    #[test]
    fn what_was_touched_is_in_memory() {
        let page = vm::page_size();
        let start = vm::reserve(3000 * page, page).expect("address space");
        // SAFETY: the reservation is this test's. A huge page would bring in more than is touched.
        unsafe { vm::advise(start, 3000 * page, Advice::LinuxNoHugepage) }.expect("advice");
        for at in [0, 7, 1023, 1024, 2999] {
            // SAFETY: the reservation is this test's.
            unsafe { start.add(at * page).write(1) };
        }
        let mut found = Vec::new();
        read(start, 3000, |at, in_memory| {
            if in_memory {
                found.push(at);
            }
        });
        assert_eq!(found, [0, 7, 1023, 1024, 2999]);
        // SAFETY: as above.
        unsafe { vm::unmap(start, 3000 * page) };
    }
}
