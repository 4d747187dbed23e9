//! The view on terminals of all sizes.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::sample::tests::sample;
use super::sample::{History, Rates, Sample};
use super::view::View;

fn rated() -> Sample {
    let mut sample = sample();
    sample.rates = Some(Rates {
        faults_per_second: 1234.0,
        large_per_second: 0.5,
        recycled_share: Some(0.9),
        handler_cpu_share: 0.003,
    });
    sample
}

fn drawn(view: &View<'_>, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no terminal fails");
    terminal.draw(|frame| view.draw(frame)).expect("no terminal fails");
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width.max(1)));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
}

/// What is drawn of a sample, with a history of a few others.
fn shown(sample: Option<&Sample>, output: Option<&VecDeque<String>>, size: (u16, u16)) -> String {
    let mut history = History::default();
    for _ in 0..600 {
        sample.iter().for_each(|sample| history.add(sample));
    }
    let notice = sample.is_none().then_some("waiting");
    let interval = Duration::from_secs(1);
    let view = View {
        pid: 4711,
        sample,
        history: &history,
        notice,
        interval,
        paused: false,
        output,
        quits: "quit",
    };
    drawn(&view, size.0, size.1)
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no \"{part}\" in\n{text}");
    }
}

#[test]
fn everything_is_there_on_80_columns_and_24_rows() {
    let text = shown(Some(&rated()), None, (80, 24));
    has(
        &text,
        &[
            "refpage 4711 python3 a program",
            "every 1 s",
            "lazy (as chosen)",
            "4 threads, 2 children (not shown)",
            "── Memory ──",
            "120.0 MiB",
            "memset would hold    312.0 MiB  2.60 x",
            "256.0 MiB large in 1, 3.0 MiB small",
            "█ large 64.0M  ▓ small 4.0M  ▒ cached 10.0M  ░ pool 5.0M",
            "faults/s                 1,234",
            "large allocations/s        0.5  recycled 93 % of 1,000",
            "handler CPU              0.3 %",
            "Pages per fault",
            "512+",
            "q quit   p pause   + - interval",
        ],
    );
}

#[test]
fn larger_terminals_have_higher_curves_and_say_what_went_a_worse_way() {
    let text = shown(Some(&rated()), None, (200, 60));
    has(&text, &["pool_empty", "memset would hold", "q quit"]);
    let curved = text.lines().filter(|line| line.contains(&"█".repeat(100))).count();
    assert!(curved > 8, "{curved} rows of curves\n{text}");
}

#[test]
fn the_smallest_have_what_matters_most() {
    let text = shown(Some(&rated()), None, (20, 5));
    has(&text, &["refpage 4711", "RSS", "120.0 MiB", "memset", "312.0 MiB", "faults/s", "1,234"]);
    has(&shown(Some(&rated()), None, (40, 12)), &["live", "recycled", "q quit"]);
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let output: VecDeque<String> = (0..100).map(|n| format!("line {n}")).collect();
    for width in (0..30).chain([80, 500]) {
        for height in (0..40).chain([200]) {
            for output in [None, Some(&output)] {
                shown(Some(&rated()), output, (width, height));
                shown(None, output, (width, height));
            }
        }
    }
}

#[test]
fn the_programs_last_lines_are_shown() {
    let output: VecDeque<String> = (0..100).map(|n| format!("line {n}")).collect();
    let text = shown(Some(&rated()), Some(&output), (80, 24));
    has(&text, &["Output", "line 99", "memset would hold"]);
    assert!(text.find("line 98") < text.find("line 99"));
}

#[test]
fn without_a_look_it_says_why() {
    has(&shown(None, None, (80, 24)), &["refpage 4711", "waiting", "q quit"]);
}
