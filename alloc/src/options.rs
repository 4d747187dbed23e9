//! The options: one [`TABLE`] that the parser, the builder, `refpage run`'s flags,
//! `refpage help options` and `docs/OPTIONS.md` all come from.
//!
//! ```text
//!   REFPAGE_OPTIONS ──┐
//!   refpage run flags ┼─▶ parse: Options::apply / set ─▶ table: TABLE[key].set ─▶ Options
//!   const builder ────┘   (states the same ranges, checked at compile time; the table names the
//!                          method of each option, and does not compile without it)
//! ```
//!
//! This runs inside the first malloc of a process: nothing here allocates, reads the environment or
//! panics on any text, and errors borrow the text that they complain about.

mod parse;
mod path;
mod table;
#[cfg(test)]
mod tests;

pub use parse::{OptionError, OptionErrorKind};
pub use path::PathText;
pub use refpage::Pattern;
pub use table::{OptionSpec, TABLE};

/// The largest request in bytes that small-object spans can serve, and so the largest threshold.
pub const MAX_THRESHOLD: usize = 64 << 10;
/// The smallest threshold in bytes: below one 4 KiB OS page a run of its own would waste most of it.
pub const MIN_THRESHOLD: usize = 4 << 10;
/// The largest pool watermark in bytes. It is here to catch a mistyped suffix.
pub const MAX_POOL: usize = 64 << 30;
/// The smallest Region in bytes that can be asked for.
pub const MIN_REGION: usize = 16 << 20;
/// The largest Region in bytes that can be asked for: x86-64's user address space, 47 bits.
pub const MAX_REGION: usize = 1 << 47;
/// The largest quarantine in bytes of address space: no Region has room for more.
pub const MAX_QUARANTINE: usize = 64 << 40;

/// Which service to take. What was taken, and why, is in the statistics and in `refpage doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceChoice {
    /// The best service that this machine allows.
    Auto,
    /// Missing pages are answered by moving filled ones in; needs a userfaultfd that sees
    /// kernel-mode faults.
    Lazy,
    /// Sparse memory shows a file's content until it is written, dense memory is filled when it is
    /// allocated; needs no privilege.
    Cow,
    /// Memory is filled when it is allocated, by moving pages in; needs Linux 6.8.
    Eager,
    /// Memory is filled when it is allocated; needs nothing.
    Memset,
    /// Nothing is filled: the baseline that the others are measured against.
    Off,
}

impl ServiceChoice {
    /// Every choice, in the order of the help.
    pub const ALL: [Self; 6] =
        [Self::Auto, Self::Lazy, Self::Cow, Self::Eager, Self::Memset, Self::Off];

    /// The name that the option takes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Lazy => "lazy",
            Self::Cow => "cow",
            Self::Eager => "eager",
            Self::Memset => "memset",
            Self::Off => "off",
        }
    }
}

/// Whether memory is tagged, and how an access is reported whose pointer has another tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MteChoice {
    /// Tagged where the processor can. Reported as the program has chosen with prctl, else as
    /// `Sync`.
    Auto,
    /// By a signal at the access itself, which does not happen.
    Sync,
    /// By a signal some time later.
    Async,
    /// Reads as with `Sync`, writes as with `Async`.
    Asymm,
    /// Not tagged.
    Off,
}

impl MteChoice {
    /// Every choice, in the order of the help.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Sync, Self::Async, Self::Asymm, Self::Off];

    /// The name that the option takes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Asymm => "asymm",
            Self::Off => "off",
        }
    }
}

/// Whether large allocations have guards, and where they lie between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardsChoice {
    /// They do, and begin at the beginning of a page: what runs over the end reaches the guard after
    /// less than a page.
    On,
    /// They do, and end at the end of a page, as far as their alignment allows.
    Right,
    /// They have none.
    Off,
}

impl GuardsChoice {
    /// Every choice, in the order of the help.
    pub const ALL: [Self; 3] = [Self::On, Self::Right, Self::Off];

    /// The name that the option takes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Right => "right",
            Self::Off => "off",
        }
    }
}

/// Where a report, the statistics or the profile, goes when the process exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a box would allocate inside malloc")]
pub enum ReportChoice {
    /// Nowhere.
    Off,
    /// A block of text on stderr.
    Stderr,
    /// A JSON file, opened at exit relative to the directory the program is in by then. A `%p` in its
    /// name stands for the process's number.
    Json(PathText),
}

/// The options of one heap.
///
/// Built in a `const` context, a value out of its range is a compile-time error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which service to take.
    pub service: ServiceChoice,
    /// What untouched heap memory reads as.
    pub pattern: Pattern,
    /// Requests of at least this many bytes get a page run of their own.
    pub threshold: usize,
    /// The page pool's watermark in bytes.
    pub pool: usize,
    /// What an idle pool keeps, in bytes.
    pub pool_low: usize,
    /// How long a freed page run keeps its pages, in milliseconds.
    pub decay_ms: u32,
    /// The size of the Region in bytes of address space; 0 takes the largest that fits.
    pub region: usize,
    /// Where the statistics go at exit.
    pub stats: ReportChoice,
    /// Whether memory is tagged, and how misuse is reported then.
    pub mte: MteChoice,
    /// Whether small blocks are looked at before they are handed out again.
    pub verify: bool,
    /// Whether small blocks are chosen by chance.
    pub random: bool,
    /// Whether large allocations have guards, and where they lie between them.
    pub guards: GuardsChoice,
    /// Address space that freed large allocations stay in, in bytes.
    pub quarantine: usize,
    /// The share of the time that this may take, in percent.
    pub quarantine_share: u8,
    /// One small allocation in so many gets guarded pages of its own; 0: none.
    pub sample: u32,
    /// Whether large allocations keep where they were allocated and freed.
    pub backtraces: bool,
    /// Where the profile of the allocations goes at exit.
    pub profile: ReportChoice,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults, which [`TABLE`] states as text.
    pub const fn new() -> Self {
        Self {
            service: ServiceChoice::Auto,
            pattern: Pattern::byte(0xaa),
            threshold: 64 << 10,
            pool: 16 << 20,
            pool_low: 0,
            decay_ms: 1000,
            region: 0,
            stats: ReportChoice::Off,
            mte: MteChoice::Auto,
            verify: false,
            random: false,
            guards: GuardsChoice::On,
            quarantine: 64 << 30,
            quarantine_share: 5,
            sample: 0,
            backtraces: false,
            profile: ReportChoice::Off,
        }
    }

    /// Which service to take (option `service`). A service that the machine refuses is replaced by
    /// the best one it has, and the statistics say so.
    #[must_use]
    pub const fn service(mut self, choice: ServiceChoice) -> Self {
        self.service = choice;
        self
    }

    /// The byte that untouched heap memory reads as (option `pattern`).
    #[must_use]
    pub const fn pattern(self, byte: u8) -> Self {
        self.pattern_word(Pattern::byte(byte))
    }

    /// As [`pattern`](Self::pattern), for a word of 2, 4 or 8 bytes, which repeats itself: with
    /// `Pattern::word32(0xdead_beef)`, every aligned 32-bit load of untouched memory gives
    /// 0xdeadbeef.
    #[must_use]
    pub const fn pattern_word(mut self, word: Pattern) -> Self {
        self.pattern = word;
        self
    }

    /// From how many bytes on a request gets a page run of its own (option `threshold`): 4 KiB to
    /// 64 KiB, not necessarily a power of two. Requests above 64 KiB always do.
    ///
    /// # Panics
    /// If `bytes` is out of that range.
    #[must_use]
    pub const fn threshold(mut self, bytes: usize) -> Self {
        assert!(threshold_is_valid(bytes), "threshold: 4 KiB to 64 KiB");
        self.threshold = bytes;
        self
    }

    /// How many bytes of filled pages the page pool keeps ready (option `pool`): at most 64 GiB;
    /// 0 keeps none.
    ///
    /// # Panics
    /// If `bytes` is above 64 GiB.
    #[must_use]
    pub const fn pool(mut self, bytes: usize) -> Self {
        assert!(pool_is_valid(bytes), "pool: at most 64 GiB");
        self.pool = bytes;
        self
    }

    /// How many bytes of them the pool keeps when nothing has happened for some seconds (option
    /// `pool_low`): at most 64 GiB; 0 gives all back to the kernel.
    ///
    /// # Panics
    /// If `bytes` is above 64 GiB.
    #[must_use]
    pub const fn pool_low(mut self, bytes: usize) -> Self {
        assert!(pool_is_valid(bytes), "pool_low: at most 64 GiB");
        self.pool_low = bytes;
        self
    }

    /// How many milliseconds a freed page run keeps its pages before they go to the pool or to the
    /// kernel (option `decay`); 0 gives them back at once.
    #[must_use]
    pub const fn decay_ms(mut self, milliseconds: u32) -> Self {
        self.decay_ms = milliseconds;
        self
    }

    /// The size of the Region in bytes of address space (option `region`): 16 MiB to 128 TiB, or 0
    /// for the largest that fits. It costs no memory until it is touched.
    ///
    /// # Panics
    /// If `bytes` is out of that range.
    #[must_use]
    pub const fn region(mut self, bytes: usize) -> Self {
        assert!(region_is_valid(bytes), "region: 0, or 16 MiB to 128 TiB");
        self.region = bytes;
        self
    }

    /// Where the statistics go at exit (option `stats`).
    #[must_use]
    pub const fn stats(mut self, choice: ReportChoice) -> Self {
        self.stats = choice;
        self
    }

    /// Whether memory is tagged, and how an access by a pointer with another tag is reported (option
    /// `mte`). Without effect on processors that have no memory tags.
    #[must_use]
    pub const fn mte(mut self, choice: MteChoice) -> Self {
        self.mte = choice;
        self
    }

    /// Whether a small block is looked at before it is handed out again, and the process ends with a
    /// line if anything was written to it while it was free (option `verify`).
    #[must_use]
    pub const fn verify(mut self, on: bool) -> Self {
        self.verify = on;
        self
    }

    /// Whether small blocks are handed out in an order that nobody foresees (option `random`).
    #[must_use]
    pub const fn random(mut self, on: bool) -> Self {
        self.random = on;
        self
    }

    /// Whether an access past either end of a large allocation ends the process (option `guards`).
    #[must_use]
    pub const fn guards(mut self, choice: GuardsChoice) -> Self {
        self.guards = choice;
        self
    }

    /// How many bytes of address space freed large allocations stay in before it is used again (option
    /// `quarantine`): at most 64 TiB; 0 uses it again at once. What they held is given up as they are
    /// freed, and who touches them ends the process.
    ///
    /// # Panics
    /// If `bytes` is above 64 TiB.
    #[must_use]
    pub const fn quarantine(mut self, bytes: usize) -> Self {
        assert!(quarantine_is_valid(bytes), "quarantine: at most 64 TiB");
        self.quarantine = bytes;
        self
    }

    /// How many percent of the time the quarantine may take (option `quarantine_share`): what is freed
    /// beyond that is used again as if there were none; 100 makes no exceptions.
    ///
    /// # Panics
    /// If `percent` is above 100.
    #[must_use]
    pub const fn quarantine_share(mut self, percent: u8) -> Self {
        assert!(percent <= 100, "quarantine_share: at most 100");
        self.quarantine_share = percent;
        self
    }

    /// One small allocation in so many gets guarded pages of its own (option `sample`); 0: none.
    #[must_use]
    pub const fn sample(mut self, one_in: u32) -> Self {
        self.sample = one_in;
        self
    }

    /// Whether large and sampled allocations keep where they were allocated and freed (option
    /// `backtraces`).
    #[must_use]
    pub const fn backtraces(mut self, on: bool) -> Self {
        self.backtraces = on;
        self
    }

    /// Where the profile of the allocations goes at exit (option `profile`): how many there were of
    /// each size, and how much of them was written. Without one, nothing is recorded.
    #[must_use]
    pub const fn profile(mut self, choice: ReportChoice) -> Self {
        self.profile = choice;
        self
    }
}

const fn threshold_is_valid(bytes: usize) -> bool {
    MIN_THRESHOLD <= bytes && bytes <= MAX_THRESHOLD
}

const fn pool_is_valid(bytes: usize) -> bool {
    bytes <= MAX_POOL
}

const fn region_is_valid(bytes: usize) -> bool {
    bytes == 0 || (MIN_REGION <= bytes && bytes <= MAX_REGION)
}

const fn quarantine_is_valid(bytes: usize) -> bool {
    bytes <= MAX_QUARANTINE
}
