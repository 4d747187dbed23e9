//! Vector graphics: plots of many segments, hatches, maps, shadings and transparency.

use std::f32::consts::TAU;

use pdf_writer::types::ColorSpaceOperand;
use pdf_writer::{Content, Name};

use super::{A4, Format, Random, images, round};

/// Handle length at which four cubic Béziers miss a unit circle by no more than 0.03 %.
const CIRCLE: f32 = 0.5523;

fn circle_path(c: &mut Content, x: f32, y: f32, r: f32) {
    let k = r * CIRCLE;
    c.move_to(round(x + r), round(y));
    for curve in [
        [x + r, y + k, x + k, y + r, x, y + r],
        [x - k, y + r, x - r, y + k, x - r, y],
        [x - r, y - k, x - k, y - r, x, y - r],
        [x + k, y - r, x + r, y - k, x + r, y],
    ] {
        let p = curve.map(round);
        c.cubic_to(p[0], p[1], p[2], p[3], p[4], p[5]);
    }
}

fn color(random: &mut Random) -> [f32; 3] {
    [random.range(0.0, 0.8), random.range(0.1, 0.7), random.range(0.2, 0.9)].map(round)
}

/// A chapter's coloured first page.
pub fn backdrop(c: &mut Content, format: Format, chapter: usize) {
    c.save_state();
    c.transform([format.width, 0.0, 0.0, format.height, 0.0, 0.0]);
    c.shading(Name(if chapter.is_multiple_of(2) { b"S0" } else { b"S1" }));
    c.restore_state();
    c.set_fill_gray(0.95).rect(45.0, 60.0, 330.0, 260.0).fill_nonzero();
}

/// One plot with axes, grid and `points` points a curve, in the box `[x, y, width, height]`.
pub fn plot(c: &mut Content, [x, y, w, h]: [f32; 4], points: usize, random: &mut Random) {
    c.save_state();
    c.set_line_width(0.3).set_stroke_gray(0.8);
    for i in 0..=10 {
        let t = i as f32 / 10.0;
        c.move_to(round(x + t * w), y).line_to(round(x + t * w), y + h);
        c.move_to(x, round(y + t * h)).line_to(x + w, round(y + t * h));
    }
    c.stroke();
    c.set_line_width(0.8).set_stroke_gray(0.0).rect(x, y, w, h).stroke();
    c.rect(x, y, w, h).clip_nonzero().end_path();
    for curve in 0..3 {
        let [r, g, b] = color(random);
        c.set_stroke_rgb(r, g, b).set_line_width(0.6);
        let (f1, f2) = (random.range(1.0, 4.0), random.range(11.0, 37.0));
        let amplitude = random.range(0.02, 0.12);
        for i in 0..=points {
            let t = i as f32 / points as f32;
            let v = 0.5
                + 0.3 * (TAU * f1 * t).sin()
                + amplitude * (TAU * f2 * t).cos()
                + random.range(-0.02, 0.02);
            let (px, py) = (round(x + t * w), round(y + v * h));
            if i == 0 {
                c.move_to(px, py);
            } else if curve == 2 {
                let back = round(px - 0.3 * w / points as f32);
                c.cubic_to(back, py, back, py, px, py);
            } else {
                c.line_to(px, py);
            }
        }
        c.stroke();
    }
    c.restore_state();
}

/// A page of plots: one dense, two scattered, one filled.
pub fn plots(c: &mut Content, format: Format, random: &mut Random) {
    let w = format.width - 100.0;
    plot(c, [50.0, 540.0, w, 240.0], 4000, random);
    plot(c, [50.0, 300.0, w / 2.0 - 10.0, 210.0], 800, random);
    plot(c, [60.0 + w / 2.0, 300.0, w / 2.0 - 10.0, 210.0], 1200, random);
    c.save_state();
    c.set_parameters(Name(b"E1"));
    for _ in 0..1500 {
        let [r, g, b] = color(random);
        c.set_fill_rgb(r, g, b);
        let spread = random.range(0.0, 1.0);
        let (x, y) = (50.0 + random.range(0.0, w), 70.0 + 200.0 * spread * random.range(0.0, 1.0));
        circle_path(c, x, y, random.range(0.8, 3.5));
        c.fill_nonzero();
    }
    c.restore_state();
}

/// Shapes filled with tiling patterns, and hatching drawn line by line through a clip.
pub fn hatches(c: &mut Content, format: Format, random: &mut Random) {
    for (i, pattern) in [b"P0", b"P1", b"P2"].into_iter().enumerate() {
        c.set_fill_color_space(ColorSpaceOperand::Pattern).set_fill_pattern([], Name(pattern));
        let y = 600.0 - i as f32 * 170.0;
        c.rect(50.0, y, 220.0, 150.0).fill_nonzero();
        circle_path(c, 350.0, y + 75.0, 72.0);
        circle_path(c, 350.0, y + 75.0, 40.0);
        c.fill_even_odd();
        c.save_state();
        circle_path(c, 480.0, y + 75.0, 60.0);
        c.clip_nonzero().end_path();
        c.set_line_width(0.4).set_stroke_rgb(0.1, 0.1, 0.4);
        for k in 0..120 {
            let offset = k as f32 * 1.5;
            c.move_to(400.0 + offset, y)
                .line_to(round(340.0 + offset + random.range(0.0, 8.0)), y + 150.0);
        }
        c.stroke();
        c.restore_state();
    }
    plot(c, [50.0, 70.0, format.width - 100.0, 160.0], 1500, random);
}

/// One decimal: enough for a map's many points, at two thirds of the bytes.
fn coarse(x: f32) -> f32 {
    (x * 10.0).round() / 10.0
}

/// A map: thousands of small closed polygons, contour lines and a few thick rivers.
pub fn map(c: &mut Content, format: Format, random: &mut Random) {
    let (columns, rows) = (50, 70);
    let (dx, dy) = ((format.width - 80.0) / columns as f32, (format.height - 120.0) / rows as f32);
    c.set_line_width(0.25).set_stroke_gray(0.3);
    for (row, col) in (0..rows).flat_map(|row| (0..columns).map(move |col| (row, col))) {
        let (x, y) = (40.0 + (col as f32 + 0.5) * dx, 60.0 + (row as f32 + 0.5) * dy);
        let green = coarse(random.range(0.6, 0.95));
        c.set_fill_rgb(0.8, green, 0.7);
        let sides = 5 + random.below(5);
        for i in 0..sides {
            let angle = TAU * i as f32 / sides as f32;
            let r = random.range(0.35, 0.75);
            let (px, py) = (coarse(x + angle.cos() * dx * r), coarse(y + angle.sin() * dy * r));
            if i == 0 {
                c.move_to(px, py)
            } else {
                c.line_to(px, py)
            };
        }
        c.close_fill_nonzero_and_stroke();
    }
    c.set_stroke_rgb(0.5, 0.35, 0.2).set_line_width(0.5);
    for level in 0..60 {
        let (x, y) = (format.width * 0.4, format.height * 0.55);
        let r = 8.0 + level as f32 * 6.5;
        for i in 0..=240 {
            let angle = TAU * i as f32 / 240.0;
            let r = r * (1.0 + 0.15 * (5.0 * angle).sin() + 0.08 * (11.0 * angle + r * 0.05).cos());
            let (px, py) = (coarse(x + r * angle.cos()), coarse(y + r * angle.sin()));
            if i == 0 {
                c.move_to(px, py)
            } else {
                c.line_to(px, py)
            };
        }
        c.stroke();
    }
    c.set_stroke_rgb(0.2, 0.4, 0.8);
    for _ in 0..6 {
        c.set_line_width(round(random.range(1.5, 6.0)));
        let mut x = random.range(40.0, format.width - 40.0);
        c.move_to(round(x), 60.0);
        for step in 1..8 {
            let y = 60.0 + step as f32 * (format.height - 120.0) / 8.0;
            let next = x + random.range(-80.0, 80.0);
            c.cubic_to(round(x + 60.0), y - 90.0, round(next - 60.0), y - 40.0, round(next), y);
            x = next;
        }
        c.stroke();
    }
}

/// All four kinds of shading, each clipped to a shape.
pub fn shadings(c: &mut Content, format: Format, random: &mut Random) {
    for (i, name) in [b"S0", b"S1", b"S2", b"S3"].into_iter().enumerate() {
        let (x, y) =
            (50.0 + (i % 2) as f32 * 255.0, format.height - 350.0 - (i / 2) as f32 * 340.0);
        c.save_state();
        if i % 2 == 0 {
            c.rect(x, y, 240.0, 280.0);
        } else {
            circle_path(c, x + 120.0, y + 140.0, 119.0);
        }
        c.clip_nonzero().end_path();
        c.transform([240.0, 0.0, 0.0, 280.0, x, y]);
        c.shading(Name(name));
        c.restore_state();
    }
    plot(c, [330.0, 60.0, 200.0, 80.0], 300, random);
}

/// Groups as large as the page, blended over a photo and through a soft mask.
pub fn transparency(c: &mut Content, format: Format, random: &mut Random) {
    images::place(c, 1, [50.0, 300.0, 495.0, 400.0]);
    for (state, form) in [(b"E2", b"G0"), (b"E1", b"G1"), (b"E3", b"G0")] {
        c.save_state();
        c.set_parameters(Name(state));
        c.transform([
            1.0,
            0.0,
            0.0,
            1.0,
            round(random.range(-30.0, 30.0)),
            round(random.range(-30.0, 30.0)),
        ]);
        c.x_object(Name(form));
        c.restore_state();
    }
    c.save_state();
    c.set_parameters(Name(b"E4"));
    c.set_fill_rgb(0.8, 0.2, 0.1).rect(0.0, 0.0, format.width, format.height / 2.0).fill_nonzero();
    images::place(c, images::REUSED, [80.0, 80.0, 430.0, 320.0]);
    c.restore_state();
}

/// A page-sized group with something in two corners only: a large bitmap, hardly painted.
pub fn sparse_form(c: &mut Content, random: &mut Random) {
    plot(c, [60.0, 60.0, 120.0, 90.0], 200, random);
    plot(c, [A4.width - 200.0, A4.height - 170.0, 140.0, 100.0], 200, random);
}

/// Overlapping circles, for a knockout group.
pub fn circles_form(c: &mut Content, random: &mut Random) {
    c.set_parameters(Name(b"E1"));
    for _ in 0..12 {
        let [r, g, b] = color(random);
        c.set_fill_rgb(r, g, b);
        circle_path(
            c,
            random.range(150.0, 450.0),
            random.range(250.0, 600.0),
            random.range(40.0, 120.0),
        );
        c.fill_nonzero();
    }
}

/// The soft mask: white rings, fading to the page's right edge.
pub fn mask_form(c: &mut Content, _: &mut Random) {
    for i in 0..20 {
        let shade = 1.0 - i as f32 / 20.0;
        c.set_fill_gray(round(shade));
        c.rect(round(i as f32 * A4.width / 20.0), 0.0, round(A4.width / 20.0), A4.height)
            .fill_nonzero();
        c.set_fill_gray(round(1.0 - shade));
        circle_path(c, i as f32 * 30.0, 100.0 + (i % 4) as f32 * 90.0, 25.0);
        c.fill_nonzero();
    }
}

/// A 6-point cell of slanting lines.
pub fn hatch_cell(c: &mut Content) {
    c.set_stroke_rgb(0.2, 0.3, 0.6).set_line_width(0.7);
    c.move_to(0.0, 0.0).line_to(6.0, 6.0).stroke();
}

/// A 9-point cell with one dot.
pub fn dot_cell(c: &mut Content) {
    c.set_fill_rgb(0.7, 0.2, 0.3);
    circle_path(c, 4.5, 4.5, 2.2);
    c.fill_nonzero();
}

/// A 24-point cell of four bricks.
pub fn brick_cell(c: &mut Content) {
    c.set_fill_rgb(0.75, 0.45, 0.35).set_stroke_gray(0.9).set_line_width(1.0);
    for (x, y) in [(0.0, 0.0), (12.0, 0.0), (-6.0, 12.0), (6.0, 12.0), (18.0, 12.0)] {
        c.rect(x, y, 12.0, 12.0).fill_nonzero_and_stroke();
    }
}
