//! The report as a command: what it writes, that it goes on where it was, and what it says of those who could not take part.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// An empty directory of a test's own.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The smallest report of these parts.
fn report(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refpage-bench"));
    command.args(["report", "--tiny", "--runs", "1", "--with", "glibc", "--output"]).arg(directory);
    command.args(arguments).env_remove("LD_PRELOAD").stdin(Stdio::null());
    command
}

fn output(directory: &Path, arguments: &[&str]) -> (Output, String) {
    let output = report(directory, arguments).output().expect("the benchmark was built");
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, messages)
}

fn json(directory: &Path) -> Value {
    let text = fs::read_to_string(directory.join("report.json")).expect("a report was written");
    serde_json::from_str(&text).unwrap()
}

/// All rows of all cases: the case, the row.
fn rows(report: &Value) -> Vec<(String, Value)> {
    let mut rows = Vec::new();
    for case in
        report["parts"].as_array().unwrap().iter().flat_map(|p| p["cases"].as_array().unwrap())
    {
        for row in case["rows"].as_array().unwrap() {
            rows.push((case["name"].as_str().unwrap().to_owned(), row.clone()));
        }
    }
    rows
}

/// What failed, but for what a build without optimisations cannot pass.
fn failures(messages: &str) -> Vec<&str> {
    let failed = messages.lines().filter(|line| line.starts_with("FAILED"));
    failed.filter(|line| !line.contains("built to be measured")).collect()
}

#[test]
fn a_report_has_all_its_files_and_its_checks_pass() {
    let directory = directory("report-whole");
    let (output, messages) = output(&directory, &[]);
    assert_eq!(failures(&messages), [""; 0], "{messages}");
    // Without optimisations it says that its figures mean nothing, and fails.
    let code = i32::from(cfg!(debug_assertions));
    assert_eq!(output.status.code(), Some(code), "{messages}");
    let report = json(&directory);
    let sections = report["page"]["sections"].as_array().unwrap();
    let ids: Vec<&str> = sections.iter().map(|section| section["id"].as_str().unwrap()).collect();
    for id in [
        "summary",
        "guarantee",
        "shares",
        "latency",
        "windows",
        "large",
        "small",
        "traps",
        "programs",
        "checks",
    ] {
        assert!(ids.contains(&id), "{id}: {ids:?}");
    }
    for (case, row) in rows(&report) {
        let measured = row["measured"].as_array().unwrap();
        assert!(measured.len() == 1 || !row["failure"].is_null(), "{case}: {row}");
    }
    let page = fs::read_to_string(directory.join("index.html")).unwrap();
    let plots: Vec<_> = fs::read_dir(directory.join("plots")).unwrap().collect();
    assert!(plots.len() >= 6, "{plots:?}");
    assert_eq!(page.matches("<svg").count(), plots.len());
    let lines = fs::read_to_string(directory.join("measurements.csv")).unwrap();
    let measured: usize =
        rows(&report).iter().map(|(_, row)| row["measured"].as_array().unwrap().len()).sum();
    assert_eq!(lines.lines().count(), 1 + measured);
    let [markdown, summary] =
        ["report.md", "summary.md"].map(|name| fs::read_to_string(directory.join(name)).unwrap());
    assert!(markdown.contains(summary.lines().last().unwrap()), "{summary}");
}

/// The measurements of a journal so far: case, peer and round.
fn kept(directory: &Path) -> Vec<(String, String, u64)> {
    let text = fs::read_to_string(directory.join("measurements.jsonl")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let key = |line: Value| {
        let done = line.get("done")?;
        let text = |name: &str| done[name].as_str().unwrap().to_owned();
        Some((text("case"), text("peer"), done["round"].as_u64().unwrap()))
    };
    lines.filter_map(key).collect()
}

/// Ends a report in the middle, once so much is measured.
fn kill_after(mut child: Child, directory: &Path, measurements: usize) {
    let begun = Instant::now();
    while kept(directory).len() < measurements {
        // It may have to build first what it measures.
        assert!(begun.elapsed() < Duration::from_secs(1200), "nothing was measured");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_report_that_was_killed_goes_on_where_it_was() {
    let directory = directory("report-killed");
    let parts = ["--part", "reads", "--part", "shares", "--runs", "3"];
    let child = report(&directory, &parts[..4]).stderr(Stdio::null()).spawn().unwrap();
    kill_after(child, &directory, 12);
    assert!(!directory.join("report.json").exists(), "it was ended too late");
    let before = kept(&directory);
    let (_, messages) = output(&directory, &parts[..4]);
    assert!(messages.contains(&format!("{} measurements are there", before.len())), "{messages}");
    let all = kept(&directory);
    assert_eq!(all[..before.len()], before[..], "what was measured was not kept");
    assert_eq!(all.len(), all.iter().collect::<HashSet<_>>().len(), "something was measured twice");
    // Five allocators, in four cases with a round before that does not count, and in one without.
    assert_eq!(all.len(), 5 * (4 * 2 + 1), "{all:?}");
    assert_eq!(rows(&json(&directory)).len(), 5 * 5);
    // Another one does not go on with it, and does not lose it.
    let (_, messages) = output(&directory, &["--part", "reads", "--seed", "7"]);
    assert!(messages.contains("its seed was 0, and is 7"), "{messages}");
    assert!(directory.join("measurements.1.jsonl").exists());
    assert_eq!(kept(&directory).len(), 5);
}

#[test]
fn the_same_seed_gives_the_same_work() {
    let works = |name: &str, seed: &str| {
        let directory = directory(name);
        let (_, messages) = output(
            &directory,
            &["--part", "small", "--part", "latency", "--part", "traps", "--seed", seed],
        );
        assert_eq!(failures(&messages), [""; 0], "{messages}");
        let work = |(case, row): (String, Value)| (case, row["measured"][0]["work"].to_string());
        rows(&json(&directory)).into_iter().map(work).collect::<Vec<_>>()
    };
    let [one, same, other] =
        [("seed-1", "1"), ("seed-1-again", "1"), ("seed-2", "2")].map(|(n, s)| works(n, s));
    assert!(!one.is_empty());
    assert_eq!(one, same);
    for ((case, one), (_, other)) in
        one.iter().zip(&other).filter(|((case, _), _)| case != "ascending")
    {
        assert_ne!(one, other, "{case}");
    }
}

#[test]
fn who_could_not_take_part_is_in_the_report_with_the_reason() {
    let directory = directory("report-broken");
    let broken = directory.join("libbroken.so");
    fs::write(&broken, "no library").unwrap();
    let with = format!("broken={}", broken.display());
    let (output, messages) = output(&directory, &["--part", "reads", "--with", &with]);
    assert_eq!(failures(&messages).len(), 1, "{messages}");
    // It is nobody's fault here: refpage's own checks decide.
    assert_eq!(output.status.code(), Some(i32::from(cfg!(debug_assertions))), "{messages}");
    let report = json(&directory);
    let (_, row) = rows(&report).into_iter().find(|(_, row)| row["peer"] == "broken").unwrap();
    assert!(row["failure"].as_str().unwrap().contains("not preloaded"), "{row}");
    let page = fs::read_to_string(directory.join("index.html")).unwrap();
    assert!(page.contains("broken") && page.contains("not preloaded"));
}

#[test]
fn a_directory_that_cannot_be_made_and_an_unknown_part_are_refused_at_once() {
    let file = directory("report-file").join("file");
    fs::write(&file, "").unwrap();
    let (output, messages) = output(&file, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(messages.contains("cannot make") && messages.lines().count() == 1, "{messages}");
    let unknown = report(&file, &["--part", "nothing"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}
