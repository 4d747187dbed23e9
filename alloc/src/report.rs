//! What is told of a misuse: one block on stderr, in one write, of which the first line says what it was.
//!
//! ```text
//!   refpage: use after free: writing to byte 8 of a freed allocation of 100000 bytes, by 0x7f0000010008
//!   refpage:   thread 4711 (worker)
//!   refpage:   a large allocation of 100000 bytes at 0x7f0000010000, freed and kept in quarantine 12 ms ago
//!   refpage:   allocated 34 ms ago by thread 4711:
//!   refpage:     #0 /usr/bin/program+0x1234
//!   refpage:   freed by thread 4712:
//!   refpage:     #0 /usr/bin/program+0x2345
//! ```
//!
//! Lines are left out of which nothing is known. An access that the fault handler refuses is told on its thread, before
//! the signal; one that hits a marker in the signal handler, [`faults`](crate::faults); a bad free where it is made.
//! Whoever tells may be anywhere: nothing here allocates or waits, and each block has a place of its own.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use refpage::sys::report::{self, Line};
use refpage::sys::uffd::Fault;
use refpage::sys::{maps, thread, vm};

use crate::describe::{Allocation, Found, State};
use crate::heap::Heap;
use crate::start;
use crate::traces::{self, Trace};

/// What a process is told of at most, but for what ends it.
const MOST: usize = 16;

/// Room for two stacks of long names.
type Text = Line<8192>;

/// A report that was made, or is.
struct Told {
    text: UnsafeCell<Text>,
    /// What it is about.
    what: AtomicU64,
}

impl Told {
    const fn new() -> Self {
        Self { text: UnsafeCell::new(Text::new()), what: AtomicU64::new(0) }
    }
}

// SAFETY: a text is written to by the one thread that took its place.
unsafe impl Sync for Told {}

static TOLD: [Told; MOST] = [const { Told::new() }; MOST];
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static LAST: Told = Told::new();
static DYING: AtomicBool = AtomicBool::new(false);

/// An access to heap memory.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Where.
    pub address: usize,
    /// Whether it writes, if that is known.
    pub writes: Option<bool>,
    /// The thread that makes it; 0: not known.
    pub thread: u32,
}

impl Access {
    /// "reading from" or "writing to".
    pub fn kind(&self) -> &'static str {
        match self.writes {
            Some(false) => "reading from",
            Some(true) => "writing to",
            None => "accessing",
        }
    }

    /// What tells it from others: the page, who touches it, and since when it is what it is.
    fn what(&self, heap: &Heap, found: &Found) -> u64 {
        let since = found.head.map_or(0, |head| heap.map.run(head).since.load(Relaxed));
        let page = heap.engine.region().page_at(self.address) as u64;
        [page, u64::from(self.thread), since]
            .into_iter()
            .fold(1, |hash: u64, part| {
                (hash.rotate_left(23) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            })
            .max(1)
    }
}

/// Tells about an access that the fault handler refuses: called on its thread, which has no stderr and no
/// libc. Who looks in from another process, such as a debugger, is told nothing: it gets an error.
pub fn of_fault(heap: &Heap, fault: Fault) {
    let access =
        Access { address: fault.address, writes: Some(fault.writes), thread: fault.thread };
    let mut name = [0; 16];
    // Without /proc, nobody knows.
    if access.thread != 0
        && thread::name(access.thread, &mut name).is_none()
        && thread::count().is_some()
    {
        return;
    }
    of_access(heap, access, report::tell_without_stderr);
}

/// Tells about an access of this thread's that has hit a marker, unless it was told about before.
pub fn of_trap(heap: &Heap, address: usize, writes: Option<bool>) {
    of_access(heap, Access { address, writes, thread: thread::own_number() }, report::tell);
}

fn of_access(heap: &Heap, access: Access, tell: impl FnOnce(&[u8])) {
    let found = Found::at(heap, access.address);
    let what = access.what(heap, &found);
    if TOLD.iter().any(|told| told.what.load(Relaxed) == what) {
        return;
    }
    with_text(what, tell, |text| {
        let _ = write_first(text, &access, &found);
        write_more(text, heap, access.thread, Some(&found));
    });
}

/// Tells about an access of this thread's by a pointer with a wrong tag: by its first line, and what is known of the
/// allocation at `whose`.
pub fn of_tag(heap: &Heap, line: fmt::Arguments<'_>, whose: Option<usize>) {
    with_text(0, report::tell, |text| {
        let _ = writeln!(text, "refpage: {line}");
        let found = whose.map(|address| Found::at(heap, address));
        write_more(text, heap, thread::own_number(), found.as_ref());
    });
}

/// Ends the process with this line and what is known of the address, which need not be the heap's.
pub fn die_of(line: fmt::Arguments<'_>, address: usize) -> ! {
    if DYING.swap(true, Relaxed) {
        // Another thread has the room, and is about to end the process.
        report::die(line);
    }
    // SAFETY: taken just above, for good.
    let text = unsafe { &mut *LAST.text.get() };
    let _ = writeln!(text, "refpage: {line}");
    if let Some(heap) = start::try_heap() {
        let inside = heap.engine.region().contains(address);
        let found = inside.then(|| Found::at(heap, address));
        write_more(text, heap, thread::own_number(), found.as_ref());
    }
    text.end_where_cut();
    report::die_telling(text.as_bytes())
}

fn with_text(what: u64, tell: impl FnOnce(&[u8]), write: impl FnOnce(&mut Text)) {
    // Not for ever: it would begin anew.
    if TAKEN.load(Relaxed) >= MOST {
        return;
    }
    let place = TAKEN.fetch_add(1, Relaxed);
    let Some(told) = TOLD.get(place) else { return };
    told.what.store(what, Relaxed);
    // SAFETY: the place is this thread's for good.
    let text = unsafe { &mut *told.text.get() };
    write(text);
    if place + 1 == MOST {
        let _ = writeln!(text, "refpage:   what comes after this is not told");
    }
    text.end_where_cut();
    tell(text.as_bytes());
}

fn write_first(text: &mut Text, access: &Access, found: &Found) -> fmt::Result {
    let (kind, pointer, about) = (access.kind(), access.address, &found.description);
    let (at, size) = (about.offset, about.size);
    match about.state {
        State::Freed | State::Quarantined => writeln!(
            text,
            "refpage: use after free: {kind} byte {at} of a freed allocation of {size} bytes, by {pointer:#x}"
        ),
        State::Gap => {
            let name = if at < 0 { "underflow" } else { "overflow" };
            writeln!(
                text,
                "refpage: {name}: {kind} byte {at} of an allocation of {size} bytes, by {pointer:#x}"
            )
        }
        // What is live now was not when it was refused.
        State::Unknown | State::Live => writeln!(
            text,
            "refpage: wild access: {kind} {pointer:#x}, heap memory that belongs to no allocation"
        ),
    }
}

fn write_more(text: &mut Text, heap: &Heap, thread: u32, found: Option<&Found>) {
    // A text takes all that it is given.
    let _ = write_thread(text, thread);
    let Some(found) = found else { return };
    if found.description.state != State::Unknown {
        let _ = writeln!(text, "refpage:   {}", Allocation(found.description));
    }
    if let Some(head) = found.head {
        let run = heap.map.run(head);
        let freed = matches!(found.description.state, State::Freed | State::Quarantined);
        let ago = match run.born.load(Relaxed) {
            0 => None,
            born => Some(vm::now_ms().saturating_sub(born)),
        };
        let _ = write_trace(text, "allocated", ago, traces::get(run.allocated_at.load(Relaxed)));
        if freed {
            let _ = write_trace(text, "freed", None, traces::get(run.freed_at.load(Relaxed)));
        }
    }
}

fn write_thread(text: &mut Text, number: u32) -> fmt::Result {
    if number == 0 {
        return Ok(());
    }
    write!(text, "refpage:   thread {number}")?;
    let mut name = [0; 16];
    if let Some(len) = thread::name(number, &mut name) {
        text.write_str(" (")?;
        text.push(name.get(..len).unwrap_or_default());
        text.write_str(")")?;
    }
    text.write_str("\n")
}

fn write_trace(text: &mut Text, done: &str, ago: Option<u64>, trace: Trace) -> fmt::Result {
    match trace {
        Trace::None => Ok(()),
        Trace::Lost => {
            writeln!(text, "refpage:   where it was {done} is unknown: there was no room for that")
        }
        Trace::At(thread, calls) => {
            write!(text, "refpage:   {done} ")?;
            if let Some(ago) = ago {
                write!(text, "{ago} ms ago ")?;
            }
            writeln!(text, "by thread {thread}:")?;
            calls.iter().enumerate().try_for_each(|(number, &call)| write_frame(text, number, call))
        }
    }
}

/// A call by its file and where it lies from the file's beginning in memory, as
/// `refpage symbolize` takes it; by its address if it is in none.
fn write_frame(text: &mut Text, number: usize, call: usize) -> fmt::Result {
    write!(text, "refpage:     #{number} ")?;
    match maps::module_at(call) {
        Some(module) => {
            text.push(module.path.as_bytes());
            writeln!(text, "+{:#x}", call - module.base)
        }
        None => writeln!(text, "{call:#x}"),
    }
}
