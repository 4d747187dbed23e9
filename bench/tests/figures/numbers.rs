//! Numbers of a text.

/// Units behind a number that make it look measured, and others.
const MEASURED: [&str; 6] = ["ns", "us", "ms", "s", "%", "instructions"];
const OTHERS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
/// The sign before a ratio, which is its unit.
const RATIO: &str = "×";
/// Words before a version.
const VERSIONED: [&str; 4] = ["Linux", "qemu", "QEMU", "Rust"];
/// What stands between the ends of a range, which have one unit.
const RANGE: [&str; 3] = ["to", "–", "or"];

/// A number as a text has it.
#[derive(Clone, Debug)]
pub struct Number {
    /// Its digits, as they stand there.
    pub text: String,
    /// What they mean.
    pub value: f64,
    /// Its unit, or nothing.
    pub unit: &'static str,
    start: usize,
    end: usize,
}

impl Number {
    /// Whether it looks like a measurement wherever it stands.
    pub fn looks_measured(&self) -> bool {
        self.text.contains(['.', ',']) || self.unit == RATIO || MEASURED.contains(&self.unit)
    }

    /// Whether `exact` is that number, or one with more digits, and in no other unit.
    pub fn is(&self, exact: &Self) -> bool {
        let same_unit = self.unit == exact.unit || self.unit.is_empty() || exact.unit.is_empty();
        same_unit && self.is_rounded(exact.value)
    }

    /// Whether this is what it is in as many digits.
    pub fn is_rounded(&self, value: f64) -> bool {
        let decimals = self.text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        // A hair more than half of the last digit: 898.5 is 898 or 899.
        (self.value - value).abs() <= 0.5001 * 0.1f64.powf(decimals as f64)
    }
}

/// All numbers of a text, without those in names (`x86-64`, `4K`, `1-15`) and versions.
pub fn numbers(text: &str) -> Vec<Number> {
    let mut found: Vec<Number> = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find(|c: char| c.is_ascii_digit()).map(|at| from + at) {
        let end = start + digits_and_separators(&text[start..]);
        from = end;
        let (before, behind) = (&text[..start], &text[end..]);
        let version = VERSIONED.iter().any(|word| before.trim_end().ends_with(word));
        let value = text[start..end].replace(',', "").parse();
        if let Ok(value) = value
            && !version
            && !continues_a_name(before.chars().rev())
            && !continues_a_name(behind.chars())
        {
            let (text, unit) = (text[start..end].to_owned(), unit(before, behind));
            found.push(Number { text, value, unit, start, end });
        }
    }
    for at in (1..found.len()).rev() {
        let between = text[found[at - 1].end..found[at].start].trim();
        if found[at - 1].unit.is_empty() && RANGE.contains(&between) {
            found[at - 1].unit = found[at].unit;
        }
    }
    found
}

/// How long the number is that begins there: 12, 1,030, 2.5, and versions as a whole.
fn digits_and_separators(text: &str) -> usize {
    let digits = |from: usize| {
        let bytes = text.as_bytes().get(from..).unwrap_or_default();
        bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut end = digits(0);
    loop {
        end += match (text.as_bytes().get(end), digits(end + 1)) {
            (Some(b','), 3) => 4,
            (Some(b'.'), more @ 1..) => 1 + more,
            _ => return end,
        }
    }
}

/// Whether what stands beside a number, from there on, makes it a part of a name.
fn continues_a_name(mut beside: impl Iterator<Item = char>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    match beside.next() {
        Some('-' | '.' | '/' | ':' | '=') => beside.next().is_some_and(word),
        next => next.is_some_and(word),
    }
}

fn unit(before: &str, behind: &str) -> &'static str {
    if before.trim_end().ends_with(RATIO) {
        return RATIO;
    }
    let behind = behind.strip_prefix([' ', '\u{a0}']).unwrap_or(behind);
    let end = behind.find(|c: char| !c.is_alphabetic() && c != '%').unwrap_or(behind.len());
    let known = MEASURED.into_iter().chain(OTHERS).find(|unit| *unit == &behind[..end]);
    known.unwrap_or_default()
}
