//! Which slots of the Region are free: segregated fit over extents, joined when they are freed.
//!
//! Two-level bins as in TLSF (Masmano et al., 2004): four to a doubling, a bitmap of the ones
//! that hold something. The records are the page map's; nothing is written to the extents.

use core::sync::atomic::Ordering::Relaxed;

use crate::page_map::{Kind, PageMap, SLOT};

/// Bins: four to a doubling of slots, up to 2^31 slots.
pub const BINS: usize = 128;

/// The bin that a run of `slots` belongs to: those from `bin_slots(bin)` to the next bin's.
pub fn bin_of(slots: usize) -> usize {
    if slots < 4 {
        return slots;
    }
    let doubling = slots.ilog2() as usize - 2;
    4 + doubling * 4 + ((slots >> doubling) & 3)
}

/// The smallest run of a bin, in slots.
pub fn bin_slots(bin: usize) -> usize {
    if bin < 4 {
        return bin;
    }
    (4 + bin % 4) << ((bin - 4) / 4)
}

/// The smallest bin whose runs all have `slots` or more.
pub fn bin_above(slots: usize) -> usize {
    let bin = bin_of(slots);
    if bin_slots(bin) < slots { bin + 1 } else { bin }
}

/// A list of runs by the links in their records.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// First and last slot plus one; 0 when empty.
    first: u32,
    last: u32,
}

impl List {
    /// No runs.
    pub const EMPTY: List = List { first: 0, last: 0 };

    /// The run that was pushed last.
    pub fn newest(&self) -> Option<usize> {
        (self.first as usize).checked_sub(1)
    }

    /// The run that was pushed first.
    pub fn oldest(&self) -> Option<usize> {
        (self.last as usize).checked_sub(1)
    }

    /// All runs of the list, the one pushed last first.
    pub fn newest_first<'a>(&self, map: &'a PageMap) -> impl Iterator<Item = usize> + use<'a> {
        core::iter::successors(self.newest(), |&head| {
            (map.run(head).next.load(Relaxed) as usize).checked_sub(1)
        })
    }

    /// Adds a run that is on no list.
    pub fn push(&mut self, map: &PageMap, head: usize) {
        let run = map.run(head);
        run.prev.store(0, Relaxed);
        run.next.store(self.first, Relaxed);
        match self.newest() {
            Some(next) => map.run(next).prev.store(head as u32 + 1, Relaxed),
            None => self.last = head as u32 + 1,
        }
        self.first = head as u32 + 1;
    }

    /// Takes out a run that is on this list.
    pub fn remove(&mut self, map: &PageMap, head: usize) {
        let run = map.run(head);
        let (prev, next) = (run.prev.load(Relaxed), run.next.load(Relaxed));
        match (prev as usize).checked_sub(1) {
            Some(prev) => map.run(prev).next.store(next, Relaxed),
            None => self.first = next,
        }
        match (next as usize).checked_sub(1) {
            Some(next) => map.run(next).prev.store(prev, Relaxed),
            None => self.last = prev,
        }
    }
}

/// The free slots of a part of the Region.
#[derive(Debug)]
pub struct Extents {
    bins: [List; BINS],
    filled: u128,
    /// The part: its first slot, and the one behind its last.
    first: usize,
    end: usize,
    /// What `end` may become: more than `end` where slots become usable step by step.
    limit: usize,
    /// Slots in use.
    used: usize,
}

/// Slots that become usable at a time: 8 MiB at first, then a quarter of what there is, up to 256 MiB.
const STEP: usize = (8 << 20) / SLOT;
const LONGEST_STEP: usize = (256 << 20) / SLOT;

/// Steps end at a border of 2 MiB: a huge page is to lie on one side.
const STEP_ALIGN: usize = (2 << 20) / SLOT;

impl Extents {
    /// With all of the slots from `first` to `end` free.
    pub fn new(map: &PageMap, first: usize, end: usize) -> Self {
        let mut extents =
            Self { bins: [List::EMPTY; BINS], filled: 0, first, end, limit: end, used: 0 };
        if first < end {
            extents.insert(map, first, end - first);
        }
        extents
    }

    /// With none of the slots from `first` to `limit` free before [`extend`](Self::extend).
    pub fn unusable(first: usize, limit: usize) -> Self {
        Self { bins: [List::EMPTY; BINS], filled: 0, first, end: first, limit, used: 0 }
    }

    /// Has `make_usable` do with the next slots what it says, from the first to the one behind the
    /// last: so many that `slots` of them can be allocated. False if there are no more.
    pub fn extend(
        &mut self,
        map: &PageMap,
        slots: usize,
        make_usable: impl Fn(usize, usize) -> bool,
    ) -> bool {
        let bin = bin_above(slots);
        if bin >= BINS || self.end >= self.limit {
            return false;
        }
        let least = bin_slots(bin);
        let step = (self.end / 4).clamp(STEP, LONGEST_STEP).max(least);
        [step, least].into_iter().any(|step| {
            let old = self.end;
            let new = (old + step).next_multiple_of(STEP_ALIGN).min(self.limit);
            if new - old < slots || !make_usable(old, new) {
                return false;
            }
            self.end = new;
            self.used += new - old;
            map.run(old).slots.store((new - old) as u32, Relaxed);
            self.free(map, old);
            true
        })
    }

    /// Slots in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Takes `slots` slots whose first is a multiple of `align` slots (a power of two): the first
    /// slot. Their run's kind is `Moving`.
    pub fn allocate(&mut self, map: &PageMap, slots: usize, align: usize) -> Option<usize> {
        let base = map.address(0) as usize / SLOT;
        let found = self.find(slots.checked_add(align - 1)?)?;
        let (start, len) = (found, map.run(found).slots.load(Relaxed) as usize);
        self.remove(map, start);
        let first = (base + start).next_multiple_of(align) - base;
        if first > start {
            self.insert(map, start, first - start);
        }
        let end = start + len;
        if first + slots < end {
            self.insert_rest(map, first + slots, end - (first + slots));
        }
        self.used += slots;
        map.run(first).slots.store(slots as u32, Relaxed);
        map.run(first).set_kind(Kind::Moving);
        map.assign(first, slots);
        Some(first)
    }

    /// Adds the slots behind the run at `head` to it, if they are free: it then has `slots`.
    pub fn grow(&mut self, map: &PageMap, head: usize, slots: usize) -> bool {
        let run = map.run(head);
        let old = run.slots.load(Relaxed) as usize;
        let next = head + old;
        if next >= self.end || map.head(next) != Some(next) {
            return false;
        }
        let free = map.run(next);
        let len = free.slots.load(Relaxed) as usize;
        if free.kind() != Kind::Free || old + len < slots {
            return false;
        }
        self.remove(map, next);
        free.set_kind(Kind::None);
        if old + len > slots {
            self.insert_rest(map, head + slots, old + len - slots);
        }
        self.used += slots - old;
        run.slots.store(slots as u32, Relaxed);
        for slot in next..head + slots {
            map.assign_one(head, slot);
        }
        true
    }

    /// Gives back the run at `head`, whose pages are all missing.
    pub fn free(&mut self, map: &PageMap, head: usize) {
        let len = map.run(head).slots.load(Relaxed) as usize;
        self.used -= len;
        let (mut first, mut end) = (head, head + len);
        if head > self.first
            && let Some(below) = map.head(head - 1)
            && below < head
            && map.run(below).kind() == Kind::Free
            && below + map.run(below).slots.load(Relaxed) as usize == head
        {
            self.remove(map, below);
            map.run(below).set_kind(Kind::None);
            first = below;
        }
        if end < self.end && map.head(end) == Some(end) && map.run(end).kind() == Kind::Free {
            let above = end;
            self.remove(map, above);
            map.run(above).set_kind(Kind::None);
            end += map.run(above).slots.load(Relaxed) as usize;
        }
        map.run(head).set_kind(Kind::None);
        self.insert(map, first, end - first);
    }

    fn find(&self, slots: usize) -> Option<usize> {
        let from = bin_above(slots);
        if from >= BINS {
            return None;
        }
        let candidates = self.filled >> from << from;
        if candidates != 0 {
            return self.bins.get(candidates.trailing_zeros() as usize)?.newest();
        }
        None
    }

    /// The end of an extent: what began there before the extent was one is not known any more.
    fn insert_rest(&mut self, map: &PageMap, first: usize, slots: usize) {
        map.run(first).freed.store(0, Relaxed);
        self.insert(map, first, slots);
    }

    fn insert(&mut self, map: &PageMap, first: usize, slots: usize) {
        let run = map.run(first);
        run.slots.store(slots as u32, Relaxed);
        run.set_kind(Kind::Free);
        map.assign_one(first, first);
        map.assign_one(first, first + slots - 1);
        let bin = bin_of(slots);
        self.bins[bin].push(map, first);
        self.filled |= 1 << bin;
    }

    fn remove(&mut self, map: &PageMap, first: usize) {
        let bin = bin_of(map.run(first).slots.load(Relaxed) as usize);
        self.bins[bin].remove(map, first);
        if self.bins[bin].newest().is_none() {
            self.filled &= !(1 << bin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refpage::Region;

    fn map(slots: usize) -> PageMap {
        let region = Region::reserve(slots * SLOT, 2 << 20).expect("address space");
        PageMap::reserve(&region).expect("address space")
    }

    #[test]
    fn bins_are_contiguous_and_ordered() {
        for slots in 1..5000 {
            let bin = bin_of(slots);
            assert!(bin_slots(bin) <= slots && slots < bin_slots(bin + 1), "{slots}");
            assert!(bin_slots(bin_above(slots)) >= slots);
            assert!(bin_above(slots) - bin <= 1);
        }
        assert!(bin_of(u32::MAX as usize >> 1) < BINS);
    }

    #[test]
    fn slots_become_usable_step_by_step() {
        let map = map(4096);
        let mut extents = Extents::unusable(1, 4000);
        assert_eq!(extents.allocate(&map, 1, 1), None);
        assert!(!extents.extend(&map, 1, |_, _| false), "a limit allows no more");
        assert_eq!(extents.allocate(&map, 1, 1), None);
        let mut usable = 1;
        for slots in [1, 200, 3, 1000] {
            let steps = core::cell::Cell::new((0, 0));
            let make_usable = |first, end| {
                steps.set((first, end));
                true
            };
            if extents.allocate(&map, slots, 1).is_none() {
                assert!(extents.extend(&map, slots, make_usable));
                assert_eq!(steps.get().0, usable, "without gaps");
                usable = steps.get().1;
                let head = extents.allocate(&map, slots, 1).expect("room for them now");
                assert!(head + slots <= usable);
            }
        }
        assert!(!extents.extend(&map, 3900, |_, _| true), "there are not so many");
        while extents.extend(&map, 1, |_, _| true) {}
        assert!(extents.allocate(&map, 2000, 1).is_some(), "steps are one extent");
    }

    #[test]
    fn freed_neighbours_become_one_extent_again() {
        let map = map(256);
        let mut extents = Extents::new(&map, 1, map.slots());
        let runs: [usize; 5] =
            core::array::from_fn(|_| extents.allocate(&map, 10, 1).expect("room for 50 slots"));
        assert_eq!(extents.used(), 50);
        for i in [1, 3, 2, 0, 4] {
            extents.free(&map, runs[i]);
        }
        assert_eq!(extents.used(), 0);
        let all = extents.allocate(&map, bin_slots(bin_of(255)), 1);
        assert!(all.is_some(), "one extent of 255 slots");
    }

    #[test]
    fn alignment_is_in_addresses() {
        let map = map(256);
        let mut extents = Extents::new(&map, 1, map.slots());
        for align in [1, 2, 16, 64] {
            let head = extents.allocate(&map, 3, align).expect("room");
            assert!((map.address(head) as usize).is_multiple_of(align * SLOT));
        }
    }

    #[test]
    fn a_run_grows_into_the_free_slots_behind_it() {
        let map = map(64);
        let mut extents = Extents::new(&map, 1, map.slots());
        let a = extents.allocate(&map, 4, 1).expect("room");
        assert!(extents.grow(&map, a, 6));
        let b = extents.allocate(&map, 4, 1).expect("room");
        assert_eq!(b, a + 6);
        assert!(!extents.grow(&map, a, 7), "b is in the way");
        assert_eq!(map.head(a + 5), Some(a));
        extents.free(&map, b);
        assert!(extents.grow(&map, a, 12));
        assert!(!extents.grow(&map, a, 1000));
    }
}
