//! `refpage symbolize`: names the calls in reports of misuse.
//!
//! ```text
//!   refpage:     #0 /usr/bin/program+0x1234
//!                   └ file           └ from where its beginning is mapped ─▶ its own address ─▶ DWARF, else symbols
//! ```
//!
//! The allocator tells only what it can know in a process that is about to end: here is time to read files. They are to
//! be those that ran.

use crate::failure::{Failure, print_bytes};
use crate::program;
use addr2line::{Loader, demangle_auto};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

/// Name the calls in a report of misuse by function, file and line
///
/// Copies the text to stdout. A line that ends with a call, "#0 /usr/bin/program+0x1234" of
/// backtraces=on, gets its function, its file and its line; what is not known stays as it is.
#[derive(clap::Args)]
pub struct Arguments {
    /// The text; stdin without one
    file: Option<PathBuf>,
}

/// Copies the text, and names the calls in it.
pub fn symbolize(arguments: &Arguments) -> Result<(), Failure> {
    let (mut text, name): (Box<dyn BufRead>, _) = match &arguments.file {
        None => (Box::new(std::io::stdin().lock()), Cow::Borrowed("stdin")),
        Some(path) => {
            let name = path.to_string_lossy();
            let file = File::open(path)
                .map_err(|error| Failure::new(format!("cannot open {name}: {error}")))?;
            (Box::new(BufReader::new(file)), name)
        }
    };
    let mut modules = Modules::default();
    let mut line = Vec::new();
    while text
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::new(format!("cannot read {name}: {error}")))?
        > 0
    {
        let end = line.trim_ascii_end().len();
        if let Some(call) = std::str::from_utf8(&line[..end]).ok().and_then(Call::of)
            && let Some(name) = modules.name(&call)
        {
            line.splice(end..end, name.into_bytes());
        }
        print_bytes(&line)?;
        line.clear();
    }
    Ok(())
}

/// A call, as reports have it.
#[derive(Debug, PartialEq, Eq)]
struct Call<'a> {
    file: &'a str,
    /// From where the file's beginning is mapped.
    offset: u64,
}

impl<'a> Call<'a> {
    /// The call that a line ends with: "#0 /usr/bin/program+0x1234".
    fn of(line: &'a str) -> Option<Self> {
        let (start, offset) = line.rsplit_once("+0x")?;
        let offset = u64::from_str_radix(offset, 16).ok()?;
        let path = |(at, _): (usize, &str)| {
            let numbered = &start[at + 1..];
            let rest = numbered.trim_start_matches(|c: char| c.is_ascii_digit());
            let path = rest.strip_prefix(' ').filter(|path| path.starts_with('/'))?;
            (rest.len() < numbered.len()).then(|| &start[start.len() - path.len()..])
        };
        let file = start.match_indices('#').find_map(path)?;
        Some(Self { file, offset })
    }
}

/// The files that were asked for so far; none for those that cannot be read.
#[derive(Default)]
struct Modules(HashMap<String, Option<Module>>);

struct Module {
    loader: Loader,
    /// The address of its first byte, as the file counts them.
    base: u64,
}

impl Modules {
    /// What is added to a line for the call.
    fn name(&mut self, call: &Call<'_>) -> Option<String> {
        if !self.0.contains_key(call.file) {
            self.0.insert(call.file.to_owned(), Module::of(call.file));
        }
        let module = self.0.get(call.file)?.as_ref()?;
        module.name(module.base.checked_add(call.offset)?)
    }
}

impl Module {
    fn of(path: &str) -> Option<Self> {
        let base = program::own_base(&File::open(path).ok()?)?;
        Some(Self { loader: Loader::new(path).ok()?, base })
    }

    /// " in function at file:line", and of what it is inlined into the same.
    fn name(&self, address: u64) -> Option<String> {
        let mut text = String::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let function = frame.function.as_ref().and_then(|name| name.demangle().ok());
                if function.is_none() && frame.location.is_none() {
                    continue;
                }
                text += if text.is_empty() { " in " } else { ", inlined into " };
                text += function.as_deref().unwrap_or("?");
                if let Some(location) = frame.location
                    && let Some(file) = location.file
                {
                    // A String takes all that it is given.
                    let _ = write!(text, " at {file}:{}", location.line.unwrap_or(0));
                }
            }
        }
        if text.is_empty() || text.starts_with(" in ?") {
            let symbol = self.loader.find_symbol(address)?;
            text = format!(" in {}", demangle_auto(Cow::Borrowed(symbol), None));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_other_text() {
        let call = |file, offset| Some(Call { file, offset });
        let program = "/usr/bin/program";
        assert_eq!(Call::of("refpage:     #0 /usr/bin/program+0x1234"), call(program, 0x1234));
        assert_eq!(Call::of("Jan  1 host: #12 /usr/bin/program+0xff"), call(program, 0xff));
        assert_eq!(Call::of("#0 /a b/c#1+0x2/d+0x10"), call("/a b/c#1+0x2/d", 16));
        for other in [
            "",
            "refpage:     #0 0x7f0012345678",
            "refpage:     #0 /usr/bin/program+0x",
            "refpage:     #0 /usr/bin/program+0xfg",
            "refpage:     #0 [vdso]+0x1234",
            "#/usr/bin/program+0x12",
            "/usr/bin/program+0x12",
        ] {
            assert_eq!(Call::of(other), None, "{other}");
        }
    }
}
