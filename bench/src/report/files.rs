//! The files with the figures: one line a measurement, all of it as JSON, and the table of one look by itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Results, summary};
use crate::child::value;
use crate::page::{Page, markdown};
use crate::results::write_lines;

/// Writes `measurements.csv`, `report.json` and `summary.md` into a directory.
pub fn write(results: &Results, page: &Page, directory: &Path) -> Result<()> {
    let failed = |path: &Path| format!("cannot write {}", path.display());
    let path = directory.join("measurements.csv");
    let cases = results.parts.iter().flat_map(|part| &part.cases);
    File::create(&path).and_then(|file| write_lines(cases, file)).with_context(|| failed(&path))?;
    let path = directory.join("report.json");
    let parts: Vec<_> = results
        .parts
        .iter()
        .map(|part| json!({ "part": value(part.part), "cases": part.cases }))
        .collect();
    let missing: Vec<_> = results
        .missing
        .iter()
        .map(|missing| json!({ "name": missing.name, "why": missing.remedy }))
        .collect();
    let all = json!({
        "run": results.run.iter().cloned().collect::<BTreeMap<_, _>>(),
        "parts": parts,
        "missing": missing,
        "page": page,
    });
    fs::write(&path, serde_json::to_string_pretty(&all)?).with_context(|| failed(&path))?;
    let path = directory.join("summary.md");
    fs::write(&path, markdown::table(&summary::table(results))).with_context(|| failed(&path))
}
