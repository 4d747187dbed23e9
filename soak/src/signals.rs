//! Signals whose handlers touch memory that was allocated before and never touched, on stacks of such memory.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

use crate::block::{Block, Source};
use crate::board::Count;
use crate::lane::Lane;
use crate::shadow::Content;
use crate::world::{board, fail, thread_id, world};

/// Those that are sent.
const SENT: [i32; 3] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];
/// Those that nobody sends.
const DEADLY: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];
/// Bytes from one touched place to the next: never twice the same place of a page.
const STRIDE: usize = 4096 + 8;
/// Bytes of a stack for handlers: the vector registers of all processors, and room to describe a failure.
const STACK: usize = 128 << 10;

thread_local! {
    static TARGET: Cell<*const Target> = const { Cell::new(null_mut()) };
}

/// Where the handlers of one lane's thread write. The lane takes it back before it reads there itself.
#[derive(Default)]
pub struct Target {
    start: AtomicPtr<u8>,
    size: AtomicUsize,
    /// The offset of the next word.
    next: AtomicUsize,
}

/// What a handler writes.
const MARK: u64 = 0x5167_4e41_5349_474e;

/// Makes the handlers of this process, which a forked child inherits, and lets the signals come.
pub fn handle() {
    // The first call loads a library: not in a handler.
    Frames::here();
    // SAFETY: the struct is made of zeros and what is set here; the handlers have the type of `SA_SIGINFO`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigfillset(&mut action.sa_mask);
        for signal in DEADLY {
            libc::sigdelset(&mut action.sa_mask, signal);
        }
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        action.sa_sigaction = touch as extern "C" fn(_, _, _) as usize;
        for signal in SENT {
            // One of them stays on the thread's own stack.
            action.sa_flags |= if signal == libc::SIGUSR1 { 0 } else { libc::SA_ONSTACK };
            libc::sigaction(signal, &action, null_mut());
        }
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        action.sa_sigaction = die as extern "C" fn(_, _, _) as usize;
        for signal in DEADLY {
            libc::sigaction(signal, &action, null_mut());
        }
    }
    block(false);
}

/// Holds the sent signals back, or lets them come. An executed program inherits that, but not the handlers.
pub fn block(held: bool) {
    // SAFETY: the set is filled in before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SENT {
            libc::sigaddset(&mut set, signal);
        }
        let how = if held { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
        libc::pthread_sigmask(how, &set, null_mut());
    }
}

extern "C" fn touch(_: i32, _: *mut libc::siginfo_t, _: *mut c_void) {
    board().add(Count::Signals, 1);
    let target = TARGET.get();
    if target.is_null() {
        return;
    }
    // SAFETY: a thread's lane takes its target back before that goes away.
    let target = unsafe { &*target };
    let start = target.start.load(Acquire);
    let at = target.next.load(Relaxed);
    if start.is_null() || at + 8 > target.size.load(Relaxed) {
        return;
    }
    // SAFETY: eight bytes of the target, aligned because its start and the stride are.
    let word = unsafe { start.add(at).cast::<u64>() };
    // SAFETY: as above; the block's lane is this very thread.
    let found = unsafe { word.read_volatile() };
    if found != world().pattern {
        let size = target.size.load(Relaxed);
        fail(format_args!(
            "a signal handler of thread {} found {found:#x} instead of the pattern {:#x} at byte {at} of an \
             untouched block of {size} bytes at {start:?}",
            thread_id(),
            world().pattern,
        ));
    }
    // SAFETY: as above.
    unsafe { word.write_volatile(MARK) };
    target.next.store(at + STRIDE, Relaxed);
}

extern "C" fn die(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler of `SA_SIGINFO` both structs.
    let (address, at) = unsafe { ((*info).si_addr(), program_counter(context)) };
    let (process, thread) = (std::process::id(), thread_id());
    fail(format_args!(
        "process {process}, thread {thread}: signal {signal}, address {address:?}, at {at:#x}{}",
        Frames::here()
    ))
}

/// The callers of this thread's functions, for those who find no process to attach gdb to.
struct Frames {
    addresses: [*mut c_void; 40],
    count: usize,
}

impl Frames {
    fn here() -> Self {
        let mut addresses = [null_mut(); 40];
        // SAFETY: the array has room for as many.
        let count = unsafe { libc::backtrace(addresses.as_mut_ptr(), 40) };
        Self { addresses, count: count as usize }
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &address in &self.addresses[..self.count] {
            // SAFETY: any address may be asked for; zeros are a value of the struct.
            let (found, about) = unsafe {
                let mut about: libc::Dl_info = std::mem::zeroed();
                (libc::dladdr(address, &mut about) != 0, about)
            };
            if !found {
                write!(out, "\n  {address:?}")?;
                continue;
            }
            // SAFETY: dladdr gives strings that live as long as the object.
            let object = unsafe { CStr::from_ptr(about.dli_fname) };
            let object = object.to_str().unwrap_or("?").rsplit('/').next().unwrap_or("?");
            write!(out, "\n  {object}+{:#x}", address as usize - about.dli_fbase as usize)?;
        }
        Ok(())
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn program_counter(context: *mut c_void) -> u64 {
    // SAFETY: the caller has it from the kernel.
    unsafe {
        (&(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs)[libc::REG_RIP as usize] as u64
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn program_counter(context: *mut c_void) -> u64 {
    // SAFETY: the caller has it from the kernel.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc }
}

/// The memory that one lane's handlers use.
#[derive(Default)]
pub struct Handlers {
    /// At a place that does not move.
    target: Box<Target>,
    written: Option<Block>,
    stack: Option<Block>,
}

impl Handlers {
    /// Gives the handlers fresh memory, and returns what they had.
    pub fn exchange_target(&mut self, new: Option<Block>) -> Option<Block> {
        TARGET.set(null_mut());
        let mut old = self.written.take();
        if let Some(block) = &mut old {
            let end = self.target.next.load(Relaxed);
            for at in (0..end).step_by(STRIDE) {
                block.shadow.set(at..at + 8, MARKED);
            }
        }
        let start = new.as_ref().map_or(null_mut(), Block::start);
        self.target.start.store(start, Relaxed);
        self.target.size.store(new.as_ref().map_or(0, Block::size), Relaxed);
        self.target.next.store(0, Relaxed);
        self.written = new;
        if self.written.is_some() {
            TARGET.set(&raw const *self.target);
        }
        old
    }

    /// Puts the handlers' stack on fresh memory, or on none, and returns the old one.
    pub fn exchange_stack(&mut self, new: Option<Block>) -> Option<Block> {
        let flags = if new.is_some() { 0 } else { libc::SS_DISABLE };
        let stack = libc::stack_t {
            ss_sp: new.as_ref().map_or(null_mut(), |block| block.start().cast()),
            ss_flags: flags,
            ss_size: new.as_ref().map_or(0, Block::size),
        };
        // SAFETY: the memory is the lane's until it exchanges it again.
        if unsafe { libc::sigaltstack(&stack, null_mut()) } != 0 {
            fail(format_args!("sigaltstack: {}", crate::world::errno()));
        }
        let mut old = std::mem::replace(&mut self.stack, new);
        if let Some(block) = &mut old {
            block.shadow.set(0..block.size(), Content::Any);
        }
        old
    }
}

/// What a marked word is in the shadow.
const MARKED: Content = Content::Word(MARK);

/// New memory for the handlers.
pub fn renew(lane: &mut Lane) {
    if lane.random.one_in(3) {
        let stack = lane.need(Source::Malloc, STACK);
        if let Some(old) = lane.handlers.exchange_stack(Some(stack)) {
            lane.discard(old);
        }
        return;
    }
    let size = 64 << lane.random.below(15);
    let target = lane.need(Source::Malloc, size);
    if let Some(old) = lane.handlers.exchange_target(Some(target)) {
        lane.check(&old, 0..old.size());
        lane.discard(old);
    }
}

/// Sends signals to this thread, to the process, or to a child.
pub fn send(lane: &mut Lane) {
    let signal = SENT[lane.random.below(SENT.len())];
    let count = 1 + lane.random.below(3);
    let whom = lane.random.below(3);
    for _ in 0..count {
        // SAFETY: the numbers are of this thread, of this process, or of a child that has not been waited for.
        unsafe {
            match (whom, lane.children.last()) {
                (0, Some(child)) if child.is_there() => libc::kill(child.pid, signal),
                (1, _) => libc::kill(libc::getpid(), signal),
                _ => libc::pthread_kill(libc::pthread_self(), signal),
            };
        }
    }
}

/// Has a timer of the process send signals into whatever its threads do, or stops it.
pub fn timer(lane: &mut Lane) {
    let interval_us = if lane.random.one_in(3) { 0 } else { 3000 + lane.random.below(30_000) };
    let time = libc::timeval { tv_sec: 0, tv_usec: interval_us as i64 };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: the struct is read, and nobody asks for the old one. (libc has it without its types for gnu.)
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0usize) };
}
