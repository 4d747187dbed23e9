//! What a report shows, before it is known how: sections of text, tables and plots.
//!
//! Whoever measures makes these; [`html`](super::html), [`markdown`](super::markdown) and [`svg`](super::svg) show them.

use serde::Serialize;

/// A whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// Its heading.
    pub title: String,
    /// What a reader of one paragraph has to know.
    pub lead: String,
    /// The machine, the kernel, the commit, the command: names and values.
    pub facts: Vec<(String, String)>,
    /// What follows, in order.
    pub sections: Vec<Section>,
}

/// A part with a heading, and an entry in the list of contents.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Section {
    /// Its anchor: lower-case letters, digits and hyphens.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// Paragraphs of plain text.
    pub text: Vec<String>,
    /// Shown below the text.
    pub plots: Vec<Plot>,
    /// Shown below the plots.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// What it is of: one line.
    pub caption: String,
    /// The heads of its columns. The first column names the rows.
    pub columns: Vec<String>,
    /// The rows, each as long as the columns.
    pub rows: Vec<Line>,
    /// Lines below it: what failed, and what a reader of its numbers has to know.
    pub notes: Vec<String>,
}

/// A row of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Whether it is refpage's own, which is made to stand out.
    pub own: bool,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// The range or the like, in smaller letters below or behind it.
    pub small: String,
    /// How it is to be taken.
    pub mood: Mood,
}

/// How a cell is to be taken: shown by more than colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// As it is.
    #[default]
    Plain,
    /// Good news, such as the best of its column.
    Good,
    /// Bad news, such as a failure.
    Bad,
    /// Nothing was measured, and the text says why.
    Absent,
}

/// A plot.
#[derive(Clone, Debug, Serialize)]
pub struct Plot {
    /// The name of its file and its anchor: lower-case letters, digits and hyphens; no other plot of the page has it.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// One or two sentences: what is to be seen, for those who cannot see it too.
    pub caption: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn: lines, in the order of the legend.
    pub series: Vec<Series>,
}

/// An axis of a plot.
#[derive(Clone, Debug, Serialize)]
pub struct Axis {
    /// What it is, with the unit.
    pub label: String,
    /// How it is divided.
    pub scale: Scale,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By powers: 1, 10, 100. All values are above 0.
    Log10,
    /// By doublings: 1, 2, 4, 8, with a mark at each. All values are above 0.
    Log2,
}

/// A line of a plot.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Whether it is refpage's own, which is drawn thicker and in front.
    pub own: bool,
    /// Its points, in the order of `x`.
    pub points: Vec<Point>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Where it lies.
    pub x: f64,
    /// Its value, a median.
    pub y: f64,
    /// The least and the greatest value, where there was more than one.
    pub range: Option<[f64; 2]>,
}
