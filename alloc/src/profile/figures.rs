//! Numbers for people: three digits and a unit, whatever they are.

use core::fmt;

/// Bytes.
pub struct Bytes(pub u64);

/// A number of things.
pub struct Amount(pub u64);

/// Microseconds.
pub struct Time(pub u64);

/// The share that one number is of another; of nothing, there is none.
pub struct Percent(pub u64, pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, 1024, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As long as the number itself is as short.
        scaled(f, self.0, 100_000, 1000, &["", " k", " M", " G", " T", " P", " E"])
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, 1000, 1000, &[" us", " ms", " s", " ks", " Ms", " Gs", " Ts"])
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, whole) = *self;
        let percent = percent(part, whole);
        match percent {
            _ if whole == 0 => f.pad("-"),
            0 if part > 0 => f.pad("<1 %"),
            100 if part < whole => f.pad(">99 %"),
            _ => pad(f, format_args!("{percent} %")),
        }
    }
}

/// The nearest whole percent.
pub fn percent(part: u64, whole: u64) -> u64 {
    let whole = u128::from(whole.max(1));
    ((u128::from(part) * 200 + whole) / (2 * whole)).try_into().unwrap_or(u64::MAX)
}

/// A number below `plain` as it is, any other in the first unit of which it is less than a thousand or so.
fn scaled(
    f: &mut fmt::Formatter<'_>,
    number: u64,
    plain: u64,
    step: u64,
    units: &[&str],
) -> fmt::Result {
    let (mut unit, mut divisor) = (0, 1);
    while number / divisor >= if unit == 0 { plain } else { step } && unit + 1 < units.len() {
        unit += 1;
        divisor *= step;
    }
    let name = units.get(unit).copied().unwrap_or("");
    let hundredths = u128::from(number) * 100 / u128::from(divisor);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        _ if rest == 0 => pad(f, format_args!("{whole}{name}")),
        0..10 if rest % 10 != 0 => pad(f, format_args!("{whole}.{rest:02}{name}")),
        0..100 if rest >= 10 => pad(f, format_args!("{whole}.{}{name}", rest / 10)),
        _ => pad(f, format_args!("{whole}{name}")),
    }
}

/// As wide as the formatter asks for.
fn pad(f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
    use fmt::Write;
    let mut line = refpage::sys::report::Line::<32>::new();
    line.write_fmt(text)?;
    f.pad(core::str::from_utf8(line.as_bytes()).unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let bytes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (80 << 10, "80 KiB"),
            (1280 << 10, "1.25 MiB"),
            (1536 << 10, "1.5 MiB"),
            ((1 << 20) + 1, "1 MiB"),
            (1023 << 20, "1023 MiB"),
            (7_892_000_000, "7.34 GiB"),
            (12_345_678, "11.7 MiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (number, text) in bytes {
            assert_eq!(Bytes(number).to_string(), text);
        }
        let amounts = [
            (7, "7"),
            (99_999, "99999"),
            (100_000, "100 k"),
            (1_234_567, "1.23 M"),
            (u64::MAX, "18.4 E"),
        ];
        for (number, text) in amounts {
            assert_eq!(Amount(number).to_string(), text);
        }
        let times = [
            (0, "0 us"),
            (999, "999 us"),
            (1500, "1.5 ms"),
            (1_900_000, "1.9 s"),
            (u64::MAX, "18.4 Ts"),
        ];
        for (number, text) in times {
            assert_eq!(Time(number).to_string(), text);
        }
        assert_eq!(format!("[{:>9}]", Bytes(1 << 20)), "[    1 MiB]");
    }

    #[test]
    fn nearly_nothing_and_nearly_all_are_told_as_such() {
        let shares = [
            (0, 0, "-"),
            (0, 9, "0 %"),
            (1, 1000, "<1 %"),
            (1, 100, "1 %"),
            (7, 100, "7 %"),
            (1, 3, "33 %"),
            (2, 3, "67 %"),
            (999, 1000, ">99 %"),
            (1000, 1000, "100 %"),
        ];
        for (part, whole, text) in shares {
            assert_eq!(Percent(part, whole).to_string(), text);
        }
        assert_eq!(Percent(u64::MAX, u64::MAX).to_string(), "100 %");
    }
}
