//! What the tests of tags share: memory with tags, processes that may die, and a reason to skip.

#![cfg(target_arch = "aarch64")]
#![allow(dead_code, reason = "no test file needs all of it")]

use std::io::Error;
use std::ptr;

use mte::{GRANULE, Tag, tag_at, with_tag};

/// Ends the test, with the reason, on a machine without tags.
#[macro_export]
macro_rules! needs_tags {
    () => {
        if mte::level().is_none() {
            println!("skipped: this machine has no memory tags");
            return;
        }
    };
}

/// The tag with this number.
pub fn tag(number: u8) -> Tag {
    Tag::new(number).expect("a tag is below 16")
}

/// `PROT_MTE` of uapi/asm/mman.h.
const PROT_MTE: i32 = 0x20;

/// Memory that can have tags, and ends with a page that cannot be touched.
pub struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    pub fn new(len: usize) -> Self {
        Self::with_protection(len, libc::PROT_READ | libc::PROT_WRITE | PROT_MTE)
    }

    /// Memory that cannot have tags.
    pub fn without_tags(len: usize) -> Self {
        Self::with_protection(len, libc::PROT_READ | libc::PROT_WRITE)
    }

    fn with_protection(len: usize, protection: i32) -> Self {
        let len = len.next_multiple_of(page());
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, and a part of it.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), len + page(), libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED, "{}", Error::last_os_error());
            assert_eq!(libc::mprotect(start, len, protection), 0, "{}", Error::last_os_error());
            Self { start: start.cast(), len }
        }
    }

    /// The address of a byte, untagged.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        self.start.wrapping_add(offset)
    }

    /// The address of a byte, with a tag.
    pub fn tagged(&self, offset: usize, tag: Tag) -> *mut u8 {
        self.at(offset).map_addr(|address| with_tag(address as u64, tag) as usize)
    }

    /// The tags of the granules of a range, as the hardware has them.
    pub fn tags(&self, from: usize, to: usize) -> Vec<u8> {
        assert!(to <= self.len);
        // SAFETY: the granules are the mapping's.
        (from..to).step_by(GRANULE).map(|at| unsafe { tag_at(self.at(at)) }.get()).collect()
    }

    /// The bytes of a range. The tests that read so have enabled no checks.
    pub fn bytes(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.len);
        // SAFETY: they are the mapping's, and initialised: by the kernel at first.
        unsafe { std::slice::from_raw_parts(self.at(from), to - from) }
    }

    /// Gives all granules `tag`, and all bytes `byte`.
    pub fn reset(&self, byte: u8, tag: Tag) {
        for at in (0..self.len).step_by(GRANULE) {
            // SAFETY: the granules are the mapping's.
            unsafe {
                mte::instructions::stg(self.tagged(at, tag));
                self.at(at).write_bytes(byte, GRANULE);
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start.cast(), self.len + page()) };
    }
}

/// The size of an OS page.
pub fn page() -> usize {
    // SAFETY: sysconf has no precondition.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// How a child process ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exit(i32),
    /// By SIGSEGV with this `si_code`.
    Fault(i32),
    /// By another signal.
    Signal(i32),
}

/// Exit codes from here on are those of [`on_fault`].
const FAULT: i32 = 200;

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t; _exit may be called from handlers.
    unsafe { libc::_exit(FAULT + (*info).si_code) }
}

/// Runs `body` in a child process, whose exit code is what it returns. It must not allocate: other threads
/// of this process may hold malloc's lock.
pub fn in_child(body: impl FnOnce() -> i32) -> End {
    // SAFETY: the child calls only what may be called after a fork among threads.
    unsafe {
        match libc::fork() {
            0 => {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault
                    as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)
                    as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
                libc::_exit(body());
            }
            child => {
                assert!(child > 0, "{}", Error::last_os_error());
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &mut status, 0), child);
                match libc::WEXITSTATUS(status) {
                    _ if libc::WIFSIGNALED(status) => End::Signal(libc::WTERMSIG(status)),
                    code if code >= FAULT => End::Fault(code - FAULT),
                    code => End::Exit(code),
                }
            }
        }
    }
}
