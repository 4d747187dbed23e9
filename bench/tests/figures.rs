//! Every measured number of README.md and docs/ is in a file of bench/results that its section links to.
//!
//! - **looks measured**: a number with a decimal point or thousands separators; one with a unit of time, of percent or of
//!   instructions; one behind ×; and, in a section with links, each in a table. Versions do not, nor do whole KiB, MiB and GiB,
//!   which are sizes that somebody has chosen. Code is left out, and so are first columns and heads, which say what it is.
//! - **linked**: by the section itself or one that it belongs to: a text or Markdown file below bench/results. There the number
//!   stands as it is, or with more digits, and in no other unit.
//! - **constant**: what looks measured and is not, in the list here, with the reason.
//! - **taken over**: lines between `<!-- from FILE -->` and `<!-- end -->`, which must be that file's.

#[path = "figures/document.rs"]
mod document;
#[path = "figures/numbers.rs"]
mod numbers;

use std::fs;
use std::path::{Path, PathBuf};

use document::Document;
use numbers::{Number, numbers};

/// Where the results are.
const RESULTS: &str = "bench/results/";
/// What is left to be filled in.
const UNFINISHED: &str = "TODO";

/// What looks measured and is not: the document, the words there, the reason.
const CONSTANTS: &[Constant] = &[
    ("README.md", "a share, 5 %", "the default of the option"),
    ("docs/traps.md", "of which 5 ms may be saved up", "chosen, in alloc/src/quarantine.rs"),
    ("docs/traps.md", "until 1,024 others are", "chosen, in bench/src/memory/guarded.rs"),
    ("docs/small.md", "26 instructions", "in the listing below, whatever the machine"),
    ("docs/small.md", "62 instructions", "in the same listing, made by objdump"),
    ("docs/moves.md", "at least 70 % alive", "chosen, in the compactor's plan"),
    ("docs/write-watch.md", "65,530 mappings", "Linux's default of vm.max_map_count"),
];

type Constant = (&'static str, &'static str, &'static str);

/// Whatever is wrong with a document. `read` gives the text of a file, and none of a folder, if it is there.
fn complaints(
    name: &str,
    markdown: &str,
    constants: &[Constant],
    read: &dyn Fn(&str) -> Option<String>,
) -> Vec<String> {
    let document = Document::new(markdown);
    let mut complaints = Vec::new();
    let of_results = |link: &&str| link.starts_with(RESULTS);
    let links = document.links.iter().map(String::as_str).filter(of_results);
    for link in links.filter(|link| read(link).is_none()) {
        complaints.push(format!("{name}: {link} is not there"));
    }
    for (from, taken) in &document.taken {
        if !read(from).is_some_and(|text| text.contains(taken.trim())) {
            complaints.push(format!("{name}: what is taken from {from} is not there"));
        }
    }
    let mut needed = vec![false; constants.len()];
    for block in &document.blocks {
        let mut text = block.text.clone();
        for ((_, words, _), needed) in constants.iter().zip(&mut needed) {
            if text.contains(words) {
                *needed |= numbers(words).iter().any(Number::looks_measured);
                text = text.replace(words, "");
            }
        }
        let links = document.links_of(block).into_iter().filter(of_results);
        let sources: Vec<&str> = links.filter(|link| is_source(link)).collect();
        let known: Vec<Number> =
            sources.iter().filter_map(|link| read(link)).flat_map(|text| numbers(&text)).collect();
        let in_results = block.in_table && !sources.is_empty();
        let wanted = |number: &Number| in_results || number.looks_measured();
        for number in numbers(&text).into_iter().filter(wanted) {
            if !known.iter().any(|exact| number.is(exact)) {
                let (line, Number { text, unit, .. }) = (block.line, &number);
                let whence = if sources.is_empty() { "no link".into() } else { sources.join(", ") };
                complaints.push(format!("{name}:{line}: {text} {unit} ({whence})"));
            }
        }
        if block.text.contains(UNFINISHED) {
            complaints.push(format!("{name}:{}: {UNFINISHED}", block.line));
        }
    }
    for ((_, words, _), _) in constants.iter().zip(needed).filter(|(_, needed)| !needed) {
        complaints.push(format!("{name}: {words:?} is no constant that it needs"));
    }
    complaints
}

/// Whether numbers are looked up there: in what people read, and not among all that was ever measured.
fn is_source(link: &str) -> bool {
    link.ends_with(".md") || link.ends_with(".txt")
}

/// Sums (`- 44 = 324 − 280: why`) that are wrong, or of numbers that are neither known nor derived before.
fn wrong_sums(text: &str, mut known: Vec<Number>) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("- ")) {
        let Some((derived, sum)) = line.split_once(" = ") else { continue };
        let sum = sum.split(':').next().unwrap_or_default();
        let (derived, operands) = (numbers(derived), numbers(sum));
        let operator = sum.find(['−', '×', '/']).and_then(|at| sum[at..].chars().next());
        let value = match (&operands[..], operator) {
            ([one, other], Some('−')) => one.value - other.value,
            ([one, other], Some('×')) => one.value * other.value,
            ([one, other], Some('/')) => one.value / other.value,
            _ => f64::NAN,
        };
        let of_known = |operand: &Number| known.iter().any(|known| known.value == operand.value);
        match &derived[..] {
            [derived]
                if operands.iter().all(of_known)
                    && derived
                        .is_rounded(value * if derived.unit == "%" { 100.0 } else { 1.0 }) =>
            {
                known.push(derived.clone());
            }
            _ => wrong.push(line.to_owned()),
        }
    }
    wrong
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Option<String> {
    let path = root().join(path);
    if path.is_dir() { Some(String::new()) } else { fs::read_to_string(path).ok() }
}

/// README.md and docs/, by their names.
fn documents() -> Vec<(String, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let mut names: Vec<String> = docs.filter(|name| name.ends_with(".md")).collect();
    names.push("README.md".into());
    names.into_iter().map(|name| (name.clone(), read(&name).unwrap())).collect()
}

#[test]
fn measured_numbers_are_in_the_results_that_their_sections_link_to() {
    let mut all = Vec::new();
    for (name, markdown) in documents() {
        let constants = CONSTANTS.iter().filter(|(of, ..)| *of == name).copied();
        all.extend(complaints(&name, &markdown, &constants.collect::<Vec<_>>(), &read));
    }
    assert!(all.is_empty(), "{} complaints:\n{}", all.len(), all.join("\n"));
}

#[test]
fn the_readme_shows_the_summary_of_a_machine_and_a_plot() {
    let readme = Document::new(&read("README.md").unwrap());
    let summary = |(from, _): &&(String, String)| from.ends_with("/summary.md");
    let (from, taken) = readme.taken.iter().find(summary).expect("a summary is taken over");
    assert_eq!(Some(taken.trim()), read(from).as_deref().map(str::trim));
    let plot = |link: &String| link.starts_with(RESULTS) && link.ends_with(".svg");
    assert!(readme.links.iter().any(plot), "no plot is shown");
}

#[test]
fn derived_figures_follow_from_those_that_were_counted() {
    let [costs, text] = ["costs.txt", "README.md"]
        .map(|name| read(&format!("{RESULTS}emulated-arm/{name}")).unwrap());
    assert_eq!(wrong_sums(&text, numbers(&costs)), [""; 0]);
}

mod scanner {
    use super::*;

    /// What is said of a text beside a file of results.
    fn of(text: &str) -> Vec<String> {
        with(text, &[])
    }

    fn with(text: &str, constants: &[Constant]) -> Vec<String> {
        let file = "1.44 us × 1.094 (0.97–1.20), 1030 pages, 12.5 %, 3.1 MiB, 1-2, 77K, Linux 6.18";
        let read = |name: &str| (name == "bench/results/a/b.txt").then(|| file.to_owned());
        complaints("t.md", text, constants, &read)
    }

    const LINK: &str = "[results](../bench/results/a/b.txt)";

    #[test]
    fn a_number_without_a_link_is_told_with_its_line() {
        assert_eq!(of("# A\n\nIt takes\n2.5 us."), ["t.md:3: 2.5 us (no link)"]);
        for measured in ["5 ns", "25 to 32 ms", "× 3", "1,030", "0.59", "10 %", "7 instructions"] {
            assert!(!of(measured).is_empty(), "{measured}");
        }
    }

    #[test]
    fn settings_versions_names_and_code_are_no_measurements() {
        let text = "64 KiB, 1 TiB, 12 threads, Linux 6.18, x86-64, 4K, `1.5 ms`, 1.2.3, pages 1-15\n\n    2.5 us\n\n\
                    ```\n2.5 us\n```\n| 2.5 us | b |\n|---|---|\n| 2.5 us | 12 |\n";
        assert_eq!(of(text), [""; 0]);
    }

    #[test]
    fn a_linked_number_is_the_files_or_rounded_from_it() {
        let fits = "1.44 us, 1.4 us, × 1.09, 1,030, 13 %, 0.97 to 1.20, 3.1 MiB";
        assert_eq!(of(&format!("{LINK} {fits}")), [""; 0]);
        for wrong in ["1.45 us", "1.440 ms", "× 1.10", "1,031", "14 %", "3.2", "77.0", "6.18"] {
            assert_eq!(of(&format!("{LINK} {wrong}")).len(), 1, "{wrong}");
        }
        let table = format!("{LINK}\n\n| 4 | 5 |\n|---|---|\n| 4 | 1030 |\n| 4 | 1031 |\n");
        assert_eq!(of(&table), ["t.md:6: 1031  (bench/results/a/b.txt)"]);
    }

    #[test]
    fn links_count_below_their_heading_and_not_beside_it() {
        assert_eq!(of(&format!("# A\n{LINK}\n## B\n1.44 us")), [""; 0]);
        assert_eq!(of(&format!("## A\n{LINK}\n## B\n1.44 us")).len(), 1);
        assert_eq!(of(&format!("# A\n1.44 us\n## B\n{LINK}")).len(), 1);
        assert_eq!(of("[gone](bench/results/gone.md)").len(), 1);
    }

    #[test]
    fn a_constant_excuses_its_words_and_has_to_be_needed() {
        let constants = [("t.md", "5 % by default", "a setting")];
        assert_eq!(with("It is\n5 % by default, as 12 are.", &constants), [""; 0]);
        assert_eq!(with("It is 5 %, and 5 % by default.", &constants).len(), 1);
        assert_eq!(with("It is 5, by default.", &constants).len(), 1);
        assert_eq!(with("None.", &[("t.md", "None", "no number")]).len(), 1);
    }

    #[test]
    fn what_is_taken_over_is_the_files_own() {
        let taken = |text| format!("<!-- from bench/results/a/b.txt -->\n{text}\n<!-- end -->");
        assert_eq!(of(&taken("1.44 us × 1.094 (0.97–1.20)")), [""; 0]);
        assert_eq!(of(&taken("1.45 us")).len(), 1);
        assert_eq!(of("TODO: a number").len(), 1);
    }

    #[test]
    fn sums_are_done_again() {
        let known = || numbers("324, 280, 17, 154");
        assert_eq!(
            wrong_sums("- 44 = 324 − 280: a\n- 88 = 44 × 2\n", numbers("324 280 2")),
            [""; 0]
        );
        assert_eq!(wrong_sums("- 11 % = 17 / 154\n- no sum\n", known()), [""; 0]);
        for wrong in ["- 45 = 324 − 280", "- 43 = 324 − 281", "- 44 = 324", "- 12 % = 17 / 154"]
        {
            assert_eq!(wrong_sums(wrong, known()).len(), 1, "{wrong}");
        }
    }
}
