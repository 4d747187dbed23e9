//! The files of a report.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::page::Page;
use super::{html, markdown, svg};

/// Where the plots are, beside the page.
const PLOTS: &str = "plots";

/// Writes `index.html`, `report.md` and the plots into a directory, which is made if it is not there.
///
/// # Errors
///
/// If the page cannot be shown (two ids are the same, a logarithm has a value of 0), in which case nothing is
/// written, or a file cannot be.
pub fn write(page: &Page, directory: &Path) -> Result<()> {
    let mut files = vec![
        ("index.html".into(), html::page(page)?),
        ("report.md".into(), markdown::page(page, PLOTS)),
    ];
    for plot in page.sections.iter().flat_map(|section| &section.plots) {
        files.push((format!("{PLOTS}/{}.svg", plot.id), svg::draw(plot)?));
    }
    let plots = directory.join(PLOTS);
    fs::create_dir_all(&plots).with_context(|| format!("cannot make {}", plots.display()))?;
    for (name, text) in files {
        let path = directory.join(name);
        replace(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Writes a file in one step: who reads it meanwhile sees the old one or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(format!(".{}", std::process::id()));
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, path))
        .inspect_err(|_| _ = fs::remove_file(&unfinished))
}
