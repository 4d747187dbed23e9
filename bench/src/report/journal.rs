//! What was measured so far, in a file, so that a run that was interrupted goes on where it was.
//!
//! Its first line says what run it is; each further one is a measurement. A run of something else begins a new file,
//! and keeps the old one under another name.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::work::Measured;

/// The journal's name in the report's directory.
const NAME: &str = "measurements.jsonl";

/// What tells one run from another: names and values.
pub type Run = Vec<(String, String)>;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Run(Run),
    Done(Box<Entry>),
}

/// One measurement.
#[derive(Serialize, Deserialize)]
struct Entry {
    case: String,
    peer: String,
    round: usize,
    measured: Measured,
    messages: String,
}

/// What a measurement is found by: case, peer and round.
type Key = (String, String, usize);

/// The file, and what it held when it was opened.
pub struct Journal {
    file: File,
    path: PathBuf,
    kept: HashMap<Key, (Measured, String)>,
}

impl Journal {
    /// Opens the journal of `run`. One of another run, or any if `anew`, is put aside; the second value says so.
    pub fn open(directory: &Path, run: &Run, anew: bool) -> Result<(Self, Option<String>)> {
        let path = directory.join(NAME);
        let old = read(&path)?;
        let difference = old.as_ref().and_then(|(old, _)| difference(old, run));
        let message = match (old, difference) {
            (Some((_, entries)), None) if !anew => {
                let file = OpenOptions::new().append(true).open(&path);
                let file = file.with_context(|| format!("cannot go on with {}", path.display()))?;
                let mut journal = Self { file, path, kept: HashMap::new() };
                // Behind a line that was cut off, the next one begins on a line of its own.
                journal.write(b"\n")?;
                for Entry { case, peer, round, measured, messages } in entries {
                    journal.kept.insert((case, peer, round), (measured, messages));
                }
                return Ok((journal, None));
            }
            (None, _) => None,
            (Some(_), difference) => Some(put_aside(&path, difference)?),
        };
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut journal = Self { file, path, kept: HashMap::new() };
        journal.append(&Line::Run(run.clone()))?;
        Ok((journal, message))
    }

    /// How many measurements it held.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// What was measured before.
    pub fn kept(&self, case: &str, peer: &str, round: usize) -> Option<&(Measured, String)> {
        self.kept.get(&(case.to_owned(), peer.to_owned(), round))
    }

    /// Keeps a measurement.
    pub fn keep(
        &mut self,
        case: &str,
        peer: &str,
        round: usize,
        (measured, messages): &(Measured, String),
    ) -> Result<()> {
        self.append(&Line::Done(Box::new(Entry {
            case: case.into(),
            peer: peer.into(),
            round,
            measured: measured.clone(),
            messages: messages.clone(),
        })))
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.write(text.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // In one call: whoever ends this process leaves a whole line, or none.
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The run and the measurements of a journal; none if there is no file. What was cut off is left out.
fn read(path: &Path) -> Result<Option<(Run, Vec<Entry>)>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let (mut run, mut entries) = (Run::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Run(its)) => run = its,
            Ok(Line::Done(entry)) => entries.push(*entry),
            Err(_) => {}
        }
    }
    Ok(Some((run, entries)))
}

/// What is another in two runs.
fn difference(old: &Run, new: &Run) -> Option<String> {
    let of_old = |name: &str| old.iter().find(|(its, _)| its == name).map(|(_, value)| value);
    let other = new.iter().find(|(name, value)| of_old(name) != Some(value));
    other.map(|(name, value)| match of_old(name) {
        Some(before) => format!("its {name} was {before}, and is {value}"),
        None => format!("its {name} is not known"),
    })
}

fn put_aside(path: &Path, difference: Option<String>) -> Result<String> {
    let aside = (1..)
        .map(|number| path.with_extension(format!("{number}.jsonl")))
        .find(|aside| !aside.exists())
        .context("there is always a higher number")?;
    fs::rename(path, &aside).with_context(|| format!("cannot rename {}", path.display()))?;
    let why = difference.unwrap_or_else(|| "all is to be measured anew".into());
    Ok(format!("the measurements before are in {} now: {why}", aside.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Outcome;
    use crate::measure::Meter;

    fn run(seed: &str) -> Run {
        vec![("kernel".into(), "6.18".into()), ("seed".into(), seed.into())]
    }

    fn measured(operations: usize) -> (Measured, String) {
        let outcome = Outcome { cost: Meter::start().stop(), operations, checked_bytes: 1 };
        (Measured::new(outcome), "a line".into())
    }

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("refpage-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn what_was_measured_is_there_after_a_line_was_cut_off() {
        let directory = scratch("journal");
        let (mut journal, message) = Journal::open(&directory, &run("1"), false).unwrap();
        assert_eq!(message, None);
        journal.keep("one", "glibc", 2, &measured(7)).unwrap();
        journal.write(b"{\"done\":{\"case\":\"two\",\"pe").unwrap();
        drop(journal);
        let (mut journal, message) = Journal::open(&directory, &run("1"), false).unwrap();
        assert_eq!((message, journal.len()), (None, 1));
        let (kept, messages) = journal.kept("one", "glibc", 2).unwrap();
        assert_eq!((kept.operations, messages.as_str()), (7, "a line"));
        assert!(journal.kept("two", "glibc", 0).is_none());
        journal.keep("two", "glibc", 0, &measured(8)).unwrap();
        let (journal, _) = Journal::open(&directory, &run("1"), false).unwrap();
        assert_eq!(journal.len(), 2);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn another_run_keeps_the_old_measurements_elsewhere() {
        let directory = scratch("journals");
        let (mut journal, _) = Journal::open(&directory, &run("1"), false).unwrap();
        journal.keep("one", "glibc", 0, &measured(7)).unwrap();
        let (journal, message) = Journal::open(&directory, &run("2"), false).unwrap();
        let message = message.unwrap();
        assert!(message.ends_with("its seed was 1, and is 2"), "{message}");
        assert_eq!(journal.len(), 0);
        let (_, message) = Journal::open(&directory, &run("2"), true).unwrap();
        assert!(message.unwrap().contains("measurements.2.jsonl"));
        assert_eq!(read(&directory.join("measurements.1.jsonl")).unwrap().unwrap().1.len(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }
}
