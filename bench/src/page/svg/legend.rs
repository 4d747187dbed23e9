//! The legend: below the plot, where it covers no line, in as many columns as fit.

use super::ink::Ink;
use super::{Area, Drawn, MARGIN, WIDTH, label, line, mark, units, width_of, write};
use crate::page::escape::printable;

/// The height of an entry.
const ROW: f64 = 17.0;
/// The length of the piece of line before a name.
const SAMPLE: f64 = 26.0;
/// Between a line and its name, and between a name and the next line.
const GAP: f64 = 6.0;
/// No more columns: names that are far apart are hard to find.
const COLUMNS: usize = 4;
/// So many entries may have a line each.
const FEW: usize = 4;

/// Where the entries are.
pub struct Legend {
    names: Vec<String>,
    /// The width of each column.
    columns: Vec<f64>,
}

impl Legend {
    /// The legend of these names, in their order: line by line.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.collect();
        // One long name must not make a column of all.
        let beside = if names.len() > FEW { 2.0 } else { 1.0 };
        let room = (WIDTH - 2.0 * MARGIN) / beside - SAMPLE - GAP - 2.0 * GAP;
        let room = (room / width_of("m")) as usize;
        let names: Vec<String> = names.into_iter().map(|name| shortened(name, room)).collect();
        let fitting = (1..=COLUMNS).rev().map(|columns| widths(&names, columns));
        let columns = fitting
            .filter(|columns| columns.iter().sum::<f64>() <= WIDTH - 2.0 * MARGIN + 2.0 * GAP)
            .max_by_key(Vec::len)
            .unwrap_or_else(|| vec![WIDTH]);
        Self { names, columns }
    }

    /// How high it is.
    pub fn height(&self) -> f64 {
        self.names.len().div_ceil(self.columns.len()) as f64 * ROW
    }

    /// Draws it below `top`.
    pub fn draw(&self, area: &Area<'_>, inks: &[Ink], top: f64) -> Drawn {
        for (number, (name, ink)) in self.names.iter().zip(inks).enumerate() {
            let (row, column) = (number / self.columns.len(), number % self.columns.len());
            let x = MARGIN + self.columns[..column].iter().sum::<f64>();
            let y = top + ROW * (row as f64 + 0.5);
            let at = |along: f64| (units(x + along), units(y));
            area.draw(&line([at(0.0), at(SAMPLE)], ink))?;
            area.draw(&mark(at(SAMPLE / 2.0), ink))?;
            write(area, name, at(SAMPLE + GAP), label())?;
        }
        Ok(())
    }
}

/// The widths of so many columns.
fn widths(names: &[String], columns: usize) -> Vec<f64> {
    let mut widths = vec![0f64; columns];
    for (number, name) in names.iter().enumerate() {
        let width = &mut widths[number % columns];
        *width = width.max(SAMPLE + GAP + width_of(name) + 2.0 * GAP);
    }
    widths
}

/// A name that takes no more than so many characters: long ones tell their ends apart, too.
fn shortened(name: &str, room: usize) -> String {
    let characters: Vec<char> = printable(name).collect();
    if characters.len() <= room {
        return characters.into_iter().collect();
    }
    let (head, tail) = (room / 2, room - room / 2 - 1);
    let head = characters[..head].iter();
    head.chain(&['…']).chain(&characters[characters.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stand_side_by_side_and_long_ones_are_shortened_in_the_middle() {
        let legend = Legend::new(["glibc", "off", "mimalloc", "refpage"].into_iter());
        assert_eq!(legend.height(), ROW);
        let long = format!("{}{}", "a".repeat(100), "z".repeat(100));
        let legend = Legend::new([long.as_str(), "off"].into_iter());
        assert_eq!(legend.height(), 2.0 * ROW);
        assert!(legend.names[0].starts_with('a') && legend.names[0].ends_with('z'));
    }
}
