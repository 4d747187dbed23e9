//! The report as GitHub's Markdown.

use std::fmt::Write;

use super::columns::{numeric, sign};
use super::escape::printable;
use super::{Cell, Line, Page, Plot, Section, Table};

/// The whole report; the plots are files in the folder `plots`.
pub fn page(page: &Page, plots: &str) -> String {
    let mut out = format!("# {}\n\n{}\n", escaped(&page.title), paragraph(&page.lead));
    for (number, (name, value)) in page.facts.iter().enumerate() {
        let space = if number == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{space}- **{}**: {}", escaped(name), escaped(value));
    }
    for part in &page.sections {
        section(part, plots, &mut out);
    }
    out
}

fn section(section: &Section, plots: &str, out: &mut String) {
    let _ = writeln!(out, "\n## {}", escaped(&section.title));
    for text in &section.text {
        let _ = writeln!(out, "\n{}", paragraph(text));
    }
    for Plot { id, title, caption, .. } in &section.plots {
        let (title, caption) = (escaped(title), paragraph(caption));
        let _ = writeln!(out, "\n### {title}\n\n![{title}]({plots}/{id}.svg)\n\n{caption}");
    }
    for part in &section.tables {
        let _ = write!(out, "\n{}", table(part));
    }
}

/// A table with its caption and notes.
pub fn table(table: &Table) -> String {
    let mut out = String::new();
    if !table.caption.is_empty() {
        let _ = writeln!(out, "**{}**\n", escaped(&table.caption));
    }
    out.push_str(&grid(table));
    for (number, note) in table.notes.iter().enumerate() {
        let _ = writeln!(out, "{}- {}", if number == 0 { "\n" } else { "" }, paragraph(note));
    }
    out
}

/// The lines of a table, with columns as wide as their widest cell: it is read as text, too.
fn grid(table: &Table) -> String {
    let head: Vec<String> = table.columns.iter().map(|column| escaped(column)).collect();
    let lines: Vec<Vec<String>> = table.rows.iter().map(cells).collect();
    let width = |column: usize| {
        let texts = lines.iter().chain([&head]).filter_map(|line| line.get(column));
        texts.map(|text| text.chars().count()).max().unwrap_or(0).max(3)
    };
    let columns: Vec<(usize, bool)> =
        (0..head.len()).map(|column| (width(column), numeric(table, column))).collect();
    let mut out = String::new();
    row(&head, &columns, &mut out);
    for &(width, right) in &columns {
        let dashes = "-".repeat(width - usize::from(right));
        let _ = write!(out, "| {dashes}{} ", if right { ":" } else { "" });
    }
    out.push_str("|\n");
    for line in &lines {
        row(line, &columns, &mut out);
    }
    out
}

fn row(cells: &[String], columns: &[(usize, bool)], out: &mut String) {
    for (cell, &(width, right)) in cells.iter().zip(columns) {
        let _ = match right {
            true => write!(out, "| {cell:>width$} "),
            false => write!(out, "| {cell:<width$} "),
        };
    }
    out.push_str("|\n");
}

/// The cells of a row; the name of refpage's own is in bold.
fn cells(line: &Line) -> Vec<String> {
    let cell = |(column, cell): (usize, &Cell)| {
        let small = if cell.small.is_empty() {
            String::new()
        } else {
            format!("({})", escaped(&cell.small))
        };
        let parts = [sign(cell.mood), &escaped(&cell.text), &small];
        let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        if line.own && column == 0 && !text.is_empty() { format!("**{text}**") } else { text }
    };
    line.cells.iter().enumerate().map(cell).collect()
}

/// A paragraph or an item of a list, which is no heading, list or quotation by how it begins.
fn paragraph(text: &str) -> String {
    let text = escaped(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    let begins: &[&str] = if digits == 0 { &["# ", "- ", "+ ", ">"] } else { &[". ", ") "] };
    match begins.iter().any(|begin| rest.starts_with(begin)) {
        true => format!("{number}\\{rest}"),
        false => text,
    }
}

/// Text on one line in which nothing is markup.
fn escaped(text: &str) -> String {
    let characters: Vec<char> = printable(text.trim()).collect();
    let name = |place: Option<usize>| {
        place.and_then(|place| characters.get(place)).is_some_and(|beside| beside.is_alphanumeric())
    };
    let mut out = String::new();
    for (place, &character) in characters.iter().enumerate() {
        let markup = match character {
            '\\' | '`' | '*' | '<' | '[' | ']' | '|' | '~' | '&' => true,
            // Within a name it is none.
            '_' => !name(place.checked_sub(1)) || !name(Some(place + 1)),
            _ => false,
        };
        if markup {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Mood;

    fn cell(text: &str, small: &str, mood: Mood) -> Cell {
        Cell { text: text.into(), small: small.into(), mood }
    }

    #[test]
    fn tables_are_aligned_and_escaped() {
        let rows = vec![
            Line {
                own: true,
                cells: vec![cell("refpage", "", Mood::Plain), cell("1.5 us", "1–2", Mood::Good)],
            },
            Line {
                own: false,
                cells: vec![cell("a|b", "", Mood::Plain), cell("crashed", "", Mood::Bad)],
            },
        ];
        let table = super::table(&Table {
            caption: "Time <per> page".into(),
            columns: vec!["peer".into(), "time".into()],
            rows,
            notes: vec!["a note".into(), "another".into()],
        });
        let expected = "\
**Time \\<per> page**

| peer        |           time |
| ----------- | -------------: |
| **refpage** | ✓ 1.5 us (1–2) |
| a\\|b        |      ✗ crashed |

- a note
- another
";
        assert_eq!(table, expected);
    }

    #[test]
    fn names_stay_readable_and_markup_stays_text() {
        assert_eq!(escaped("max_map_count"), "max_map_count");
        assert_eq!(escaped("_x_ *y* `z`"), "\\_x\\_ \\*y\\* \\`z\\`");
        assert_eq!(paragraph("# a\n- b"), "\\# a - b");
        assert_eq!(paragraph("1. a 2.5 -1"), "1\\. a 2.5 -1");
        assert_eq!(paragraph("-1.5 us"), "-1.5 us");
    }
}
