//! What a tag check fault was, as far as the heap can tell: one line on stderr, and then whatever the program
//! does about SIGSEGV.
//!
//! ```text
//!   access ─▶ SIGSEGV ─▶ report ─▶ decode: address ─▶ run or block, its state, its tag and its neighbours'
//!                          └─────▶ the program's handler of before; without one, the signal again
//! ```
//!
//! A page that has no tag at all, though it belongs to a live allocation, is put right, and the access made
//! again. Else the tag in the pointer says whose it is: its block's if that was freed, a neighbour's if it ran over
//! the border. Blocks of a span are odd and even by turns, so that the two cannot be mistaken.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

use mte::Tag;
use refpage::Fresh;
use refpage::sys::report::warn;

use crate::classes;
use crate::fork::{self, Inside};
use crate::heap::Heap;
use crate::page_map::Kind;
use crate::start;
use crate::tags;

/// The codes of SIGSEGV for tag check faults: uapi/asm-generic/siginfo.h.
const SEGV_MTEAERR: c_int = 8;
const SEGV_MTESERR: c_int = 9;
/// Has the signal handler see the tag of the address (Linux 5.11+): uapi/asm-generic/signal-defs.h.
const SA_EXPOSE_TAGBITS: c_int = 0x800;

/// The program's own way with SIGSEGV, as it was when the heap started.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, before the signal handler is there that reads it.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));

/// Has tag check faults reported; a handler that the program installs later takes this one's place.
pub fn install() {
    if !tags::on() {
        return;
    }
    // SAFETY: a query into a place that nobody reads yet, and a handler that lives for ever. It keeps to what
    // may be done in one: it allocates nothing and takes no lock.
    unsafe {
        let before = BEFORE.0.get().cast::<libc::sigaction>();
        if libc::sigaction(libc::SIGSEGV, core::ptr::null(), before) != 0 {
            return;
        }
        let mut action = *before;
        action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as usize;
        action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK | SA_EXPOSE_TAGBITS;
        action.sa_flags &= !libc::SA_RESETHAND;
        libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands both to a handler with SA_SIGINFO, for as long as it runs.
    let (code, pointer) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    match code {
        SEGV_MTESERR => {
            let heap = start::try_heap().filter(|_| !Inside::is_interrupted());
            let _inside = Inside::enter();
            if heap.is_some_and(|heap| put_right(heap, pointer)) {
                return;
            }
            let finding = start::try_heap().and_then(|heap| Finding::of(heap, pointer));
            tell(finding, access(context), pointer);
        }
        SEGV_MTEAERR => warn(format_args!(
            "an access by a pointer whose tag is not the memory's, some time before this; mte=sync in \
             REFPAGE_OPTIONS tells which"
        )),
        _ => {}
    }
    // SAFETY: as above.
    unsafe { pass_on(signal, info, context) };
}

/// A page of a live allocation that the kernel put in place, with zeros and no tag, gets what it is to hold:
/// in a child that nobody serves yet (see [`fork`](crate::fork)), or after the program had the kernel drop
/// it. False if it is not that.
fn put_right(heap: &Heap, pointer: usize) -> bool {
    let (address, tag) = (tags::address(pointer as *const u8), mte::tag_of(pointer as u64));
    let region = heap.engine.region();
    let head = Some(address).filter(|&address| region.contains(address));
    let Some(head) = head.and_then(|address| heap.map.head(heap.map.slot_at(address))) else {
        return false;
    };
    let run = heap.map.run(head);
    let owned = run.kind() == Kind::Large && run.window.tag() == tag;
    if !owned || address >= run.window.tagged_end() {
        return false;
    }
    // It may be about to get its tag.
    while fork::is_settled(heap) && !heap.engine.is_handler_idle() {
        rustix::thread::sched_yield();
    }
    // SAFETY: the access came as far as to the memory's tag.
    let found = unsafe { mte::tag_at(address as *const u8) };
    if found != Tag::ZERO {
        return found == tag;
    }
    let page = region.pages_of(address, 1);
    let zeros = page.first - run.window.pages().first < run.window.zero_pages();
    heap.engine.note_present(page);
    heap.engine.convert(page, if zeros { Fresh::Zero } else { Fresh::Content });
    true
}

/// Goes on as the program would have without this handler.
///
/// # Safety
/// The arguments are those of a signal handler that runs.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: written before this handler was installed.
    let before = unsafe { (*BEFORE.0.get()).assume_init_ref() };
    if matches!(before.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
        // SAFETY: what was there before this handler was.
        unsafe { libc::sigaction(signal, before, core::ptr::null_mut()) };
        // The access is made again when this returns, and ends the process; if there is none to make again,
        // the signal does, which is blocked until then.
        // SAFETY: the caller's promise.
        let code = unsafe { (*info).si_code };
        if code == SEGV_MTEAERR || code <= 0 {
            // SAFETY: raise has no precondition.
            unsafe { libc::raise(signal) };
        }
        return;
    }
    // SAFETY: the program's own handler, called as the kernel would: without tags where it has not asked for them.
    unsafe {
        if before.sa_flags & SA_EXPOSE_TAGBITS == 0 {
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

/// What the access was, as the kernel tells it: "reading" or "writing".
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn access(context: *const c_void) -> &'static str {
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
                let writes = record.add(8).cast::<u64>().read() & WNR != 0;
                return if writes { "writing to" } else { "reading from" };
            }
            if size == 0 {
                return "accessing";
            }
            record = record.add(size as usize);
        }
    }
}

#[cfg(not(all(target_arch = "aarch64", target_os = "linux")))]
fn access(_: *const c_void) -> &'static str {
    "accessing"
}

/// Whose memory a pointer was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Byte so many of a freed allocation of so many bytes.
    UseAfterFree(usize, usize),
    /// Byte so many, from its end on, of an allocation of so many.
    Overflow(usize, usize),
    /// So many bytes before the start of one.
    Underflow(usize, usize),
    /// Byte so many of an allocation that the pointer is not for.
    Other(usize, usize),
}

fn tell(finding: Option<Finding>, access: &str, pointer: usize) {
    match finding {
        Some(Finding::UseAfterFree(at, size)) => warn(format_args!(
            "use after free: {access} byte {at} of a freed allocation of {size} bytes, by {pointer:#x}"
        )),
        Some(Finding::Overflow(at, size)) => warn(format_args!(
            "overflow: {access} byte {at} of an allocation of {size} bytes, by {pointer:#x}"
        )),
        Some(Finding::Underflow(by, size)) => warn(format_args!(
            "underflow: {access} byte -{by} of an allocation of {size} bytes, by {pointer:#x}"
        )),
        Some(Finding::Other(at, size)) => warn(format_args!(
            "wrong tag: {access} byte {at} of an allocation of {size} bytes, by {pointer:#x}, which is for \
             one that was freed there before, or forged"
        )),
        None => warn(format_args!(
            "wrong tag: {access} {pointer:#x}, whose tag {} is not that of the memory there",
            mte::tag_of(pointer as u64).get()
        )),
    }
}

/// An allocation, or one that was.
struct Place {
    start: usize,
    size: usize,
    live: bool,
    tag: Tag,
}

impl Finding {
    fn of(heap: &Heap, pointer: usize) -> Option<Self> {
        let address = tags::address(pointer as *const u8);
        if !heap.engine.region().contains(address) {
            return None;
        }
        let tag = mte::tag_of(pointer as u64);
        let head = heap.map.head(heap.map.slot_at(address));
        let small = head.filter(|&head| heap.map.run(head).kind() == Kind::Span);
        match small {
            Some(head) => Self::in_span(heap, head, address, tag),
            None => Self::in_runs(heap, address, tag),
        }
    }

    fn in_runs(heap: &Heap, address: usize, tag: Tag) -> Option<Self> {
        let map = &heap.map;
        let place = |slot: usize| {
            let head = map.head(slot).filter(|_| slot < map.slots())?;
            let run = map.run(head);
            let kind = run.kind();
            let live = kind == Kind::Large;
            let size = if live { run.size.load(Relaxed) } else { run.freed.load(Relaxed) };
            let was = live || matches!(kind, Kind::Cached | Kind::Moving | Kind::Free | Kind::None);
            let start = map.address(head) as usize;
            (was && size > 0).then(|| Place { start, size, live, tag: run.window.tag() })
        };
        let slot = map.slot_at(address);
        let here = place(slot);
        let before = slot.checked_sub(1).and_then(&place).filter(|p| p.start + p.size <= address);
        // Behind the run's last slot.
        let slots = map.head(slot).map_or(1, |head| map.run(head).slots.load(Relaxed) as usize);
        let behind = place(map.head(slot).unwrap_or(slot) + slots);
        Self::judge(here, [before, behind], address, tag)
    }

    fn in_span(heap: &Heap, head: usize, address: usize, tag: Tag) -> Option<Self> {
        let run = heap.map.run(head);
        let size = classes::size(usize::from(run.class.load(Relaxed)));
        let first = heap.map.address(head) as usize;
        let opened = run.opened.load(Relaxed) as usize;
        let place =
            |index: usize| (index < opened).then(|| block(heap, first + index * size, size));
        let index = (address - first) / size;
        let others = [index.checked_sub(1).and_then(place), place(index + 1)];
        Self::judge(place(index), others, address, tag)
    }

    /// Whose the pointer is: what runs over a border has the tag of the allocation that it comes from.
    fn judge(
        here: Option<Place>,
        others: [Option<Place>; 2],
        address: usize,
        tag: Tag,
    ) -> Option<Self> {
        let [before, behind] = others;
        let is_it = |place: &Place| place.live && place.tag == tag;
        if let Some(place) =
            here.as_ref().filter(|place| is_it(place) && address >= place.start + place.size)
        {
            return Some(Finding::Overflow(address - place.start, place.size));
        }
        if let Some(place) = before.filter(is_it) {
            return Some(Finding::Overflow(address - place.start, place.size));
        }
        if let Some(place) = behind.filter(is_it) {
            return Some(Finding::Underflow(place.start - address, place.size));
        }
        // What lies behind the bytes asked for was never anybody's.
        let place = here.filter(|place| address < place.start + place.size)?;
        let (at, size) = (address - place.start, place.size);
        Some(if place.live { Finding::Other(at, size) } else { Finding::UseAfterFree(at, size) })
    }
}

/// A block of a span that was handed out at least once.
fn block(heap: &Heap, start: usize, size: usize) -> Place {
    let live = heap.map.state(start).load(Relaxed) != 0;
    // SAFETY: such a block is present.
    let tag = unsafe { mte::tag_at(start as *const u8) };
    Place { start, size, live, tag }
}
