//! Sets up real PDFium: the pinned `pypdfium2` wheel, fetched by pip, checked, and unpacked once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

const PACKAGE: &str = "pypdfium2";
const VERSION: &str = "5.15.2";
const LIBRARY: &str = "pypdfium2_raw/libpdfium.so";

/// pip's name of the platform, and the SHA-256 of its wheel.
#[cfg(target_arch = "x86_64")]
const WHEEL: Option<(&str, &str)> = Some((
    "manylinux_2_17_x86_64",
    "dc31aea5b0fb9fefc9b537a65f4113980b2c40798445736a7e6565bc85161e37",
));
#[cfg(target_arch = "aarch64")]
const WHEEL: Option<(&str, &str)> = Some((
    "manylinux_2_17_aarch64",
    "dd46e93c0c3a73f6cea8489baff6d77a5d0759dd53fbbce0aeb49c91830176fc",
));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const WHEEL: Option<(&str, &str)> = None;

/// Where `library` keeps things under the cache directory.
fn home(cache: &Path) -> PathBuf {
    cache.join(VERSION).join(std::env::consts::ARCH)
}

/// The path of libpdfium.so under `cache`, fetched first when it is not there.
pub fn library(cache: &Path) -> Result<PathBuf> {
    let Some((platform, hash)) = WHEEL else {
        bail!(
            "there is no pinned PDFium for {}: pass --pdfium PATH/libpdfium.so",
            std::env::consts::ARCH
        );
    };
    let home = home(cache);
    let library = home.join("libpdfium.so");
    if library.is_file() {
        return Ok(library);
    }
    // A directory of this process alone, so that two harnesses do not read each other's halves.
    let work = home.join(format!("fetch-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let result = fetch(platform, &work)
        .and_then(|wheel| unpack(&wheel, hash, &work))
        .and_then(|unpacked| Ok(fs::rename(unpacked, &library)?));
    // A leftover directory does no harm, and the result says more than this could.
    let _ = fs::remove_dir_all(&work);
    result.map(|()| library)
}

/// Downloads the wheel into `directory` with whichever pip there is.
fn fetch(platform: &str, directory: &Path) -> Result<PathBuf> {
    let help = "install pip, or pass --pdfium PATH/libpdfium.so";
    let mut failure = None;
    for pip in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]] {
        eprintln!("fetching {PACKAGE} {VERSION} with {} …", pip.join(" "));
        let output = Command::new(pip[0])
            .args(&pip[1..])
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary=:all:", "--platform", platform, "--dest"])
            .arg(directory)
            .arg(format!("{PACKAGE}=={VERSION}"))
            // A malloc under test must not serve pip too.
            .env_remove("LD_PRELOAD")
            .output();
        match output {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => failure = Some(e.to_string()),
            Ok(output) if output.status.success() => return find_wheel(directory),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                failure = Some(text.lines().last().unwrap_or("no message").to_string());
            }
        }
    }
    match failure {
        None => bail!("no pip to fetch PDFium with: {help}"),
        Some(message) => bail!("pip could not fetch {PACKAGE} {VERSION} ({message}): {help}"),
    }
}

fn find_wheel(directory: &Path) -> Result<PathBuf> {
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|e| e == "whl");
    fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(is_wheel)
        .context("pip reported success, but left no wheel")
}

/// Checks the wheel's hash and takes the library out of it.
fn unpack(wheel: &Path, expected: &str, directory: &Path) -> Result<PathBuf> {
    let bytes = fs::read(wheel)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if hash != expected {
        bail!(
            "the wheel of {PACKAGE} {VERSION} has SHA-256 {hash}, not the pinned {expected}: not using it"
        );
    }
    let mut archive = zip::ZipArchive::new(io::Cursor::new(bytes))?;
    let mut source = archive.by_name(LIBRARY).context("the wheel holds no libpdfium.so")?;
    let path = directory.join("libpdfium.so");
    io::copy(&mut source, &mut File::create(&path)?)?;
    Ok(path)
}
