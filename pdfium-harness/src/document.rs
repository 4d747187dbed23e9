//! The default document: a fixed-seed PDF of text, drawings and images, made by this project.
//!
//! It exists so that the experiment needs no file, and so that its result can be repeated. Its pages
//! ask PDFium for what real documents ask for: page bitmaps of several sizes, decoded images read
//! through once, transparency groups that are mostly empty, and path rasterisation whose cell
//! blocks are large and hardly used.
//!
//! All pages share one resource dictionary; [`resources`] fills it, [`text`] and [`drawing`] write
//! the page contents, [`images`] makes the pixels.

mod drawing;
mod images;
mod resources;
mod text;

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref};

/// Pages in the document.
pub const PAGES: usize = 120;

/// A page format in points.
#[derive(Clone, Copy)]
struct Format {
    width: f32,
    height: f32,
}

const A4: Format = Format { width: 595.0, height: 842.0 };
const A4_LANDSCAPE: Format = Format { width: 842.0, height: 595.0 };
const A5: Format = Format { width: 420.0, height: 595.0 };
const A3: Format = Format { width: 842.0, height: 1191.0 };

/// What a page shows, with the format it shows it on. The list is one chapter; the document repeats
/// it with other random numbers.
const CHAPTER: [(PageKind, Format); 15] = [
    (PageKind::Title, A4),
    (PageKind::Prose { columns: 1 }, A4),
    (PageKind::Prose { columns: 2 }, A4),
    (PageKind::Plots, A4),
    (PageKind::Prose { columns: 3 }, A4_LANDSCAPE),
    (PageKind::Photo, A4),
    (PageKind::Article, A4),
    (PageKind::Hatches, A4),
    (PageKind::Table, A4_LANDSCAPE),
    (PageKind::Map, A3),
    (PageKind::Listing, A5),
    (PageKind::Transparency, A4),
    (PageKind::Shadings, A4),
    (PageKind::Gallery, A4),
    (PageKind::Article, A4),
];

#[derive(Clone, Copy)]
enum PageKind {
    Title,
    Prose { columns: usize },
    Plots,
    Photo,
    Article,
    Hatches,
    Table,
    Map,
    Listing,
    Transparency,
    Shadings,
    Gallery,
}

/// SplitMix64 (Steele, Lea and Flood, 2014): all randomness of the document, from a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A number in `low..high`.
    fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Two decimals are a 7200th of an inch, and keep the streams short.
fn round(x: f32) -> f32 {
    (x * 100.0).round() / 100.0
}

/// Hands out PDF object numbers.
struct Ids(i32);

impl Ids {
    fn next(&mut self) -> Ref {
        self.0 += 1;
        Ref::new(self.0)
    }
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("a Vec takes every write")
}

/// Generates the document. Every call returns the same bytes.
pub fn generate() -> Vec<u8> {
    let mut pdf = Pdf::new();
    let mut ids = Ids(0);
    let (catalog, tree) = (ids.next(), ids.next());
    let shared = resources::write(&mut pdf, &mut ids);
    let mut random = Random(0x7265_6670_6167_6531);
    let mut kids = Vec::with_capacity(PAGES);
    for number in 0..PAGES {
        let (kind, format) = CHAPTER[number % CHAPTER.len()];
        let mut content = Content::new();
        write_page(&mut content, kind, format, number, &mut random);
        let (page_id, content_id) = (ids.next(), ids.next());
        let stream = deflate(&content.finish());
        pdf.stream(content_id, &stream).filter(Filter::FlateDecode);
        let mut page = pdf.page(page_id);
        page.parent(tree).media_box(Rect::new(0.0, 0.0, format.width, format.height));
        page.contents(content_id);
        page.pair(Name(b"Resources"), shared);
        page.finish();
        kids.push(page_id);
    }
    pdf.catalog(catalog).pages(tree);
    pdf.pages(tree).count(PAGES as i32).kids(kids);
    pdf.finish()
}

fn write_page(c: &mut Content, kind: PageKind, format: Format, number: usize, random: &mut Random) {
    let chapter = number / CHAPTER.len();
    match kind {
        PageKind::Title => {
            drawing::backdrop(c, format, chapter);
            text::title(c, format, chapter, random);
        }
        PageKind::Prose { columns } => text::prose(c, format, columns, random),
        PageKind::Plots => drawing::plots(c, format, random),
        PageKind::Photo => {
            images::place(c, chapter % images::PHOTOS, [50.0, 430.0, 495.0, 350.0]);
            text::caption(c, 50.0, 412.0, random);
            text::column(c, [50.0, 60.0, 495.0, 330.0], 11.0, random);
        }
        PageKind::Article => {
            text::column(c, [50.0, 60.0, 235.0, 720.0], 9.5, random);
            drawing::plot(c, [320.0, 520.0, 220.0, 220.0], 400, random);
            text::caption(c, 310.0, 490.0, random);
            images::place(c, images::REUSED, [310.0, 300.0, 235.0, 170.0]);
            text::column(c, [310.0, 60.0, 235.0, 220.0], 9.5, random);
        }
        PageKind::Hatches => drawing::hatches(c, format, random),
        PageKind::Table => text::table(c, format, random),
        PageKind::Map => drawing::map(c, format, random),
        PageKind::Listing => text::listing(c, format, random),
        PageKind::Transparency => drawing::transparency(c, format, random),
        PageKind::Shadings => drawing::shadings(c, format, random),
        PageKind::Gallery => images::gallery(c, format, random),
    }
    text::running_lines(c, format, number + 1, chapter + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_generations_are_the_same_file_of_a_hundred_pages_or_more() {
        let (first, second) = (generate(), generate());
        assert!(first == second, "the document differs from one generation to the next");
        assert!(first.len() < 8 << 20, "{} bytes", first.len());
        let pages = first.windows(11).filter(|w| w == b"/Type /Page").count();
        // One of the matches is the page tree's own `/Type /Pages`.
        assert!(pages > 100, "{pages} pages");
        assert_eq!(pages, PAGES + 1);
    }
}
