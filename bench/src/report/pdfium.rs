//! The PDFium experiment as cases: real documents, rendered by `pdfium-harness render` under every allocator.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::build;
use super::timeline;
use super::work::Detail;
use crate::cases::{Outcome, Scale};
use crate::peers::{Missing, Peer, Source};
use crate::programs::process::{Finished, Started};
use crate::programs::{accepted, preload};
use crate::rounds::Came;
use crate::work::Measured;

/// What `pdfium-harness documents --json` says of each document.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// Its name on the command line.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Debian's package, if it comes from one.
    pub package: Option<String>,
    /// Where it lies, if it is here.
    pub file: Option<PathBuf>,
    /// What is worth rendering of it.
    ranges: Vec<Ranges>,
}

/// Pages to render.
#[derive(Clone, Debug, Deserialize)]
struct Ranges {
    /// Dots an inch.
    dpi: u32,
    /// For a look.
    quick_pages: String,
    /// For results.
    full_pages: String,
}

/// What `pdfium-harness setup` says.
#[derive(Deserialize)]
struct Setup {
    library: PathBuf,
}

/// What `pdfium-harness render` says.
#[derive(Deserialize)]
struct Rendered {
    pages: u32,
    pixels: u64,
    blank_pages: u32,
    checksum: String,
    malloc: PathBuf,
}

/// Dots an inch that documents are rendered at: a pixel a point, and for print.
pub const RESOLUTIONS: [u32; 2] = [72, 300];

/// PDFium, and the documents that are here.
pub struct Pdfium {
    harness: PathBuf,
    library: PathBuf,
    /// The documents.
    pub documents: Vec<Document>,
}

/// Some pages of a document at a resolution.
#[derive(Clone, Debug)]
pub struct Job {
    harness: PathBuf,
    library: PathBuf,
    file: PathBuf,
    pages: String,
    dpi: u32,
}

impl Pdfium {
    /// Fetches PDFium, and the documents that are missing if `fetch`; what is not to be had goes to `missing`.
    pub fn open(fetch: bool, missing: &mut Vec<Missing>) -> Result<Self> {
        let harness = build::program("pdfium-harness")?;
        let Setup { library } = serde_json::from_str(&ask(&harness, ["setup"])?)?;
        if fetch && let Err(error) = ask(&harness, ["documents", "--fetch"]) {
            missing.push(Missing { name: "documents".into(), remedy: format!("{error:#}") });
        }
        let all: Vec<Document> = serde_json::from_str(&ask(&harness, ["documents", "--json"])?)?;
        let (documents, absent): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|document| document.file.is_some());
        missing.extend(absent.into_iter().map(|document| {
            let package = document.package.unwrap_or_default();
            let remedy =
                format!("not fetched; `report --install` takes it from Debian's package {package}");
            Missing { name: format!("document {}", document.name), remedy }
        }));
        Ok(Self { harness, library, documents })
    }

    /// The pages of a document that belong to a scale.
    pub fn job(&self, document: &Document, dpi: u32, scale: Scale) -> Result<Job> {
        let ranges = document.ranges.iter().find(|ranges| ranges.dpi == dpi);
        let ranges =
            ranges.context("nobody says which pages of the document are worth rendering")?;
        Ok(Job {
            harness: self.harness.clone(),
            library: self.library.clone(),
            file: document.file.clone().context("the document is not here")?,
            // For print the few pages take as long as all do for a screen.
            pages: match scale {
                Scale::Full if dpi == RESOLUTIONS[0] => ranges.full_pages.clone(),
                Scale::Full | Scale::Quick => ranges.quick_pages.clone(),
                Scale::Tiny => "1".into(),
            },
            dpi,
        })
    }
}

/// Runs the harness, whose messages go where this program's do: what it printed.
fn ask<const N: usize>(harness: &Path, arguments: [&str; N]) -> Result<String> {
    let mut command = Command::new(harness);
    command.args(arguments).env_remove("LD_PRELOAD").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start pdfium-harness")?;
    if !output.status.success() {
        bail!("pdfium-harness {} failed, for the reason above", arguments.join(" "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Job {
    /// What is rendered, for people.
    pub fn what(&self) -> String {
        format!("pages {} at {} dpi", self.pages, self.dpi)
    }

    /// The harness's command line, its own name first.
    pub fn command_line(&self) -> Vec<&OsStr> {
        let arguments: [&OsStr; 2] = [self.harness.as_ref(), "render".as_ref()];
        let pages: [&OsStr; 4] =
            ["--pdfium".as_ref(), self.library.as_ref(), "--pages".as_ref(), self.pages.as_ref()];
        let dpi = if self.dpi == 72 { "72" } else { "300" };
        let rest: [&OsStr; 3] = ["--dpi".as_ref(), dpi.as_ref(), self.file.as_ref()];
        [&arguments[..], &pages, &rest].concat()
    }

    fn command(&self, peer: &Peer) -> Result<Command> {
        let line = self.command_line();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]);
        preload(&mut command, peer)?;
        Ok(command)
    }

    /// Renders once: what it cost, with the checksum of the pixels as its work.
    pub fn measure(&self, peer: &Peer, directory: &Path) -> Came {
        let finished = Started::start(&mut self.command(peer)?, directory)?.finish()?;
        came(&finished, peer)
    }

    /// The same, with the resident set over time.
    pub fn watch(&self, peer: &Peer, directory: &Path) -> Came {
        let (finished, samples) = timeline::watch(&mut self.command(peer)?, directory)?;
        let (measured, messages) = came(&finished, peer)?;
        Ok((Measured { detail: Some(Detail::Timeline(samples)), ..measured }, messages))
    }
}

fn came(finished: &Finished, peer: &Peer) -> Came {
    let messages = accepted(finished)?;
    let rendered: Rendered = serde_json::from_slice(&finished.stdout)
        .context("the rendering's report is not readable")?;
    if let Source::Preload(library) = &peer.source
        && rendered.malloc.canonicalize()? != *library
    {
        bail!("malloc came from {}, not from {}", rendered.malloc.display(), library.display());
    }
    if rendered.blank_pages == rendered.pages {
        bail!("all {} pages are blank", rendered.pages);
    }
    let outcome = Outcome {
        cost: finished.cost,
        operations: rendered.pages as usize,
        checked_bytes: rendered.pixels * 4,
    };
    Ok((Measured { work: Some(rendered.checksum), ..Measured::new(outcome) }, messages))
}
