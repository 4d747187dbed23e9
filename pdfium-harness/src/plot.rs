//! The result as an SVG: CPU time and peak RSS against the baseline, with their range.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use refpage_bench::peers::OFF;
use refpage_bench::stats::{Summary, ratios};

use crate::experiment::{Row, baseline};
use crate::run::Cost;

const WIDTH: i32 = 860;
const ROW: i32 = 34;
const TOP: i32 = 84;
const BOTTOM: i32 = 40;
/// Room for the names.
const LEFT: i32 = 130;
const PANEL: i32 = 320;
const GAP: i32 = 40;

/// One peer's mark in a panel.
type Mark<'a> = (&'a str, Summary);

/// Writes the plot; `false` when no ratio could be taken, and there is nothing to draw.
pub fn write(rows: &[Row], subtitle: &str, path: &Path) -> Result<bool> {
    let Some(base) = baseline(rows) else {
        return Ok(false);
    };
    let marks = |figure: fn(&Cost) -> f64| -> Vec<Mark<'_>> {
        rows.iter()
            .filter(|row| row.measured())
            .filter_map(|row| {
                Some((row.name.as_str(), ratios(&row.values(figure), &base.values(figure))?))
            })
            .collect()
    };
    let (cpu, rss) = (marks(|cost| cost.cpu), marks(|cost| cost.rss));
    let height = TOP + ROW * cpu.len() as i32 + BOTTOM;
    draw(&cpu, &rss, subtitle, path, height)
        .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))?;
    Ok(true)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(cpu: &[Mark<'_>], rss: &[Mark<'_>], subtitle: &str, path: &Path, height: i32) -> Drawn {
    let root = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    // A ground of its own, so that the dark text is readable on a dark page too.
    root.fill(&WHITE)?;
    // plotters writes a size as 0.81 of it in pixels.
    let label = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new("PDFium on refpage: times the baseline", (16, 12), label(22)))?;
    root.draw(&Text::new(
        subtitle,
        (16, 36),
        ("sans-serif", 15).into_font().color(&BLACK.mix(0.65)),
    ))?;
    let right = label(16).pos(Pos::new(HPos::Right, VPos::Center));
    for (i, (name, _)) in cpu.iter().enumerate() {
        root.draw(&Text::new(name.to_string(), (LEFT - 12, row_y(i)), right.clone()))?;
    }
    panel(&root, LEFT, "CPU time", cpu, RGBColor(0x1f, 0x5f, 0xa8))?;
    panel(&root, LEFT + PANEL + GAP, "peak RSS", rss, RGBColor(0xb0, 0x4a, 0x12))?;
    root.present()?;
    Ok(())
}

fn row_y(i: usize) -> i32 {
    TOP + ROW * i as i32 + ROW / 2
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// One panel: a dot at the median, a line over the range, the figure beside it.
fn panel(root: &Area<'_>, left: i32, title: &str, marks: &[Mark<'_>], color: RGBColor) -> Drawn {
    let (low, high) = axis(marks);
    let x = |ratio: f64| left + ((ratio - low) / (high - low) * f64::from(PANEL)).round() as i32;
    let (top, bottom) = (TOP, TOP + ROW * marks.len() as i32);
    let font = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new(format!("{title}, x {OFF}"), (left, TOP - 24), font(16)))?;
    let step = tick_step(high - low);
    let middle = font(13).pos(Pos::new(HPos::Center, VPos::Top));
    let mut tick = (low / step).ceil() * step;
    while tick <= high + step * 1e-6 {
        root.draw(&PathElement::new([(x(tick), top), (x(tick), bottom)], BLACK.mix(0.12)))?;
        root.draw(&Text::new(format!("{tick:.2}"), (x(tick), bottom + 6), middle.clone()))?;
        tick += step;
    }
    root.draw(&PathElement::new([(x(1.0), top), (x(1.0), bottom)], BLACK.mix(0.6)))?;
    for (i, (_, summary)) in marks.iter().enumerate() {
        let y = row_y(i);
        let range = [(x(summary.min), y), (x(summary.max), y)];
        root.draw(&PathElement::new(range, color.mix(0.5).stroke_width(4)))?;
        root.draw(&Circle::new((x(summary.median), y), 5, color.filled()))?;
        let figure = font(13).pos(Pos::new(HPos::Center, VPos::Bottom));
        root.draw(&Text::new(
            format!("{:.3}", summary.median),
            (x(summary.median), y - 7),
            figure,
        ))?;
    }
    Ok(())
}

/// The panel's bounds: all ranges and the baseline's 1, with a margin that keeps labels inside.
fn axis(marks: &[Mark<'_>]) -> (f64, f64) {
    let low = marks.iter().map(|(_, s)| s.min).fold(1.0, f64::min);
    let high = marks.iter().map(|(_, s)| s.max).fold(1.0, f64::max);
    // Noise of a thousandth must not fill the panel.
    let margin = ((high - low) * 0.08).max(0.02);
    (low - margin, high + margin)
}

/// A round step that makes at most about six ticks.
fn tick_step(span: f64) -> f64 {
    let steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
    steps.into_iter().find(|step| span / step <= 6.0).unwrap_or(100.0)
}
