//! The page: what was measured, part by part.

use super::checks::Check;
use super::parts::Part;
use super::tables::{BASE, Column, absent, failures, legend, matrix, owns, plain, reads};
use super::{Results, plots, profile, summary};
use crate::cases::Scale;
use crate::page::{Cell, Line, Mood, Page, Section, Table};
use crate::peers::{REFPAGE, Source};
use crate::results::{CaseResults, Metric};
use crate::traps;

/// Columns that a table has at most: more are hard to read.
const COLUMNS: usize = 8;

/// The metrics of most tables.
const COSTS: [(&str, Metric); 3] = [
    ("CPU time of all threads", Metric::Cpu),
    ("wall time", Metric::Wall),
    ("peak RSS", Metric::Peak),
];

/// All of it.
pub fn page(results: &Results, checks: &[Check]) -> Page {
    let mut sections = vec![summary(results), guarantee(results)];
    sections.extend(results.parts.iter().filter(|part| !part.cases.is_empty()).filter_map(
        |part| {
            let cases = &part.cases;
            Some(match part.part {
                Part::Reads => return None,
                Part::Shares => shares(cases),
                Part::Latency => latency(cases),
                Part::Windows => windows(cases),
                Part::Large => large(cases),
                Part::Small => small(cases),
                Part::Traps => guards(cases),
                Part::Programs => programs(cases),
                Part::Pdfium => pdfium(cases),
                Part::Timeline => timeline(cases),
                Part::Profile => profiles(cases),
            })
        },
    ));
    sections.extend([checked(checks), took_part(results)]);
    sections.retain(|section| !section.tables.is_empty() || !section.plots.is_empty());
    Page {
        title: "refpage beside other allocators".into(),
        lead: lead(results),
        facts: facts(results),
        sections,
    }
}

fn lead(results: &Results) -> String {
    let mut lead = String::from(
        "Every byte that refpage hands out holds a known pattern, or zero from calloc. This page tells what that costs \
         here, beside allocators that leave memory as it is and beside those that can fill it.",
    );
    if let Some(headline) = summary::headline(results, REFPAGE) {
        lead.push_str(&format!(" Under real programs: {headline} beside {BASE}."));
    }
    if results.scale != Scale::Full {
        lead.push_str(
            " This was a quick run: few cases, few rounds; without --quick it is all of them.",
        );
    }
    lead
}

fn facts(results: &Results) -> Vec<(String, String)> {
    let mut facts: Vec<(String, String)> = vec![("command".into(), command())];
    let known =
        results.run.iter().filter(|(name, value)| !value.is_empty() && name != "allocators");
    facts.extend(known.cloned());
    facts
}

/// The command that this process was started by, as it is told to others.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo run --release -p refpage-bench -- {}", arguments.join(" "))
}

fn summary(results: &Results) -> Section {
    Section {
        id: "summary".into(),
        title: "In one table".into(),
        tables: vec![summary::table(results)],
        ..Section::default()
    }
}

fn guarantee(results: &Results) -> Section {
    let cases = results.cases(Part::Reads).unwrap_or_default();
    Section {
        tables: cases.iter().map(reads).collect(),
        ..section(
            "guarantee",
            "What memory reads as",
            "Somebody before has written 0x5e to blocks of the same sizes and freed them. Who finds that byte again \
             reads what is not his.",
        )
    }
}

fn shares(cases: &[CaseResults]) -> Section {
    Section {
        plots: plots::shares(cases),
        tables: matrices(cases, &[COSTS[0], COSTS[2]], BASE),
        ..section(
            "shares",
            "Touched share",
            "Blocks of 1 MiB, of which programs touch more or less: from nothing to all of it.",
        )
    }
}

fn latency(cases: &[CaseResults]) -> Section {
    let text = "How long a program waits when it touches a page for the first time: for the kernel's own fault, or for \
                the handler that moves pages in. Who fills in malloc has made it wait there, which is not in here. The mean \
                is in the tables; the plots show the rest.";
    Section {
        plots: plots::latency(cases),
        tables: matrices(cases, &[COSTS[1], COSTS[0]], BASE),
        ..section("latency", "Fault latency", text)
    }
}

fn windows(cases: &[CaseResults]) -> Section {
    Section {
        plots: vec![plots::windows(cases)],
        tables: matrices(cases, &[COSTS[1], COSTS[0]], BASE),
        ..section(
            "windows",
            "Windows",
            "The fault handler moves more than the page that was touched while a program goes through memory in order.",
        )
    }
}

fn large(cases: &[CaseResults]) -> Section {
    Section {
        tables: matrices(cases, &COSTS, BASE),
        ..section(
            "large",
            "Large blocks",
            "Blocks of 64 KiB and more, which refpage does not fill before they are touched.",
        )
    }
}

fn small(cases: &[CaseResults]) -> Section {
    let text = "The well-known workloads of allocators; the number behind a name is that of the threads. Every block is \
                stamped, and its stamp checked when it is freed.";
    let metrics = [COSTS[1], COSTS[0], COSTS[2], ("RSS when nearly all is freed", Metric::Held)];
    Section { tables: matrices(cases, &metrics, BASE), ..section("small", "Small blocks", text) }
}

fn guards(cases: &[CaseResults]) -> Section {
    let text = "A block is freed, another one allocated, looked at and written: with guards at the ends of blocks and \
                freed ones in quarantine, with some of that, and without, beside allocators that have their own.";
    Section {
        tables: matrices(cases, &COSTS, &traps::without(REFPAGE)),
        ..section("traps", "Guards and quarantine", text)
    }
}

fn programs(cases: &[CaseResults]) -> Section {
    let text = "Whole programs from their start to their end. What they write is the same under every allocator.";
    Section { tables: matrices(cases, &COSTS, BASE), ..section("programs", "Real programs", text) }
}

fn pdfium(cases: &[CaseResults]) -> Section {
    let text = "Real PDFium renders real documents, at 72 and at 300 dots an inch, from the start of the process to its \
                end: the experiment of the kernel patch that refpage comes from. Times are per page, in a run of the \
                pages that are named below the tables. The pixels are the same under every allocator.";
    Section { tables: matrices(cases, &COSTS, BASE), ..section("pdfium", "PDFium", text) }
}

fn timeline(cases: &[CaseResults]) -> Section {
    Section {
        plots: cases.iter().map(plots::timeline).collect(),
        ..section(
            "memory",
            "Memory over time",
            "What a process holds from its start to its end, looked at every 2 ms.",
        )
    }
}

fn profiles(cases: &[CaseResults]) -> Section {
    let text = "What refpage's own profile says of the programs and documents above (refpage run --profile): which \
                allocations are sparse, what filling them would have cost, and what was filled instead.";
    Section {
        plots: profile::plots(cases),
        tables: vec![profile::table(cases), profile::histogram(cases)],
        ..section("profile", "How programs use memory", text)
    }
}

/// A section without tables and plots.
fn section(id: &str, title: &str, text: &str) -> Section {
    Section { id: id.into(), title: title.into(), text: vec![text.into()], ..Section::default() }
}

/// Tables of some cases: one for each metric and so many cases as can be read at a time, or one of everything where that
/// is little. The last one says what the cases are, and what failed.
fn matrices(cases: &[CaseResults], metrics: &[(&str, Metric)], base: &str) -> Vec<Table> {
    let column = |head: &str, case, metric| Column { head: head.into(), case, metric };
    let all: Vec<&CaseResults> = cases.iter().collect();
    let mut tables = Vec::new();
    if cases.len() * metrics.len() <= COLUMNS {
        let mut columns = Vec::new();
        for &(name, metric) in metrics {
            columns.extend(cases.iter().map(|case| match cases {
                [_] => column(name, case, metric),
                _ => column(&format!("{}: {name}", case.name), case, metric),
            }));
        }
        tables.push(matrix("medians", &columns, base));
    } else {
        let tables_each = all.len().div_ceil(COLUMNS);
        for part in all.chunks(all.len().div_ceil(tables_each)) {
            for &(name, metric) in metrics {
                let columns: Vec<Column> =
                    part.iter().map(|case| column(&case.name, case, metric)).collect();
                tables.push(matrix(name, &columns, base));
            }
        }
    }
    if let Some(last) = tables.last_mut() {
        last.notes = failures(&all);
        last.notes.extend(legend(&all));
    }
    tables
}

fn checked(checks: &[Check]) -> Section {
    let rows = checks.iter().map(|check| {
        let (text, mood) =
            if check.passed { ("passed", Mood::Good) } else { ("FAILED", Mood::Bad) };
        let verdict = Cell { text: text.into(), small: String::new(), mood };
        Line { own: false, cells: vec![plain(check.what), verdict, plain(&check.found)] }
    });
    let table = Table {
        caption: "What the report checks of itself".into(),
        columns: ["check", "", "what was found"].map(String::from).into(),
        rows: rows.collect(),
        notes: Vec::new(),
    };
    Section {
        id: "checks".into(),
        title: "Checks".into(),
        tables: vec![table],
        ..Section::default()
    }
}

/// Who took part, and who did not, with the reason.
fn took_part(results: &Results) -> Section {
    let mut rows: Vec<Line> = Vec::new();
    for peer in &results.peers {
        let library = match &peer.source {
            Source::Preload(path) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Source::Libc => "the C library's own".into(),
            Source::Baseline(_) => "none".into(),
        };
        let settings: Vec<String> =
            peer.environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let prefix = format!("{}: ", peer.name);
        let notes = results.notes.iter().filter_map(|note| note.strip_prefix(&prefix));
        let notes: Vec<&str> = notes.collect();
        let cells = vec![
            plain(&peer.name),
            plain(library),
            plain(settings.join(" ")),
            plain(notes.join("; ")),
        ];
        rows.push(Line { own: owns(&peer.name), cells });
    }
    for missing in &results.missing {
        let cells =
            vec![plain(&missing.name), absent("missing"), plain(""), plain(&missing.remedy)];
        rows.push(Line { own: false, cells });
    }
    let table = Table {
        caption: "Allocators, their settings, and what is missing".into(),
        columns: ["name", "library", "settings", "notes"].map(String::from).into(),
        rows,
        notes: Vec::new(),
    };
    Section {
        id: "allocators".into(),
        title: "Who took part".into(),
        tables: vec![table],
        ..Section::default()
    }
}
