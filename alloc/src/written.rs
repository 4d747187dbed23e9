//! Which pages of a large allocation were written to. Nothing is locked, so that it can be asked anywhere.
//!
//! ```text
//!   malloc ─▶ nobody asks: nothing is done ─ asked ─▶ pages that are there, and hold something else than they did
//!                │ first reset: all is write-protected, then compared in the same way
//!                ▼
//!             watched: the kernel tells ─▶ freed, or moved by realloc: not any more
//! ```
//!
//! What is write-protected when it is freed is not so any more: one system call, and none of those who get the pages
//! next pays for it, wherever these go.

pub(crate) mod elsewhere;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::{peek, vm};
use refpage::{Pages, Pattern, Refused, Reset};
use rustix::io::Errno;

use crate::cache::Memory;
use crate::describe::{Found, Sort, State};
use crate::fork::{self, Inside};
use crate::heap::Heap;
use crate::start;
use crate::tags;

/// Why it is not told what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTold {
    /// There is no live allocation.
    NoAllocation,
    /// It is a small block, whose pages are others', too.
    Small,
    /// Nobody [watches](watch) it.
    NotWatched,
    /// This process or this kernel does not allow it.
    Refused(Refused),
}

impl fmt::Display for NotTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotTold::NoAllocation => f.write_str("there is no live allocation"),
            NotTold::Small => f.write_str("a small block shares its pages with others"),
            NotTold::NotWatched => f.write_str("nobody watches that memory"),
            NotTold::Refused(refused) => refused.fmt(f),
        }
    }
}

impl core::error::Error for NotTold {}

impl From<Refused> for NotTold {
    fn from(refused: Refused) -> Self {
        NotTold::Refused(refused)
    }
}

/// Calls `tell` for the OS pages of a large allocation, to any byte of which `pointer` points, that were written to since
/// it was allocated, or since they were told with [`Reset::Yes`]: ranges of addresses, the lowest first, of one page or
/// several. Who allocates it, or moves it by realloc, begins anew.
///
/// Before the first reset, a page was written to if it holds something else than it was handed out with (without a
/// pattern, if it is there), and nobody pays for that who does not ask. After it, the kernel tells, as it does a
/// [`WriteWatch`](refpage::WriteWatch). What realloc adds to it in place counts as not written to. In a child of fork all
/// pages that are there count as written to until they are reset; under memory tags, those do that were first touched after a
/// reset.
///
/// The allocation is to live until this returns; if it does not, what is told means nothing.
///
/// # Errors
/// A small block, no live allocation, or why it cannot be told. Then what was told is not reset.
///
/// ```
/// use refpage_alloc::{RefPage, Reset, written};
///
/// #[global_allocator]
/// static ALLOCATOR: RefPage = RefPage::new();
///
/// let mut bytes: Vec<u8> = Vec::with_capacity(1 << 20);
/// bytes.push(1);
/// let mut told = Vec::new();
/// written(bytes.as_ptr(), Reset::No, |pages| told.push(pages)).expect("a large allocation");
/// assert_eq!(told.len(), 1);
/// assert_eq!(told[0].start, bytes.as_ptr() as usize);
/// ```
pub fn written<T>(
    pointer: *const T,
    reset: Reset,
    tell: impl FnMut(Range<usize>),
) -> Result<(), NotTold> {
    written_upto(pointer, reset, usize::MAX, tell).map(drop)
}

/// As [`written`], but `tell` is called for `room` pages at most, and no others are reset. How many there are.
///
/// # Errors
/// As there.
pub fn written_upto<T>(
    pointer: *const T,
    reset: Reset,
    room: usize,
    mut tell: impl FnMut(Range<usize>),
) -> Result<usize, NotTold> {
    let allocation = Allocation::at(pointer.cast())?;
    let all = allocation.pages();
    match (allocation.is_watched(), reset) {
        (true, _) => {
            let told = allocation.ask_kernel(all, reset, room, &mut tell)?;
            // Those that there was no room for.
            let end = told.end.unwrap_or(all.first);
            let more = if told.count < room { 0 } else { usize::MAX };
            let rest = Pages::span(end, all.end());
            Ok(told.count + allocation.ask_kernel(rest, Reset::No, more, &mut |_| {})?.count)
        }
        (false, Reset::Yes) => allocation.begin(all, room, &mut tell),
        (false, Reset::No) => {
            let mut count = 0;
            allocation.compare(|page| {
                if count < room {
                    tell(allocation.addresses(page));
                }
                count += 1;
            })?;
            Ok(count)
        }
    }
}

/// Watches the pages that hold any of these bytes, of one large allocation or any private anonymous memory: none
/// counts as written to. An allocation's other pages do as they did.
///
/// # Errors
/// As [`written`]; and what [`WriteWatch::watch`](refpage::WriteWatch::watch) says of other memory.
pub fn watch(start: *const u8, len: usize) -> Result<(), NotTold> {
    if !is_heap(start) {
        return elsewhere::watch(start, len);
    }
    let (allocation, pages) = Allocation::with(start, len)?;
    if allocation.is_watched() {
        allocation.ask_kernel(pages, Reset::Yes, usize::MAX, &mut |_| {})?;
    } else {
        allocation.begin(pages, usize::MAX, &mut |_| {})?;
    }
    Ok(())
}

/// Calls `tell` for the first `room` pages written to of those [watched](watch) that hold any of these bytes.
///
/// # Errors
/// As [`watch`]; and [`NotTold::NotWatched`].
pub fn written_watched(
    start: *const u8,
    len: usize,
    reset: Reset,
    room: usize,
    mut tell: impl FnMut(Range<usize>),
) -> Result<(), NotTold> {
    if !is_heap(start) {
        return elsewhere::written(start, len, reset, room, &mut tell);
    }
    let (allocation, pages) = Allocation::with(start, len)?;
    if !allocation.is_watched() {
        return Err(NotTold::NotWatched);
    }
    allocation.ask_kernel(pages, reset, room, &mut tell).map(drop)
}

fn is_heap(start: *const u8) -> bool {
    start::try_heap().is_some_and(|heap| heap.engine.region().contains(tags::address(start)))
}

/// The run at `head`, in hand, is not watched any more.
pub(crate) fn end(memory: Memory<'_>, head: usize) {
    let window = &memory.map.run(head).window;
    if window.is_watched() {
        window.watch(false);
        // If not, whoever writes there next has a fault for each page, which the kernel resolves.
        let _ = memory.engine.unwatch(memory.pages(head));
    }
}

/// The run at `head`, in hand, has got these pages, and if it is watched nobody has written to them.
pub(crate) fn add(memory: Memory<'_>, head: usize, pages: Pages) {
    if memory.map.run(head).window.is_watched() && pages.count > 0 {
        // If not, they count as written to.
        let _ = protect(memory, pages);
    }
}

fn protect(memory: Memory<'_>, pages: Pages) -> Result<(), Refused> {
    memory.engine.written(pages, Reset::Yes, usize::MAX)?.try_for_each(|found| found.map(drop))
}

/// What the kernel told.
#[derive(Default)]
struct Told {
    /// How many pages.
    count: usize,
    /// The page behind the last one.
    end: Option<usize>,
}

/// A live large allocation.
struct Allocation {
    heap: &'static Heap,
    head: usize,
    bytes: Range<usize>,
}

impl Allocation {
    fn at(pointer: *const u8) -> Result<Self, NotTold> {
        let heap = start::try_heap().filter(|_| is_heap(pointer)).ok_or(NotTold::NoAllocation)?;
        // A child of fork gets a channel of its own. Where the heap is interrupted, its locks may be held.
        if !Inside::is_interrupted() {
            let _inside = Inside::enter();
            fork::settle(heap);
        }
        if !fork::is_settled(heap) {
            let step = "in a signal handler, before a child of fork is set up";
            return Err(Refused { step, errno: Errno::AGAIN }.into());
        }
        let Found { description: it, head } = Found::at(heap, tags::address(pointer));
        match (it.state, it.sort, head) {
            (State::Live, Sort::Small, _) => Err(NotTold::Small),
            (State::Live, _, Some(head)) => {
                Ok(Self { heap, head, bytes: it.start..it.start + it.size })
            }
            _ => Err(NotTold::NoAllocation),
        }
    }

    /// The one that all of these bytes lie in, or on its last page; and their pages.
    fn with(start: *const u8, len: usize) -> Result<(Self, Pages), NotTold> {
        let found = Self::at(start)?;
        let address = tags::address(start);
        let page = vm::page_size();
        let fits = |end: usize| end <= found.bytes.end.next_multiple_of(page);
        if len == 0 || !address.checked_add(len).is_some_and(fits) {
            return Err(NotTold::NoAllocation);
        }
        let pages = found.heap.engine.region().pages_of(address, len);
        Ok((found, pages))
    }

    fn memory(&self) -> Memory<'static> {
        self.heap.memory()
    }

    fn is_watched(&self) -> bool {
        self.heap.map.run(self.head).window.is_watched()
    }

    /// The pages that hold its bytes.
    fn pages(&self) -> Pages {
        self.heap.engine.region().pages_of(self.bytes.start, self.bytes.len())
    }

    fn addresses(&self, page: usize) -> Range<usize> {
        let start = self.heap.engine.region().address(page) as usize;
        start..start + vm::page_size()
    }

    /// Tells the first `room` of `pages` that were written to.
    fn ask_kernel(
        &self,
        pages: Pages,
        reset: Reset,
        room: usize,
        tell: &mut dyn FnMut(Range<usize>),
    ) -> Result<Told, NotTold> {
        let mut told = Told::default();
        if room == 0 || pages.count == 0 {
            return Ok(told);
        }
        for found in self.heap.engine.written(pages, reset, room)? {
            let found = found?;
            told.count += found.len() / vm::page_size();
            told.end = Some(self.heap.engine.region().page_at(found.end - 1) + 1);
            tell(found);
        }
        Ok(told)
    }

    /// Has it watched from now on, and tells the first `room` of `pages` that were written to before; all others that
    /// were so count as such. How many there are in `pages`.
    fn begin(
        &self,
        pages: Pages,
        room: usize,
        tell: &mut dyn FnMut(Range<usize>),
    ) -> Result<usize, NotTold> {
        let window = &self.heap.map.run(self.head).window;
        // First: who writes after this is told of the next time, and who wrote before has changed what is compared.
        protect(self.memory(), self.pages())?;
        window.watch(true);
        let (mut count, mut failed) = (0, None);
        let compared = self.compare(|page| {
            let asked = pages.contains(page);
            if asked && count < room {
                tell(self.addresses(page));
            } else if let Err(refused) = self.heap.engine.unwatch(Pages { first: page, count: 1 }) {
                failed = Some(NotTold::from(refused));
            }
            count += usize::from(asked);
        });
        match (compared, failed) {
            (Ok(()), None) => Ok(count),
            (Err(why), _) | (Ok(()), Some(why)) => {
                // All are compared the next time, too.
                window.watch(false);
                Err(why)
            }
        }
    }

    /// Tells the pages that are there and hold something else than they were handed out with.
    fn compare(&self, mut tell: impl FnMut(usize)) -> Result<(), NotTold> {
        self.look(|page, differs| {
            if differs {
                tell(page);
            }
        })
    }

    /// Tells the pages that are there, and whether they hold something else than they were handed out with.
    fn look(&self, mut tell: impl FnMut(usize, bool)) -> Result<(), NotTold> {
        let mut failed = None;
        let told = self.heap.engine.ask_kernel(self.pages(), |page, populated| {
            if !populated || failed.is_some() {
                return;
            }
            match self.differs(page.first) {
                Ok(differs) => tell(page.first, differs),
                Err(errno) => failed = Some(Refused { step: "process_vm_readv", errno }),
            }
        });
        match failed {
            Some(refused) => Err(refused.into()),
            None if told => Ok(()),
            None => Err(Refused { step: "/proc/self/pagemap", errno: Errno::NOSYS }.into()),
        }
    }

    /// Whether the allocation's bytes on the page are others than they were handed out with.
    fn differs(&self, page: usize) -> Result<bool, Errno> {
        let Some(mut handed_out) = HandedOut::of_page(self.memory(), self.head, page) else {
            return Ok(true);
        };
        let on_page = self.addresses(page);
        let mut at = on_page.start.max(self.bytes.start);
        let end = on_page.end.min(self.bytes.end);
        let mut chunk = Chunk([0; CHUNK + 8]);
        while at < end {
            let len = CHUNK.min(end - at);
            // At an address that the pattern has the same bytes at.
            let Some(bytes) = chunk.0.get_mut(at % 8..at % 8 + len) else { return Ok(true) };
            match peek::read(at, bytes) {
                Ok(()) => {}
                // The program has protected it, and knows why.
                Err(Errno::FAULT) => return Ok(true),
                Err(errno) => return Err(errno),
            }
            if handed_out.differs(bytes) {
                return Ok(true);
            }
            at += len;
        }
        Ok(false)
    }
}

/// What a page of a large allocation held when it was handed out.
pub(crate) struct HandedOut {
    pattern: Pattern,
    /// What it is from somewhere on.
    then: Option<Pattern>,
}

impl HandedOut {
    /// Of a page of the run at `head`; none if that is not defined.
    pub(crate) fn of_page(memory: Memory<'_>, head: usize, page: usize) -> Option<Self> {
        let content = memory.engine.content().pattern()?;
        let run = memory.map.run(head);
        let zeros = Pages { count: run.window.zero_pages(), ..memory.pages(head) };
        let pattern = if zeros.contains(page) { Pattern::ZERO } else { content };
        // Where calloc's zeros ended before it grew, the content begins.
        let ends_here = page + 1 == zeros.end() && !run.zeros.load(Relaxed);
        Some(Self { pattern, then: ends_here.then_some(content) })
    }

    /// Whether the page's next bytes are others, at an address that the pattern has the same bytes at.
    pub(crate) fn differs(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = self.pattern.find_other(bytes) else { return false };
        let Some(next) = self.then.take() else { return true };
        self.pattern = next;
        bytes.get(first..).is_none_or(|rest| next.find_other(rest).is_some())
    }
}

/// How many pages of the live run at `head`, which stays one until this returns, are there, and how many of them hold
/// something else than they were handed out with. None if that is not told.
pub(crate) fn look(heap: &'static Heap, head: usize) -> Option<(usize, usize)> {
    let start = heap.memory().start(head) as usize;
    let bytes = start..start + heap.map.run(head).size.load(Relaxed);
    let (mut present, mut written) = (0, 0);
    let told = Allocation { heap, head, bytes }.look(|_, differs| {
        present += 1;
        written += usize::from(differs);
    });
    told.ok().map(|()| (present, written))
}

/// Bytes that are compared at a time.
const CHUNK: usize = 4096;

#[repr(align(8))]
struct Chunk([u8; CHUNK + 8]);
