//! Real PDFium renders the default document, in processes of their own.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn harness() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pdfium-harness"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_string()
}

/// What `setup` made ready; `None`, with the reason printed, where PDFium cannot be had.
fn setup() -> Option<Value> {
    let output = harness().arg("setup").output().expect("the harness starts");
    if output.status.success() {
        return Some(json(&output));
    }
    eprintln!("skipped: {}", last_line(&output));
    None
}

fn render(setup: &Value, pages: &str) -> Output {
    let path = |key: &str| setup[key].as_str().expect("a path").to_string();
    harness()
        .args(["render", "--pdfium", &path("library"), "--pages", pages, &path("file")])
        .output()
        .expect("the harness starts")
}

#[test]
fn the_default_document_renders_the_same_every_time_and_is_not_blank() {
    let Some(setup) = setup() else { return };
    assert!(setup["pages"].as_u64() >= Some(100), "{setup}");
    let first = json(&render(&setup, "1-2"));
    assert_eq!(first["pages"], 2);
    assert_eq!(first["blank_pages"], 0);
    assert_eq!(first, json(&render(&setup, "1-2")));
    assert_ne!(first["checksum"], json(&render(&setup, "2-3"))["checksum"]);
    let beyond = render(&setup, "119-200");
    assert!(!beyond.status.success());
    assert!(last_line(&beyond).contains("there is no page 200"), "{}", last_line(&beyond));
}

#[test]
fn a_user_mistake_is_one_clear_line_and_status_2() {
    let run = |args: &[&str]| {
        let output = harness().args(args).output().expect("the harness starts");
        (output.status.code(), last_line(&output))
    };
    let (code, line) = run(&["no-such.pdf"]);
    assert_eq!(
        (code, line.as_str()),
        (Some(2), "error: no-such.pdf: No such file or directory (os error 2)")
    );
    assert_eq!(run(&["--scale", "0"]).0, Some(2));
    assert_eq!(run(&["--pages", "9-3"]).0, Some(2));
    if setup().is_some() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let (code, line) = run(&[manifest.to_str().expect("a path in UTF-8")]);
        assert_eq!(code, Some(2));
        assert!(line.contains("not a PDF"), "{line}");
        let (code, line) = run(&["--pages", "1-999"]);
        assert_eq!(code, Some(2));
        assert!(line.contains("there is no page 999"), "{line}");
    }
}
