//! Plots as SVG: right in light and in dark, within a page and by themselves, and without colour.
//!
//! ```text
//!     ┌────────────────────┐
//!     │ label of y         │
//!     │  │ ~~~~~           │   axis: bounds, ticks
//!     │  └──────────────── │
//!     │     label of x     │
//!     │ ~•~ name  ~▪~ name │   legend; ink: colours, dashes, marks
//!     └────────────────────┘
//! ```

mod axis;
mod ink;
mod legend;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::escape::{Escaped, printable};
use super::{Plot, Point, Series};
use axis::Span;
use ink::{GRID, GROUND, Ink, TEXT, light};
use legend::Legend;

/// The width of a drawing: nearly that of a phone, so that letters keep their size there.
const WIDTH: f64 = 440.0;
/// The height without the legend.
const HEIGHT: f64 = 304.0;
/// Free space at the left and at the right.
const MARGIN: f64 = 8.0;
/// The size of letters.
const FONT: f64 = 12.0;
/// Where the axes' lines begin, and how much is below them.
const TOP: f64 = 28.0;
const BELOW: f64 = 44.0;
/// The length of ticks; labels are twice as far away, and the lowest of y must not touch the first of x.
const TICK: f64 = 3.0;
const X_TICK: f64 = 5.0;
/// How many labels have room beside each other, and one above the other.
const ROOM: [usize; 2] = [7, 7];
/// A line with more points has so many marks, and a band in place of bars.
const MARKS: usize = 24;
const FEW_MARKS: usize = 6;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Pixel = (i32, i32);
/// Where values are in the drawing.
type Place<'a> = dyn Fn(f64, f64) -> Pixel + 'a;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A length in the drawing's own units: plotters knows only whole ones, and lines made of them need more than pixels.
fn units(length: f64) -> i32 {
    (length * 10.0).round() as i32
}

/// The drawing of a plot.
///
/// # Errors
///
/// If a value is no number, or not above 0 on an axis of powers.
pub fn draw(plot: &Plot) -> Result<String> {
    let inks = ink::inks(&plot.series);
    let legend = Legend::new(plot.series.iter().map(|series| series.name.as_str()));
    let height = HEIGHT + legend.height() + if plot.series.is_empty() { 0.0 } else { MARGIN };
    let mut drawing = String::new();
    let size = [WIDTH, height].map(|length| units(length) as u32);
    let area = SVGBackend::with_string(&mut drawing, size.into()).into_drawing_area();
    let spans = spans(plot).with_context(|| format!("plot {}", plot.id))?;
    paint(&area, plot, spans, &inks)
        .and_then(|()| legend.draw(&area, &inks, HEIGHT))
        .and_then(|()| Ok(area.present()?))
        .map_err(|error| anyhow!("plot {}: {error}", plot.id))?;
    drop(area);
    // The first line is plotters' own opening tag, which knows neither a role nor a size on the screen.
    let body = drawing.split_once('\n').map_or("", |(_, body)| body);
    Ok(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" aria-labelledby="{id}-title {id}-desc" width="{WIDTH}" height="{height}" viewBox="0 0 {} {}">
<title id="{id}-title">{}</title>
<desc id="{id}-desc">{}</desc>
<style>
{}</style>
{body}"#,
        size[0],
        size[1],
        Escaped(&plot.title),
        Escaped(&plot.caption),
        ink::style_sheet(&inks),
        id = Escaped(&plot.id),
    ))
}

/// The axes that show all that is drawn.
fn spans(plot: &Plot) -> Result<[Span; 2]> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let heights = |point: &Point| [point.y].into_iter().chain(point.range.into_iter().flatten());
    let x = Span::new(&plot.x, points().map(|point| point.x), ROOM[0])?;
    let y = Span::new(&plot.y, points().flat_map(heights), ROOM[1])?;
    Ok([x, y])
}

/// Draws all but the legend.
fn paint(area: &Area<'_>, plot: &Plot, [x, y]: [Span; 2], inks: &[Ink]) -> Drawn {
    area.fill(&light(GROUND))?;
    write(area, &plot.y.label, (units(MARGIN), units(TOP / 2.0 - 2.0)), label())?;
    let widest = y.labels().iter().map(|label| width_of(label)).fold(0.0, f64::max);
    let (chart_area, _) = area.split_vertically(units(HEIGHT - MARGIN));
    let mut chart = ChartBuilder::on(&chart_area)
        .margin_top(units(TOP))
        .margin_left(units(MARGIN))
        .margin_right(units(2.0 * MARGIN))
        .x_label_area_size(units(BELOW))
        .y_label_area_size(units(widest + 2.0 * TICK))
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .axis_style(light(TEXT).stroke_width(10))
        .bold_line_style(light(GRID).stroke_width(10))
        .light_line_style(light(GRID).stroke_width(5))
        .set_tick_mark_size(LabelAreaPosition::Left, units(TICK))
        .set_tick_mark_size(LabelAreaPosition::Bottom, units(X_TICK))
        .label_style(label())
        .axis_desc_style(label())
        .x_desc(printable(&plot.x.label).collect::<String>())
        .draw()?;
    let place = |x, y| chart.backend_coord(&(x, y));
    // What is drawn later covers what is drawn before: refpage's own comes last.
    let lines = || plot.series.iter().zip(inks).enumerate();
    for own in [false, true] {
        for (number, (series, ink)) in lines().filter(|(_, (series, _))| series.own == own) {
            trace(area, &place, series, ink, number)?;
        }
    }
    if plot.series.iter().all(|series| series.points.is_empty()) {
        let middle = (units(WIDTH / 2.0), units((TOP + HEIGHT - BELOW) / 2.0));
        write(
            area,
            "nothing was measured",
            middle,
            label().pos(Pos::new(HPos::Center, VPos::Center)),
        )?;
    }
    Ok(())
}

/// Draws a line with its ranges and marks.
fn trace(area: &Area<'_>, place: &Place<'_>, series: &Series, ink: &Ink, number: usize) -> Drawn {
    let points = &series.points;
    ranges(area, place, points, ink)?;
    let places: Vec<Pixel> = points.iter().map(|point| place(point.x, point.y)).collect();
    // Marks of lines that run together must not all lie at the same places.
    let every = if places.len() <= MARKS { 1 } else { places.len().div_ceil(FEW_MARKS) };
    let first = number * 5 % 13 * every / 13;
    for &marked in places.iter().skip(first).step_by(every) {
        area.draw(&mark(marked, ink))?;
    }
    if places.len() > 1 {
        area.draw(&line(places, ink))?;
    }
    Ok(())
}

/// Draws the ranges: bars where there are few, a band where there are many. They are filled, for a stroke has dashes.
fn ranges(area: &Area<'_>, place: &Place<'_>, points: &[Point], ink: &Ink) -> Drawn {
    let ranges = points.iter().filter_map(|point| Some((point.x, point.range?)));
    let (low, high): (Vec<Pixel>, Vec<Pixel>) =
        ranges.map(|(x, [low, high])| (place(x, low), place(x, high))).unzip();
    if points.len() > MARKS {
        let band: Vec<Pixel> = low.into_iter().chain(high.into_iter().rev()).collect();
        area.draw(&Polygon::new(band, ink.color.mix(0.15)))?;
        return Ok(());
    }
    let half = units(ink.width / 3.0);
    for (low, high) in low.into_iter().zip(high) {
        let corners = [(high.0 - half, high.1), (low.0 + half, low.1)];
        area.draw(&Rectangle::new(corners, ink.color.mix(0.5).filled()))?;
    }
    Ok(())
}

/// A line in an ink.
fn line(places: impl Into<Vec<Pixel>>, ink: &Ink) -> PathElement<Pixel> {
    PathElement::new(places, ink.color.stroke_width(units(ink.width) as u32))
}

/// A mark in an ink.
fn mark((x, y): Pixel, ink: &Ink) -> Polygon<Pixel> {
    let corner = |&(right, down): &(i32, i32)| {
        let length = |tenths: i32| units(f64::from(tenths) / 10.0 * ink.radius);
        (x + length(right), y + length(down))
    };
    Polygon::new(ink.shape.iter().map(corner).collect::<Vec<_>>(), ink.color)
}

/// The style of all that is written.
fn label() -> TextStyle<'static> {
    // plotters writes a size as 1/1.24 of it.
    let size = f64::from(units(FONT)) * 1.24;
    ("sans-serif", size).into_font().color(&light(TEXT)).pos(Pos::new(HPos::Left, VPos::Center))
}

/// Writes a line of text.
fn write(area: &Area<'_>, text: &str, place: Pixel, style: TextStyle<'_>) -> Drawn {
    area.draw(&Text::new(printable(text).collect::<String>(), place, style))?;
    Ok(())
}

/// About how wide a text is: fonts differ.
fn width_of(text: &str) -> f64 {
    text.chars().count() as f64 * FONT * 0.6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Axis, Scale};

    fn plot(scale: Scale, points: &[(f64, f64)], names: &[&str]) -> Plot {
        let points: Vec<Point> =
            points.iter().map(|&(x, y)| Point { x, y, range: Some([y / 2.0, y * 2.0]) }).collect();
        let series = |(number, name): (usize, &&str)| Series {
            name: name.to_string(),
            own: number == 0,
            points: points.clone(),
        };
        let axis = |label: &str| Axis { label: label.into(), scale };
        Plot {
            id: "plot".into(),
            title: "Time & <space>".into(),
            caption: "What \"it\" shows".into(),
            x: axis("x <&>"),
            y: axis("y"),
            series: names.iter().enumerate().map(series).collect(),
        }
    }

    #[test]
    fn every_series_is_in_the_legend_and_drawn() {
        let names: Vec<String> = (0..13).map(|number| format!("peer<{number}>")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let drawing = draw(&plot(Scale::Linear, &[(0.0, 0.0), (1.0, 5.0)], &names)).unwrap();
        for number in 0..13 {
            assert!(drawing.contains(&format!("peer&lt;{number}&gt;")), "{number}");
        }
        // Lines of the plot and of the legend, and what is in neither: grid and axes.
        let lines = |drawing: &str| drawing.matches("<polyline").count();
        let none = lines(&draw(&plot(Scale::Linear, &[(0.0, 0.0), (1.0, 5.0)], &[])).unwrap());
        assert!(lines(&drawing) >= 26 && none < 20, "{} {none}", lines(&drawing));
    }

    #[test]
    fn hostile_texts_stay_text_and_roles_are_named() {
        let drawing = draw(&plot(Scale::Linear, &[(1.0, 2.0)], &["<script>"])).unwrap();
        assert!(drawing.contains(r#"role="img" aria-labelledby="plot-title plot-desc""#));
        assert!(drawing.contains("Time &amp; &lt;space&gt;</title>"), "{drawing}");
        assert!(!drawing.contains("<script") && drawing.ends_with("</svg>\n"), "{drawing}");
    }

    #[test]
    fn few_points_equal_points_and_none_are_drawn_without_nan() {
        let shapes: [&[(f64, f64)]; 4] =
            [&[], &[(1.0, 1.0)], &[(1.0, 1.0), (1.0, 1.0)], &[(2.0, 3.0), (4.0, 3.0)]];
        for scale in [Scale::Linear, Scale::Log10, Scale::Log2] {
            for points in shapes {
                let drawing = draw(&plot(scale, points, &["one", "two"])).unwrap();
                assert!(
                    !drawing.contains("NaN") && !drawing.contains("inf"),
                    "{scale:?} {points:?}"
                );
                assert_eq!(drawing.contains("nothing was measured"), points.is_empty());
            }
        }
    }

    #[test]
    fn a_logarithm_of_zero_fails_with_the_name_of_the_plot() {
        for scale in [Scale::Log10, Scale::Log2] {
            let error = draw(&plot(scale, &[(1.0, 0.0)], &["one"])).unwrap_err();
            assert!(format!("{error:#}").starts_with("plot plot: `y` is logarithmic"), "{error:#}");
        }
    }
}
