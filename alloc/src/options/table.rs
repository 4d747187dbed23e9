//! The table of all options.

use super::parse::{parse_number, parse_pattern, parse_report, parse_size, parse_switch};
use super::{GuardsChoice, MteChoice, Options, ReportChoice, ServiceChoice};
use super::{pool_is_valid, quarantine_is_valid, region_is_valid, threshold_is_valid};

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
    /// The method of [`Options`] that does the same.
    pub method: &'static str,
    /// Stores the value, or changes nothing and says `None`.
    pub(super) set: fn(&mut Options, &[u8]) -> Option<()>,
    /// Sets the default by the builder's method: no option is without one.
    #[cfg_attr(not(test), expect(dead_code, reason = "that it compiles is what it is for"))]
    pub(super) reset: fn(Options) -> Options,
}

/// An entry of the table. The builder's method and its argument for the default come first.
macro_rules! option {
    ($method:ident($default:expr), $($field:ident: $value:expr,)*) => {
        OptionSpec {
            method: stringify!($method),
            reset: |options| options.$method($default),
            $($field: $value,)*
        }
    };
}

/// What the options for reports take.
const REPORT: &str = "on or off, 1 or 0, or json:FILE, with a file name of 1 to 255 bytes and no ':', in which %p is the process's number";

/// Every option, in the order of the help.
pub static TABLE: [OptionSpec; 17] = [
    option! { service(ServiceChoice::Auto),
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
    option! { pattern(0xaa),
        name: "pattern",
        value: "BYTE|WORD",
        accepts: "a byte, 0 to 255 or 0x00 to 0xff, or a word, 0x and 4, 8 or 16 hex digits",
        default: "0xaa",
        help: "what heap memory reads as until it is written: a byte, or a word as an aligned load of its size gives it",
        set: |options, value| {
            options.pattern = parse_pattern(value)?;
            Some(())
        },
    },
    option! { threshold(64 << 10),
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
    option! { pool(16 << 20),
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
    option! { pool_low(0),
        name: "pool_low",
        value: "SIZE",
        accepts: "a size from 0 to 64G",
        default: "0",
        help: "how much of that stays in the pool when nothing has happened for some seconds",
        set: |options, value| {
            options.pool_low = parse_size(value).filter(|&bytes| pool_is_valid(bytes))?;
            Some(())
        },
    },
    option! { decay_ms(1000),
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
    option! { region(0),
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
    option! { stats(ReportChoice::Off),
        name: "stats",
        value: "WHERE",
        accepts: REPORT,
        default: "0",
        help: "what to do with the statistics at exit: 1 prints them on stderr, json:FILE writes them there",
        set: |options, value| {
            options.stats = parse_report(value)?;
            Some(())
        },
    },
    option! { mte(MteChoice::Auto),
        name: "mte",
        value: "MODE",
        accepts: "auto, sync, async, asymm or off",
        default: "auto",
        help: "on Arm processors with memory tags, how accesses by pointers whose tag does not fit are reported; auto keeps what the program has chosen, else takes sync",
        set: |options, value| {
            options.mte =
                *MteChoice::ALL.iter().find(|choice| choice.as_str().as_bytes() == value)?;
            Some(())
        },
    },
    option! { verify(false),
        name: "verify",
        value: "WHETHER",
        accepts: "on or off, 1 or 0",
        default: "off",
        help: "whether what was free is looked at before it is handed out again: a write to it meanwhile ends the process with a line",
        set: |options, value| {
            options.verify = parse_switch(value)?;
            Some(())
        },
    },
    option! { random(false),
        name: "random",
        value: "WHETHER",
        accepts: "on or off, 1 or 0",
        default: "off",
        help: "whether small blocks are handed out in an order that nobody foresees",
        set: |options, value| {
            options.random = parse_switch(value)?;
            Some(())
        },
    },
    option! { guards(GuardsChoice::On),
        name: "guards",
        value: "WHERE",
        accepts: "on, right or off",
        default: "on",
        help: "whether an access past either end of a large allocation ends the process; right moves allocations to the ends of their pages, so that the first byte behind them does",
        set: |options, value| {
            options.guards =
                *GuardsChoice::ALL.iter().find(|choice| choice.as_str().as_bytes() == value)?;
            Some(())
        },
    },
    option! { quarantine(64 << 30),
        name: "quarantine",
        value: "SIZE",
        accepts: "a size from 0 to 64T",
        default: "64G",
        help: "how much address space freed large allocations stay in before it is used again; what touches them meanwhile ends the process",
        set: |options, value| {
            options.quarantine = parse_size(value).filter(|&bytes| quarantine_is_valid(bytes))?;
            Some(())
        },
    },
    option! { quarantine_share(5),
        name: "quarantine_share",
        value: "PERCENT",
        accepts: "percent, 0 to 100",
        default: "5",
        help: "how much of the time the quarantine may take; what is freed beyond that is used again at once, and with 100 nothing is",
        set: |options, value| {
            let percent = u8::try_from(parse_number(value)?).ok();
            options.quarantine_share = percent.filter(|&percent| percent <= 100)?;
            Some(())
        },
    },
    option! { sample(0),
        name: "sample",
        value: "N",
        accepts: "a number, 0 to 4294967295",
        default: "0",
        help: "one small allocation in so many gets guarded pages of its own, as a large one does; 0 gives them to none",
        set: |options, value| {
            options.sample = u32::try_from(parse_number(value)?).ok()?;
            Some(())
        },
    },
    option! { backtraces(false),
        name: "backtraces",
        value: "WHETHER",
        accepts: "on or off, 1 or 0",
        default: "off",
        help: "whether large and sampled allocations keep where they were allocated and freed, for the report of a misuse",
        set: |options, value| {
            options.backtraces = parse_switch(value)?;
            Some(())
        },
    },
    option! { profile(ReportChoice::Off),
        name: "profile",
        value: "WHERE",
        accepts: REPORT,
        default: "0",
        help: "what to do at exit with a profile of the allocations, by size: how many there were, how much of them was written, what memset would have cost",
        set: |options, value| {
            options.profile = parse_report(value)?;
            Some(())
        },
    },
];
