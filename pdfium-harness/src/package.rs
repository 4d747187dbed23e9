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
        format!(
            "Debian's package {package} cannot be had, which takes apt-get and its lists (apt-get update)"
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is gone after the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn only_the_files_asked_for_are_taken_out_and_one_that_is_not_there_is_named() {
        let scratch = Scratch::new("refpage-unpack");
        let tree = scratch.0.join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("usr/doc")).unwrap();
        let control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\n\
                       Description: d\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("usr/doc/a.pdf"), "a").unwrap();
        fs::write(tree.join("usr/doc/b.pdf"), "b").unwrap();
        let deb = scratch.0.join("p.deb");
        if let Err(error) = output(Command::new("dpkg-deb").arg("-b").args([&tree, &deb])) {
            println!("skipped: {error:#}");
            return;
        }
        unpack(&deb, &["usr/doc/b.pdf"], &scratch.0).unwrap();
        assert_eq!(fs::read(scratch.0.join("usr/doc/b.pdf")).unwrap(), b"b");
        assert!(!scratch.0.join("usr/doc/a.pdf").exists());
        let error = format!("{:#}", unpack(&deb, &["usr/doc/c.pdf"], &scratch.0).unwrap_err());
        assert!(error.contains("c.pdf") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn a_package_that_cannot_be_had_is_one_line() {
        let scratch = Scratch::new("refpage-download");
        let error = format!("{:#}", extract("no-such-package", &["a"], &scratch.0).unwrap_err());
        assert!(error.contains("no-such-package") && error.lines().count() == 1, "{error}");
    }
}
