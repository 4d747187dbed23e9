//! The option `profile`: programs whose allocations are known, and the JSON that tells of them.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{DEFAULT, Outcome, ScratchDir, c_program, is_served, preload, run};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Blocks of `prefix`, and of most others.
const BLOCKS: u64 = 50;
const FEW: u64 = 10;

/// What one process told.
struct Profile(Value);

impl Profile {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a profile");
        Self(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    fn page(&self) -> u64 {
        number(&self.0["page_bytes"])
    }

    fn pages(&self, bytes: u64) -> u64 {
        bytes / self.page()
    }

    /// The row of the allocations of so many bytes.
    fn row(&self, bytes: u64, zeroed: impl Into<Value>) -> Row<'_> {
        let zeroed = zeroed.into();
        let rows = self.0["classes"].as_array().expect("classes");
        let is_it = |row: &&Value| {
            (number(&row["least_bytes"])..=number(&row["most_bytes"])).contains(&bytes)
                && row["zeroed"] == zeroed
        };
        let found: Vec<_> = rows.iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{bytes}: {:#}", self.0);
        Row(found[0])
    }

    fn has_row(&self, bytes: u64) -> bool {
        let rows = self.0["classes"].as_array().expect("classes");
        rows.iter()
            .any(|row| (number(&row["least_bytes"])..=number(&row["most_bytes"])).contains(&bytes))
    }

    fn number(&self, part: &str, name: &str) -> u64 {
        number(&self.0[part][name])
    }

    /// No allocation is missing from any row, or told twice.
    #[track_caller]
    fn check(&self) {
        for row in self.0["classes"].as_array().expect("classes") {
            let row = Row(row);
            let made = row.get("mallocs") + row.get("callocs") + row.get("grown_in");
            assert_eq!(
                made,
                row.get("frees") + row.get("live") + row.get("grown_out"),
                "{:#}",
                row.0
            );
            if row.0["large"] == true {
                let ended = row.get("frees") + row.get("live");
                assert_eq!(
                    row.shares().iter().sum::<u64>(),
                    ended - row.get("unknown"),
                    "{:#}",
                    row.0
                );
                assert_eq!(row.get("unknown"), 0, "{:#}", row.0);
                assert!(row.get("pages_asked") >= row.get("pages_present"), "{:#}", row.0);
                assert!(row.get("pages_present") >= row.get("pages_written"), "{:#}", row.0);
            }
        }
    }
}

struct Row<'a>(&'a Value);

impl Row<'_> {
    #[track_caller]
    fn get(&self, name: &str) -> u64 {
        number(&self.0[name])
    }

    #[track_caller]
    fn expect(&self, names: &[(&str, u64)]) {
        for &(name, count) in names {
            assert_eq!(self.get(name), count, "{name} of {:#}", self.0);
        }
    }

    fn shares(&self) -> Vec<u64> {
        self.0["share_written"].as_array().expect("shares").iter().map(number).collect()
    }

    /// All of its allocations had so many of so many pages written.
    #[track_caller]
    fn expect_share(&self, count: u64, written: u64, asked: u64) {
        let bounds = [(0, 1), (1, 16), (1, 8), (1, 4), (1, 2), (3, 4)];
        let within = |&(part, whole): &(u64, u64)| written * whole <= asked * part;
        let unbounded = if written < asked { 6 } else { 7 };
        let mut expected = [0; 8];
        expected[bounds.iter().position(within).unwrap_or(unbounded)] = count;
        assert_eq!(self.shares(), expected, "{:#}", self.0);
        self.expect(&[("pages_asked", count * asked), ("pages_written", count * written)]);
        let sparse = if written * 2 < asked { count } else { 0 };
        self.expect(&[("sparse", sparse)]);
    }
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Runs a behaviour; a directory with the profiles of its processes, by their numbers.
fn profiles(behaviour: &str, service: &str, options: &str) -> Option<(ScratchDir, Outcome)> {
    let program = c_program("profile").filter(|_| service == "off" || is_served(service))?;
    let scratch = ScratchDir::new("profile");
    let mut command = Command::new(program);
    command.arg(behaviour).env("TEST_PATTERN", DEFAULT);
    // For a short name, wherever the tests lie.
    command.current_dir(&scratch.0);
    let options = format!("service={service}:profile=json:%p.json:{options}");
    let outcome = run(preload(&mut command, &options));
    outcome.expect_success();
    assert_eq!(outcome.refpage_lines(), [""; 0], "nothing to complain about");
    Some((scratch, outcome))
}

/// Of a behaviour of one process.
fn profile(behaviour: &str, service: &str, options: &str) -> Option<Profile> {
    let (scratch, _) = profiles(behaviour, service, options)?;
    let files: Vec<_> = fs::read_dir(&scratch.0).expect("a directory").collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let profile = Profile::read(&files[0].as_ref().expect("a file").path());
    assert_eq!(profile.0["service"], service);
    let program = profile.0["program"].as_str().expect("a name");
    assert!(program.starts_with("profile"), "{program}");
    profile.check();
    Some(profile)
}

/// The same with and without what changes where freed memory goes.
fn each(behaviour: &str, service: &str, check: impl Fn(&Profile)) {
    for options in ["", "quarantine=0", "quarantine_share=100", "guards=right"] {
        if let Some(profile) = profile(behaviour, service, options) {
            check(&profile);
        }
    }
}

fn fills_all(service: &str) -> bool {
    matches!(service, "eager" | "memset")
}

for_each_service! {
    a_written_prefix => |service| each("prefix", service, |profile| {
        let row = profile.row(MIB, false);
        let all = profile.pages(MIB);
        row.expect(&[("mallocs", BLOCKS), ("callocs", 0), ("frees", BLOCKS), ("live", 0)]);
        row.expect(&[("bytes_asked", BLOCKS * MIB), ("reallocs", 0)]);
        row.expect_share(BLOCKS, all / 10, all);
        row.expect(&[("sparse_bytes", BLOCKS * MIB)]);
        if fills_all(service) {
            row.expect(&[("pages_present", BLOCKS * all)]);
        }
        assert_eq!(profile.number("memset", "bytes"), BLOCKS * MIB);
        assert_eq!(profile.number("memset", "peak_pages"), BLOCKS * all);
        let in_place = profile.number("refpage", "peak_pages");
        assert!((BLOCKS * (all / 10)..=row.get("pages_present")).contains(&in_place), "{in_place}");
        assert_eq!(profile.number("refpage", "pages_refilled"), row.get("pages_present"));
        assert!(profile.number("estimate", "memset_us") >= profile.number("estimate", "refpage_us") / 2);
        let totals = &profile.0["totals"];
        assert_eq!(number(&totals["malloc"]["pages_written"]), BLOCKS * (all / 10));
        assert_eq!(number(&totals["calloc"]["callocs"]), 0);
    });
    scattered_pages => |service| each("scattered", service, |profile| {
        let all = profile.pages(MIB);
        profile.row(MIB, false).expect_share(FEW, all / 4, all);
    });
    nothing_written_and_all => |service| each("nothing-and-all", service, |profile| {
        let all = profile.pages(MIB);
        profile.row(MIB, false).expect_share(FEW, 0, all);
        profile.row(2 * MIB, false).expect_share(FEW, 2 * all, 2 * all);
    });
    pages_of_calloc => |service| each("callocs", service, |profile| {
        let row = profile.row(2 * MIB, true);
        row.expect(&[("mallocs", 0), ("callocs", FEW), ("frees", FEW), ("bytes_asked", 2 * FEW * MIB)]);
        row.expect_share(FEW, 5, profile.pages(2 * MIB));
        let small = profile.row(5000, Value::Null);
        small.expect(&[("callocs", 1), ("mallocs", 0), ("frees", 1), ("bytes_asked", 5000)]);
        assert_eq!(profile.number("memset", "bytes"), 0, "nobody fills a calloc");
    });
    what_realloc_adds => |service| each("grown", service, |profile| {
        let all = profile.pages(MIB);
        let (from, to) = (profile.row(MIB, false), profile.row(4 * MIB, false));
        from.expect(&[("mallocs", FEW), ("grown_out", FEW), ("frees", 0), ("pages_asked", 0)]);
        to.expect(&[("mallocs", 0), ("grown_in", FEW), ("reallocs", FEW), ("frees", FEW)]);
        to.expect(&[("bytes_grown", 3 * FEW * MIB), ("bytes_asked", 3 * FEW * MIB)]);
        to.expect_share(FEW, all, 4 * all);
        assert_eq!(profile.number("memset", "bytes"), 4 * FEW * MIB);
        assert_eq!(profile.number("memset", "peak_pages"), 4 * FEW * all);
    });
    what_realloc_cuts_off => |service| each("shrunk", service, |profile| {
        let all = profile.pages(MIB);
        let row = profile.row(4 * MIB, false);
        row.expect(&[("mallocs", FEW), ("reallocs", FEW), ("frees", FEW), ("bytes_grown", 0)]);
        row.expect_share(FEW, 2 * all, 4 * all);
        assert!(!profile.has_row(MIB), "it stays where it was");
    });
    live_allocations => |service| each("live", service, |profile| {
        let all = profile.pages(MIB);
        let row = profile.row(MIB, false);
        row.expect(&[("mallocs", FEW), ("frees", 0), ("live", FEW)]);
        row.expect(&[("live_pages_asked", FEW * all), ("live_pages_written", FEW * 7)]);
        row.expect_share(FEW, 7, all);
        let row = profile.row(2 * MIB, true);
        row.expect(&[("callocs", 1), ("live", 1), ("live_pages_written", 9)]);
        assert_eq!(profile.number("refpage", "pages_refilled"), 0);
    });
    between_small_and_large => |service| each("crossed", service, |profile| {
        let row = profile.row(MIB, false);
        row.expect(&[("mallocs", FEW), ("frees", FEW), ("reallocs", 0)]);
        let small = profile.row(5000, Value::Null);
        small.expect(&[("mallocs", 2 * FEW), ("frees", 2 * FEW)]);
        // The small block's content was copied: two pages of it.
        let written = 5000_u64.div_ceil(profile.page()).max(2);
        row.expect_share(FEW, written, profile.pages(MIB));
    });
    all_threads_count => |service| each("threads", service, |profile| {
        let row = profile.row(MIB, false);
        row.expect(&[("mallocs", 100), ("frees", 100), ("live", 0)]);
        row.expect_share(100, 3, profile.pages(MIB));
        profile.row(5000, Value::Null).expect(&[("mallocs", 4000), ("frees", 4000)]);
    });
    a_child_has_a_profile_of_its_own => |service| {
        let Some((scratch, outcome)) = profiles("child", service, "") else { return };
        let text = outcome.stdout_text();
        let of = |number: &str| Profile::read(&scratch.0.join(format!("{number}.json")));
        let (parent, child) = text.trim().split_once(' ').expect("two processes");
        let (parent, child) = (of(parent), of(child));
        parent.check();
        child.check();
        let all = parent.pages(MIB);
        parent.row(MIB, false).expect(&[("mallocs", FEW), ("frees", FEW)]);
        parent.row(MIB, false).expect_share(FEW, 7, all);
        assert!(!parent.has_row(2 * MIB));
        assert!(!child.has_row(MIB) && !child.has_row(8 * MIB), "{:#}", child.0);
        child.row(2 * MIB, false).expect(&[("mallocs", 3), ("frees", 2), ("live", 1)]);
        child.row(2 * MIB, false).expect_share(3, 2, 2 * all);
        assert_eq!(child.number("memset", "peak_pages"), 6 * all);
    };
}

/// What grew out of a calloc shows zeros, then the content. (At the ends of pages it is copied, zeros and all.)
mod what_realloc_adds_to_calloc {
    use super::*;

    fn check(service: &str) {
        for options in ["", "quarantine=0"] {
            let Some(profile) = profile("grown-callocs", service, options) else { return };
            let row = profile.row(4 * MIB, true);
            row.expect(&[("grown_in", FEW), ("frees", FEW), ("bytes_grown", 3 * FEW * MIB)]);
            row.expect_share(FEW, 5, profile.pages(4 * MIB));
            assert_eq!(profile.number("memset", "bytes"), 3 * FEW * MIB);
        }
    }

    #[test]
    fn lazy() {
        check("lazy");
    }
    #[test]
    fn cow() {
        check("cow");
    }
    #[test]
    fn eager() {
        check("eager");
    }
    #[test]
    fn memset() {
        check("memset");
    }
}

#[test]
fn memory_used_before_is_told_from_fresh() {
    let Some(profile) = profile("recycled", "lazy", "quarantine=0") else { return };
    let row = profile.row(MIB, false);
    row.expect(&[("recycled", FEW - 1), ("bytes_recycled", (FEW - 1) * MIB)]);
    assert_eq!(profile.number("memset", "recycled_bytes"), (FEW - 1) * MIB);
    let all = profile.pages(MIB);
    row.expect(&[("pages_written", all + FEW - 1)]);
    // Put in place once; they stay for the next.
    assert_eq!(profile.number("refpage", "pages_placed"), all);
}

/// Without content, what is in place is all that is known.
#[test]
fn without_content_presence_counts() {
    let Some(profile) = profile("prefix", "off", "quarantine=0") else { return };
    assert_eq!(profile.0["written_by"], "presence");
    let row = profile.row(MIB, false);
    assert_eq!(row.get("pages_present"), row.get("pages_written"));
    assert!(row.get("pages_written") >= BLOCKS * (profile.pages(MIB) / 10));
    for name in ["pages_placed", "pages_refilled", "faults"] {
        assert_eq!(profile.number("refpage", name), 0, "{name}");
    }
}

/// As `threshold` says.
#[test]
fn smaller_blocks_are_looked_at_where_they_are_large() {
    let Some(profile) = profile("crossed", "lazy", "threshold=4K") else { return };
    assert_eq!(number(&profile.0["threshold_bytes"]), 4096);
    let row = profile.row(MIB, false);
    // Cut to 5000 bytes, and still of the class of what they had.
    row.expect(&[("grown_in", FEW), ("frees", FEW), ("reallocs", 2 * FEW)]);
    row.expect_share(FEW, 5000_u64.div_ceil(profile.page()).max(2), profile.pages(MIB));
}

fn told(options: &str) -> Option<Outcome> {
    let mut command = Command::new(c_program("profile")?);
    let outcome = run(preload(command.arg("prefix").env("TEST_PATTERN", DEFAULT), options));
    outcome.expect_success();
    Some(outcome)
}

#[test]
fn the_block_is_for_people() {
    let Some(outcome) = told("service=memset:profile=1") else { return };
    let text = &outcome.stderr;
    let first = text.lines().next().expect("a line");
    assert!(
        first.starts_with("refpage: profile of process ") && first.contains(" (profile"),
        "{text}"
    );
    assert!(text.contains("\n  memset would have written 50 MiB (est. "), "{text}");
    assert!(
        text.contains("\n  large mallocs 50: 0 % got memory used before, 0 live at exit\n"),
        "{text}"
    );
    let row = text.lines().find(|line| line.starts_with("  1 MiB to 1.25 MiB ")).expect("a row");
    assert!(row.contains(" 100 % ") && row.ends_with("50 *"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn a_file_that_cannot_be_written_is_said_in_one_line() {
    let Some(outcome) = told("service=memset:profile=json:/nowhere/x%p.json") else { return };
    let lines = outcome.refpage_lines();
    let start = "refpage: cannot write the profile to /nowhere/x";
    assert!(lines.len() == 1 && lines[0].starts_with(start), "{}", outcome.stderr);
    assert!(
        lines[0].ends_with(": no such file or directory (2)") && !lines[0].contains("%p"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_bad_value_is_said_in_one_line() {
    let Some(outcome) = told("service=memset:profile=yes") else { return };
    let lines = outcome.refpage_lines();
    let start = "refpage: ignored in REFPAGE_OPTIONS: bad value \"yes\" for profile: ";
    assert!(lines.len() == 1 && lines[0].starts_with(start), "{}", outcome.stderr);
}

/// The statistics go the same way.
#[test]
fn both_reports_may_be_asked_for() {
    let Some(program) = c_program("profile") else { return };
    let scratch = ScratchDir::new("both");
    let mut command = Command::new(program);
    command.arg("prefix").env("TEST_PATTERN", DEFAULT).current_dir(&scratch.0);
    let options = "service=memset:stats=json:s-%p.json:profile=json:p-%p.json";
    run(preload(&mut command, options)).expect_success();
    let names = fs::read_dir(&scratch.0).expect("a directory");
    let mut names: Vec<_> =
        names.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("p-") && names[1].starts_with("s-"), "{names:?}");
    let json = |name: &str| Profile::read(&scratch.0.join(name)).0;
    assert_eq!(json(&names[0])["memset"]["bytes"], BLOCKS * MIB);
    assert_eq!(json(&names[1])["large_allocated"], BLOCKS);
}
