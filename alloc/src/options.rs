//! The options: one table that the parser, the builder's documentation, `refpage run`'s flags and
//! `refpage help options` all come from.
//!
//! ```text
//!   REFPAGE_OPTIONS ──┐
//!   refpage run flags ┼─▶ Options::apply / Options::set ─▶ TABLE[key].set ─▶ Options
//!   const builder ────┘   (the builder states the same ranges, checked at compile time)
//! ```
//!
//! The text is `key=value` entries separated by `:`, for instance
//! `service=auto:pattern=0xaa:threshold=64K:stats=1`. A later entry overrides an earlier one, and
//! empty entries are ignored, so texts can be joined with a `:`. The one value that holds a colon is
//! `stats=json:FILE`, whose file name ends at the next `:` and so cannot contain one.
//!
//! This runs inside the first malloc of a process: nothing here allocates, reads the environment or
//! panics on any text, and errors borrow the text that they complain about.

use core::fmt;

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

/// A file name of 1 to 255 bytes, without NUL and without `:`, kept in place because an option may
/// not allocate. 255 is what `rustix` turns into a C string on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PathText {
    /// The name, then zeros: equality may compare the whole array.
    bytes: [u8; Self::MAX],
    len: u8,
}

impl PathText {
    /// The longest name in bytes.
    pub const MAX: usize = 255;

    /// Takes a name, or `None` if it is empty, too long, or holds a NUL or a `:`.
    pub const fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > Self::MAX {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        let mut at = 0;
        while at < name.len() {
            if name[at] == 0 || name[at] == b':' {
                return None;
            }
            bytes[at] = name[at];
            at += 1;
        }
        Some(Self { bytes, len: name.len() as u8 })
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        // `len` is at most MAX by construction; `get` keeps a panic path out of malloc all the same.
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl fmt::Debug for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Where the statistics go when the process exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a box would allocate inside malloc")]
pub enum StatsChoice {
    /// Nowhere.
    Off,
    /// A block of text on stderr.
    Stderr,
    /// A JSON file, opened at exit relative to the directory the program is in by then.
    Json(PathText),
}

/// The options of one heap.
///
/// Built in a `const` context, a value out of its range is a compile-time error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which service to take.
    pub service: ServiceChoice,
    /// The byte that untouched heap memory reads as.
    pub pattern: u8,
    /// Requests of at least this many bytes get a page run of their own.
    pub threshold: usize,
    /// The page pool's watermark in bytes.
    pub pool: usize,
    /// How long a freed page run keeps its pages, in milliseconds.
    pub decay_ms: u32,
    /// The size of the Region in bytes of address space; 0 takes the largest that fits.
    pub region: usize,
    /// Where the statistics go at exit.
    pub stats: StatsChoice,
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
            pattern: 0xaa,
            threshold: 64 << 10,
            pool: 16 << 20,
            decay_ms: 1000,
            region: 0,
            stats: StatsChoice::Off,
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
    pub const fn pattern(mut self, byte: u8) -> Self {
        self.pattern = byte;
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
    pub const fn stats(mut self, choice: StatsChoice) -> Self {
        self.stats = choice;
        self
    }

    /// Applies every entry of `text`. An entry that is wrong leaves its option as it was, is handed
    /// to `complain`, and parsing goes on.
    pub fn apply(&mut self, text: &[u8], complain: &mut dyn FnMut(OptionError<'_>)) {
        let mut rest = text;
        while !rest.is_empty() {
            let (entry, tail) = next_entry(rest);
            rest = tail;
            if entry.is_empty() {
                continue;
            }
            let outcome = match cut_at(entry, b'=') {
                (key, Some(value)) => self.set(key, value),
                (key, None) => Err(OptionError { key, value: b"", kind: OptionErrorKind::NoValue }),
            };
            if let Err(error) = outcome {
                complain(error);
            }
        }
    }

    /// Sets one option; `value` is the whole value, so that a `:` in it is refused, not split at.
    ///
    /// # Errors
    /// If no option is called `key`, or it does not take `value`. Nothing is changed then.
    pub fn set<'a>(&mut self, key: &'a [u8], value: &'a [u8]) -> Result<(), OptionError<'a>> {
        let spec =
            spec_of(key).ok_or(OptionError { key, value, kind: OptionErrorKind::UnknownKey })?;
        (spec.set)(self, value).ok_or(OptionError { key, value, kind: OptionErrorKind::BadValue })
    }
}

/// One option: all that the parser and the help texts know about it.
#[derive(Debug)]
pub struct OptionSpec {
    /// The key in `REFPAGE_OPTIONS`, and the name of the flag.
    pub name: &'static str,
    /// A word for the value in a usage line.
    pub value: &'static str,
    /// Which values are taken; follows "bad value … for …:".
    pub accepts: &'static str,
    /// The default as the option's own text.
    pub default: &'static str,
    /// What the option does: one sentence, without a full stop.
    pub help: &'static str,
    /// Stores the value, or changes nothing and says `None`.
    set: fn(&mut Options, &[u8]) -> Option<()>,
}

/// Every option, in the order of the help.
pub static TABLE: [OptionSpec; 7] = [
    OptionSpec {
        name: "service",
        value: "SERVICE",
        accepts: "auto, lazy, cow, eager, memset or off",
        default: "auto",
        help: "how the pattern gets under the program's accesses; auto takes the best this machine allows",
        set: |options, value| {
            options.service =
                *ServiceChoice::ALL.iter().find(|choice| choice.as_str().as_bytes() == value)?;
            Some(())
        },
    },
    OptionSpec {
        name: "pattern",
        value: "BYTE",
        accepts: "a byte, 0 to 255 or 0x00 to 0xff",
        default: "0xaa",
        help: "the byte that heap memory reads as until it is written",
        set: |options, value| {
            options.pattern = u8::try_from(parse_number(value)?).ok()?;
            Some(())
        },
    },
    OptionSpec {
        name: "threshold",
        value: "SIZE",
        accepts: "a size from 4K to 64K",
        default: "64K",
        help: "requests of at least this size get a page run of their own; above 64K they always do",
        set: |options, value| {
            options.threshold = parse_size(value).filter(|&bytes| threshold_is_valid(bytes))?;
            Some(())
        },
    },
    OptionSpec {
        name: "pool",
        value: "SIZE",
        accepts: "a size from 0 to 64G",
        default: "16M",
        help: "how much memory the page pool keeps filled and ready to be moved in",
        set: |options, value| {
            options.pool = parse_size(value).filter(|&bytes| pool_is_valid(bytes))?;
            Some(())
        },
    },
    OptionSpec {
        name: "decay",
        value: "MILLISECONDS",
        accepts: "milliseconds, 0 to 4294967295",
        default: "1000",
        help: "how long a freed page run keeps its pages before it gives them back",
        set: |options, value| {
            options.decay_ms = u32::try_from(parse_number(value)?).ok()?;
            Some(())
        },
    },
    OptionSpec {
        name: "region",
        value: "SIZE",
        accepts: "0, or a size from 16M to 128T",
        default: "0",
        help: "the address space reserved for the heap; 0 takes the largest that fits",
        set: |options, value| {
            options.region = parse_size(value).filter(|&bytes| region_is_valid(bytes))?;
            Some(())
        },
    },
    OptionSpec {
        name: "stats",
        value: "WHERE",
        accepts: "0, 1 or json:FILE, with a file name of 1 to 255 bytes and no ':'",
        default: "0",
        help: "what to do with the statistics at exit: 1 prints them on stderr, json:FILE writes them there",
        set: |options, value| {
            options.stats = match value {
                b"0" => StatsChoice::Off,
                b"1" => StatsChoice::Stderr,
                other => StatsChoice::Json(PathText::new(other.strip_prefix(b"json:")?)?),
            };
            Some(())
        },
    },
];

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionErrorKind {
    /// No option has this name.
    UnknownKey,
    /// The entry has no `=`.
    NoValue,
    /// The option does not take this value.
    BadValue,
}

/// One entry that could not be applied. Its `Display` is one line, whatever bytes the entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionError<'a> {
    /// What stood before the `=`.
    pub key: &'a [u8],
    /// What stood after it.
    pub value: &'a [u8],
    /// What is wrong.
    pub kind: OptionErrorKind,
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Escaping keeps a newline or a terminal sequence in the environment out of the log.
        let (key, value) = (self.key.escape_ascii(), self.value.escape_ascii());
        match (self.kind, spec_of(self.key)) {
            (OptionErrorKind::BadValue, Some(spec)) => {
                write!(f, "bad value \"{value}\" for {key}: {}", spec.accepts)
            }
            (OptionErrorKind::NoValue, Some(spec)) => {
                write!(f, "option \"{key}\" needs a value: {key}={}, {}", spec.value, spec.accepts)
            }
            _ => {
                write!(f, "unknown option \"{key}\"; options are ")?;
                for (at, spec) in TABLE.iter().enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { ", " }, spec.name)?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for OptionError<'_> {}

const fn threshold_is_valid(bytes: usize) -> bool {
    MIN_THRESHOLD <= bytes && bytes <= MAX_THRESHOLD
}

const fn pool_is_valid(bytes: usize) -> bool {
    bytes <= MAX_POOL
}

const fn region_is_valid(bytes: usize) -> bool {
    bytes == 0 || (MIN_REGION <= bytes && bytes <= MAX_REGION)
}

fn spec_of(key: &[u8]) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| spec.name.as_bytes() == key)
}

/// The text before the first `separator`, and the text after it if there is one.
fn cut_at(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |&byte| byte == separator);
    (parts.next().unwrap_or(b""), parts.next())
}

/// The first entry of `text`, and what follows its `:`.
fn next_entry(text: &[u8]) -> (&[u8], &[u8]) {
    // The one colon that belongs to a value.
    let inside = if text.starts_with(b"stats=json:") { b"stats=json:".len() } else { 0 };
    let end = text
        .iter()
        .skip(inside)
        .position(|&byte| byte == b':')
        .map_or(text.len(), |at| inside + at);
    let (entry, tail) = text.split_at_checked(end).unwrap_or((text, b""));
    (entry, tail.strip_prefix(b":").unwrap_or(tail))
}

/// A decimal number, or a hexadecimal one after `0x`: digits only.
fn parse_number(text: &[u8]) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// A number of bytes, with an optional binary suffix K, M, G or T of either case.
fn parse_size(text: &[u8]) -> Option<usize> {
    let (number, shift) = match text.split_last()? {
        (b'K' | b'k', number) => (number, 10),
        (b'M' | b'm', number) => (number, 20),
        (b'G' | b'g', number) => (number, 30),
        (b'T' | b't', number) => (number, 40),
        _ => (text, 0),
    };
    usize::try_from(parse_number(number)?.checked_mul(1 << shift)?).ok()
}

#[cfg(test)]
mod tests;
