//! `--install`: gets the allocators that are missing, from packages and from source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::peers::{KNOWN, Known, Origin, made_here};
use crate::programs::PROGRAMS;

/// What is built from a crate's source.
struct Recipe {
    /// The crate.
    name: &'static str,
    /// Its version.
    version: &'static str,
    compiler: &'static str,
    flags: &'static [&'static str],
    /// Its directory of headers, below the crate.
    headers: &'static str,
    /// What is compiled.
    sources: &'static [&'static str],
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "snmalloc-sys",
        version: "0.7",
        compiler: "c++",
        // As its own build makes the library to be preloaded.
        flags: &[
            "-std=c++20",
            "-fno-rtti",
            "-fomit-frame-pointer",
            "-ftls-model=initial-exec",
            "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1",
        ],
        headers: "upstream/src",
        sources: &[
            "upstream/src/snmalloc/override/malloc.cc",
            "upstream/src/snmalloc/override/new.cc",
        ],
    },
    Recipe {
        name: "rpmalloc-sys",
        version: "0.2",
        compiler: "cc",
        flags: &["-std=c11", "-D_GNU_SOURCE", "-DENABLE_PRELOAD=1", "-DENABLE_OVERRIDE=1", "-w"],
        headers: "rpmalloc/rpmalloc",
        sources: &["rpmalloc/rpmalloc/rpmalloc.c"],
    },
];

/// Installs what is missing and says what came of each.
pub fn run(with_programs: bool) -> Result<ExitCode> {
    let mut packages: Vec<&str> = Vec::new();
    let mut failed = false;
    for known in &KNOWN {
        if let Some(path) = known.library() {
            println!("{}: {}", known.name, path.display());
            continue;
        }
        match known.origin {
            Origin::Libc => {}
            Origin::Package(package) => packages.push(package),
            Origin::Crate(name) => match build(known, name) {
                Ok(path) => println!("{}: built {}", known.name, path.display()),
                Err(error) => {
                    failed = true;
                    eprintln!("FAILED: {}: {error:#}", known.name);
                }
            },
        }
    }
    if with_programs {
        packages.extend(PROGRAMS.iter().filter(|p| !p.is_here()).flat_map(|p| p.packages));
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty()
        && let Err(error) = install(&packages)
    {
        failed = true;
        eprintln!("FAILED: {}: {error:#}", packages.join(", "));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn install(packages: &[&str]) -> Result<()> {
    // SAFETY: geteuid only reads.
    let root = unsafe { libc::geteuid() } == 0;
    let apt = || Command::new("apt-get");
    if !root || !apt().arg("--version").output().is_ok_and(|output| output.status.success()) {
        bail!("needs root and apt-get: apt-get install {}", packages.join(" "));
    }
    success(apt().args(["update", "-q"]))?;
    success(apt().args(["install", "-qy", "--no-install-recommends"]).args(packages))
}

/// Has cargo fetch the crate, and compiles a library to be preloaded from its source.
fn build(known: &Known, name: &str) -> Result<PathBuf> {
    let recipe = RECIPES.iter().find(|recipe| recipe.name == name).context("there is no recipe")?;
    let directory = made_here()?;
    let root = fetch(recipe, &directory.join(name))?;
    let library = directory.join(known.file());
    // Under another name first: what is there is whole.
    let unfinished = library.with_extension("unfinished");
    let output = Command::new(recipe.compiler)
        .args(["-O3", "-DNDEBUG", "-fPIC", "-shared", "-pthread"])
        .args((cfg!(target_arch = "x86_64")).then_some("-mcx16"))
        .args(recipe.flags)
        .arg("-I")
        .arg(root.join(recipe.headers))
        .args(recipe.sources.iter().map(|source| root.join(source)))
        .arg("-o")
        .arg(&unfinished)
        .output()
        .with_context(|| format!("cannot start {}", recipe.compiler))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        let error = messages.lines().find(|line| line.contains("error"));
        bail!("{} failed: {}", recipe.compiler, error.unwrap_or(messages.trim()));
    }
    fs::rename(&unfinished, &library)?;
    Ok(library)
}

/// The crate's directory, once cargo has fetched it for a manifest that wants nothing else.
fn fetch(recipe: &Recipe, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let manifest = directory.join("Cargo.toml");
    let Recipe { name, version, .. } = recipe;
    fs::write(
        &manifest,
        format!(
            "[package]\nname = \"source\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [dependencies]\n{name} = \"{version}\"\n\n[workspace]\n"
        ),
    )?;
    fs::write(directory.join("lib.rs"), "")?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(&manifest)
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo cannot fetch {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let package = metadata.packages.into_iter().find(|package| package.name == *name);
    let manifest = package.context("cargo does not know where the crate is")?.manifest_path;
    Ok(manifest.parent().context("a manifest is in a directory")?.to_owned())
}

fn success(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}
