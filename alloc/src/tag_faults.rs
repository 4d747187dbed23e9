//! What a tag check fault was, as far as the heap can tell.
//!
//! ```text
//!   faults ─▶ put_right: a page of a live allocation without its tag
//!        └──▶ tell ─▶ address ─▶ run or block, its state, its tag and its neighbours' ─▶ report
//! ```
//!
//! A page that has no tag at all, though it belongs to a live allocation, is put right, and the access made
//! again. Else the tag in the pointer says whose it is: its block's if that was freed, a neighbour's if it ran over
//! the border. Blocks of a span are odd and even by turns, so that the two cannot be mistaken.

use core::sync::atomic::Ordering::Relaxed;

use mte::Tag;
use refpage::Fresh;
use refpage::sys::report::warn;

use crate::classes;
use crate::fork;
use crate::heap::Heap;
use crate::page_map::Kind;
use crate::report::{self, Access};
use crate::tags;

/// A page of a live allocation that the kernel put in place, with zeros and no tag, gets what it is to hold:
/// in a child that nobody serves yet (see [`fork`](crate::fork)), or after the program had the kernel drop
/// it. False if it is not that.
pub fn put_right(heap: &Heap, pointer: usize) -> bool {
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

/// Tells about an access by a pointer whose tag is not the memory's; `writes` if that is known.
pub fn tell(heap: Option<&Heap>, writes: Option<bool>, pointer: usize) {
    let access = Access { address: pointer, writes, thread: 0 }.kind();
    let address = tags::address(pointer as *const u8);
    let unknown = format_args!(
        "wrong tag: {access} {pointer:#x}, whose tag {} is not that of the memory there",
        mte::tag_of(pointer as u64).get()
    );
    let Some(heap) = heap else { return warn(unknown) };
    match Finding::of(heap, pointer) {
        Some(Finding::UseAfterFree(at, size)) => report::of_tag(
            heap,
            format_args!(
                "use after free: {access} byte {at} of a freed allocation of {size} bytes, by {pointer:#x}"
            ),
            Some(address - at),
        ),
        Some(Finding::Overflow(at, size)) => report::of_tag(
            heap,
            format_args!(
                "overflow: {access} byte {at} of an allocation of {size} bytes, by {pointer:#x}"
            ),
            Some(address - at),
        ),
        Some(Finding::Underflow(by, size)) => report::of_tag(
            heap,
            format_args!(
                "underflow: {access} byte -{by} of an allocation of {size} bytes, by {pointer:#x}"
            ),
            Some(address + by),
        ),
        Some(Finding::Other(at, size)) => report::of_tag(
            heap,
            format_args!(
                "wrong tag: {access} byte {at} of an allocation of {size} bytes, by {pointer:#x}, which is for \
                 one that was freed there before, or forged"
            ),
            Some(address - at),
        ),
        None => report::of_tag(heap, unknown, None),
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
