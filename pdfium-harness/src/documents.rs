//! The documents that can be rendered by name: the project's own, and manuals out of Debian's packages.
//!
//! They lie in `documents/` below the harness's directory: `NAME.pdf`, and for those of packages `NAME.json`, which says what
//! was checked when it was fetched. What is there stays, whatever version the package has come to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use pdfium_render::prelude::Pdfium;
use serde::{Deserialize, Serialize};

use crate::{document, package, render};

/// A document with a name.
#[derive(Debug)]
pub struct Document {
    /// What `--document` takes.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    origin: Origin,
    /// Pages worth rendering, at 72 and at 300 dots an inch.
    pub ranges: [Ranges; 2],
}

/// Pages that take about as long in every document, by the CPU time of their rendering under glibc on a small virtual machine.
///
/// They begin behind tables of contents, where a document is long enough. Where it is too short it is rendered several times:
/// PDFium keeps nothing of a page that was closed.
#[derive(Debug, Serialize)]
pub struct Ranges {
    /// Dots an inch.
    pub dpi: u32,
    /// About 0.3 s at 72 dots an inch, 0.6 s at 300.
    pub quick_pages: &'static str,
    /// 1.5 to 2.5 s.
    pub full_pages: &'static str,
}

#[derive(Debug)]
enum Origin {
    /// The project makes it.
    Made,
    /// A file of a package.
    Packaged { package: &'static str, megabytes: u32, file: &'static str },
}

/// All of them.
///
/// `images` was chosen among the illustrated manuals in Debian's smaller packages (those of Debian Edu, expEYES and vym have fewer
/// and smaller pictures): the pictures are 87 % of the time of rendering it. There are 244, screenshots and tomograms up to
/// 1.5 million pixels, 206 by Flate and 38 by DCT, 170 MB decoded of a file of 16.
pub static DOCUMENTS: [Document; 5] = [
    Document {
        name: "default",
        title: "text, drawings and images",
        origin: Origin::Made,
        ranges: ranges(["1-15", "1-120"], ["1-10", "1-30"]),
    },
    Document {
        name: "r-manual",
        title: "R, the reference manual: text",
        origin: Origin::Packaged {
            package: "r-doc-pdf",
            megabytes: 10,
            file: "usr/share/R/doc/manual/fullrefman.pdf",
        },
        ranges: ranges(["101-300", "1-1600"], ["101-125", "101-180"]),
    },
    Document {
        name: "pgfplots",
        title: "PGFPlots, the manual: plots",
        origin: Origin::Packaged {
            package: "texlive-pictures-doc",
            megabytes: 233,
            file: "usr/share/doc/texlive-doc/latex/pgfplots/pgfplots.pdf",
        },
        ranges: ranges(["101-130", "1-400"], ["51-62", "51-100"]),
    },
    Document {
        name: "pgf",
        title: "TikZ and PGF, the manual: drawings",
        origin: Origin::Packaged {
            package: "texlive-pictures-doc",
            megabytes: 233,
            file: "usr/share/doc/texlive-doc/generic/pgf/pgfmanual.pdf",
        },
        ranges: ranges(["101-200", "101-800"], ["101-120", "101-170"]),
    },
    Document {
        name: "images",
        title: "InVesalius, the user guide: images",
        origin: Origin::Packaged {
            package: "invesalius",
            megabytes: 44,
            file: "usr/share/invesalius/docs/user_guide_en.pdf",
        },
        ranges: ranges(["11-70", "1-130,1-130,1-130"], ["11-30", "11-80"]),
    },
];

const fn ranges(screen: [&'static str; 2], print: [&'static str; 2]) -> [Ranges; 2] {
    [
        Ranges { dpi: 72, quick_pages: screen[0], full_pages: screen[1] },
        Ranges { dpi: 300, quick_pages: print[0], full_pages: print[1] },
    ]
}

/// The project's own document.
pub fn default() -> &'static Document {
    &DOCUMENTS[0]
}

/// The document of that name.
pub fn named(name: &str) -> Result<&'static Document, String> {
    DOCUMENTS.iter().find(|document| document.name == name).ok_or_else(|| {
        let names = DOCUMENTS.each_ref().map(|document| document.name).join(", ");
        format!("no document is called '{name}': {names}")
    })
}

/// What is known of a document that is there.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    package: String,
    version: String,
    pages: u32,
}

impl Document {
    /// Its path, once there is a file.
    fn file(&self, cache: &Path) -> PathBuf {
        directory(cache).join(self.name).with_extension("pdf")
    }

    fn record(&self, cache: &Path) -> Option<Record> {
        let text = fs::read(self.file(cache).with_extension("json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether there is nothing left to do.
    fn is_there(&self, cache: &Path) -> bool {
        self.file(cache).is_file() && self.record(cache).is_some()
    }

    fn package(&self) -> Option<&'static str> {
        match self.origin {
            Origin::Made => None,
            Origin::Packaged { package, .. } => Some(package),
        }
    }

    /// The document's path, made or fetched first if it must be.
    pub fn obtain(&self, pdfium: &Pdfium, cache: &Path) -> Result<PathBuf> {
        let directory = directory(cache);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        match self.origin {
            Origin::Made => self.make(cache)?,
            Origin::Packaged { .. } if self.is_there(cache) => {}
            Origin::Packaged { package, megabytes, .. } => {
                eprintln!("fetching Debian's package {package}, about {megabytes} MB …");
                // A directory of this process alone, so that two harnesses do not read each other's halves.
                let work = directory.join(format!("fetch-{}", std::process::id()));
                fs::create_dir_all(&work)?;
                let result = fetch(package, pdfium, cache, &work);
                // A leftover directory does no harm, and the result says more than this could.
                let _ = fs::remove_dir_all(&work);
                result?;
            }
        }
        Ok(self.file(cache))
    }

    /// Makes it anew: a kept one could be another version's.
    fn make(&self, cache: &Path) -> Result<()> {
        eprintln!("making the default document …");
        let path = self.file(cache);
        let unfinished = path.with_extension(std::process::id().to_string());
        fs::write(&unfinished, document::generate())
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn directory(cache: &Path) -> PathBuf {
    cache.join("documents")
}

/// Gets all that is missing of a package's documents, by way of `work`.
fn fetch(package: &str, pdfium: &Pdfium, cache: &Path, work: &Path) -> Result<()> {
    let wanted = DOCUMENTS.iter().filter_map(|document| match document.origin {
        Origin::Packaged { package: of, file, .. } if of == package => Some((document, file)),
        _ => None,
    });
    let wanted: Vec<_> = wanted.filter(|(document, _)| !document.is_there(cache)).collect();
    let files: Vec<&str> = wanted.iter().map(|(_, file)| *file).collect();
    let version = package::extract(package, &files, work)?;
    for (document, file) in wanted {
        let unpacked = work.join(file);
        let pages = render::open(pdfium, &unpacked)?.pages().len() as u32;
        let record = Record { package: package.into(), version: version.clone(), pages };
        let path = document.file(cache);
        fs::write(path.with_extension("json"), serde_json::to_string(&record)?)
            .and_then(|()| fs::rename(unpacked, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A document as `documents --json` shows it.
#[derive(Serialize)]
struct Shown {
    name: &'static str,
    title: &'static str,
    /// The package that it comes from; none of the project's own.
    package: Option<&'static str>,
    /// The package's version, once it was fetched.
    version: Option<String>,
    /// Where it is, if it is there.
    file: Option<PathBuf>,
    /// How many pages it has, if that is known.
    pages: Option<u32>,
    ranges: &'static [Ranges],
}

impl Shown {
    fn new(document: &'static Document, cache: &Path) -> Self {
        let file = Some(document.file(cache)).filter(|file| file.is_file());
        let (file, version, pages) = match (&document.origin, document.record(cache)) {
            (Origin::Made, _) => (file, None, Some(document::PAGES as u32)),
            (_, Some(record)) if file.is_some() => (file, Some(record.version), Some(record.pages)),
            _ => (None, None, None),
        };
        let &Document { name, title, ref ranges, .. } = document;
        Self { name, title, package: document.package(), version, file, pages, ranges }
    }
}

/// What is there of `documents`, as one JSON array.
pub fn json(documents: &[&'static Document], cache: &Path) -> Result<String> {
    let shown = documents.iter().map(|document| Shown::new(document, cache));
    Ok(serde_json::to_string(&shown.collect::<Vec<_>>())?)
}

/// What is there of `documents`, as a table.
pub fn table(documents: &[&'static Document], cache: &Path) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["", "pages", "from", "what"]);
    for document in documents {
        let Shown { name, title, version, pages, .. } = Shown::new(document, cache);
        let from = match (&document.origin, version) {
            (Origin::Made, _) => "made when it is rendered".into(),
            (Origin::Packaged { package, .. }, Some(version)) => format!("{package} {version}"),
            (Origin::Packaged { package, megabytes, .. }, None) => {
                format!("{package}, {megabytes} MB")
            }
        };
        let pages = pages.map_or_else(|| "not here".into(), |pages| pages.to_string());
        table.add_row([name.into(), pages, from, title.into()]);
    }
    format!("{table}\nin {}; documents --fetch gets what is not here", directory(cache).display())
}

/// Gets those of `documents` that are missing, and says in a line of each that cannot be had why. Whether all are there.
pub fn fetch_all(documents: &[&'static Document], pdfium: &Pdfium, cache: &Path) -> bool {
    let mut complete = true;
    for document in documents {
        if let Err(error) = document.obtain(pdfium, cache) {
            eprintln!("error: {}: {error:#}", document.name);
            complete = false;
        }
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;

    #[test]
    fn every_document_has_a_name_of_its_own_and_ranges_of_pages() {
        for (at, document) in DOCUMENTS.iter().enumerate() {
            assert!(std::ptr::eq(named(document.name).unwrap(), &DOCUMENTS[at]));
            for Ranges { dpi, quick_pages, full_pages } in &document.ranges {
                for pages in [quick_pages, full_pages] {
                    let parsed = pages.parse::<Pages>();
                    assert!(parsed.is_ok(), "{} at {dpi} dpi: {pages}", document.name);
                }
            }
        }
        assert_eq!(default().name, "default");
        let error = named("manual").unwrap_err();
        assert!(error.contains("r-manual") && error.contains("images"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_null_in_the_list() {
        let nowhere = Path::new("/nowhere");
        let list: serde_json::Value =
            serde_json::from_str(&json(&[default(), &DOCUMENTS[1]], nowhere).unwrap()).unwrap();
        assert_eq!(list[0]["pages"], document::PAGES);
        assert_eq!(list[0]["package"], serde_json::Value::Null);
        assert_eq!(list[1]["package"], "r-doc-pdf");
        for key in ["file", "pages", "version"] {
            assert_eq!(list[1].get(key), Some(&serde_json::Value::Null), "{key}");
        }
        assert_eq!(list[1]["ranges"][1]["dpi"], 300);
        assert!(table(&[&DOCUMENTS[1]], nowhere).contains("not here"));
    }
}
