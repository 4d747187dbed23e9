//! What the engine has done so far, and how often it had to do it in a worse way.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

/// A count that any thread may add to: one word.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Makes it `n`: for a number that one thread alone publishes.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $name:literal,)*) => {
        /// Why something was done in a worse way than it should be. Each is counted once per attempt,
        /// however many pages that was about. New ones go to the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$cause,)*];

            /// The name in reports.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$cause => $name,)*
                }
            }

            /// The name as C wants it.
            pub const fn as_c_str(self) -> &'static CStr {
                match self {
                    $(Self::$cause => const {
                        match CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("a NUL in a name"),
                        }
                    })*
                }
            }
        }
    };
}

causes! {
    /// MOVE: a page was there already (EEXIST): nothing was left to do for it.
    MoveExists = "move_exists",
    /// MOVE: no page at the source (ENOENT), or no VMA.
    MoveMissing = "move_missing",
    /// MOVE: a page is shared with another process, or pinned (EBUSY).
    MoveBusy = "move_busy",
    /// MOVE: not now (EAGAIN), and nothing was moved.
    MoveAgain = "move_again",
    /// MOVE: anything else.
    MoveOther = "move_other",
    /// MOVE or COPY: the descriptor is not the channel any more, or the process is going (EBADF,
    /// ENOTTY, ESRCH).
    ChannelLost = "channel_lost",
    /// The pool had no page, or another thread was at its books: pages were copied.
    PoolEmpty = "pool_empty",
    /// No huge page was to be had: small ones did.
    NoHugePage = "no_huge_page",
    /// COPY: a page was there already.
    CopyExists = "copy_exists",
    /// COPY: tried again, for want of memory (ENOMEM).
    CopyNoMemory = "copy_no_memory",
    /// COPY: tried again, because the kernel asked for it (EAGAIN, EINTR).
    CopyAgain = "copy_again",
    /// COPY: the program has divided the VMA, and copying went on page by page.
    CopyDivided = "copy_divided",
    /// The kernel would not drop pages; they stayed as they were.
    DropRefused = "drop_refused",
    /// What a run was used for could not be looked up (no process_vm_readv).
    SampleRefused = "sample_refused",
    /// Which pages are present could not be looked up (no /proc/self/pagemap).
    PagemapRefused = "pagemap_refused",
    /// Nothing was known of runs of that size: a first guess decided what to put in place.
    NoPrediction = "no_prediction",
    /// COPY: anything else.
    CopyOther = "copy_other",
    /// Another piece of memory could not show the file (service `cow`): what comes into use from
    /// then on is filled.
    PieceRefused = "piece_refused",
    /// A child of a raw clone touched a missing page before it was noticed: it read zeros.
    CloneReadZeros = "clone_read_zeros",
    /// A page could not be guarded: the kernel knows no way, or the memory is locked.
    GuardRefused = "guard_refused",
    /// With `backtraces`: where something was allocated or freed is not kept, for want of room.
    TraceLost = "trace_lost",
}

impl Cause {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// What stopped a MOVE.
    pub fn of_move(stop: Errno) -> Self {
        match stop {
            Errno::EXIST => Self::MoveExists,
            Errno::NOENT => Self::MoveMissing,
            Errno::BUSY => Self::MoveBusy,
            Errno::AGAIN => Self::MoveAgain,
            Errno::BADF | Errno::NOTTY | Errno::SRCH => Self::ChannelLost,
            _ => Self::MoveOther,
        }
    }

    /// What stopped a COPY.
    pub fn of_copy(stop: Errno) -> Self {
        match stop {
            Errno::EXIST => Self::CopyExists,
            Errno::NOENT => Self::CopyDivided,
            Errno::NOMEM => Self::CopyNoMemory,
            Errno::AGAIN | Errno::INTR => Self::CopyAgain,
            Errno::BADF | Errno::NOTTY | Errno::SRCH => Self::ChannelLost,
            _ => Self::CopyOther,
        }
    }
}

/// How often each [`Cause`] there was.
#[derive(Debug)]
pub struct FallBacks([Count; Cause::COUNT]);

impl Default for FallBacks {
    fn default() -> Self {
        Self([const { Count::new() }; Cause::COUNT])
    }
}

impl FallBacks {
    /// One more.
    pub fn note(&self, cause: Cause) {
        self.note_many(cause, 1);
    }

    /// So many at once.
    pub fn note_many(&self, cause: Cause, times: usize) {
        if let Some(count) = self.0.get(cause as usize) {
            count.add(times);
        }
    }

    /// If a MOVE was stopped before it moved anything: one more of what stopped it. (One that moved
    /// something has shown no reason yet: the kernel says EAGAIN of each that it did not finish.)
    pub fn note_move(&self, done: usize, stop: Option<Errno>) {
        if let Some(stop) = stop.filter(|_| done == 0) {
            self.note(Cause::of_move(stop));
        }
    }

    /// The counts, in the order of [`Cause::ALL`].
    pub fn get(&self) -> [u64; Cause::COUNT] {
        self.0.each_ref().map(Count::get)
    }
}

/// Numbers of pages, by powers of two: in the place `n`, how many were at least `2^n` and less than
/// twice that; the last has no upper end.
#[derive(Debug, Default)]
pub struct Histogram([Count; Self::PLACES]);

impl Histogram {
    /// From 1 to 512 and more.
    pub const PLACES: usize = 10;

    /// One more of `pages`, at least 1.
    pub fn add(&self, pages: usize) {
        let place = pages.max(1).ilog2() as usize;
        if let Some(count) = self.0.get(place.min(Self::PLACES - 1)) {
            count.add(1);
        }
    }

    /// The counts.
    pub fn get(&self) -> [u64; Self::PLACES] {
        self.0.each_ref().map(Count::get)
    }
}

/// The engine's counters; pages are OS pages.
#[derive(Debug, Default)]
pub struct Counters {
    /// Missing faults that the handler answered.
    pub faults: Count,
    /// Pages that were put in place for a fault.
    pub windows: Histogram,
    /// Pages moved in from the pool, huge blocks included.
    pub moved: Count,
    /// Huge blocks moved in whole.
    pub huge_moved: Count,
    /// Pages copied in because the pool had none, or they could not be moved.
    pub copied: Count,
    /// Missing pages of zero content put in place.
    pub zeroed: Count,
    /// Pages filled by hand at allocation (every service but `lazy` and `off`).
    pub filled: Count,
    /// Pages that came into use without a file under them, because there are as many mappings of
    /// it as there may be, or for a [refused piece](Cause::PieceRefused) (service `cow`).
    pub unbacked: Count,
    /// Present pages of freed runs whose content was restored.
    pub refilled: Count,
    /// Pages moved within the Region for realloc instead of being copied.
    pub relocated: Count,
    /// Pages that went from freed runs to the pool.
    pub pooled: Count,
    /// Pages given back to the kernel.
    pub purged: Count,
    /// Pages that compaction gave up.
    pub compacted: Count,
    /// What went a worse way, and why.
    pub fall_backs: FallBacks,
    /// CPU time of this process's handler when it last went to sleep, in nanoseconds.
    pub handler_cpu_ns: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_pages_is_counted_by_its_power_of_two() {
        let histogram = Histogram::default();
        for pages in [0, 1, 2, 3, 4, 255, 256, 511, 512, 1024, 8192] {
            histogram.add(pages);
        }
        assert_eq!(histogram.get(), [2, 2, 1, 0, 0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn causes_are_counted_apart_and_have_names_of_their_own() {
        for (at, &cause) in Cause::ALL.iter().enumerate() {
            let fall_backs = FallBacks::default();
            fall_backs.note(cause);
            assert_eq!(fall_backs.get().iter().position(|&count| count == 1), Some(at));
            assert_eq!(fall_backs.get().iter().sum::<u64>(), 1);
            let of_this_name = Cause::ALL.iter().filter(|other| other.as_str() == cause.as_str());
            assert_eq!(of_this_name.count(), 1, "{}", cause.as_str());
        }
    }

    #[test]
    fn a_move_that_moved_something_was_not_refused() {
        let fall_backs = FallBacks::default();
        fall_backs.note_move(4096, Some(Errno::AGAIN));
        fall_backs.note_move(4096, None);
        assert_eq!(fall_backs.get(), [0; Cause::COUNT]);
        fall_backs.note_move(0, Some(Errno::BUSY));
        assert_eq!(fall_backs.get().get(Cause::MoveBusy as usize), Some(&1));
    }
}
