//! What the profile keeps of each live large allocation: a record for each slot of the Region, in a reservation of its own.
//! In the page map it would make every run longer, those in quarantine too, also when there is no profile.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize};

use refpage::sys::vm;
use rustix::io::Result;

use super::tally::{Tally, class_of, large};
use super::{GENERATION, Seen};

static RECORDS: AtomicPtr<Record> = AtomicPtr::new(core::ptr::null_mut());

/// Makes room for so many, none of it touched.
///
/// # Errors
/// ENOMEM where there is no address space for it.
pub fn reserve(slots: usize) -> Result<()> {
    let start = vm::reserve_for_later(slots * size_of::<Record>(), vm::page_size())?;
    RECORDS.store(start.cast(), Relaxed);
    Ok(())
}

/// Has room for these: none of the others may be written to.
///
/// # Errors
/// ENOMEM where a limit does not allow it.
pub fn make_usable(first: usize, slots: usize) -> Result<()> {
    let start = RECORDS.load(Relaxed).wrapping_add(first);
    // SAFETY: there is a record in the reservation for each slot of the Region.
    unsafe { vm::make_writable(start.cast(), slots * size_of::<Record>()) }
}

/// That of the run at `head`, while there is a profile.
pub fn of(head: usize) -> &'static Record {
    // SAFETY: heads are slots of the Region, for each of which there is a record, for as long as the process runs; zeros,
    // as the kernel gives them, are a value of every field.
    unsafe { &*RECORDS.load(Relaxed).add(head) }
}

/// One allocation; zeros are none.
#[derive(Debug)]
pub struct Record {
    /// The process that made it, 0 if nobody that counts did.
    generation: AtomicU32,
    zeroed: AtomicBool,
    recycled: AtomicBool,
    /// The most bytes that it ever had.
    most: AtomicUsize,
    /// Pages that were there before it was handed out.
    kept: AtomicUsize,
    /// What realloc has cut off: pages, those that were there, and those that were written to.
    cut: [AtomicUsize; 3],
    /// Whether it is not known what was done to some of that.
    lost: AtomicBool,
}

impl Record {
    /// It is about to be handed out.
    pub(super) fn ready(&self, kept: usize, recycled: bool) {
        self.generation.store(0, Relaxed);
        self.kept.store(kept, Relaxed);
        self.recycled.store(recycled, Relaxed);
        self.lost.store(false, Relaxed);
        self.cut.iter().for_each(|count| count.store(0, Relaxed));
    }

    /// It is this process's: whether it is in memory that was in use before.
    pub(super) fn open(&self, size: usize, zeroed: bool) -> bool {
        self.most.store(size, Relaxed);
        self.zeroed.store(zeroed, Relaxed);
        self.generation.store(GENERATION.load(Relaxed), Relaxed);
        self.recycled.load(Relaxed)
    }

    /// It is none any more.
    pub(super) fn close(&self) {
        self.generation.store(0, Relaxed);
    }

    /// Becomes the other one.
    pub(super) fn take(&self, other: &Self) {
        self.ready(other.kept.load(Relaxed), other.recycled.load(Relaxed));
        self.most.store(other.most.load(Relaxed), Relaxed);
        self.zeroed.store(other.zeroed.load(Relaxed), Relaxed);
        self.lost.store(other.lost.load(Relaxed), Relaxed);
        for (count, others) in self.cut.iter().zip(&other.cut) {
            count.store(others.load(Relaxed), Relaxed);
        }
        self.generation.store(other.generation.swap(0, Relaxed), Relaxed);
    }

    /// Whether this process made it.
    pub(super) fn is_own(&self) -> bool {
        self.generation.load(Relaxed) == GENERATION.load(Relaxed)
    }

    pub(super) fn is_zeroed(&self) -> bool {
        self.zeroed.load(Relaxed)
    }

    /// Where it counts.
    pub(super) fn tally(&self) -> &'static Tally {
        large(self.most.load(Relaxed), self.is_zeroed())
    }

    /// realloc cuts so many pages off.
    pub(super) fn cut(&self, seen: Option<Seen>, asked: usize) {
        self.lost.fetch_or(seen.is_none(), Relaxed);
        let seen = seen.unwrap_or(Seen { asked, ..Seen::default() });
        for (count, more) in self.cut.iter().zip([seen.asked, seen.present, seen.written]) {
            count.fetch_add(more, Relaxed);
        }
    }

    /// realloc makes it longer or shorter.
    pub(super) fn resize(&self, old: usize, new: usize) {
        let most = self.most.load(Relaxed);
        let (from, to) = (class_of(most), class_of(most.max(new)));
        if from != to {
            self.tally().grown_out.add(1);
        }
        self.most.store(most.max(new), Relaxed);
        let tally = self.tally();
        if from != to {
            tally.grown_in.add(1);
        }
        tally.reallocs.add(1);
        tally.bytes_asked.add(new.saturating_sub(old));
        tally.bytes_grown.add(new.saturating_sub(old));
    }

    /// It is freed with `asked` pages, or the process exits, and this was seen of them, if it is known: what was,
    /// of all that it had.
    pub(super) fn end(&self, seen: Option<Seen>, asked: usize) -> Option<Seen> {
        let tally = self.tally();
        tally.recycled.add(usize::from(self.recycled.load(Relaxed)));
        let [cut_asked, cut_present, cut_written] =
            self.cut.each_ref().map(|count| count.load(Relaxed));
        let Some(seen) = seen.filter(|_| !self.lost.load(Relaxed)) else {
            tally.unknown.add(1);
            tally.pages_unknown.add(asked + cut_asked);
            return None;
        };
        let seen = Seen {
            asked: seen.asked + cut_asked,
            present: seen.present + cut_present,
            written: seen.written + cut_written,
        };
        tally.pages_asked.add(seen.asked);
        tally.pages_kept.add(self.kept.load(Relaxed).min(seen.present));
        tally.pages_present.add(seen.present);
        tally.pages_written.add(seen.written);
        tally.note_share(seen.written, seen.asked);
        if seen.written * 2 < seen.asked {
            tally.sparse.add(1);
            tally.sparse_bytes.add(self.most.load(Relaxed));
        }
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(size: usize, kept: usize) -> Record {
        let record = Record {
            generation: AtomicU32::new(0),
            zeroed: AtomicBool::new(true),
            recycled: AtomicBool::new(true),
            most: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            cut: [const { AtomicUsize::new(1) }; 3],
            lost: AtomicBool::new(true),
        };
        record.ready(kept, false);
        assert!(!record.is_own());
        record.open(size, false);
        record
    }

    /// The sizes are in classes that no other test uses.
    #[test]
    fn an_allocation_counts_once_with_all_that_it_had() {
        let record = record(3 << 40, 1);
        record.cut(Some(Seen { asked: 90, present: 4, written: 2 }), 90);
        record.resize(3 << 40, 1 << 40);
        record.resize(1 << 40, 2 << 40);
        let other = self::record(0, 0);
        other.take(&record);
        assert!(other.is_own() && !record.is_own(), "it has moved");
        let seen = other.end(Some(Seen { asked: 10, present: 3, written: 3 }), 10);
        let seen = seen.map(|seen| (seen.asked, seen.present, seen.written));
        assert_eq!(seen, Some((100, 7, 5)));
        let sum = other.tally().sum();
        assert_eq!(sum, large(3 << 40, false).sum(), "where it had most");
        assert_eq!((sum.reallocs, sum.grown_in, sum.bytes_grown), (2, 0, 1 << 40));
        assert_eq!((sum.pages_asked, sum.pages_kept, sum.pages_present), (100, 1, 7));
        assert_eq!((sum.sparse, sum.sparse_bytes, sum.share_written[1]), (1, 3 << 40, 1));
    }

    #[test]
    fn what_is_not_known_of_a_part_is_not_known() {
        let record = record(5 << 40, 0);
        record.cut(None, 7);
        assert!(record.end(Some(Seen { asked: 3, present: 3, written: 3 }), 3).is_none());
        let sum = record.tally().sum();
        assert_eq!((sum.unknown, sum.pages_unknown, sum.pages_asked), (1, 10, 0));
    }
}
