//! How series are told apart: by colour, by dashes and by the shape of their marks, any two of which suffice.
//!
//! plotters writes one colour each, that of the light theme; a style sheet within the drawing maps it to that of
//! the dark one, and gives lines the dashes that plotters has none of.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::units;
use crate::page::Series;

/// The corners of a mark, from its middle, in tenths of its radius.
pub type Shape = &'static [(i32, i32)];

/// What one series is drawn with.
pub struct Ink {
    /// No other series of the plot has it: the style sheet knows a series by it.
    pub color: RGBColor,
    /// The shape of its marks.
    pub shape: Shape,
    /// The width of its line.
    pub width: f64,
    /// The radius of its marks.
    pub radius: f64,
    dark: &'static str,
    dashes: &'static [f64],
}

/// A colour on a light ground, and the one for it on a dark ground.
type Hue = ((u8, u8, u8), &'static str);

/// Text and axes, lines of the grid, and the ground.
pub const TEXT: Hue = ((0x1F, 0x24, 0x2B), "#E4E7EB");
pub const GRID: Hue = ((0xDD, 0xE0, 0xE4), "#363C44");
pub const GROUND: Hue = ((0xFF, 0xFF, 0xFF), "#14171B");

/// All of refpage's own series have this.
const OWN: Hue = ((0x1B, 0x55, 0xD6), "#6EA8FF");

/// Hues that the colour-blind tell apart (after Okabe and Ito), darkened or lightened to stand out from the ground.
const PEERS: [Hue; 6] = [
    ((0xD0, 0x52, 0x00), "#FF9248"),
    ((0x00, 0x80, 0x60), "#3CCB9F"),
    ((0xA8, 0x44, 0x90), "#E58CCB"),
    ((0x94, 0x70, 0x00), "#E0BC43"),
    ((0x7D, 0x4A, 0x2A), "#D6A589"),
    ((0x66, 0x6D, 0x78), "#AAB2BD"),
];

/// Lengths of dashes and gaps.
const DASHES: [&[f64]; 4] = [&[], &[6.0, 3.0], &[2.0, 2.5], &[8.0, 2.5, 2.0, 2.5]];

/// As many as have no divisor in common with the hues: so each shape comes with each hue.
const SHAPES: [Shape; 7] = [
    &[(10, 0), (7, 7), (0, 10), (-7, 7), (-10, 0), (-7, -7), (0, -10), (7, -7)],
    &[(-9, -9), (9, -9), (9, 9), (-9, 9)],
    &[(0, -12), (11, 8), (-11, 8)],
    &[(0, -13), (11, 0), (0, 13), (-11, 0)],
    &[(0, 12), (11, -8), (-11, -8)],
    &[
        (-4, -12),
        (4, -12),
        (4, -4),
        (12, -4),
        (12, 4),
        (4, 4),
        (4, 12),
        (-4, 12),
        (-4, 4),
        (-12, 4),
        (-12, -4),
        (-4, -4),
    ],
    &[
        (-11, -6),
        (-6, -11),
        (0, -5),
        (6, -11),
        (11, -6),
        (5, 0),
        (11, 6),
        (6, 11),
        (0, 5),
        (-6, 11),
        (-11, 6),
        (-5, 0),
    ],
];

/// The inks of a plot, in the order of its series.
pub fn inks(series: &[Series]) -> Vec<Ink> {
    let (mut owns, mut peers) = (0, 0);
    let ink = |series: &Series| {
        let count = if series.own { &mut owns } else { &mut peers };
        let number = *count;
        *count += 1;
        match series.own {
            true => mixed(OWN, number, number, [2.6, 4.2]),
            false => mixed(PEERS[number % PEERS.len()], number / PEERS.len(), number, [1.4, 3.2]),
        }
    };
    series.iter().map(ink).collect()
}

/// The ink of the series `number` of its kind, the `turn`th with its hue.
fn mixed(
    ((red, green, blue), dark): Hue,
    turn: usize,
    number: usize,
    [width, radius]: [f64; 2],
) -> Ink {
    Ink {
        // Nobody sees the last bits, by which the style sheet tells the hue's turns apart.
        color: RGBColor(red, green, blue ^ (turn % 16) as u8),
        shape: SHAPES[number % SHAPES.len()],
        width,
        radius,
        dark,
        dashes: DASHES[turn % DASHES.len()],
    }
}

/// The colour of a hue for plotters.
pub fn light(((red, green, blue), _): Hue) -> RGBColor {
    RGBColor(red, green, blue)
}

/// The style sheet: where `light-dark` is not known, all stays as in the light theme.
pub fn style_sheet(inks: &[Ink]) -> String {
    // A drawing by itself follows the reader's preference, one within a page follows the page.
    let mut css = String::from(
        "svg.plot:root{color-scheme:light dark}\n.plot text{font-family:system-ui,sans-serif}\n",
    );
    let fixed = [TEXT, GRID, GROUND].map(|hue| (light(hue), hue.1, &[][..]));
    let drawn = inks.iter().map(|ink| (ink.color, ink.dark, ink.dashes));
    for (RGBColor(red, green, blue), dark, dashes) in fixed.into_iter().chain(drawn) {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        for what in ["fill", "stroke"] {
            let _ =
                writeln!(css, ".plot [{what}=\"{light}\"]{{{what}:light-dark({light},{dark})}}");
        }
        if !dashes.is_empty() {
            let lengths: Vec<String> =
                dashes.iter().map(|&length| units(length).to_string()).collect();
            let _ = writeln!(
                css,
                ".plot [stroke=\"{light}\"]{{stroke-dasharray:{}}}",
                lengths.join(" ")
            );
        }
    }
    css
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn series(own: bool) -> Series {
        Series { name: String::new(), own, points: Vec::new() }
    }

    #[test]
    fn no_two_series_look_the_same_without_colour_or_without_dashes() {
        let all: Vec<Series> = (0..17).map(|number| series(number < 4)).collect();
        let inks = inks(&all);
        let colors: HashSet<_> =
            inks.iter().map(|ink| (ink.color.0, ink.color.1, ink.color.2)).collect();
        assert_eq!(colors.len(), inks.len());
        let looks: HashSet<_> = inks.iter().map(|ink| (ink.shape, ink.dark)).collect();
        assert_eq!(looks.len(), inks.len());
        let grey: HashSet<_> =
            inks.iter().map(|ink| (ink.shape, ink.dashes.len(), ink.width > 2.0)).collect();
        assert!(grey.len() >= 13, "{}", grey.len());
    }
}
