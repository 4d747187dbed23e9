//! mprotect, and a handler of SIGSEGV: what programs do that have nothing else.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};

use anyhow::{Result, ensure};
use libc::{PROT_READ, PROT_WRITE, c_int, c_void, siginfo_t};

use super::Tell;
use crate::memory::page_bytes;
use crate::writes::space::Space;

/// What the handler knows: where the memory is, and a bit for each page of it.
static START: AtomicUsize = AtomicUsize::new(0);
static PAGES: AtomicUsize = AtomicUsize::new(0);
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(1);
static BITS: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());

struct Protected<'s> {
    space: &'s Space,
    bits: &'static [AtomicU64],
}

pub fn tell(space: &Space) -> Result<impl Tell> {
    // It stays: the handler may run at any time.
    let bits = (0..space.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let bits: &'static [AtomicU64] = bits.leak();
    START.store(space.start() as usize, Relaxed);
    PAGES.store(space.pages(), Relaxed);
    PAGE_BYTES.store(page_bytes(), Relaxed);
    BITS.store(bits.as_ptr().cast_mut(), Relaxed);
    // SAFETY: all zeros are a sigaction; the handler does what is allowed in one: atomics and system calls.
    let installed = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &action, null_mut())
    };
    ensure!(installed == 0, "no handler for SIGSEGV");
    let mut protected = Protected { space, bits };
    protected.reset()?;
    Ok(protected)
}

impl Tell for Protected<'_> {
    fn reset(&mut self) -> Result<()> {
        self.bits.iter().for_each(|word| word.store(0, Relaxed));
        // SAFETY: the space's mapping; whoever writes to it gets to the handler.
        let done =
            unsafe { libc::mprotect(self.space.start().cast(), self.space.bytes(), PROT_READ) };
        ensure!(done == 0, "mprotect: {}", std::io::Error::last_os_error());
        Ok(())
    }

    fn look(&mut self, told: &mut Vec<usize>) -> Result<()> {
        for (at, word) in self.bits.iter().enumerate() {
            let mut word = word.load(Relaxed);
            while word != 0 {
                told.push(64 * at + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
        Ok(())
    }
}

impl Drop for Protected<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `reset`.
        unsafe {
            libc::mprotect(self.space.start().cast(), self.space.bytes(), PROT_READ | PROT_WRITE);
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        }
    }
}

/// Notes the page, and makes it writable.
extern "C" fn handle(signal: c_int, information: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel's, and SIGSEGV has an address.
    let address = unsafe { (*information).si_addr() } as usize;
    let page_bytes = PAGE_BYTES.load(Relaxed);
    let page = address.wrapping_sub(START.load(Relaxed)) / page_bytes;
    if page < PAGES.load(Relaxed) {
        // SAFETY: the page's bit is in the bitmap, which stays.
        let word = unsafe { &*BITS.load(Relaxed).add(page / 64) };
        word.fetch_or(1 << (page % 64), Relaxed);
        let start = (address / page_bytes * page_bytes) as *mut c_void;
        // SAFETY: a page of the space.
        if unsafe { libc::mprotect(start, page_bytes, PROT_READ | PROT_WRITE) } == 0 {
            return;
        }
        // Too many mappings.
        let text = "error: mprotect of one page was refused in the handler of SIGSEGV\n";
        // SAFETY: both are allowed in a handler.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::_exit(1);
        }
    }
    // SAFETY: another fault; without the handler, it happens again and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
