//! Which columns hold numbers, and so stand at the right.

use super::page::{Mood, Table};

/// Whether most of what is in a column begins with a digit.
pub fn numeric(table: &Table, column: usize) -> bool {
    let cells = table.rows.iter().filter_map(|line| line.cells.get(column));
    let told =
        cells.filter(|cell| matches!(cell.mood, Mood::Plain | Mood::Good) && !cell.text.is_empty());
    let (mut numbers, mut all) = (0, 0);
    for cell in told {
        let text = cell.text.trim_start_matches(['-', '+', '−', '×', '<', '>', '≥', '≤', ' ']);
        numbers += usize::from(text.starts_with(|first: char| first.is_ascii_digit()));
        all += 1;
    }
    column > 0 && 2 * numbers > all
}

/// The sign before a cell's text, for those who see no colours.
pub fn sign(mood: Mood) -> &'static str {
    match mood {
        Mood::Plain => "",
        Mood::Good => "✓",
        Mood::Bad => "✗",
        Mood::Absent => "–",
    }
}
