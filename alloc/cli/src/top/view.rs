//! The view: rows of which there are as many as the terminal has room for, the most important ones first.
//!
//! Nothing is told by colour alone: every row has its name, and the parts of the bar differ by their fill.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};

use super::sample::{History, Sample};
use super::text::{bytes, company, count, factor, named, or_dash, percent, rate, service};
use super::text::{windows, worse_ways};

/// Columns of a row's name, and of its value.
const NAME: u16 = 19;
const VALUE: u16 = 11;

/// Terminals with fewer columns get short names, of so many, and no bar: its legend would not fit.
const WIDE: u16 = 60;
const SHORT_NAME: u16 = 9;

/// Fewer columns make no sparkline; more rows make it no better.
const LEAST_SPARKS: u16 = 6;
const MOST_SPARK_ROWS: u16 = 4;

/// Fills of the parts of RSS.
const FILLS: [(&str, Color); 5] = [
    ("█", Color::Cyan),
    ("▓", Color::Blue),
    ("▒", Color::Green),
    ("░", Color::Yellow),
    ("·", Color::Reset),
];

/// Worse ways that are shown.
const WORSE: usize = 3;

/// Rows of the histogram, in two columns.
const WINDOW_ROWS: usize = 5;

/// Rows that the program's output gets at least.
const LEAST_OUTPUT: u16 = 3;

/// What there is to show.
pub struct View<'a> {
    pub pid: i32,
    /// The last look, if there was one.
    pub sample: Option<&'a Sample>,
    pub history: &'a History,
    /// What is to be said in the service's place: why there is nothing newer.
    pub notice: Option<&'a str>,
    pub interval: Duration,
    pub paused: bool,
    /// The program's last lines, if this process has them.
    pub output: Option<&'a VecDeque<String>>,
    /// What the key `q` does.
    pub quits: &'static str,
}

/// A row, or a few that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Title,
    Service,
    Company,
    Memory,
    Rss,
    Memset,
    Live,
    Bar,
    Legend,
    Activity,
    Faults,
    Large,
    Handler,
    Windows,
    Worse,
    Output,
    Keys,
}

/// From top to bottom, each with its rank: what has the lowest stays longest.
const ROWS: [(Row, u8); 17] = [
    (Row::Title, 0),
    (Row::Service, 4),
    (Row::Company, 12),
    (Row::Memory, 11),
    (Row::Rss, 1),
    (Row::Memset, 2),
    (Row::Live, 5),
    (Row::Bar, 9),
    (Row::Legend, 10),
    (Row::Activity, 13),
    (Row::Faults, 3),
    (Row::Large, 6),
    (Row::Handler, 7),
    (Row::Windows, 14),
    (Row::Worse, 15),
    (Row::Output, 8),
    (Row::Keys, 4),
];

impl View<'_> {
    /// Draws it over the whole terminal.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let mut top = area.top();
        for (row, height) in self.rows(area) {
            let place = Rect { y: top, height, ..area };
            self.draw_row(frame, row, place);
            top += height;
        }
    }

    /// The rows that fit, and how high each is.
    fn rows(&self, area: Rect) -> Vec<(Row, u16)> {
        let mut ranked: Vec<_> = ROWS.iter().map(|&(row, rank)| (rank, row)).collect();
        ranked.sort_by_key(|&(rank, _)| rank);
        let mut left = area.height;
        let mut chosen = Vec::new();
        for (_, row) in ranked {
            let least = self.least(row, area.width);
            if least > 0 && least <= left {
                left -= least;
                chosen.push(row);
            }
        }
        let shown = ROWS.iter().filter(|(row, _)| chosen.contains(row));
        let mut rows: Vec<_> = shown.map(|&(row, _)| (row, self.least(row, area.width))).collect();
        // What is left makes the curves higher, in turn, then the output.
        for _ in 1..MOST_SPARK_ROWS {
            for (row, height) in &mut rows {
                if matches!(row, Row::Rss | Row::Memset | Row::Faults) && left > 0 {
                    (*height, left) = (*height + 1, left - 1);
                }
            }
        }
        // The keys are the last row of the terminal.
        let before = rows.len().saturating_sub(2);
        let at = rows.iter().position(|(row, _)| *row == Row::Output).unwrap_or(before);
        if let Some((_, height)) = rows.get_mut(at) {
            *height += left;
        }
        rows
    }

    /// Lines that a row takes at least; 0: there is nothing to show.
    fn least(&self, row: Row, width: u16) -> u16 {
        let known = self.sample.is_some();
        let worse = self.sample.map_or(0, |sample| worse_ways(sample).len().min(WORSE));
        match row {
            Row::Title | Row::Keys => 1,
            Row::Bar | Row::Legend if width < WIDE => 0,
            Row::Service => u16::from(known || self.notice.is_some()),
            Row::Output => self.output.map_or(0, |_| LEAST_OUTPUT + 1),
            Row::Windows if known => WINDOW_ROWS as u16 + 1,
            Row::Worse if worse > 0 => worse as u16 + 1,
            Row::Worse => 0,
            _ => u16::from(known),
        }
    }

    fn draw_row(&self, frame: &mut Frame<'_>, row: Row, place: Rect) {
        match (row, self.sample) {
            (Row::Title, _) => self.draw_title(frame, place),
            (Row::Keys, _) => self.draw_keys(frame, place),
            (Row::Output, _) => self.draw_output(frame, place),
            (Row::Service, sample) => match (self.notice, sample) {
                (Some(notice), _) => draw(frame, place, Span::styled(notice, bold())),
                (None, Some(sample)) => {
                    let text = format!("{} ({})", sample.service(), sample.look.reason);
                    let text = if sample.look.has_started() { text } else { service(sample) };
                    figure(frame, place, "service", text);
                }
                (None, None) => {}
            },
            (row, Some(sample)) => self.draw_figures(frame, row, place, sample),
            (_, None) => {}
        }
    }

    fn draw_title(&self, frame: &mut Frame<'_>, place: Rect) {
        let command = self.sample.map_or("", |sample| sample.status.command.as_str());
        let title = Line::from(vec![
            Span::styled(format!("refpage {} ", self.pid), bold()),
            Span::raw(without_directory(command)),
        ]);
        let pace = format!(" every {}", seconds(self.interval));
        let pace = if self.paused { " paused".into() } else { pace };
        let width = pace.len() as u16;
        if place.width >= width + 24 {
            let (left, right) = split(place, place.width - width);
            draw(frame, left, title);
            let style = if self.paused { bold() } else { Style::new() };
            let pace = Paragraph::new(Span::styled(pace, style)).alignment(Alignment::Right);
            frame.render_widget(pace, right);
        } else {
            draw(frame, place, title);
        }
    }

    fn draw_keys(&self, frame: &mut Frame<'_>, place: Rect) {
        let pause = if self.paused { "go on" } else { "pause" };
        let mut spans = Vec::new();
        for (key, what) in [("q", self.quits), ("p", pause), ("+ -", "interval")] {
            spans.push(Span::styled(key, bold()));
            spans.push(Span::raw(format!(" {what}   ")));
        }
        // At the bottom, whatever is between.
        let last = Rect { y: place.bottom().saturating_sub(1), height: 1, ..place };
        draw(frame, last, Line::from(spans));
    }

    fn draw_output(&self, frame: &mut Frame<'_>, place: Rect) {
        let Some(lines) = self.output else { return };
        heading(frame, first_line(place), "Output, shown in full at the end");
        let room = usize::from(place.height.saturating_sub(1));
        let last = lines.iter().skip(lines.len().saturating_sub(room));
        let text: Vec<Line<'_>> = last.map(|line| Line::raw(line.as_str())).collect();
        frame.render_widget(Paragraph::new(text), below(place));
    }

    fn draw_figures(&self, frame: &mut Frame<'_>, row: Row, place: Rect, sample: &Sample) {
        let rates = sample.rates;
        let history = self.history;
        // One scale for both: the difference is what there is to see.
        let most = history.memset.iter().chain(&history.rss).copied().max();
        match row {
            Row::Company => figure(frame, place, "process", company(sample)),
            Row::Memory => heading(frame, place, "Memory"),
            Row::Rss => {
                let text = bytes(sample.status.rss);
                curve(frame, place, ("RSS", text, ""), (&history.rss, most, Color::Cyan));
            }
            Row::Memset => {
                let text = or_dash(sample.memset_bytes(), bytes);
                let factor = factor(sample).unwrap_or_default();
                let curved = (&history.memset, most, Color::Yellow);
                curve(frame, place, ("memset would hold", text, &factor), curved);
            }
            Row::Live => {
                let (large, small) = (sample.large_live_bytes(), sample.small_live_bytes());
                let detail = format!(
                    "{} large in {}, {} small",
                    bytes(large),
                    count(sample.large_live()),
                    bytes(small)
                );
                detailed(frame, place, "live", bytes(large + small), detail);
            }
            Row::Bar => draw_bar(frame, place, sample),
            Row::Legend => draw_legend(frame, place, sample),
            Row::Activity => heading(frame, place, "Activity"),
            Row::Faults => {
                let text = or_dash(rates, |rates| rate(rates.faults_per_second));
                let curved = (&history.faults, None, Color::Green);
                curve(frame, place, ("faults/s", text, ""), curved);
            }
            Row::Large => {
                let text = or_dash(rates, |rates| rate(rates.large_per_second));
                let detail = format!(
                    "recycled {} of {}",
                    or_dash(sample.recycled_share(), percent),
                    count(sample.look.figures.counted.large_allocated),
                );
                detailed(frame, place, "large allocations/s", text, detail);
            }
            Row::Handler => {
                let text = or_dash(rates, |rates| percent(rates.handler_cpu_share));
                let spent = sample.look.figures.counted.handler_cpu_ns as f64 / 1e9;
                detailed(frame, place, "handler CPU", text, format!("{spent:.2} s so far"));
            }
            Row::Windows => draw_windows(frame, place, sample),
            Row::Worse => {
                heading(frame, first_line(place), "Done in a worse way");
                for (at, (name, times)) in worse_ways(sample).into_iter().take(WORSE).enumerate() {
                    let line = Rect { y: place.y + 1 + at as u16, height: 1, ..place };
                    figure(frame, line, name, count(times));
                }
            }
            Row::Title | Row::Service | Row::Output | Row::Keys => {}
        }
    }
}

/// RSS as one bar, filled by what it is for.
fn draw_bar(frame: &mut Frame<'_>, place: Rect, sample: &Sample) {
    let Some(parts) = sample.parts() else { return };
    let (name, room) = split(place, NAME);
    draw(frame, name, Span::raw("RSS in parts"));
    let parts = named(parts);
    let whole: u64 = parts.iter().map(|(_, part)| part).sum();
    let width = u64::from(room.width);
    let mut spans = Vec::new();
    let (mut sum, mut end) = (0, 0);
    for ((_, part), (fill, color)) in parts.into_iter().zip(FILLS) {
        sum += part;
        // To where the sum ends, so that all are as long as the whole.
        let to = (u128::from(sum) * u128::from(width)).checked_div(u128::from(whole)).unwrap_or(0);
        let cells = (to as u64).saturating_sub(end);
        end += cells;
        spans.push(Span::styled(fill.repeat(cells as usize), Style::new().fg(color)));
    }
    draw(frame, room, Line::from(spans));
}

fn draw_legend(frame: &mut Frame<'_>, place: Rect, sample: &Sample) {
    let text = match (sample.parts(), &sample.residency) {
        (Some(parts), _) => {
            let parts = named(parts).into_iter().zip(FILLS);
            Line::from_iter(parts.flat_map(|((name, part), (fill, color))| {
                let text = format!(" {name} {}  ", short(part));
                [Span::styled(fill, Style::new().fg(color)), Span::raw(text)]
            }))
        }
        (None, Err(why)) => Line::raw(why.as_str()),
        (None, Ok(_)) => Line::default(),
    };
    let beside = split(place, NAME).1;
    draw(frame, if text.width() <= usize::from(beside.width) { beside } else { place }, text);
}

/// "64.0M": five of them have to stand side by side.
fn short(count: u64) -> String {
    let text = bytes(count);
    let (value, unit) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{value}{}", unit.get(..1).unwrap_or_default())
}

/// Two columns of sizes, each with how many faults brought so many pages.
fn draw_windows(frame: &mut Frame<'_>, place: Rect, sample: &Sample) {
    heading(frame, first_line(place), "Pages per fault, so far");
    let windows: Vec<_> = windows(sample).collect();
    let most = windows.iter().map(|&(_, count)| count).max().unwrap_or(0).max(1);
    let (left, right) = split(below(place), place.width / 2);
    for (half, column) in windows.chunks(WINDOW_ROWS).zip([left, right]) {
        for (at, (size, times)) in half.iter().enumerate() {
            let line = Rect { y: column.y + at as u16, height: 1, ..column }.intersection(column);
            let label = format!("{size:>5} {:>11} ", count(*times));
            let room = usize::from(column.width).saturating_sub(label.len() + 2);
            let cells = (u128::from(*times) * room as u128).div_ceil(u128::from(most)) as usize;
            let bar = Span::styled("▇".repeat(cells), Style::new().fg(Color::Green));
            draw(frame, line, Line::from(vec![Span::raw(label), bar]));
        }
    }
}

/// A command line with the program's own name only.
fn without_directory(command: &str) -> &str {
    let program = command.split(' ').next().unwrap_or_default();
    command.get(program.rfind('/').map_or(0, |slash| slash + 1)..).unwrap_or(command)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn seconds(interval: Duration) -> String {
    format!("{} s", interval.as_secs_f64())
}

fn first_line(place: Rect) -> Rect {
    Rect { height: place.height.min(1), ..place }
}

fn below(place: Rect) -> Rect {
    let first = place.height.min(1);
    Rect { y: place.y + first, height: place.height - first, ..place }
}

/// The first `width` columns, and the rest.
fn split(place: Rect, width: u16) -> (Rect, Rect) {
    let width = width.min(place.width);
    (Rect { width, ..place }, Rect { x: place.x + width, width: place.width - width, ..place })
}

fn draw<'a>(frame: &mut Frame<'_>, place: Rect, text: impl Into<Line<'a>>) {
    frame.render_widget(Paragraph::new(text.into()), first_line(place));
}

/// "── Memory ────────"
fn heading(frame: &mut Frame<'_>, place: Rect, title: &str) {
    let rest = usize::from(place.width).saturating_sub(title.len() + 4);
    let dim = Style::new().add_modifier(Modifier::DIM);
    let rule = Span::styled("── ", dim);
    let rest = Span::styled(format!(" {}", "─".repeat(rest)), dim);
    draw(frame, place, Line::from(vec![rule, Span::styled(title.to_owned(), bold()), rest]));
}

/// A name, and text of any length.
fn figure(frame: &mut Frame<'_>, place: Rect, name: &str, text: String) {
    let (left, right) = split(place, name_width(place));
    draw(frame, left, Span::raw(name.to_owned()));
    draw(frame, right, Span::raw(text));
}

fn name_width(place: Rect) -> u16 {
    if place.width < WIDE { SHORT_NAME } else { NAME }
}

/// What a row is called, in few columns.
fn short_name(name: &str) -> &str {
    match name {
        "memset would hold" => "memset",
        "large allocations/s" => "large/s",
        "handler CPU" => "handler",
        name => name,
    }
}

/// A name and a number, and the room to the right of them.
fn number(frame: &mut Frame<'_>, place: Rect, name: &str, value: String) -> Rect {
    let name = if place.width < WIDE { short_name(name) } else { name };
    let (left, rest) = split(place, name_width(place));
    let (middle, rest) = split(rest, VALUE);
    draw(frame, left, Span::raw(name.to_owned()));
    let value = Paragraph::new(Span::styled(value, bold())).alignment(Alignment::Right);
    frame.render_widget(value, first_line(middle));
    split(rest, 2).1
}

fn detailed(frame: &mut Frame<'_>, place: Rect, name: &str, value: String, detail: String) {
    let room = number(frame, place, name, value);
    draw(frame, room, Span::raw(detail));
}

/// A number, a remark, and how it went.
fn curve(
    frame: &mut Frame<'_>,
    place: Rect,
    (name, value, remark): (&str, String, &str),
    (values, most, color): (&VecDeque<u64>, Option<u64>, Color),
) {
    let room = number(frame, place, name, value);
    let (remarks, room) = split(room, 9);
    draw(frame, remarks, Span::raw(remark.to_owned()));
    if room.width < LEAST_SPARKS {
        return;
    }
    let newest_first: Vec<u64> =
        values.iter().rev().take(usize::from(room.width)).copied().collect();
    let most = most.or_else(|| newest_first.iter().copied().max()).unwrap_or(0).max(1);
    let sparks = Sparkline::default()
        .data(&newest_first)
        .direction(RenderDirection::RightToLeft)
        .max(most)
        .style(Style::new().fg(color));
    frame.render_widget(sparks, room);
}
