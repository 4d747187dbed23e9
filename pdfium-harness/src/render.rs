//! The process under measurement: renders pages with PDFium and says what came out.
//!
//! It allocates through malloc alone (Rust's default allocator is malloc too), so that a preloaded
//! library serves all of it. It measures nothing: its parent reads the kernel's accounts.

use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use pdfium_render::prelude::{
    PdfBitmap, PdfBitmapFormat, PdfDocument, PdfRenderConfig, Pdfium, PdfiumError,
    PdfiumInternalError,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::pages::Pages;

/// What one rendering process reports to its parent, as a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rendered {
    /// Pages rendered.
    pub pages: u32,
    /// Pixels in all of them.
    pub pixels: u64,
    /// Pages that stayed white all over.
    pub blank_pages: u32,
    /// XXH3-128 over the size and the pixels of every page, in order.
    pub checksum: String,
    /// The file that `malloc` came from.
    pub malloc: String,
}

/// Opens PDFium at `library`.
pub fn load(library: &Path) -> Result<Pdfium> {
    let bindings = Pdfium::bind_to_library(library).map_err(|e| {
        anyhow::anyhow!("cannot load PDFium from {}: {}", library.display(), plain(&e))
    })?;
    Ok(Pdfium::new(bindings))
}

/// Opens a document of one page or more.
pub fn open<'a>(pdfium: &'a Pdfium, file: &Path) -> Result<PdfDocument<'a>> {
    let document = pdfium
        .load_pdf_from_file(file, None)
        .map_err(|e| anyhow::anyhow!("{}: {}", file.display(), plain(&e)))?;
    if document.pages().is_empty() {
        bail!("{}: the document has no pages", file.display());
    }
    Ok(document)
}

/// The crate prints its errors by their Rust names only.
fn plain(error: &PdfiumError) -> String {
    match error {
        PdfiumError::IoError(e) => e.to_string(),
        PdfiumError::LoadLibraryError(e) => e.to_string(),
        PdfiumError::PdfiumLibraryInternalError(e) => match e {
            PdfiumInternalError::FileError => "cannot be read".into(),
            PdfiumInternalError::FormatError => "not a PDF, or a broken one".into(),
            PdfiumInternalError::PasswordError => "asks for a password".into(),
            PdfiumInternalError::SecurityError => "uses an unsupported encryption".into(),
            other => format!("PDFium says {other:?}"),
        },
        other => format!("{other:?}"),
    }
}

/// Renders `pages` of `file` at `scale` pixels a point.
pub fn render(library: &Path, file: &Path, pages: &Pages, scale: f32) -> Result<Rendered> {
    let pdfium = load(library)?;
    let document = open(&pdfium, file)?;
    let count = document.pages().len() as u32;
    let numbers = pages.resolve(count).map_err(|page| {
        anyhow::anyhow!("there is no page {page}: the document ends with {count}")
    })?;
    let mut hasher = Xxh3::new();
    let (mut pixels, mut blank_pages) = (0, 0);
    for &number in &numbers {
        let (size, buffer) =
            render_page(&document, number, scale).with_context(|| format!("page {number}"))?;
        hasher.update(&size.0.to_le_bytes());
        hasher.update(&size.1.to_le_bytes());
        hasher.update(&buffer);
        pixels += size.0 as u64 * size.1 as u64;
        blank_pages += u32::from(buffer.iter().all(|&byte| byte == 0xff));
    }
    Ok(Rendered {
        pages: numbers.len() as u32,
        pixels,
        blank_pages,
        checksum: format!("{:032x}", hasher.digest128()),
        malloc: malloc_provider(),
    })
}

/// One page's size in pixels, and its pixels.
///
/// The bitmap lies in a buffer of ours, allocated anew for each page as PDFium would do it itself:
/// the crate can show us a bitmap of PDFium's own only as a copy.
fn render_page(
    document: &PdfDocument<'_>,
    number: u32,
    scale: f32,
) -> Result<((i32, i32), Vec<u8>)> {
    let page = document.pages().get(number as i32 - 1).map_err(|e| anyhow::anyhow!(plain(&e)))?;
    let pixels = |points: f32| (points * scale).round().max(1.0) as i32;
    let (width, height) = (pixels(page.width().value), pixels(page.height().value));
    if i64::from(width) * i64::from(height) > i64::from(i32::MAX / 4) {
        bail!("{width} by {height} pixels are too many for one bitmap: choose a smaller scale");
    }
    let format = PdfBitmapFormat::BGRA;
    let size = PdfBitmap::bytes_required_for_size_and_format(width, height, format);
    let mut buffer = vec![0; size];
    let config = PdfRenderConfig::new().set_fixed_size(width, height).set_reverse_byte_order(false);
    let mut bitmap = PdfBitmap::from_bytes(width, height, format, &mut buffer)
        .map_err(|e| anyhow::anyhow!(plain(&e)))?;
    page.render_into_bitmap_with_config(&mut bitmap, &config)
        .map_err(|e| anyhow::anyhow!(plain(&e)))?;
    drop(bitmap);
    Ok(((width, height), buffer))
}

/// The file whose `malloc` PDFium's own calls reach: the loader only warns when it cannot preload a
/// library, and the run would then measure another allocator under its name.
fn malloc_provider() -> String {
    // SAFETY: Dl_info is plain pointers, for which zero is a valid value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the name is a C string; dlsym has no other precondition.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr()) };
    // SAFETY: `info` is writable, and dladdr takes any address, also null.
    if unsafe { libc::dladdr(symbol, &mut info) } == 0 || info.dli_fname.is_null() {
        return "unknown".into();
    }
    // SAFETY: after success dli_fname is a C string of the loader's, valid while the object is loaded,
    // and malloc's object never goes.
    unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned()
}
