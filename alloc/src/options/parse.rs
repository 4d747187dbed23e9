//! From text to options.
//!
//! The text is `key=value` entries separated by `:`, for instance
//! `service=auto:pattern=0xaa:threshold=64K:stats=1`. A later entry overrides an earlier one, and
//! empty entries are ignored, so texts can be joined with a `:`. The one value that holds a colon is
//! `json:FILE`, as in `stats=json:FILE`: the file name ends at the next `:` and so cannot contain one.

use core::fmt;

use super::{OptionSpec, Options, PathText, Pattern, ReportChoice, TABLE};

impl Options {
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
    let with_file: [&[u8]; 2] = [b"stats=json:", b"profile=json:"];
    let inside =
        with_file.iter().find(|start| text.starts_with(start)).map_or(0, |start| start.len());
    let end = text
        .iter()
        .skip(inside)
        .position(|&byte| byte == b':')
        .map_or(text.len(), |at| inside + at);
    let (entry, tail) = text.split_at_checked(end).unwrap_or((text, b""));
    (entry, tail.strip_prefix(b":").unwrap_or(tail))
}

/// `on` or `off`, also as a digit.
pub(super) fn parse_switch(text: &[u8]) -> Option<bool> {
    match text {
        b"on" | b"1" => Some(true),
        b"off" | b"0" => Some(false),
        _ => None,
    }
}

/// Where a report goes: a switch, or a file.
pub(super) fn parse_report(text: &[u8]) -> Option<ReportChoice> {
    match text.strip_prefix(b"json:") {
        Some(name) => PathText::new(name).map(ReportChoice::Json),
        None => Some(if parse_switch(text)? { ReportChoice::Stderr } else { ReportChoice::Off }),
    }
}

/// A decimal number, or a hexadecimal one after `0x`: digits only.
pub(super) fn parse_number(text: &[u8]) -> Option<u64> {
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
pub(super) fn parse_size(text: &[u8]) -> Option<usize> {
    let (number, shift) = match text.split_last()? {
        (b'K' | b'k', number) => (number, 10),
        (b'M' | b'm', number) => (number, 20),
        (b'G' | b'g', number) => (number, 30),
        (b'T' | b't', number) => (number, 40),
        _ => (text, 0),
    };
    usize::try_from(parse_number(number)?.checked_mul(1 << shift)?).ok()
}

/// A byte: a decimal number, or one or two hexadecimal digits after `0x`. Or a word: 4, 8 or 16
/// hexadecimal digits after `0x`, leading zeros among them.
pub(super) fn parse_pattern(text: &[u8]) -> Option<Pattern> {
    let number = parse_number(text)?;
    let digits = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")).map(<[u8]>::len);
    Some(match digits {
        None | Some(1 | 2) => Pattern::byte(u8::try_from(number).ok()?),
        Some(4) => Pattern::word16(u16::try_from(number).ok()?),
        Some(8) => Pattern::word32(u32::try_from(number).ok()?),
        Some(16) => Pattern::word64(number),
        _ => return None,
    })
}
