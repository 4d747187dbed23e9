//! The report as one page of HTML, which asks for nothing else: style, script, plots and icon are in it.

use std::collections::HashSet;
use std::fmt::{self, Write};

use anyhow::{Result, bail};

use super::columns::{numeric, sign};
use super::escape::Escaped;
use super::svg;
use super::{Cell, Line, Mood, Page, Plot, Section, Table};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// A browser that is told of none asks the server for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
                    height='16' rx='3' fill='%231b55d6'/%3E%3Cpath d='M3 5h10M3 8h10M3 11h6' stroke='%23fff' stroke-width='1.6'/%3E%3C/svg%3E";

/// A fact of more characters has a line for itself.
const LONG: usize = 64;
/// A cell with more characters is broken into lines.
const WORDS: usize = 24;

/// The page.
///
/// # Errors
///
/// If an id is none, or is there twice, or a plot cannot be drawn.
pub fn page(page: &Page) -> Result<String> {
    check_ids(page)?;
    let mut out = String::new();
    head(page, &mut out)?;
    for part in &page.sections {
        section(part, &mut out)?;
    }
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}

/// Ids are anchors and names of files: they hold nothing that means something there, and each is one of a kind.
fn check_ids(page: &Page) -> Result<()> {
    let plots = page.sections.iter().flat_map(|section| &section.plots).map(|plot| &plot.id);
    let mut seen = HashSet::from(["theme", "facts"]);
    for id in page.sections.iter().map(|section| &section.id).chain(plots) {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || !id.bytes().all(known) {
            bail!("the id {id:?} is not of lower-case letters, digits and hyphens");
        }
        if !seen.insert(id) {
            bail!("the id {id:?} is there twice");
        }
    }
    Ok(())
}

fn head(page: &Page, out: &mut String) -> fmt::Result {
    let (title, lead) = (Escaped(&page.title), Escaped(&page.lead));
    write!(
        out,
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="description" content="{lead}">
<title>{title}</title>
<link rel="icon" href="{ICON}">
<style>
{STYLE}</style>
<script>
{SCRIPT}</script>
</head>
<body>
<header>
<h1>{title}</h1>
<button id="theme" type="button" hidden>Theme</button>
<p class="lead">{lead}</p>
</header>
<dl id="facts">
"#
    )?;
    for (name, value) in &page.facts {
        let class = if value.chars().count() > LONG { " class=\"long\"" } else { "" };
        writeln!(out, "<div{class}><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value))?;
    }
    out.push_str("</dl>\n<nav aria-label=\"Contents\">\n<ol>\n");
    for Section { id, title, .. } in &page.sections {
        writeln!(out, "<li><a href=\"#{id}\">{}</a></li>", Escaped(title))?;
    }
    out.push_str("</ol>\n</nav>\n<main>\n");
    Ok(())
}

fn section(section: &Section, out: &mut String) -> Result<()> {
    let (id, title) = (&section.id, Escaped(&section.title));
    writeln!(out, "<section id=\"{id}\">\n<h2><a href=\"#{id}\">{title}</a></h2>")?;
    for paragraph in &section.text {
        writeln!(out, "<p>{}</p>", Escaped(paragraph))?;
    }
    if !section.plots.is_empty() {
        out.push_str("<div class=\"plots\">\n");
        for part in &section.plots {
            plot(part, out)?;
        }
        out.push_str("</div>\n");
    }
    for (number, part) in section.tables.iter().enumerate() {
        table(part, &format!("{id}.{}", number + 1), out)?;
    }
    out.push_str("</section>\n");
    Ok(())
}

fn plot(plot: &Plot, out: &mut String) -> Result<()> {
    let Plot { id, title, caption, .. } = plot;
    writeln!(
        out,
        "<figure id=\"{id}\">\n<figcaption><a href=\"#{id}\">{}</a></figcaption>\n{}<p>{}</p>\n</figure>",
        Escaped(title),
        svg::draw(plot)?,
        Escaped(caption)
    )?;
    Ok(())
}

/// A table; its id has a dot, which no section's or plot's has.
fn table(table: &Table, id: &str, out: &mut String) -> fmt::Result {
    let caption = Escaped(&table.caption);
    writeln!(
        out,
        "<figure class=\"table\" id=\"{id}\">\n<figcaption id=\"{id}.caption\"><a href=\"#{id}\">{caption}</a></figcaption>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}.caption\">\n\
         <table aria-labelledby=\"{id}.caption\">\n<thead><tr>"
    )?;
    let numeric: Vec<bool> =
        (0..table.columns.len()).map(|column| numeric(table, column)).collect();
    for (column, &number) in table.columns.iter().zip(&numeric) {
        let class = if number { " class=\"number\"" } else { "" };
        write!(out, "<th scope=\"col\"{class}>{}</th>", Escaped(column))?;
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for line in &table.rows {
        row(line, &numeric, out)?;
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    if !table.notes.is_empty() {
        out.push_str("<ul class=\"notes\">\n");
        for note in &table.notes {
            writeln!(out, "<li>{}</li>", Escaped(note))?;
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</figure>\n");
    Ok(())
}

fn row(line: &Line, numeric: &[bool], out: &mut String) -> fmt::Result {
    out.push_str(if line.own { "<tr class=\"own\">" } else { "<tr>" });
    for (column, (Cell { text, small, mood }, &number)) in
        line.cells.iter().zip(numeric).enumerate()
    {
        let (element, scope) = if column == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
        let classes = [
            (number, "number"),
            (column > 0 && text.chars().count() > WORDS, "words"),
            (*mood == Mood::Good, "good"),
            (*mood == Mood::Bad, "bad"),
            (*mood == Mood::Absent, "absent"),
        ];
        let classes = classes.iter().filter(|(has, _)| *has).map(|&(_, class)| class);
        let classes = classes.collect::<Vec<_>>().join(" ");
        let text = Escaped(text);
        write!(out, "<{element}{scope} class=\"{classes}\" data-text=\"{text}\">")?;
        let space = if sign(*mood).is_empty() { "" } else { "\u{a0}" };
        write!(out, "{}{space}{text}", sign(*mood))?;
        if !small.is_empty() {
            write!(out, " <small>{}</small>", Escaped(small))?;
        }
        write!(out, "</{element}>")?;
    }
    out.push_str("</tr>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::sample;

    #[test]
    fn nothing_in_the_page_is_asked_of_others() {
        let page = page(&sample::page()).unwrap();
        for asking in ["src=", "@import", "url(", "fetch(", "<iframe"] {
            assert!(!page.contains(asking), "{asking}");
        }
        let links = page.matches("href=").count();
        let own = page.matches("href=\"#").count() + page.matches("href=\"data:").count();
        assert_eq!(links, own);
    }

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "</title></style></script><img onerror='x' \"&";
        let mut sample = sample::page();
        sample.title = hostile.into();
        sample.facts.push((hostile.into(), hostile.into()));
        let section = &mut sample.sections[0];
        section.title = hostile.into();
        section.text.push(hostile.into());
        section.tables[0].caption = hostile.into();
        section.tables[0].notes.push(hostile.into());
        section.tables[0].rows[0].cells[0].text = hostile.into();
        let page = page(&sample).unwrap();
        assert!(!page.contains("<img"), "{page}");
        assert!(page.matches("&lt;img onerror=&#39;x&#39; &quot;&amp;").count() >= 9);
    }

    #[test]
    fn ids_are_unique() {
        let shown = page(&sample::page()).unwrap();
        let ids: Vec<&str> =
            shown.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "{ids:?}");
        let mut twice = sample::page();
        twice.sections[1].id = twice.sections[0].id.clone();
        assert!(page(&twice).is_err());
        twice.sections[1].id = "../x".into();
        assert!(page(&twice).is_err());
    }
}
