//! What the report needs of this workspace: built before anything is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers;

/// The packages whose programs and libraries are measured, or measure.
const PACKAGES: [&str; 3] = ["refpage-preload", "refpage-cli", "pdfium-harness"];

/// Whether this program was built to be measured with.
pub const OPTIMISED: bool = !cfg!(debug_assertions);

/// Has cargo bring all of it up to date, beside this program.
pub fn all() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let directory = peers::own_directory()?;
    let target = directory.parent().context("this program lies in no target directory")?;
    let mut command = Command::new(cargo);
    command.arg("build").arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if OPTIMISED {
        command.arg("--release");
    }
    command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    command.env_remove("LD_PRELOAD");
    let status = command.status().context("cannot start cargo, which builds what is measured")?;
    if !status.success() {
        bail!("cargo could not build {}: {status}", PACKAGES.join(", "));
    }
    Ok(())
}

/// A program of the workspace, which lies beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = peers::own_directory()?.join(name);
    existing(&path).with_context(|| format!("no {name} beside this program: cargo build --release"))
}

fn existing(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}
