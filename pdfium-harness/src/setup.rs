//! What must be there before the first run: PDFium, the document, and directories for both.
//!
//! It is done in a process of its own (`spawn` starts it, `perform` is it), because it needs more
//! memory than the harness may have: see `run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::documents::{self, Document};
use crate::{pdfium, render};

/// A mistake in what the user gave: exit status 2.
#[derive(Debug)]
pub struct UserError(pub String);

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// What is to be rendered.
#[derive(Debug)]
pub enum Source {
    /// A file of the user's.
    File(PathBuf),
    /// A document with a name.
    Document(&'static Document),
}

/// What the runs need.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// libpdfium.so.
    pub library: PathBuf,
    /// The document.
    pub file: PathBuf,
    /// How many pages it has.
    pub pages: u32,
}

/// cargo's target directory, two levels above `<target>/release/pdfium-harness`.
pub fn target_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    let target =
        executable.ancestors().nth(2).context("this program lies in no target directory")?;
    Ok(target.into())
}

/// Where the harness keeps what it fetched and made.
pub fn cache_directory() -> Result<PathBuf> {
    let cache = target_directory()?.join("pdfium-harness");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    Ok(cache)
}

/// Has a process of its own set things up; when it fails, it has said why, and this is its status.
pub fn spawn(source: Source, library: Option<PathBuf>) -> Result<Result<Setup, ExitCode>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("setup").env_remove("LD_PRELOAD").stderr(Stdio::inherit());
    if let Some(library) = library {
        command.arg("--pdfium").arg(library);
    }
    match source {
        Source::File(file) => command.arg("--").arg(file),
        Source::Document(document) => command.args(["--document", document.name]),
    };
    let output = command.output().context("cannot start the setup")?;
    if !output.status.success() {
        let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return Ok(Err(ExitCode::from(code)));
    }
    Ok(Ok(serde_json::from_slice(&output.stdout).context("the setup's report is not readable")?))
}

/// Sets things up: the process's work that `spawn` starts.
pub fn perform(source: Source, library: Option<PathBuf>) -> Result<Setup> {
    let cache = cache_directory()?;
    // Before anything is fetched.
    let source = match source {
        Source::File(file) => Source::File(existing(&file)?),
        known @ Source::Document(_) => known,
    };
    let library = self::library(library, &cache)?;
    let pdfium = render::load(&library)?;
    let file = match source {
        Source::File(file) => file,
        Source::Document(document) => {
            document.obtain(&pdfium, &cache).with_context(|| document.name)?
        }
    };
    let document = render::open(&pdfium, &file).map_err(|e| UserError(format!("{e:#}")))?;
    let pages = document.pages().len() as u32;
    drop(document);
    Ok(Setup { library, file, pages })
}

/// libpdfium.so: the one given, or the pinned one, fetched first if it must be.
fn library(given: Option<PathBuf>, cache: &Path) -> Result<PathBuf> {
    given.map_or_else(|| pdfium::library(cache), |library| existing(&library))
}

/// Gets what is missing of `documents`, and says of each that cannot be had why. Whether all are there.
pub fn fetch(documents: &[&'static Document], library: Option<PathBuf>) -> Result<bool> {
    let cache = cache_directory()?;
    let pdfium = render::load(&self::library(library, &cache)?)?;
    Ok(documents::fetch_all(documents, &pdfium, &cache))
}

fn existing(path: &Path) -> Result<PathBuf> {
    let resolved =
        path.canonicalize().map_err(|e| UserError(format!("{}: {e}", path.display())))?;
    if !resolved.is_file() {
        return Err(UserError(format!("{}: not a file", path.display())).into());
    }
    Ok(resolved)
}
