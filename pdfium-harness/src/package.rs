//! Files of Debian's packages: downloaded with apt-get, taken out with dpkg-deb and tar, never installed. It needs no root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Takes `files` (paths from the root) out of a package, into the same places below `directory`, and returns the package's version.
/// The package itself is not kept.
pub fn extract(package: &str, files: &[&str], directory: &Path) -> Result<String> {
    let deb = download(package, directory)?;
    let version = output(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
    unpack(&deb, files, directory)
        .with_context(|| format!("{package} {} cannot be unpacked", version.trim()))?;
    fs::remove_file(&deb)?;
    Ok(version.trim().into())
}

fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    let mut apt = Command::new("apt-get");
    // As root, apt would download as a user of its own, who may have no way into the target directory.
    apt.args(["-q", "-o", "APT::Sandbox::User=", "download", package]).current_dir(directory);
    output(&mut apt).with_context(|| {
        format!("Debian's package {package} cannot be had, perhaps for want of an apt-get update")
    })?;
    let files = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    let deb = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    deb.with_context(|| format!("apt-get reported success, but left no {package}"))
}

/// One pass for all files: a package's decompression is most of the work.
fn unpack(deb: &Path, files: &[&str], directory: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(deb).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut dpkg = dpkg.spawn().context("cannot start dpkg-deb")?;
    let archive = dpkg.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.arg("-xC").arg(directory).args(["--no-same-owner", "-f", "-"]);
    tar.args(files.iter().map(|file| format!("./{file}"))).stdin(archive).env("LC_ALL", "C");
    let unpacked = tar.output().context("cannot start tar");
    let status = dpkg.wait()?;
    // What tar says names the file that is missing; dpkg-deb then only says that nobody read on.
    checked("tar", &unpacked?)?;
    if !status.success() {
        bail!("dpkg-deb failed: {status}");
    }
    Ok(())
}

/// What a command printed, if it succeeded.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.env("LC_ALL", "C").env_remove("LD_PRELOAD").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    checked(&program, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An error in one line of what the program complained about.
fn checked(program: &str, output: &std::process::Output) -> Result<()> {
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = messages.lines().filter(|line| !line.starts_with("W:")).collect();
        bail!("{program} failed ({}): {}", output.status, lines.join("; "));
    }
    Ok(())
}
