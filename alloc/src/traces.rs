//! Where large runs were allocated and freed (option `backtraces`): stacks, each kept once.
//!
//! ```text
//!   Run.allocated_at, Run.freed_at ─▶ number of 8 bytes in the depot ─▶ | next | hash, thread | count | frames… |
//!   hash of a stack ─▶ bucket ─▶ the record that was made last ─ next ─▶ …
//! ```
//!
//! Records are never given back: the depot is bounded, and what finds no room in it is counted and known as lost.
//!
//! Stacks are unwound by the tables that every program has for exceptions: code compiled without frame pointers, as
//! this library is, leaves nothing to begin a walk along them with. The unwinder may allocate: it is
//! [inside](crate::fork::Inside), so that is what a signal handler would get, and no large run.

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize};

use refpage::Cause;
use refpage::sys::report::warn;
use refpage::sys::{errno, maps, thread, vm};

use crate::cache::Memory;
use crate::options::Options;

/// Frames of a stack that are kept, the innermost ones.
pub const FRAMES: usize = 16;

/// Frames of our own that are looked at before those.
const OWN: usize = 16;

/// Address space of the depot.
const LEN: usize = 64 << 20;
const BUCKETS: usize = 1 << 15;

/// The index of a stack that there was no room for.
const LOST: u32 = u32::MAX;

static ON: AtomicBool = AtomicBool::new(false);
static DEPOT: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());
/// Bytes of the depot that are taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// The code that is not of interest: this library's, unless it is the program's, too.
static OWN_CODE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// A stack, and the thread that it is of; so many addresses of the calls follow it.
#[repr(C)]
struct Record {
    next: u32,
    hash: u32,
    thread: u32,
    count: u32,
}

/// Where something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nobody kept it.
    None,
    /// There was no room for it.
    Lost,
    /// By a thread, at calls whose last bytes are at these addresses, the innermost first.
    At(u32, &'static [usize]),
}

/// Has stacks kept from now on, if the options ask for it: before the first large run is handed out.
pub fn start(options: &Options) {
    if !options.backtraces {
        return;
    }
    match vm::reserve_for_later(LEN, vm::page_size()) {
        Ok(depot) => {
            DEPOT.store(depot.cast(), Relaxed);
            // Index 0 is none's.
            TAKEN.store(BUCKETS * size_of::<AtomicU32>(), Relaxed);
            find_own_code();
            // SAFETY: the first bytes of the reservation.
            if unsafe { vm::make_writable(depot, BUCKETS * size_of::<AtomicU32>()) }.is_ok() {
                ON.store(true, Relaxed);
                return;
            }
            warn(format_args!("backtraces=on: no memory for them"));
        }
        Err(errno) => warn(format_args!("backtraces=on: no room for them: {}", errno::name(errno))),
    }
}

fn find_own_code() {
    let Some(own) = maps::module_at(start as fn(&Options) as usize) else { return };
    // SAFETY: getauxval has no precondition.
    let program = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    if !(own.base..own.end).contains(&program) {
        OWN_CODE[0].store(own.base, Relaxed);
        OWN_CODE[1].store(own.end, Relaxed);
    }
}

/// The run at `head`, in this thread's hands, was handed out.
#[inline]
pub fn note_allocation(memory: Memory<'_>, head: usize) {
    if ON.load(Relaxed) {
        let run = memory.map.run(head);
        run.allocated_at.store(capture(memory), Relaxed);
        run.freed_at.store(0, Relaxed);
        run.born.store(vm::now_ms(), Relaxed);
    }
}

/// The run at `head`, in this thread's hands, is freed.
#[inline]
pub fn note_free(memory: Memory<'_>, head: usize) {
    if ON.load(Relaxed) {
        memory.map.run(head).freed_at.store(capture(memory), Relaxed);
    }
}

/// What is known by an index of a run.
pub fn get(index: u32) -> Trace {
    match index {
        0 => Trace::None,
        LOST => Trace::Lost,
        index => {
            let record = record(index);
            // SAFETY: indices are of records that were written before.
            unsafe { Trace::At((*record).thread, frames(record)) }
        }
    }
}

fn record(index: u32) -> *mut Record {
    let depot = DEPOT.load(Relaxed).cast::<u8>();
    depot.wrapping_add(index as usize * 8).cast()
}

/// # Safety
/// The record was written.
unsafe fn frames(record: *const Record) -> &'static [usize] {
    // SAFETY: the caller's promise; nobody writes to it again.
    unsafe { core::slice::from_raw_parts(record.add(1).cast(), (*record).count as usize) }
}

#[cold]
#[inline(never)]
fn capture(memory: Memory<'_>) -> u32 {
    let mut walk = Walk { frames: [0; FRAMES], count: 0, seen: 0 };
    // SAFETY: the callback gets what is passed here, for as long as this runs.
    unsafe { _Unwind_Backtrace(on_frame, (&raw mut walk).cast()) };
    let owner = thread::own_number();
    let index = keep(owner, walk.frames.get(..walk.count).unwrap_or_default());
    if index == LOST {
        memory.engine.note(Cause::TraceLost);
    }
    index
}

/// The record of a stack, made if there is none.
fn keep(thread: u32, calls: &[usize]) -> u32 {
    let hash = calls.iter().fold(u64::from(thread), |hash, &call| {
        (hash.rotate_left(5) ^ call as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    let hash = (hash >> 32) as u32;
    let depot = DEPOT.load(Relaxed);
    // SAFETY: the buckets are at the depot's start, all of them writable.
    let bucket = unsafe { &*depot.add(hash as usize % BUCKETS) };
    let (mut first, mut known) = (bucket.load(Acquire), 0);
    let mut new = 0;
    loop {
        let mut index = first;
        while index != known {
            let record = record(index);
            // SAFETY: what a bucket leads to was written before.
            unsafe {
                if ((*record).hash, (*record).thread) == (hash, thread) && frames(record) == calls {
                    return index;
                }
                index = (*record).next;
            }
        }
        known = first;
        if new == 0 {
            new = make(hash, thread, calls);
        }
        if new == LOST {
            return LOST;
        }
        // SAFETY: nobody knows of it yet.
        unsafe { (*record(new)).next = first };
        match bucket.compare_exchange(first, new, AcqRel, Acquire) {
            Ok(_) => return new,
            Err(now) => first = now,
        }
    }
}

/// Writes a record that nobody knows of.
fn make(hash: u32, thread: u32, calls: &[usize]) -> u32 {
    let len = size_of::<Record>() + size_of_val(calls);
    let room = |taken: usize| taken.checked_add(len).filter(|&end| end <= LEN);
    let Ok(at) = TAKEN.fetch_update(Relaxed, Relaxed, room) else { return LOST };
    let index = (at / 8) as u32;
    let record = record(index);
    // SAFETY: these bytes of the depot are this thread's from now on.
    unsafe {
        if vm::make_writable(record.cast(), len).is_err() {
            return LOST;
        }
        record.write(Record { next: 0, hash, thread, count: calls.len() as u32 });
        record.add(1).cast::<usize>().copy_from_nonoverlapping(calls.as_ptr(), calls.len());
    }
    index
}

struct Walk {
    frames: [usize; FRAMES],
    count: usize,
    seen: usize,
}

/// Of the unwinder's interface, which is the same everywhere: the code to go on with, and one that ends the walk.
const NO_REASON: c_int = 0;
const END_OF_STACK: c_int = 5;

extern "C" fn on_frame(context: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: `capture` passed its own.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    // SAFETY: what the unwinder gave.
    let Some(call) = unsafe { _Unwind_GetIP(context) }.checked_sub(1) else { return END_OF_STACK };
    walk.seen += 1;
    let [start, end] = OWN_CODE.each_ref().map(|bound| bound.load(Relaxed));
    let own = walk.count == 0 && (start..end).contains(&call);
    match walk.frames.get_mut(walk.count) {
        _ if own => {}
        Some(frame) => {
            *frame = call;
            walk.count += 1;
        }
        None => return END_OF_STACK,
    }
    if walk.seen < FRAMES + OWN { NO_REASON } else { END_OF_STACK }
}

unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_kept_once_for_each_thread() {
        start(&Options::new().backtraces(true));
        let one = keep(1, &[1, 2, 3]);
        assert_eq!(keep(1, &[1, 2, 3]), one);
        assert_eq!(get(one), Trace::At(1, &[1, 2, 3]));
        let others = [keep(2, &[1, 2, 3]), keep(1, &[1, 2]), keep(1, &[])];
        assert_eq!(get(others[0]), Trace::At(2, &[1, 2, 3]));
        assert_eq!(get(others[1]), Trace::At(1, &[1, 2]));
        assert_eq!(get(others[2]), Trace::At(1, &[]));
        for call in 0..10_000 {
            let Trace::At(7, calls) = get(keep(7, &[call, 5])) else { panic!("{call} is kept") };
            assert_eq!(calls, [call, 5]);
        }
        assert_eq!(keep(1, &[1, 2, 3]), one);
        TAKEN.store(LEN - 8, Relaxed);
        assert_eq!(keep(3, &[9]), LOST);
        assert_eq!(keep(1, &[1, 2, 3]), one, "what there is is found all the same");
        assert_eq!(get(LOST), Trace::Lost);
        ON.store(false, Relaxed);
    }
}
