//! The one resource dictionary that all pages share: fonts, images, patterns, shadings, graphics
//! states and form XObjects.

use pdf_writer::types::{
    BlendMode, FunctionShadingType, MaskType, PaintType, PostScriptOp, TilingType,
};
use pdf_writer::writers::{Resources, StreamShadingType};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref};

use super::{A4, Ids, Random, deflate, drawing, images, text};

/// Names by kind and number, as the page contents use them.
type Named = Vec<(String, Ref)>;

/// Writes every shared object and returns the dictionary's reference.
pub fn write(pdf: &mut Pdf, ids: &mut Ids) -> Ref {
    let dictionary = ids.next();
    let fonts: Named = text::FONTS
        .iter()
        .enumerate()
        .map(|(i, &base)| {
            let id = ids.next();
            pdf.type1_font(id).base_font(Name(base));
            (format!("F{i}"), id)
        })
        .collect();
    let mut x_objects: Named = images::write(pdf, ids)
        .into_iter()
        .enumerate()
        .map(|(i, id)| (images::name(i), id))
        .collect();
    let mask = group(pdf, ids, dictionary, drawing::mask_form, true, false);
    for (name, form, isolated, knockout) in [
        ("G0", drawing::sparse_form as fn(&mut Content, &mut Random), true, false),
        ("G1", drawing::circles_form, false, true),
    ] {
        x_objects.push((name.into(), group(pdf, ids, dictionary, form, isolated, knockout)));
    }
    let shadings = shadings(pdf, ids);
    let patterns = patterns(pdf, ids, dictionary);
    let states = states(pdf, ids, mask);

    let mut resources = pdf.indirect(dictionary).start::<Resources>();
    put(resources.fonts(), &fonts);
    put(resources.x_objects(), &x_objects);
    put(resources.shadings(), &shadings);
    put(resources.patterns(), &patterns);
    put(resources.ext_g_states(), &states);
    resources.finish();
    dictionary
}

fn put(mut dict: pdf_writer::Dict<'_>, named: &Named) {
    for (name, id) in named {
        dict.pair(Name(name.as_bytes()), *id);
    }
}

/// A transparency group as large as an A4 page, whatever it draws.
fn group(
    pdf: &mut Pdf,
    ids: &mut Ids,
    resources: Ref,
    draw: fn(&mut Content, &mut Random),
    isolated: bool,
    knockout: bool,
) -> Ref {
    let id = ids.next();
    let mut content = Content::new();
    draw(&mut content, &mut Random(id.get() as u64));
    let stream = deflate(&content.finish());
    let mut form = pdf.form_xobject(id, &stream);
    form.filter(Filter::FlateDecode);
    form.bbox(Rect::new(0.0, 0.0, A4.width, A4.height));
    form.pair(Name(b"Resources"), resources);
    let mut group = form.group();
    group.transparency().isolated(isolated).knockout(knockout);
    group.color_space().device_rgb();
    group.finish();
    form.finish();
    id
}

/// `S0` axial, `S1` radial, `S2` computed per pixel, `S3` a triangle mesh; all in the unit square
/// except the axial and radial ones, which extend beyond it.
fn shadings(pdf: &mut Pdf, ids: &mut Ids) -> Named {
    let ramp = ids.next();
    pdf.exponential_function(ramp)
        .domain([0.0, 1.0])
        .c0([0.10, 0.25, 0.55])
        .c1([0.98, 0.75, 0.35])
        .n(1.4);

    let (axial, radial) = (ids.next(), ids.next());
    for (id, kind, coords) in [
        (axial, FunctionShadingType::Axial, &[0.0, 0.0, 1.0, 1.0][..]),
        (radial, FunctionShadingType::Radial, &[0.4, 0.6, 0.05, 0.5, 0.5, 0.6][..]),
    ] {
        let mut shading = pdf.function_shading(id);
        shading.shading_type(kind);
        shading.color_space().device_rgb();
        shading.coords(coords.iter().copied()).function(ramp).extend([true, true]);
    }

    let (waves, computed) = (ids.next(), ids.next());
    use PostScriptOp::{Add, Cos, Exch, Integer, Mul, Real, Sin};
    // (x, y) to (0.5 + 0.5 sin 700x, 0.5 + 0.5 cos 500y, 0.6), angles in degrees.
    let code = PostScriptOp::encode(&[
        Integer(500),
        Mul,
        Cos,
        Real(0.5),
        Mul,
        Real(0.5),
        Add,
        Exch,
        Integer(700),
        Mul,
        Sin,
        Real(0.5),
        Mul,
        Real(0.5),
        Add,
        Exch,
        Real(0.6),
    ]);
    pdf.post_script_function(waves, &code)
        .domain([0.0, 1.0, 0.0, 1.0])
        .range([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    let mut shading = pdf.function_shading(computed);
    shading.shading_type(FunctionShadingType::Function);
    shading.color_space().device_rgb();
    shading.domain([0.0, 1.0, 0.0, 1.0]).function(waves);
    shading.finish();

    let mesh = ids.next();
    let data = mesh_data();
    let mut shading = pdf.stream_shading(mesh, &data);
    shading.filter(Filter::FlateDecode);
    shading.shading_type(StreamShadingType::FreeformGouraud);
    shading.color_space().device_rgb();
    shading.bits_per_coordinate(16).bits_per_component(8).bits_per_flag(8);
    shading.decode([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    shading.finish();

    [axial, radial, computed, mesh]
        .into_iter()
        .enumerate()
        .map(|(i, id)| (format!("S{i}"), id))
        .collect()
}

/// A grid of 24 by 24 squares of two free triangles each, with a random colour at every corner.
fn mesh_data() -> Vec<u8> {
    const SIDE: usize = 24;
    let mut random = Random(24);
    let colors: Vec<[u8; 3]> = (0..(SIDE + 1) * (SIDE + 1))
        .map(|_| [random.next() as u8, 128 + random.below(128) as u8, random.next() as u8])
        .collect();
    let mut data = Vec::new();
    for (row, col) in (0..SIDE).flat_map(|row| (0..SIDE).map(move |col| (row, col))) {
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 0), (0, 1), (1, 1)] {
            let (x, y) = (col + dx, row + dy);
            data.push(0);
            data.extend(((x * 65_535 / SIDE) as u16).to_be_bytes());
            data.extend(((y * 65_535 / SIDE) as u16).to_be_bytes());
            data.extend(colors[y * (SIDE + 1) + x]);
        }
    }
    deflate(&data)
}

/// What draws a pattern's cell, and the cell's side in points.
type Cell = (fn(&mut Content), f32);

/// `P0` to `P2`: hatching, dots and bricks.
fn patterns(pdf: &mut Pdf, ids: &mut Ids, resources: Ref) -> Named {
    let cells: [Cell; 3] =
        [(drawing::hatch_cell, 6.0), (drawing::dot_cell, 9.0), (drawing::brick_cell, 24.0)];
    cells
        .into_iter()
        .enumerate()
        .map(|(i, (draw, step))| {
            let id = ids.next();
            let mut content = Content::new();
            draw(&mut content);
            let stream = content.finish();
            let mut pattern = pdf.tiling_pattern(id, &stream);
            pattern.tiling_type(TilingType::ConstantSpacing).paint_type(PaintType::Colored);
            pattern.bbox(Rect::new(0.0, 0.0, step, step)).x_step(step).y_step(step);
            pattern.pair(Name(b"Resources"), resources);
            pattern.finish();
            (format!("P{i}"), id)
        })
        .collect()
}

/// `E0` plain, `E1` half transparent, `E2` multiply, `E3` screen, `E4` seen through a soft mask.
fn states(pdf: &mut Pdf, ids: &mut Ids, mask: Ref) -> Named {
    let settings = [
        (1.0, BlendMode::Normal),
        (0.5, BlendMode::Normal),
        (0.8, BlendMode::Multiply),
        (0.9, BlendMode::Screen),
        (1.0, BlendMode::Normal),
    ];
    settings
        .into_iter()
        .enumerate()
        .map(|(i, (alpha, mode))| {
            let id = ids.next();
            let mut state = pdf.ext_graphics(id);
            state.stroking_alpha(alpha).non_stroking_alpha(alpha).blend_mode(mode);
            if i == 4 {
                state.soft_mask().subtype(MaskType::Luminosity).group(mask);
            } else {
                state.soft_mask_name(Name(b"None"));
            }
            (format!("E{i}"), id)
        })
        .collect()
}
