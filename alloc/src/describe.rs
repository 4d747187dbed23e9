//! What an address is to the heap, as far as the page map tells: nothing is locked, so that it can be asked anywhere.
//!
//! ```text
//!   address ─▶ slot ─▶ the run that owns it ─▶ span ─▶ block: live, or freed
//!                │                        └──▶ large: live, freed, quarantined ─ behind its bytes ─┐
//!                └─ nobody's: the live runs before and behind ─▶ the nearer one ◀──────────────────┘
//! ```
//!
//! The map still names the owner of a slot when that is gone: what was freed last there is known until its slots
//! are used again. Heads of free slots may be stale: a run owns those only that it reaches to.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use refpage::sys::vm;

use crate::classes;
use crate::heap::Heap;
use crate::page_map::{Kind, PageMap, SLOT};
use crate::start;
use crate::tags;

/// What an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Heap memory that belongs to no allocation that is known.
    Unknown = 0,
    /// An allocation.
    Live = 1,
    /// One that was freed.
    Freed = 2,
    /// One that was freed, whose addresses are kept out of use.
    Quarantined = 3,
    /// Nothing, beside an allocation.
    Gap = 4,
}

/// How the allocation was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sort {
    /// There is none.
    None = 0,
    /// A block of a size class: its size is that of the class.
    Small = 1,
    /// A page run of its own.
    Large = 2,
    /// A page run of its own, though it is small: it was sampled.
    Sampled = 3,
}

/// What an address is to the heap; of an allocation, or of the one that it is beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// What it belongs to.
    pub state: State,
    /// How that was made.
    pub sort: Sort,
    /// The first byte; the address itself if nothing is known.
    pub start: usize,
    /// Bytes; 0 if nothing is known.
    pub size: usize,
    /// Bytes from the first one to the address: negative before it.
    pub offset: i64,
    /// Milliseconds since it was allocated, or freed if it was; small blocks have none.
    pub age_ms: Option<u64>,
}

/// What an address is to the heap; none if it is not the heap's. It is of one moment, which may be over.
///
/// ```
/// use refpage_alloc::{RefPage, State, describe};
///
/// #[global_allocator]
/// static ALLOCATOR: RefPage = RefPage::new();
///
/// let bytes = vec![1u8; 1 << 20];
/// let it = describe(&bytes[5]).expect("an address of the heap");
/// assert_eq!((it.state, it.size, it.offset), (State::Live, 1 << 20, 5));
/// assert!(it.to_string().starts_with("byte 5 of a large allocation of 1048576 bytes at 0x"));
/// assert_eq!(describe(&ALLOCATOR), None);
/// ```
pub fn describe<T>(pointer: *const T) -> Option<Description> {
    let heap = start::try_heap()?;
    let address = tags::address(pointer.cast());
    heap.engine.region().contains(address).then(|| Found::at(heap, address).description)
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.state == State::Unknown {
            return f.write_str("heap memory that belongs to no allocation");
        }
        write!(f, "byte {} of {}", self.offset, Allocation(*self))
    }
}

/// The allocation alone.
pub(crate) struct Allocation(pub Description);

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { state, sort, start, size, age_ms, .. } = self.0;
        let sort = match sort {
            Sort::Small => "a small block",
            Sort::Sampled => "a small allocation on pages of its own",
            Sort::Large | Sort::None => "a large allocation",
        };
        write!(f, "{sort} of {size} bytes at {start:#x}")?;
        let done = match state {
            State::Freed => "freed",
            State::Quarantined => "freed and kept in quarantine",
            _ if age_ms.is_none() => "live",
            _ => "allocated",
        };
        match age_ms {
            Some(age) => write!(f, ", {done} {age} ms ago"),
            None => write!(f, ", {done}"),
        }
    }
}

/// Slots up to which an address is taken to be beside an allocation that does not own them.
const NEAR: usize = (1 << 20) / SLOT;

/// A description, and the run that it is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub description: Description,
    /// The first slot of a large run.
    pub head: Option<usize>,
}

/// An allocation that is a run, or one that was.
#[derive(Clone, Copy)]
struct Place {
    head: usize,
    state: State,
    start: usize,
    size: usize,
}

impl Place {
    fn end(&self) -> usize {
        self.start + self.size
    }

    fn of(heap: &Heap, head: usize) -> Option<Self> {
        let run = heap.map.run(head);
        let (state, size) = match run.kind() {
            Kind::Large => (State::Live, &run.size),
            Kind::Quarantined => (State::Quarantined, &run.freed),
            Kind::Cached | Kind::Free | Kind::None => (State::Freed, &run.freed),
            // On its way, it is as much the one as the other.
            Kind::Moving | Kind::Arena | Kind::Span | Kind::EmptySpan | Kind::BareSpan => {
                return None;
            }
        };
        let (start, size) = (heap.memory().start(head) as usize, size.load(Relaxed));
        (size > 0).then_some(Self { head, state, start, size })
    }

    fn found(self, heap: &Heap, state: State, address: usize) -> Found {
        let sampled = heap.map.run(self.head).sampled.load(Relaxed);
        let sort = if sampled { Sort::Sampled } else { Sort::Large };
        let since = heap.map.run(self.head).since.load(Relaxed);
        let description = Description {
            state,
            sort,
            start: self.start,
            size: self.size,
            offset: (address as i64).wrapping_sub(self.start as i64),
            age_ms: Some(vm::now_ms().saturating_sub(since)),
        };
        Found { description, head: Some(self.head) }
    }
}

impl Found {
    /// What there is at an address of the Region.
    pub fn at(heap: &Heap, address: usize) -> Self {
        let slot = heap.map.slot_at(address);
        let owner = owner(&heap.map, slot);
        if let Some(description) = owner.and_then(|head| in_span(heap, head, address)) {
            return Self { description, head: None };
        }
        if let Some(place) = owner.and_then(|head| Place::of(heap, head))
            && (place.start..place.end()).contains(&address)
        {
            return place.found(heap, place.state, address);
        }
        Self::beside(heap, slot, address).unwrap_or(Self {
            description: Description {
                state: State::Unknown,
                sort: Sort::None,
                start: address,
                size: 0,
                offset: 0,
                age_ms: None,
            },
            head: None,
        })
    }

    /// The nearest live run, if one is near: who goes past its end touches what lies behind that first, and who goes
    /// below its start the bytes before it.
    fn beside(heap: &Heap, slot: usize, address: usize) -> Option<Self> {
        let before = first_owner(heap, (slot.saturating_sub(NEAR)..=slot).rev(), |place| {
            place.start <= address
        });
        let last = (slot + NEAR).min(heap.map.slots() - 1);
        let behind = first_owner(heap, slot..=last, |place| place.start > address);
        let over = before.map_or(usize::MAX, |place| address - place.end());
        let under = behind.map_or(usize::MAX, |place| place.start - address);
        let nearer = if over <= under { before } else { behind };
        nearer.map(|place| place.found(heap, State::Gap, address))
    }
}

/// The first live run that owns one of the slots and lies on that side, if none but free slots and the run around the
/// first of them lie between.
fn first_owner(
    heap: &Heap,
    slots: impl Iterator<Item = usize>,
    is_there: impl Fn(&Place) -> bool,
) -> Option<Place> {
    let mut here = None;
    for slot in slots {
        let head = owner(&heap.map, slot);
        let around = *here.get_or_insert(head);
        let Some(head) = head else { continue };
        match heap.map.run(head).kind() {
            Kind::Large => match Place::of(heap, head).filter(&is_there) {
                Some(place) => return Some(place),
                None if around == Some(head) => {}
                None => return None,
            },
            Kind::Free | Kind::None => {}
            _ if around == Some(head) => {}
            _ => return None,
        }
    }
    None
}

/// The run that a slot belongs to, or belonged to last.
pub(crate) fn owner(map: &PageMap, slot: usize) -> Option<usize> {
    let head = map.head(slot)?;
    let slots = map.run(head).slots.load(Relaxed) as usize;
    (head <= slot && slot < head + slots).then_some(head)
}

fn in_span(heap: &Heap, head: usize, address: usize) -> Option<Description> {
    let run = heap.map.run(head);
    if !matches!(run.kind(), Kind::Span | Kind::EmptySpan | Kind::BareSpan) {
        return None;
    }
    let size = classes::size(usize::from(run.class.load(Relaxed)));
    let first = heap.map.address(head) as usize;
    let index = (address - first) / size;
    let start = first + index * size;
    (index < run.opened.load(Relaxed) as usize).then(|| Description {
        state: if heap.map.state(start).load(Relaxed) != 0 { State::Live } else { State::Freed },
        sort: Sort::Small,
        start,
        size,
        offset: (address - start) as i64,
        age_ms: None,
    })
}
