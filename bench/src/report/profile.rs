//! How programs use their allocations, as the allocator itself has it: the option `profile` of librefpage.so.
//!
//! The profiled run is one of its own: it costs, and its times are nobody's.

use std::array;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::tables::plain;
use super::work::Detail;
use crate::page::{Axis, Cell, Line, Mood, Plot, Point, Scale, Series, Table};
use crate::peers::Peer;
use crate::results::CaseResults;
use crate::rounds::{Came, Plan};
use crate::table::amount;
use crate::work::Measured;

/// What the option writes, as far as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    page_bytes: u64,
    classes: Vec<Class>,
    totals: Totals,
    memset: Memset,
    refpage: Refpage,
    estimate: Option<Estimate>,
}

/// Allocations of a size.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Class {
    least_bytes: u64,
    large: bool,
    #[serde(flatten)]
    sum: Sum,
}

/// What is counted of them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sum {
    mallocs: u64,
    callocs: u64,
    bytes_asked: u64,
    pages_asked: u64,
    pages_written: u64,
    sparse: u64,
    sparse_bytes: u64,
    share_written: [u64; SHARES.len()],
}

/// By which share of their pages allocations are told apart: what was written at most.
const SHARES: [&str; 8] =
    ["nothing", "to 1/16", "to 1/8", "to 1/4", "to 1/2", "to 3/4", "less than all", "all"];

/// Sums of large allocations, and of small ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Totals {
    malloc: Sum,
    calloc: Sum,
    small: Sum,
}

/// What memset would have done.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memset {
    bytes: u64,
    peak_pages: u64,
}

/// What was done instead.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Refpage {
    pages_placed: u64,
    pages_refilled: u64,
    peak_pages: u64,
}

/// Microseconds of filling, by the prices of this machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Estimate {
    memset_us: u64,
    refpage_us: u64,
}

impl Sum {
    fn add(self, other: Self) -> Self {
        Self {
            mallocs: self.mallocs + other.mallocs,
            callocs: self.callocs + other.callocs,
            bytes_asked: self.bytes_asked + other.bytes_asked,
            pages_asked: self.pages_asked + other.pages_asked,
            pages_written: self.pages_written + other.pages_written,
            sparse: self.sparse + other.sparse,
            sparse_bytes: self.sparse_bytes + other.sparse_bytes,
            share_written: array::from_fn(|at| self.share_written[at] + other.share_written[at]),
        }
    }
}

/// The same case once more under refpage alone, with a profile, whose file is in `directory` meanwhile.
pub fn of<'a>(plan: Plan<'a>, refpage: &Peer, directory: &Path) -> Plan<'a> {
    let mut peer = refpage.clone();
    let directory = directory.join(format!("profile-{}", plan.name));
    for (_, options) in &mut peer.environment {
        options.push_str(&format!(":profile=json:{}/%p.json", directory.display()));
    }
    let measure = plan.measure;
    Plan {
        peers: vec![peer],
        measure: Box::new(move |peer, round| {
            fs::create_dir_all(&directory)?;
            let came = measure(peer, round).and_then(|(measured, messages)| {
                let profile = Box::new(largest(&directory)?);
                Ok((Measured { detail: Some(Detail::Profile(profile)), ..measured }, messages))
            });
            fs::remove_dir_all(&directory)?;
            came as Came
        }),
        ..plan
    }
}

/// Of all processes that a program consists of, that which allocates most.
fn largest(directory: &Path) -> Result<Profile> {
    let mut largest: Option<Profile> = None;
    for entry in fs::read_dir(directory)? {
        let text = fs::read(entry?.path())?;
        let profile: Profile =
            serde_json::from_slice(&text).context("a profile is not readable")?;
        if largest.as_ref().is_none_or(|other| profile.bytes() > other.bytes()) {
            largest = Some(profile);
        }
    }
    let Some(profile) = largest else { bail!("librefpage.so wrote no profile") };
    Ok(profile)
}

impl Profile {
    fn large(&self) -> Sum {
        self.totals.malloc.add(self.totals.calloc)
    }

    fn bytes(&self) -> u64 {
        self.large().bytes_asked + self.totals.small.bytes_asked
    }

    /// The profile of a case.
    fn of_case(case: &CaseResults) -> Option<&Self> {
        match case.rows.first()?.measured.last()?.detail.as_ref()? {
            Detail::Profile(profile) => Some(profile),
            _ => None,
        }
    }
}

/// A line for each program.
pub fn table(cases: &[CaseResults]) -> Table {
    let columns = [
        "program",
        "large blocks",
        "their bytes",
        "pages written",
        "sparse",
        "memset: written",
        "memset: est. time",
        "refpage: written",
        "refpage: est. time",
        "peak under memset",
        "peak in place",
    ];
    let rows = cases.iter().filter_map(|case| {
        let profile = Profile::of_case(case)?;
        let cells = cells(&case.name, profile);
        Some(Line { own: false, cells })
    });
    let mut notes = vec![
        "Large blocks: of 64 KiB and more. Sparse: less than half of the pages written; in small letters their share of the bytes. \
         memset: what filling each malloc would have written, and how long that would have taken at this machine's prices \
         for fresh pages and for those in place; refpage: the pages that it filled instead. Peaks: of large mallocs alone."
            .to_owned(),
    ];
    notes.extend(cases.iter().map(|case| format!("{}: {}", case.name, case.title)));
    notes.extend(cases.iter().flat_map(|case| &case.rows).filter_map(|row| row.failure.clone()));
    Table {
        caption: "How programs use large blocks".into(),
        columns: columns.map(String::from).into(),
        rows: rows.collect(),
        notes,
    }
}

/// How many allocations were used to which share.
pub fn histogram(cases: &[CaseResults]) -> Table {
    let rows = cases.iter().filter_map(|case| {
        let large = Profile::of_case(case)?.large();
        let all = large.share_written.iter().sum::<u64>().max(1);
        let cell = |&count: &u64| Cell {
            text: percent(count, all),
            small: count.to_string(),
            mood: Mood::Plain,
        };
        let cells = [plain(&case.name)].into_iter().chain(large.share_written.iter().map(cell));
        Some(Line { own: false, cells: cells.collect() })
    });
    let columns = ["program"].iter().chain(&SHARES).map(|head| (*head).to_owned());
    Table {
        caption: "Large blocks by the share of their pages that was written, and how many".into(),
        columns: columns.collect(),
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn cells(name: &str, profile: &Profile) -> Vec<Cell> {
    let large = profile.large();
    let pages = |pages: u64| bytes(pages * profile.page_bytes);
    let time = |us: fn(&Estimate) -> u64| match &profile.estimate {
        Some(estimate) => {
            plain(crate::table::time(crate::table::exactly(us(estimate) as f64 * 1e3)))
        }
        None => Cell { mood: Mood::Absent, ..Cell::default() },
    };
    let count = large.mallocs + large.callocs;
    let sparse = Cell {
        text: percent(large.sparse, count),
        small: percent(large.sparse_bytes, large.bytes_asked),
        mood: Mood::Plain,
    };
    vec![
        plain(name),
        plain(count.to_string()),
        plain(bytes(large.bytes_asked)),
        plain(percent(large.pages_written, large.pages_asked)),
        sparse,
        plain(bytes(profile.memset.bytes)),
        time(|estimate| estimate.memset_us),
        plain(pages(profile.refpage.pages_placed + profile.refpage.pages_refilled)),
        time(|estimate| estimate.refpage_us),
        plain(pages(profile.memset.peak_pages)),
        plain(pages(profile.refpage.peak_pages)),
    ]
}

/// What a part is of a whole, if that is anything.
fn percent(part: u64, whole: u64) -> String {
    match part {
        0 => "0 %".into(),
        _ => format!("{} %", amount(100.0 * part as f64 / whole.max(1) as f64)),
    }
}

/// Bytes in a unit that fits.
fn bytes(bytes: u64) -> String {
    let (unit, size) = match bytes {
        0..0x10_0000 => ("KiB", 1u64 << 10),
        0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    format!("{} {unit}", amount(bytes as f64 / size as f64))
}

/// The share of pages written, and the bytes asked for, by the size of allocations.
pub fn plots(cases: &[CaseResults]) -> Vec<Plot> {
    let plot = |id: &str, title: &str, caption: &str, label: &str, value: fn(Sum) -> f64| Plot {
        id: id.into(),
        title: title.into(),
        caption: caption.into(),
        x: Axis { label: "size of the allocation, KiB".into(), scale: Scale::Log2 },
        y: Axis { label: label.into(), scale: Scale::Linear },
        series: cases.iter().filter_map(|case| line(case, value)).collect(),
    };
    vec![
        plot(
            "written-by-size",
            "Pages written, by size",
            "How much of large blocks programs write: of those of a size, the share of all their pages.",
            "pages written, %",
            |sum| 100.0 * sum.pages_written as f64 / sum.pages_asked.max(1) as f64,
        ),
        plot(
            "bytes-by-size",
            "Bytes asked for, by size",
            "What sizes of large blocks add up to: all bytes that were asked for in blocks of a size.",
            "MiB asked for",
            |sum| sum.bytes_asked as f64 / f64::from(1 << 20),
        ),
    ]
}

/// A point for each doubling of the size.
fn line(case: &CaseResults, value: fn(Sum) -> f64) -> Option<Series> {
    let mut sizes: Vec<(u64, Sum)> = Vec::new();
    for class in Profile::of_case(case)?.classes.iter().filter(|class| class.large) {
        let size = 1 << class.least_bytes.max(1).ilog2();
        match sizes.iter_mut().find(|(its, _)| *its == size) {
            Some((_, sum)) => *sum = sum.add(class.sum),
            None => sizes.push((size, class.sum)),
        }
    }
    sizes.retain(|(_, sum)| sum.pages_asked > 0);
    sizes.sort_unstable_by_key(|(size, _)| *size);
    let point =
        |&(size, sum): &(u64, Sum)| Point { x: size as f64 / 1024.0, y: value(sum), range: None };
    Some(Series { name: case.name.clone(), own: false, points: sizes.iter().map(point).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_the_process_of_it_that_allocates_most() {
        let directory =
            std::env::temp_dir().join(format!("refpage-profiles-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        assert!(largest(&directory).is_err());
        for (name, asked) in [("1", 100), ("2", 900), ("3", 300)] {
            let sum = |bytes: u64| {
                serde_json::json!({"mallocs": 1, "callocs": 0, "bytes_asked": bytes, "pages_asked": 2,
                    "pages_written": 1, "sparse": 0, "sparse_bytes": 0, "share_written": [0, 0, 0, 0, 1, 0, 0, 0]})
            };
            let profile = serde_json::json!({"page_bytes": 4096, "classes": [], "estimate": null,
                "totals": {"malloc": sum(asked), "calloc": sum(0), "small": sum(1)},
                "memset": {"bytes": asked, "peak_pages": 1},
                "refpage": {"pages_placed": 1, "pages_refilled": 0, "peak_pages": 1}});
            fs::write(directory.join(name), profile.to_string()).unwrap();
        }
        let profile = largest(&directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(profile.bytes(), 901);
        assert_eq!(cells("x", &profile)[3].text, "50.0 %");
    }
}
