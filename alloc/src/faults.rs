//! SIGSEGV and SIGBUS, as far as they are the heap's: what they were is told, and then whatever the program does about
//! them happens.
//!
//! ```text
//!   access ─▶ signal ─▶ a tag?  ─▶ tag_faults: put right, or told
//!                  ├──▶ a page of the Region that belongs to nobody ─▶ report
//!                  └──▶ the program's handler of before; without one, the signal again
//! ```
//!
//! The handler is there only where pages trap by themselves: with tags from the start, else from the first marker that is
//! put anywhere ahead. A program, or a runtime such as Rust's, may look for a handler before it installs its own: it is
//! not to find this one for nothing. Installed later, the program's takes its place.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use refpage::sys::report::warn;
use refpage::sys::vm::KeepErrno;

use crate::fork::Inside;
use crate::guards;
use crate::report;
use crate::start;
use crate::tag_faults;
use crate::tags;

/// The codes of SIGSEGV for tag check faults: uapi/asm-generic/siginfo.h.
const SEGV_MTEAERR: c_int = 8;
const SEGV_MTESERR: c_int = 9;
/// Has the signal handler see the tag of the address (Linux 5.11+): uapi/asm-generic/signal-defs.h.
const SA_EXPOSE_TAGBITS: c_int = 0x800;

/// The program's own way with a signal, as it was before this one.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, before the signal handler is there that reads it; zeros, the default, until then.
unsafe impl Sync for Before {}

static BEFORE: [Before; 2] = [const { Before(UnsafeCell::new(MaybeUninit::zeroed())) }; 2];

fn before(signal: c_int) -> *mut libc::sigaction {
    let [segv, bus] = &BEFORE;
    if signal == libc::SIGBUS { bus.0.get().cast() } else { segv.0.get().cast() }
}

/// Has the heap's faults told, from the first call on; what there was before is called after. It may be called
/// anywhere, a signal handler included.
pub fn install() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.load(Relaxed) || INSTALLED.swap(true, AcqRel) {
        return;
    }
    let _errno = KeepErrno::new();
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: a query into a place that nobody reads yet, and a handler that lives for ever. It keeps to what
        // may be done in one: it allocates nothing and waits for no lock.
        unsafe {
            let before = before(signal);
            if libc::sigaction(signal, core::ptr::null(), before) != 0 {
                continue;
            }
            let mut action = *before;
            action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as usize;
            action.sa_flags |= libc::SA_SIGINFO;
            // Another stack may be too small for a handler that did not ask for one.
            if is_unhandled(&*before) {
                action.sa_flags |= libc::SA_ONSTACK;
            }
            if tags::on() {
                action.sa_flags |= SA_EXPOSE_TAGBITS;
            }
            action.sa_flags &= !libc::SA_RESETHAND;
            libc::sigaction(signal, &action, core::ptr::null_mut());
        }
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let _errno = KeepErrno::new();
    // SAFETY: the kernel hands both to a handler with SA_SIGINFO, for as long as it runs.
    let (code, pointer) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    match (signal, code) {
        (libc::SIGSEGV, SEGV_MTESERR) => {
            let heap = start::try_heap().filter(|_| !Inside::is_interrupted());
            let _inside = Inside::enter();
            if heap.is_some_and(|heap| tag_faults::put_right(heap, pointer)) {
                return;
            }
            tag_faults::tell(start::try_heap(), access(context), pointer);
        }
        (libc::SIGSEGV, SEGV_MTEAERR) => warn(format_args!(
            "an access by a pointer whose tag is not the memory's, some time before this; mte=sync in \
             REFPAGE_OPTIONS tells which"
        )),
        // Of an access, not sent by somebody.
        (_, 1..) => tell_of_a_marker(tags::address(pointer as *const u8), access(context)),
        _ => {}
    }
    // SAFETY: as above.
    unsafe { pass_on(signal, info, context) };
}

/// Tells about an access to heap memory that belongs to nobody; of others, nothing.
fn tell_of_a_marker(address: usize, writes: Option<bool>) {
    let Some(heap) = start::try_heap() else { return };
    let region = heap.engine.region();
    if !region.contains(address) {
        return;
    }
    if guards::is_nobodys(heap.memory(), region.page_at(address)) {
        report::of_trap(heap, address, writes);
    }
}

fn is_unhandled(action: &libc::sigaction) -> bool {
    matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
}

/// Goes on as the program would have without this handler.
///
/// # Safety
/// The arguments are those of a signal handler that runs.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: written before this handler was installed.
    let before = unsafe { &*before(signal) };
    if is_unhandled(before) {
        // SAFETY: what was there before this handler was.
        unsafe { libc::sigaction(signal, before, core::ptr::null_mut()) };
        // The access is made again when this returns, and ends the process; if there is none to make again,
        // the signal does, which is blocked until then.
        // SAFETY: the caller's promise.
        let code = unsafe { (*info).si_code };
        if (signal == libc::SIGSEGV && code == SEGV_MTEAERR) || code <= 0 {
            // SAFETY: raise has no precondition.
            unsafe { libc::raise(signal) };
        }
        return;
    }
    // SAFETY: the program's own handler, called as the kernel would: without tags where it has not asked for them, and
    // for once if it asked for that.
    unsafe {
        if before.sa_flags & libc::SA_RESETHAND != 0 {
            let default: libc::sigaction = core::mem::zeroed();
            libc::sigaction(signal, &default, core::ptr::null_mut());
        }
        if tags::on() && before.sa_flags & SA_EXPOSE_TAGBITS == 0 {
            untag_address(info);
        }
        if before.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                core::mem::transmute(before.sa_sigaction);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = core::mem::transmute(before.sa_sigaction);
            handler(signal);
        }
    }
}

/// # Safety
/// `info` is what the kernel gave a handler of SIGSEGV.
unsafe fn untag_address(info: *mut libc::siginfo_t) {
    /// Where the address lies: behind three numbers, at a multiple of 8.
    const SI_ADDR: usize = 16;
    // SAFETY: the caller's promise.
    unsafe {
        let address = info.cast::<u8>().add(SI_ADDR).cast::<u64>();
        address.write(mte::untag(address.read()));
    }
}

/// Whether the access writes, as the kernel tells it.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn access(context: *const c_void) -> Option<bool> {
    /// Of uapi/asm/sigcontext.h: a record's size and magic number, and bit 6 of the syndrome, write not read.
    const ESR_MAGIC: u32 = 0x4553_5201;
    const WNR: u64 = 1 << 6;
    // SAFETY: the context of a signal handler that runs; the records in it end with one of size 0.
    unsafe {
        let machine = &raw const (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        // Behind the fault address, 31 registers, sp, pc and pstate, at a multiple of 16.
        let mut record = machine.cast::<u8>().add((35 * 8usize).next_multiple_of(16));
        loop {
            let (magic, size) = (record.cast::<u32>().read(), record.cast::<u32>().add(1).read());
            if magic == ESR_MAGIC {
                return Some(record.add(8).cast::<u64>().read() & WNR != 0);
            }
            if size == 0 {
                return None;
            }
            record = record.add(size as usize);
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn access(context: *const c_void) -> Option<bool> {
    /// Bit 1 of a page fault's error code: Intel's manual, volume 3, 5.7.
    const WRITE: i64 = 1 << 1;
    // SAFETY: the context of a signal handler that runs.
    let registers = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    Some(registers[libc::REG_ERR as usize] & WRITE != 0)
}

#[cfg(not(all(any(target_arch = "aarch64", target_arch = "x86_64"), target_os = "linux")))]
fn access(_: *const c_void) -> Option<bool> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;
    use refpage::sys::vm;

    use crate::heap;
    use crate::options::{MteChoice, Options, ServiceChoice};
    use crate::page_map::SLOT;

    /// A child with a heap of its own that runs this, and ends with 0 if it gets to its end: how it ends, and what it says.
    fn child(run: impl FnOnce()) -> (c_int, std::string::String) {
        use std::io::Read;
        use std::os::fd::FromRawFd;
        let mut pipe = [0; 2];
        // SAFETY: the child has one thread, which calls nothing that could wait for the test's others.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let pid = libc::fork();
            if pid == 0 {
                libc::dup2(pipe[1], 2);
                // Rust's own handlers of the test.
                for signal in [libc::SIGSEGV, libc::SIGBUS] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                run();
                libc::_exit(0);
            }
            libc::close(pipe[1]);
            let mut said = std::string::String::new();
            std::fs::File::from_raw_fd(pipe[0]).read_to_string(&mut said).expect("a pipe");
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            (status, said)
        }
    }

    /// A block of a megabyte, behind which a marker lies; none where the kernel has none.
    fn guarded() -> Option<*mut u8> {
        // With memory tags there are no guards, and so nothing to tell.
        let options = Options::new().service(ServiceChoice::Memset).mte(MteChoice::Off);
        start::set_defaults(start::Defaults::new(options));
        let block = heap::allocate(16 * SLOT, 16, false);
        // SAFETY: the block is of that size; slots behind it are nobody's in a heap that is new.
        unsafe { vm::install_guards(block.add(16 * SLOT), SLOT) }.ok()?;
        install();
        Some(block)
    }

    /// Touches what lies behind the block.
    fn touch(block: *mut u8, writes: bool) {
        // SAFETY: it is not, which is what ends the process.
        unsafe {
            let behind = block.add(16 * SLOT + 5);
            if writes {
                behind.write_volatile(1);
            } else {
                behind.read_volatile();
            }
        }
    }

    fn has_markers() -> bool {
        let (status, _) = child(|| {
            if guarded().is_none() {
                // SAFETY: ends the child.
                unsafe { libc::_exit(1) };
            }
        });
        if status != 0 {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "skipped: this kernel has no guard markers");
        }
        status == 0
    }

    #[test]
    fn what_hits_a_marker_is_told_and_ends_as_ever() {
        if !has_markers() {
            return;
        }
        for (writes, how) in [(true, "writing to"), (false, "reading from")] {
            let (status, said) = child(|| touch(guarded().expect("markers"), writes));
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
                "{status}"
            );
            let line =
                std::format!("refpage: overflow: {how} byte 1048581 of an allocation of 1048576");
            assert!(said.starts_with(&line), "{said}");
            assert_eq!(said.matches("refpage: overflow").count(), 1, "{said}");
        }
    }

    static EXPECTED: AtomicUsize = AtomicUsize::new(0);
    static CALLED: AtomicBool = AtomicBool::new(false);

    extern "C" fn programs_own(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's.
        let address = unsafe { (*info).si_addr() } as usize;
        let right = address == EXPECTED.load(Relaxed) && !context.is_null();
        // SAFETY: ends the child.
        unsafe { libc::_exit(if right { 3 } else { 4 }) };
    }

    extern "C" fn once(_: c_int) {
        if CALLED.swap(true, Relaxed) {
            // SAFETY: ends the child.
            unsafe { libc::_exit(5) };
        }
    }

    fn handle(handler: usize, flags: c_int) {
        // SAFETY: zeros are an action, and the handlers live for ever.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            (action.sa_sigaction, action.sa_flags) = (handler, flags);
            libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
        }
    }

    #[test]
    fn a_handler_of_before_is_called() {
        if !has_markers() {
            return;
        }
        let (status, said) = child(|| {
            handle(programs_own as extern "C" fn(_, _, _) as usize, libc::SA_SIGINFO);
            let block = guarded().expect("markers");
            EXPECTED.store(block as usize + 16 * SLOT + 5, Relaxed);
            touch(block, true);
        });
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 3, "{status}: {said}");
        assert!(said.starts_with("refpage: overflow: writing to"), "{said}");
    }

    /// It returns, and the access is made again: without it, and told no more.
    #[test]
    fn a_handler_for_once_is_called_once() {
        if !has_markers() {
            return;
        }
        let (status, said) = child(|| {
            handle(once as extern "C" fn(_) as usize, libc::SA_RESETHAND);
            touch(guarded().expect("markers"), true);
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status}");
        assert_eq!(said.matches("refpage: overflow").count(), 1, "{said}");
    }

    #[test]
    fn what_is_not_the_heaps_is_passed_on_silently() {
        if !has_markers() {
            return;
        }
        let elsewhere = || {
            guarded();
            // SAFETY: nothing is there, which is what ends the process.
            unsafe { core::ptr::without_provenance_mut::<u8>(16).write_volatile(1) };
        };
        let sent = || {
            guarded();
            // SAFETY: sends a signal to the child.
            unsafe { libc::raise(libc::SIGSEGV) };
        };
        for (status, said) in [child(elsewhere), child(sent)] {
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV,
                "{status}"
            );
            assert_eq!(said, "");
        }
    }
}
