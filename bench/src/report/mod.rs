//! Reports: what is shown of measurements, as a page, as Markdown and as plots.
//!
//! ```text
//!     page ─▶ files ─▶ html ──────▶ index.html
//!               ├────▶ markdown ──▶ report.md
//!               └────▶ svg ───────▶ plots/ID.svg    (in index.html, too)
//! ```

mod columns;
mod escape;
mod files;
mod html;
pub mod markdown;
pub mod page;
pub mod sample;
mod svg;

pub use files::write;
