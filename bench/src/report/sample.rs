//! A report of invented numbers, in which everything that a report can show is shown once: the browser's test.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::page::{Axis, Cell, Line, Mood, Page, Plot, Point, Scale, Section, Series, Table};

/// Write a report of invented numbers, as the tests of reports use it
#[derive(Args)]
pub struct Arguments {
    /// Where to
    directory: PathBuf,
}

/// The command.
///
/// # Errors
///
/// If the report cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    super::write(&page(), &arguments.directory)
}

/// Names and how much slower than the first: long ones, and such as only look like markup.
const PEERS: [(&str, f64); 13] = [
    ("refpage", 1.0),
    ("refpage, service=cow", 1.15),
    ("off", 0.8),
    ("memset", 2.2),
    ("glibc", 0.9),
    ("mimalloc", 0.85),
    ("mimalloc (secure)", 1.3),
    ("jemalloc", 1.05),
    ("tcmalloc", 0.95),
    ("rpmalloc", 0.83),
    ("snmalloc", 0.87),
    ("Scudo <b>&amp; \"co\"</b>", 3.1),
    ("a-library-with-a-very-long-name_from-the|command-line.so.2", 1.7),
];

/// The report.
pub fn page() -> Page {
    Page {
        title: "Sample: every number here is made up".into(),
        lead: "Nothing was measured for this page. It exercises what a report can show, with 13 allocators that \
               are called like real ones, and is opened in a browser by the tests."
            .into(),
        facts: [
            ("machine", "an invented one, 2 CPUs, 8 GiB"),
            ("kernel", "0.0.0-sample"),
            ("commit", "0123456789abcdef0123456789abcdef01234567"),
            ("rounds", "0"),
            ("command", "refpage-bench page-sample --with <script>alert(1)</script> | \"quoted\" & 'more'"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into(),
        sections: vec![touched(), windows(), latencies(), over_time(), verdicts()],
    }
}

fn touched() -> Section {
    let shares = [0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0];
    let plot = |id: &str, title: &str, label: &str, value: fn(f64, f64) -> f64| Plot {
        id: id.into(),
        title: title.into(),
        caption:
            "The less is touched, the less lazy ways cost; eager ones cost the same throughout."
                .into(),
        x: axis("touched share, %", Scale::Linear),
        y: axis(label, Scale::Linear),
        series: series(|factor| {
            shares.map(|share| ranged(share, factor * value(share, factor))).into()
        }),
    };
    Section {
        id: "touched".into(),
        title: "Large blocks, partly touched".into(),
        text: vec![
            "Blocks of 1 MiB are allocated, a share of their pages is written, and they are freed. Wall time and peak RSS are \
             medians of rounds that never happened."
                .into(),
            "Long lines of text end at a width that eyes can follow; what is called <b>bold</b> here is not bold.".into(),
        ],
        plots: vec![
            plot("time-touched", "Time against touched share", "time per block, us", |share, factor| {
                if factor > 2.0 { 9.0 } else { 0.2 + share * 0.09 }
            }),
            plot("rss-touched", "Peak RSS against touched share", "peak RSS, MiB", |share, _| share * 2.56),
        ],
        tables: vec![wide()],
    }
}

/// Twelve columns, with failures and absences.
fn wide() -> Table {
    let columns = [
        "allocator",
        "wall",
        "× off",
        "CPU",
        "× off",
        "peak MiB",
        "held MiB",
        "faults",
        "moves",
        "lag, 99 %",
        "throughput",
        "remark",
    ];
    let row = |(number, &(name, factor)): (usize, &(&str, f64))| {
        let mut cells = vec![cell(name, "", Mood::Plain)];
        cells.extend((1..11).map(|column| {
            let value = factor * f64::from(column) * 1.37;
            let range = format!("{:.2}–{:.2}", value * 0.95, value * 1.1);
            match (number, column) {
                (11, 1) => cell("failed: SIGSEGV", "", Mood::Bad),
                (11, 2..) => Cell::default(),
                (12, 3) => cell("no library", "", Mood::Absent),
                (2, 1 | 3) => cell(&format!("{value:.2} us"), &range, Mood::Good),
                (_, 1 | 3 | 9) => cell(&format!("{value:.2} us"), &range, Mood::Plain),
                _ => cell(&format!("{value:.2}"), "", Mood::Plain),
            }
        }));
        cells.push(cell(
            if number == 0 { "the default, as it is without options" } else { "" },
            "",
            Mood::Plain,
        ));
        Line { own: number < 2, cells }
    };
    Table {
        caption: "malloc 1 MiB, touch 10 %, free: all figures".into(),
        columns: columns.map(String::from).into(),
        rows: PEERS.iter().enumerate().map(row).collect(),
        notes: vec![
            "Scudo <b>&amp; \"co\"</b>: failed: ended by SIGSEGV in round 3 of 5.".into(),
            "Lag is the time that the slowest hundredth of the operations took.".into(),
        ],
    }
}

fn windows() -> Section {
    let plot = Plot {
        id: "throughput-window".into(),
        title: "First-touch throughput against window".into(),
        caption:
            "Throughput grows with the fault-around window until a huge page is moved at once."
                .into(),
        x: axis("window, bytes", Scale::Log2),
        y: axis("first touches, bytes/s", Scale::Log10),
        series: series(|factor| {
            let points = (12..=21).map(|power| {
                let window = 2f64.powi(power);
                ranged(window, 3e9 / factor * window / (window + 65_536.0))
            });
            points.collect()
        }),
    };
    let best = Line {
        own: true,
        cells: vec![cell("2 MiB", "", Mood::Plain), cell("2.9 GB/s", "2.8–3.0", Mood::Good)],
    };
    let table = Table {
        caption: "The best window".into(),
        columns: vec!["window".into(), "throughput".into()],
        rows: vec![best],
        notes: Vec::new(),
    };
    Section {
        id: "windows".into(),
        title: "Fault-around windows".into(),
        text: Vec::new(),
        plots: vec![plot],
        tables: vec![table],
    }
}

fn latencies() -> Section {
    let distribution = |factor: f64| {
        let points = (1..=60).map(|step| {
            let share = f64::from(step) / 60.0;
            Point {
                x: 400.0 * factor * (0.02 / (1.005 - share)).exp().powi(3) * (1.0 + share),
                y: 100.0 * share,
                range: None,
            }
        });
        points.collect()
    };
    Section {
        id: "latencies".into(),
        title: "Latency of faults".into(),
        text: vec!["Two series of this plot have one point, and none.".into()],
        plots: vec![Plot {
            id: "latency-faults".into(),
            title: "Fault latency, distribution".into(),
            caption:
                "How many of the faults were answered within a time: the steeper, the more even."
                    .into(),
            x: axis("latency, ns", Scale::Log10),
            y: axis("faults answered, %", Scale::Linear),
            series: {
                let mut all = series(distribution);
                all.truncate(5);
                all[3].points = vec![ranged(10_000.0, 50.0)];
                all[4].points.clear();
                all
            },
        }],
        tables: Vec::new(),
    }
}

fn over_time() -> Section {
    let curve = |factor: f64| {
        let points = (0..500).map(|step| {
            let time = f64::from(step) * 0.02;
            let memory = 80.0
                * factor
                * (1.0 - (-time).exp())
                * (1.2 + (time * 3.0 + factor * 7.0).sin() * 0.2);
            Point { x: time, y: memory, range: None }
        });
        points.collect()
    };
    Section {
        id: "memory".into(),
        title: "Memory over time".into(),
        text: Vec::new(),
        plots: vec![Plot {
            id: "memory-time".into(),
            title: "RSS over time, 500 points of 13 allocators".into(),
            caption: "Memory grows in the first seconds and then swings around its plateau.".into(),
            x: axis("time, s", Scale::Linear),
            y: axis("RSS, MiB", Scale::Linear),
            series: series(curve),
        }],
        tables: Vec::new(),
    }
}

fn verdicts() -> Section {
    let rows = [
        ("1 MiB, 10 %", "time to memset", "0.5", "0.31", "reached", Mood::Good),
        ("256 MiB, dense", "CPU to off", "1.05", "1.2", "MISSED", Mood::Bad),
        ("realloc", "time to glibc", "1", "", "not measured", Mood::Absent),
    ];
    let row = |(case, what, bound, value, verdict, mood)| Line {
        own: false,
        cells: vec![
            cell(case, "", Mood::Plain),
            cell(what, "", Mood::Plain),
            cell(bound, "", Mood::Plain),
            cell(value, "", Mood::Plain),
            cell(verdict, "", mood),
        ],
    };
    Section {
        id: "targets".into(),
        title: "Targets".into(),
        text: vec!["A section of words and a table alone.".into()],
        plots: Vec::new(),
        tables: vec![Table {
            caption: "Targets: 1 of 3 reached".into(),
            columns: ["case", "what", "target", "measured", "verdict"].map(String::from).into(),
            rows: rows.map(row).into(),
            notes: Vec::new(),
        }],
    }
}

/// A line for each peer, of the points that it has by its factor.
fn series(points: impl Fn(f64) -> Vec<Point>) -> Vec<Series> {
    let line = |(number, &(name, factor)): (usize, &(&str, f64))| Series {
        name: name.into(),
        own: number < 2,
        points: points(factor),
    };
    PEERS.iter().enumerate().map(line).collect()
}

fn ranged(x: f64, y: f64) -> Point {
    Point { x, y, range: Some([y * 0.94, y * 1.08]) }
}

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

fn cell(text: &str, small: &str, mood: Mood) -> Cell {
    Cell { text: text.into(), small: small.into(), mood }
}
