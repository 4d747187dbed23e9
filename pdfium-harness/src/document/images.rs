//! The document's images: landscapes from value noise, with grain, in several sizes; some masked.

use pdf_writer::types::Predictor;
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Ref};

use super::{Format, Ids, Random, deflate, round};

struct Spec {
    width: usize,
    height: usize,
    gray: bool,
    masked: bool,
}

const fn photo(width: usize, height: usize) -> Spec {
    Spec { width, height, gray: false, masked: false }
}

/// In resource order: `I0`, `I1` and so on. The photos come first.
const SPECS: [Spec; 10] = [
    photo(2000, 1500),
    photo(1280, 960),
    photo(1600, 1067),
    photo(900, 675),
    Spec { width: 640, height: 480, gray: false, masked: false },
    Spec { width: 600, height: 600, gray: false, masked: true },
    Spec { width: 1024, height: 768, gray: true, masked: false },
    Spec { width: 320, height: 240, gray: false, masked: true },
    Spec { width: 256, height: 256, gray: true, masked: false },
    Spec { width: 96, height: 96, gray: false, masked: true },
];

/// How many of the images are full-page photos.
pub const PHOTOS: usize = 4;
/// The image that many pages show.
pub const REUSED: usize = 4;

/// The resource name of image `index`.
pub fn name(index: usize) -> String {
    format!("I{index}")
}

/// Writes all images into the document; their references come in resource order.
pub fn write(pdf: &mut Pdf, ids: &mut Ids) -> Vec<Ref> {
    SPECS
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            let mask = spec.masked.then(|| {
                let id = ids.next();
                write_samples(pdf, id, spec, 1, &vignette(spec), None);
                id
            });
            let id = ids.next();
            let channels = if spec.gray { 1 } else { 3 };
            write_samples(pdf, id, spec, channels, &landscape(spec, index as u64), mask);
            id
        })
        .collect()
}

fn write_samples(
    pdf: &mut Pdf,
    id: Ref,
    spec: &Spec,
    channels: usize,
    data: &[u8],
    mask: Option<Ref>,
) {
    let packed = deflate(&subtract_left(data, spec.width, channels));
    let mut image = pdf.image_xobject(id, &packed);
    image.filter(Filter::FlateDecode);
    image
        .decode_parms()
        .predictor(Predictor::PngSub)
        .colors(channels as i32)
        .bits_per_component(8)
        .columns(spec.width as i32);
    image.width(spec.width as i32).height(spec.height as i32).bits_per_component(8);
    if channels == 1 {
        image.color_space().device_gray();
    } else {
        image.color_space().device_rgb();
    }
    if let Some(mask) = mask {
        image.s_mask(mask);
    }
    image.finish();
}

/// PNG's Sub filter: each row starts with its filter type, then the differences to the left pixel.
fn subtract_left(data: &[u8], width: usize, channels: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / (width * channels));
    for row in data.chunks_exact(width * channels) {
        out.push(1);
        for (i, &sample) in row.iter().enumerate() {
            out.push(sample.wrapping_sub(if i < channels { 0 } else { row[i - channels] }));
        }
    }
    out
}

fn hash(x: u32, y: u32, seed: u64) -> u32 {
    Random(seed ^ (u64::from(x) << 32) ^ u64::from(y)).next() as u32
}

/// Value noise on a lattice of 256 steps a cell, as an integer in `0..65536`: the same on every machine.
fn noise(x: u32, y: u32, seed: u64) -> u32 {
    let (cx, cy, fx, fy) = (x >> 8, y >> 8, x & 255, y & 255);
    let smooth = |f: u32| (f * f * (768 - 2 * f)) >> 16;
    let (fx, fy) = (smooth(fx), smooth(fy));
    let corner = |dx, dy| hash(cx + dx, cy + dy, seed) >> 16;
    let mix = |a: u32, b: u32, f: u32| (a * (256 - f) + b * f) >> 8;
    mix(mix(corner(0, 0), corner(1, 0), fx), mix(corner(0, 1), corner(1, 1), fx), fy)
}

/// Drops the lowest bits: steps compress well, and look like foliage.
fn terrace(value: u32, bits: u32) -> u32 {
    value >> bits << bits
}

fn landscape(spec: &Spec, seed: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(spec.width * spec.height * 3);
    for y in 0..spec.height as u32 {
        // Octaves of the ridge line and the ground; the sky needs only the first.
        let shade = 255 * y / spec.height as u32;
        for x in 0..spec.width as u32 {
            let broad = terrace(noise(x * 2, y * 2, seed) >> 8, 3);
            let fine = terrace(noise(x * 16, y * 16, seed + 1) >> 8, 5);
            let land = y * 255 / spec.height as u32 + broad / 3 > 140;
            // Grain on every eighth pixel only: photos are noisy, but the file must stay small.
            let grain = if land && (x ^ y) & 7 == 0 { hash(x, y, seed) >> 29 } else { 0 };
            let rgb = if land {
                [60 + fine / 4 + grain, 70 + broad / 3 + fine / 8 + grain, 40 + fine / 6 + grain]
            } else {
                [90 + shade / 3 + broad / 8, 130 + shade / 4 + broad / 8, 200 + broad / 6]
            };
            if spec.gray {
                out.push(((rgb[0] * 3 + rgb[1] * 6 + rgb[2]) / 10).min(255) as u8);
            } else {
                out.extend(rgb.map(|v| v.min(255) as u8));
            }
        }
    }
    out
}

/// Opaque in the middle, transparent at the rim.
fn vignette(spec: &Spec) -> Vec<u8> {
    let (w, h) = (spec.width as i64, spec.height as i64);
    let mut out = Vec::with_capacity(spec.width * spec.height);
    for y in 0..h {
        for x in 0..w {
            let (dx, dy) = ((2 * x - w) * 256 / w, (2 * y - h) * 256 / h);
            out.push((2 * (65_536 - dx * dx - dy * dy) / 256).clamp(0, 255) as u8);
        }
    }
    out
}

/// Shows image `index` in the box `[x, y, width, height]`.
pub fn place(c: &mut Content, index: usize, [x, y, w, h]: [f32; 4]) {
    c.save_state();
    c.transform([round(w), 0.0, 0.0, round(h), round(x), round(y)]);
    c.x_object(Name(name(index).as_bytes()));
    c.restore_state();
}

/// A page of small images, some turned, overlapping each other's soft masks.
pub fn gallery(c: &mut Content, format: Format, random: &mut Random) {
    for row in 0..6 {
        for col in 0..4 {
            let index = REUSED + random.below(SPECS.len() - REUSED);
            let (x, y) =
                (45.0 + col as f32 * 128.0, 60.0 + row as f32 * (format.height - 130.0) / 6.0);
            let (sin, cos) = random.range(-0.3, 0.3).sin_cos();
            let scale = random.range(95.0, 150.0);
            c.save_state();
            c.transform([cos * scale, sin * scale, -sin * scale, cos * scale, x, y].map(round));
            c.x_object(Name(name(index).as_bytes()));
            c.restore_state();
        }
    }
}
