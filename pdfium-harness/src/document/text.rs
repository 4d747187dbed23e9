//! Text pages: columns of prose, headings, tables and listings in the standard fonts.

use pdf_writer::{Content, Name, Str};

use super::{Format, Random, round};

/// The standard fonts that the document uses, in resource order: `F0`, `F1` and so on.
pub const FONTS: [&[u8]; 6] =
    [b"Times-Roman", b"Times-Bold", b"Times-Italic", b"Helvetica", b"Helvetica-Bold", b"Courier"];

const ROMAN: Name = Name(b"F0");
const BOLD: Name = Name(b"F1");
const ITALIC: Name = Name(b"F2");
const SANS: Name = Name(b"F3");
const SANS_BOLD: Name = Name(b"F4");
const MONO: Name = Name(b"F5");

const OPENINGS: [&str; 10] = [
    "In practice",
    "As the survey shows",
    "Under load",
    "For most readers",
    "Since the last edition",
    "On closer study",
    "By comparison",
    "At the same time",
    "Without exception",
    "In the third series",
];
const SUBJECTS: [&str; 14] = [
    "the printed page",
    "a long measurement",
    "the northern station",
    "every second sample",
    "the river basin",
    "an untouched block of memory",
    "the older instrument",
    "this class of curves",
    "the committee's report",
    "a sparse table",
    "the coastal map",
    "the press",
    "the archive",
    "a well-kept ledger",
];
const VERBS: [&str; 12] = [
    "follows",
    "outlasts",
    "explains",
    "rarely disturbs",
    "is drawn beside",
    "depends on",
    "replaces",
    "comes before",
    "agrees with",
    "hides",
    "sets the pace of",
    "is written into",
];
const TAILS: [&str; 12] = [
    "within two per cent",
    "from April to October",
    "as the figure makes plain",
    "at no further cost",
    "when the weather allows",
    "in spite of the early reports",
    "up to the last decimal",
    "for the first forty metres",
    "against all custom",
    "once the ink has dried",
    "whichever way it is read",
    "over the whole range",
];

fn sentence(random: &mut Random) -> String {
    let mut pick = |list: &[&'static str]| list[random.below(list.len())];
    let (opening, subject, verb) = (pick(&OPENINGS), pick(&SUBJECTS), pick(&VERBS));
    format!("{opening}, {subject} {verb} {} {}. ", pick(&SUBJECTS), pick(&TAILS))
}

/// Rough advance of a character in a proportional font, in ems: close enough to break lines by.
fn advance(ch: char) -> f32 {
    match ch {
        ' ' | '.' | ',' | '\'' | 'i' | 'l' | 'j' | 't' | 'f' => 0.27,
        'm' | 'w' | 'M' | 'W' => 0.78,
        'A'..='Z' => 0.68,
        _ => 0.49,
    }
}

fn width(text: &str, size: f32) -> f32 {
    text.chars().map(advance).sum::<f32>() * size
}

fn line(c: &mut Content, font: Name, size: f32, x: f32, y: f32, text: &str) {
    c.begin_text().set_font(font, size).next_line(round(x), round(y));
    c.show(Str(text.as_bytes())).end_text();
}

/// Fills the box `[x, y, width, height]` with paragraphs from the top.
pub fn column(c: &mut Content, [x, y, w, h]: [f32; 4], size: f32, random: &mut Random) {
    let leading = round(size * 1.25);
    let mut baseline = y + h - size;
    c.set_fill_gray(0.08);
    while baseline > y {
        let paragraph: String = (0..4 + random.below(5)).map(|_| sentence(random)).collect();
        let indent = size * 1.2;
        c.begin_text().set_font(ROMAN, size).set_leading(leading);
        c.next_line(round(x + indent), round(baseline));
        let mut row = String::new();
        let mut room = w - indent;
        let mut first = true;
        let mut show = |c: &mut Content, row: &str, baseline: &mut f32| {
            if *baseline > y {
                c.show(Str(row.as_bytes()));
                // The first line is indented; the next ones start at the column's edge.
                c.next_line(if first { round(-indent) } else { 0.0 }, -leading);
                first = false;
            }
            *baseline -= leading;
        };
        for word in paragraph.split_whitespace() {
            let word = format!("{word} ");
            if width(&word, size) > room {
                show(c, &row, &mut baseline);
                row.clear();
                room = w;
            }
            room -= width(&word, size);
            row.push_str(&word);
        }
        show(c, &row, &mut baseline);
        c.end_text();
        baseline -= leading * 0.3;
    }
}

/// A page of `columns` columns under a heading.
pub fn prose(c: &mut Content, format: Format, columns: usize, random: &mut Random) {
    let margin = 50.0;
    let gutter = 18.0;
    let size = [11.5, 10.0, 8.5][columns - 1];
    let top = format.height - 90.0;
    c.set_fill_rgb(0.1, 0.15, 0.4);
    line(c, SANS_BOLD, 16.0, margin, top + 12.0, heading(random));
    let inner = format.width - 2.0 * margin;
    let w = (inner - gutter * (columns - 1) as f32) / columns as f32;
    for i in 0..columns {
        let x = margin + i as f32 * (w + gutter);
        column(c, [x, 60.0, w, top - 65.0], size, random);
    }
}

fn heading(random: &mut Random) -> &'static str {
    const HEADINGS: [&str; 8] = [
        "Of measures and their keeping",
        "The second survey",
        "What the tables leave out",
        "Notes on printing",
        "A short history of the coast",
        "Sparse and dense",
        "Instruments",
        "The weather in figures",
    ];
    HEADINGS[random.below(HEADINGS.len())]
}

/// A chapter's first page.
pub fn title(c: &mut Content, format: Format, chapter: usize, random: &mut Random) {
    c.set_fill_gray(1.0);
    line(c, BOLD, 96.0, 60.0, format.height - 200.0, &format!("{}", chapter + 1));
    line(c, SANS_BOLD, 30.0, 60.0, format.height - 260.0, heading(random));
    column(c, [60.0, 80.0, 300.0, 220.0], 12.0, random);
}

/// An italic line below a figure.
pub fn caption(c: &mut Content, x: f32, y: f32, random: &mut Random) {
    c.set_fill_gray(0.3);
    let subject = SUBJECTS[random.below(SUBJECTS.len())];
    line(c, ITALIC, 9.0, x, y, &format!("Figure: {subject}, after the second survey."));
}

/// A ruled table of numbers.
pub fn table(c: &mut Content, format: Format, random: &mut Random) {
    let (left, top, row_height) = (50.0, format.height - 80.0, 15.0);
    let columns = 11;
    let w = (format.width - 2.0 * left) / columns as f32;
    for row in 0..30 {
        let y = top - row as f32 * row_height;
        if row % 2 == 1 {
            c.set_fill_rgb(0.92, 0.94, 0.98);
            c.rect(left, round(y - 4.0), w * columns as f32, row_height).fill_nonzero();
        }
        c.set_fill_gray(0.0);
        for col in 0..columns {
            let x = left + col as f32 * w + 3.0;
            if row == 0 {
                line(c, SANS_BOLD, 8.5, x, y, &format!("Series {}", col + 1));
            } else {
                line(c, SANS, 8.5, x, y, &format!("{:.2}", random.range(-90.0, 999.0)));
            }
        }
    }
    c.set_stroke_gray(0.4).set_line_width(0.5);
    for col in 0..=columns {
        let x = round(left + col as f32 * w);
        c.move_to(x, top + 12.0).line_to(x, round(top - 29.0 * row_height - 4.0));
    }
    c.stroke();
}

/// A program listing in a fixed-width font.
pub fn listing(c: &mut Content, format: Format, random: &mut Random) {
    const LINES: [&str; 8] = [
        "for station in stations {",
        "    let depth = station.depth();",
        "    total += depth * width;",
        "}",
        "if total > limit {",
        "    return Err(Overflow);",
        "// the lower basin comes last",
        "let map = Chart::open(path)?;",
    ];
    c.set_fill_gray(0.96)
        .rect(30.0, 50.0, format.width - 60.0, format.height - 110.0)
        .fill_nonzero();
    c.set_fill_rgb(0.05, 0.25, 0.1);
    let rows = ((format.height - 130.0) / 9.5) as usize;
    for row in 0..rows {
        let y = format.height - 75.0 - row as f32 * 9.5;
        let code = LINES[random.below(LINES.len())];
        line(c, MONO, 7.5, 36.0, y, &format!("{:4}  {code}", row + 1));
    }
}

/// The page's header and footer.
pub fn running_lines(c: &mut Content, format: Format, page: usize, chapter: usize) {
    c.set_fill_gray(0.35);
    line(
        c,
        ITALIC,
        9.0,
        50.0,
        format.height - 34.0,
        &format!("Chapter {chapter}: default document"),
    );
    line(c, SANS, 9.0, format.width / 2.0, 28.0, &format!("{page}"));
    c.set_stroke_gray(0.6).set_line_width(0.4);
    c.move_to(50.0, format.height - 40.0)
        .line_to(format.width - 50.0, format.height - 40.0)
        .stroke();
}
