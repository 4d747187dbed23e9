//! A thread that libc does not know: the fault handler's.
//!
//! A pthread would allocate in its creator (the TLS vector comes from malloc), would switch off
//! glibc's single-threaded fast paths for good, would take part in setuid broadcasts, and would
//! keep a process alive whose last own thread called `pthread_exit`. A bare `clone` does none of
//! that. Left out of the flags are CLONE_FILES, so that the thread starts with a descriptor table
//! of its own, and CLONE_FS, so that the program may still `setns` and `unshare`. Its thread pointer
//! is its own, too: any thread of the program may start it, and end long before it.

use core::ffi::{CStr, c_int, c_void};
use core::fmt::Write;

use rustix::io::{Errno, Result};

use super::descriptor::Descriptor;
use super::report::Line;
use super::vm;

/// The handler's frames are shallow; the guard page below turns a surprise into a crash.
const STACK: usize = 64 * 1024;

/// Room for what libc's functions take for thread-local, below and above the thread pointer: the
/// stack protector's word, and errno.
const BELOW: usize = 64 << 10;
const ABOVE: usize = 16 << 10;
const ALL: usize = STACK + BELOW + ABOVE;

/// Memory that a bare thread runs on; mapped once, used again by the handler after fork.
#[derive(Debug)]
pub struct Stack {
    base: *mut u8,
}

// SAFETY: the mapping belongs to whoever holds the value; it has no thread affinity.
unsafe impl Send for Stack {}
// SAFETY: shared references only read its address.
unsafe impl Sync for Stack {}

impl Stack {
    /// Maps a stack with a guard page at its low end.
    ///
    /// # Errors
    /// ENOMEM when there is no address space for it.
    pub fn map() -> Result<Self> {
        let base = vm::reserve(ALL + vm::page_size(), vm::page_size())?;
        // SAFETY: the lowest page of a mapping made just above.
        unsafe {
            rustix::mm::mprotect(base.cast(), vm::page_size(), rustix::mm::MprotectFlags::empty())?;
        }
        Ok(Self { base })
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: within the mapping.
        unsafe { self.base.add(STACK + vm::page_size()) }.cast()
    }

    /// A thread pointer whose storage is all zeros, but for the words that point to itself.
    fn thread_pointer(&self) -> *mut c_void {
        // SAFETY: as above; the words lie above it, and no thread runs here yet.
        unsafe {
            let pointer = self.top().byte_add(BELOW).cast::<*mut c_void>();
            pointer.write(pointer.cast());
            pointer.add(2).write(pointer.cast());
            pointer.cast()
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and no thread runs on it any more, and its owner goes.
        unsafe { vm::unmap(self.base, ALL + vm::page_size()) };
    }
}

/// Starts `entry(arg)` on `stack` with every signal blocked.
///
/// # Safety
/// `entry` returns only when its process has no other thread, touches no thread-local storage of the
/// program's, never panics, and calls nothing that needs a libc thread. `stack` is in use by no live
/// thread. Statics that it uses live for ever.
pub unsafe fn spawn(
    stack: &Stack,
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
) -> Result<()> {
    // The system calls go through bionic there, which looks for errno in a thread of its own.
    if cfg!(target_os = "android") {
        return Err(Errno::NOSYS);
    }
    let flags = libc::CLONE_VM
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS;
    let none = core::ptr::null_mut::<c_int>();
    let _errno = vm::KeepErrno::new();
    let before = block_signals();
    // SAFETY: clone gets a stack of its own and an entry that, by the caller's promise, can live
    // without libc's idea of a thread; the new thread inherits the blocked mask.
    let rc =
        unsafe { libc::clone(entry, stack.top(), flags, arg, none, stack.thread_pointer(), none) };
    restore_signals(before);
    if rc >= 0 {
        return Ok(());
    }
    // SAFETY: errno was set by the failing clone.
    Err(Errno::from_raw_os_error(unsafe { *vm::errno_location() }))
}

/// Blocks every signal of the calling thread, also the two that libc keeps for itself: which were
/// blocked before.
pub fn block_signals() -> u64 {
    change_signals(libc::SIG_BLOCK, u64::MAX)
}

/// Blocks the signals that [`block_signals`] told, and no others.
pub fn restore_signals(before: u64) {
    change_signals(libc::SIG_SETMASK, before);
}

fn change_signals(how: c_int, set: u64) -> u64 {
    let mut before = 0u64;
    let (set, old) = (&raw const set as usize, &raw mut before as usize);
    // SAFETY: the kernel reads and writes one 8-byte signal set each. It refuses nothing of this; a
    // filter may, and then nothing is blocked.
    unsafe { raw_call(libc::SYS_rt_sigprocmask, how as usize, set, old, size_of::<u64>()) };
    before
}

/// The calling thread's number.
pub fn own_number() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// How many threads this process has, the handler included. None without /proc.
pub fn count() -> Option<usize> {
    // The directory, its parent's name for it, and an entry for each thread: `proc_task_getattr`.
    let tasks = rustix::fs::stat(c"/proc/self/task").ok()?;
    (tasks.st_nlink as usize).checked_sub(2)
}

/// What a thread of this process is called, without a newline: how many bytes. None if there is no such thread,
/// or no /proc.
pub fn name(thread: u32, name: &mut [u8; 16]) -> Option<usize> {
    let mut path = Line::<48>::new();
    let _ = write!(path, "/proc/self/task/{thread}/comm\0");
    let path = CStr::from_bytes_with_nul(path.as_bytes()).ok()?;
    let read = Descriptor::read_from(path, name).ok()?;
    Some(name.get(..read)?.iter().position(|&byte| byte == b'\n').unwrap_or(read))
}

/// If the calling thread is the only one of its process that has not ended, but for the first one, which
/// the kernel keeps until all have: the exit code of that one, as a shell would tell it.
pub fn left_alone() -> Option<c_int> {
    if count() != Some(2) {
        return None;
    }
    let mut text = [0u8; 512];
    let read = Descriptor::read_from(c"/proc/self/stat", &mut text).ok()?;
    // "pid (name) state ... exit_code\n", and the name may be anything.
    let text = text.get(..read)?;
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let rest = core::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    if fields.next() != Some("Z") {
        return None;
    }
    // As wait(2) gives it: a code, or the number of a signal.
    let status: c_int = fields.last()?.parse().ok()?;
    Some(if status & 0x7f == 0 { status >> 8 } else { 128 + (status & 0x7f) })
}

/// Ends the process with SIGABRT, whatever the program has made of that signal, from a thread that
/// libc may not know. Where a filter refuses that, with a signal that no filter can refuse.
pub fn abort_process() -> ! {
    // The kernel's `struct sigaction`: handler (0 is the default), flags, restorer, mask.
    let default = [0usize; 4];
    let (all_but_it, all) = (!(1u64 << (libc::SIGABRT - 1)), u64::MAX);
    let (action, size) = ((&raw const default) as usize, size_of::<u64>());
    // SAFETY: system calls that read the two values above, and numbers.
    unsafe {
        raw_call(libc::SYS_rt_sigaction, libc::SIGABRT as usize, action, 0, size);
        let own = [libc::SYS_getpid, libc::SYS_gettid].map(|call| raw_call(call, 0, 0, 0, 0));
        raw_call(libc::SYS_tgkill, own[0] as usize, own[1] as usize, libc::SIGABRT as usize, 0);
        // It is pending, and comes when it may. Blocked as all signals then are, that of a trap ends
        // the process.
        for mask in [&raw const all_but_it, &raw const all] {
            let how = libc::SIG_SETMASK as usize;
            raw_call(libc::SYS_rt_sigprocmask, how, mask as usize, 0, size);
        }
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("ud2", options(noreturn));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("udf 0", options(noreturn));
    }
}

/// Closes every descriptor of the calling thread's own table but `keep`; -1: but none.
pub fn close_all_but(keep: i32) {
    if close_range(0, keep - 1).is_ok() && close_range(keep + 1, i32::MAX).is_ok() {
        return;
    }
    // Before Linux 5.9, or under a filter that knows no better, one by one.
    for fd in (0..1 << 16).filter(|&fd| fd != keep) {
        // SAFETY: the descriptors of this table are nobody else's. (rustix takes closing for a call
        // that cannot fail, so those that are not open are left alone.)
        unsafe {
            if rustix::io::fcntl_getfd(rustix::fd::BorrowedFd::borrow_raw(fd)).is_ok() {
                rustix::io::close(fd);
            }
        }
    }
}

fn close_range(first: i32, last: i32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: only the caller's private descriptor table is concerned.
    match unsafe { raw_call(libc::SYS_close_range, first as usize, last as usize, 0, 0) } {
        0 => Ok(()),
        _ => Err(Errno::NOSYS),
    }
}

/// A system call without libc, whose `errno` would be that of the thread that made this one.
///
/// # Safety
/// As for the call.
pub(super) unsafe fn raw_call(
    number: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; what the call does is the caller's business.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            options(nostack),
        );
    }
    result
}
