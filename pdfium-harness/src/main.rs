//! The reference-page patch's own experiment: real PDFs through real PDFium, under each service.
//!
//! ```text
//! pdfium-harness ── setup ──▶ libpdfium.so and the document (`documents`, in a process of its own, so that the
//!       │                     harness stays small: see `run`)
//!       ├── cargo build ────▶ librefpage.so
//!       └── for every round, for every peer (`experiment`):
//!               LD_PRELOAD=… REFPAGE_OPTIONS=… pdfium-harness render   (`render`)
//!               wall, CPU, peak RSS and faults from the kernel (`run`)
//! ```
//!
//! `setup` and `render` are also there for other programs that measure, which start the second under each allocator themselves.
//! Each prints one line of JSON and nothing else to stdout; progress is on stderr, and what goes wrong is
//! a line there and an exit code other than 0:
//!
//! ```text
//! pdfium-harness documents --json [NAME …]             [{name, title, package, version, file, pages,
//!                                                        ranges: [{dpi, quick_pages, full_pages}]}]
//! pdfium-harness setup --document NAME                 {library, file, pages}     (`setup::Setup`)
//! pdfium-harness render --pdfium LIBRARY --pages RANGES --scale S|--dpi N [--timeout SECONDS] FILE
//!                                                      {pages, pixels, blank_pages, checksum, malloc}
//!                                                                                 (`render::Rendered`)
//! ```
//!
//! Two renderings of the same pages at the same scale have the same checksum, whatever allocator they had; `malloc` is the file
//! that it came from. After `--timeout` a rendering ends itself by SIGALRM.
//!
//! The checksum of the pixels shows that every run did the same work. `report` makes the table and
//! `plot` the SVG.

mod document;
mod documents;
mod experiment;
mod package;
mod pages;
mod pdfium;
mod plot;
mod progress;
mod refpage;
mod render;
mod report;
mod run;
mod setup;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use refpage_bench::peers::{self, Found, OFF, REFPAGE};

use documents::Document;
use experiment::Row;
use pages::Pages;
use refpage::Refpage;
use run::Job;
use setup::{Setup, Source, UserError};

/// Renders a PDF with real PDFium under refpage's services and other allocators, and compares
/// what that costs.
///
/// Without a FILE it renders a document of its own, 120 pages of text, drawings and images, or one out of
/// a package of Debian's (`--document`). PDFium is fetched once with pip (pinned version and hash), and
/// librefpage.so is built with cargo. With the default document and five runs it takes about a minute.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Args)]
struct Compare {
    #[command(flatten)]
    what: What,
    /// Counted runs of each allocator, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// More to compare, separated by commas: glibc, glibc-perturb, jemalloc, jemalloc-junk, mimalloc,
    /// tcmalloc, scudo, scudo-fill, snmalloc, rpmalloc or others as the system has them,
    /// NAME=PATH/lib.so, or a service of refpage
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    with: Vec<String>,
    /// Further options for refpage in every run of it, such as pattern=0xaa:threshold=64K
    #[arg(long, value_name = "OPTIONS", value_parser = refpage_options)]
    options: Option<String>,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What every run renders.
#[derive(Args)]
struct What {
    /// The PDF to render, if it is none of the documents with a name
    file: Option<PathBuf>,
    /// The document to render: default (the project's own), or a manual out of one of Debian's packages, which is fetched once:
    /// r-manual, pgfplots, pgf or images [default: default]
    #[arg(long, value_name = "NAME", value_parser = documents::named, conflicts_with = "file")]
    document: Option<&'static Document>,
    /// Pages to render, such as 1-100, 7, 3- or 1-3,8 [default: all]
    #[arg(long, value_name = "RANGES", default_value_t = Pages::all(), hide_default_value = true)]
    pages: Pages,
    /// Pixels a point: 1.0 is 72 dots an inch
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = scale, conflicts_with = "dpi")]
    scale: f32,
    /// Dots an inch, instead of --scale: 300 is a scale of 300/72
    #[arg(long, value_name = "N", value_parser = dpi)]
    dpi: Option<f32>,
    /// Use this PDFium instead of the pinned one
    #[arg(long, value_name = "PATH/libpdfium.so")]
    pdfium: Option<PathBuf>,
    /// Give up a run after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
}

impl What {
    fn scale(&self) -> f32 {
        self.dpi.map_or(self.scale, |dpi| dpi / POINTS)
    }

    fn source(&mut self) -> Source {
        let document = self.document.unwrap_or_else(documents::default);
        self.file.take().map_or(Source::Document(document), Source::File)
    }
}

/// Points in an inch.
const POINTS: f32 = 72.0;
/// More is too many pixels for a page of any usual size.
const MOST_DPI: f32 = 7200.0;

/// The documents with a name.
#[derive(Args)]
struct Documents {
    /// Only these [default: all]
    #[arg(value_name = "NAME", value_parser = documents::named)]
    names: Vec<&'static Document>,
    /// Get those that are missing from Debian's packages, first
    #[arg(long)]
    fetch: bool,
    /// Print one JSON array: name, title, package, version, file and pages (null where there is no file), and for 72 and for
    /// 300 dpi the pages that are worth rendering
    #[arg(long)]
    json: bool,
    /// Check them with this PDFium instead of the pinned one
    #[arg(long, value_name = "PATH/libpdfium.so", requires = "fetch")]
    pdfium: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the documents with a name, and fetches them
    Documents(Documents),
    /// Fetches PDFium and the document, and prints where they are
    #[command(hide = true)]
    Setup(What),
    /// Renders once and prints what came out: the process under measurement
    #[command(hide = true)]
    Render(What),
}

fn scale(text: &str) -> Result<f32, String> {
    positive(text, MOST_DPI / POINTS)
}

fn dpi(text: &str) -> Result<f32, String> {
    positive(text, MOST_DPI)
}

fn positive(text: &str, most: f32) -> Result<f32, String> {
    let number = text.parse().ok().filter(|&number| number > 0.0 && number <= most);
    number.ok_or_else(|| format!("it must be a number above 0, and {most} at most"))
}

fn refpage_options(text: &str) -> Result<String, String> {
    let set_here = |option: &str| option.starts_with("service=") || option.starts_with("stats=");
    match text.split(':').find(|option| set_here(option)) {
        Some(option) => Err(format!("{option} is the harness's own to set")),
        None => Ok(text.into()),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let result = match cli {
        Cli { command: None, compare } => run_comparison(compare),
        Cli { command: Some(Command::Documents(documents)), .. } => run_documents(documents),
        Cli { command: Some(Command::Setup(mut what)), .. } => {
            setup::perform(what.source(), what.pdfium).and_then(|setup| print_json(&setup))
        }
        Cli { command: Some(Command::Render(what)), .. } => run_render(what),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UserError>() { 2 } else { 1 })
        }
    }
}

/// Help and version are printed as clap has them; of a mistake its first line, which says it all.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    eprintln!("{}", error.to_string().lines().next().unwrap_or("error: wrong arguments"));
    ExitCode::from(2)
}

fn print_json(value: &impl serde::Serialize) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(value)?);
    Ok(ExitCode::SUCCESS)
}

fn run_render(what: What) -> Result<ExitCode> {
    // SAFETY: alarm has no preconditions. SIGALRM's default action ends the process, also one whose
    // threads all hang in the allocator under test.
    unsafe { libc::alarm(what.timeout) };
    let scale = what.scale();
    let library = what.pdfium.context("render needs --pdfium")?;
    let file = what.file.context("render needs a file")?;
    print_json(&render::render(&library, &file, &what.pages, scale)?)
}

fn run_documents(options: Documents) -> Result<ExitCode> {
    let Documents { names: mut chosen, fetch, json, pdfium } = options;
    if chosen.is_empty() {
        chosen.extend(&documents::DOCUMENTS);
    }
    let complete = !fetch || setup::fetch(&chosen, pdfium)?;
    let cache = setup::cache_directory()?;
    if json {
        println!("{}", documents::json(&chosen, &cache)?);
    } else {
        println!("{}", documents::table(&chosen, &cache));
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_comparison(mut options: Compare) -> Result<ExitCode> {
    let (source, scale) = (options.what.source(), options.what.scale());
    let What { pages, pdfium, timeout, .. } = options.what;
    // Before anything is fetched or built.
    let (own, others) = allocators(options.with)?;
    let cache = setup::cache_directory()?;
    let setup = match setup::spawn(source, pdfium)? {
        Ok(setup) => setup,
        // It has said why.
        Err(code) => return Ok(code),
    };
    let Setup { library, file, pages: count } = setup;
    if let Err(page) = pages.resolve(count) {
        let name = file.display();
        return Err(UserError(format!("there is no page {page}: {name} ends with {count}")).into());
    }
    let pages = pages.closed(count);
    let job = Job { library, file, pages, scale, timeout, cache };
    let refpage = Refpage::build(&setup::target_directory()?, options.options);
    let mut peers: Vec<Found> = own.iter().map(|name| refpage.peer(name)).collect();
    peers.extend(others);
    let rows = experiment::conduct(&job, peers, options.runs as usize);
    conclude(&job, &rows, options.json)
}

/// The services of refpage that are compared, those of every run first, and the other allocators, each once.
fn allocators(with: Vec<String>) -> Result<(Vec<String>, Vec<Found>)> {
    let mut own: Vec<String> = [OFF, "memset", REFPAGE].map(String::from).into();
    let mut others = Vec::new();
    let mut known: HashSet<String> = own.iter().cloned().collect();
    for text in with {
        let name = text.split_once('=').map_or(&*text, |(name, _)| name);
        if !known.insert(name.into()) {
            continue;
        }
        if peers::is_own(&text) {
            own.push(text);
        } else {
            others.push(peers::named(&text).map_err(|e| UserError(format!("{e:#}")))?);
        }
    }
    Ok((own, others))
}

/// Shows the result. It is a failure when nothing ran, or when something rendered differently.
fn conclude(job: &Job, rows: &[Row], json: Option<PathBuf>) -> Result<ExitCode> {
    let what = format!("pages {} at {:.0} dpi", job.pages, job.scale * POINTS);
    println!("{} {what}", job.file.display());
    print!("{}", report::text(rows));
    let svg = job.cache.join("pdfium.svg");
    let name = job.file.file_name().unwrap_or_default().to_string_lossy();
    if plot::write(rows, &format!("{name}, {what}"), &svg)? {
        println!("plot: {}", svg.display());
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(rows)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let disagreements = experiment::disagreements(rows);
    for line in &disagreements {
        eprintln!("error: {line}");
    }
    let failed = !disagreements.is_empty() || !rows.iter().any(Row::measured);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in [
            &["--scale", "0"][..],
            &["--scale", "-1"],
            &["--scale", "nan"],
            &["--scale", "101"],
            &["--dpi", "0"],
            &["--dpi", "300", "--scale", "1.0"],
            &["--document", "no-such"],
            &["--document", "pgf", "file.pdf"],
            &["--runs", "0"],
            &["--pages", "5-2"],
            &["--options", "service=cow"],
            &["--with", ","],
        ] {
            let line = std::iter::once(&"pdfium-harness").chain(wrong);
            assert!(Cli::try_parse_from(line).is_err(), "{wrong:?} was taken");
        }
    }
}
