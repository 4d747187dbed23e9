//! Real PDFium renders documents, in processes of their own.

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
    setup_of("default")
}

fn setup_of(document: &str) -> Option<Value> {
    let output =
        harness().args(["setup", "--document", document]).output().expect("the harness starts");
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

/// The documents of packages that the tests may render: those that were fetched before, and with the environment variable
/// `PDFIUM_HARNESS_FETCH` the smallest one, which is fetched.
fn packaged() -> Vec<Value> {
    let mut command = harness();
    command.args(["documents", "--json"]);
    let Value::Array(list) = json(&command.output().expect("the harness starts")) else {
        panic!("the list is no array");
    };
    let may_fetch = std::env::var_os("PDFIUM_HARNESS_FETCH").is_some();
    let usable = |document: &Value| {
        let wanted = !document["file"].is_null() || may_fetch && document["name"] == "r-manual";
        if !wanted && !document["package"].is_null() {
            println!("skipped: {} was not fetched: documents --fetch", document["name"]);
        }
        wanted && !document["package"].is_null()
    };
    list.into_iter().filter(usable).collect()
}

#[test]
fn documents_of_packages_have_the_pages_that_are_worth_rendering() {
    for document in packaged() {
        let name = document["name"].as_str().expect("a name");
        let Some(setup) = setup_of(name) else { continue };
        let count = setup["pages"].as_u64().expect("a number");
        for range in document["ranges"].as_array().expect("an array") {
            for key in ["quick_pages", "full_pages"] {
                let pages = range[key].as_str().expect("pages");
                let numbers = pages.split(['-', ',']).map(|page| page.parse::<u64>().unwrap());
                assert!(numbers.max() <= Some(count), "{name} has {count} pages, not {pages}");
            }
        }
        let first = document["ranges"][0]["quick_pages"].as_str().expect("pages");
        let first = first.split('-').next().expect("a page");
        let rendered = json(&render(&setup, first));
        assert_eq!(
            (&rendered["pages"], &rendered["blank_pages"]),
            (&1.into(), &0.into()),
            "{name}"
        );
    }
}

#[test]
fn dots_an_inch_are_another_way_to_give_the_scale() {
    let Some(setup) = setup() else { return };
    let at = |arguments: &[&str]| {
        let path = |key: &str| setup[key].as_str().expect("a path").to_string();
        let mut command = harness();
        command.args(["render", "--pages", "1", "--pdfium", &path("library")]).args(arguments);
        command.arg(path("file")).output().expect("the harness starts")
    };
    assert_eq!(json(&at(&["--dpi", "144"])), json(&at(&["--scale", "2"])));
    let too_large = at(&["--dpi", "7200"]);
    assert_eq!(too_large.status.code(), Some(1));
    assert!(last_line(&too_large).contains("choose a smaller scale"), "{}", last_line(&too_large));
}

#[test]
fn a_run_reports_one_line_of_json() {
    let Some(setup) = setup() else { return };
    let output = render(&setup, "1");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!((text.lines().count(), text.ends_with('\n')), (1, true), "{text}");
    assert!(output.stderr.is_empty());
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
    let (code, line) = run(&["--document", "no-such"]);
    assert_eq!(code, Some(2));
    assert!(line.contains("no document is called 'no-such': default, r-manual"), "{line}");
    let (code, line) = run(&["--with", "no-such"]);
    assert_eq!(code, Some(2));
    assert!(line.contains("no allocator is called 'no-such': glibc, glibc-perturb"), "{line}");
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
