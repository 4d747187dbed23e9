//! Debian's package archive, by an apt on a configuration of its own, below the target directory: the machine's package
//! sources are read for the addresses of its mirrors and otherwise left alone, and nothing is installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where Debian keeps its keys.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The lists of packages are fetched again when they are older.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// What of the archive is asked for. The mirrors need not have all.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Suites of the archive itself.
    pub suites: &'static [&'static str],
    /// Suites of the archive of security updates.
    pub security: &'static [&'static str],
    /// Debian's names of architectures; for apt, the first is this machine's.
    pub architectures: &'static [&'static str],
}

/// An apt with its own sources, lists and cache.
pub struct Apt {
    directory: PathBuf,
    wanted: Wanted,
    /// What apt complained about when it fetched the lists: of what it could not fetch, an older one may have been used.
    pub complaints: String,
}

impl Apt {
    /// One whose files are kept in `directory`.
    pub fn new(directory: PathBuf, wanted: Wanted) -> Self {
        Self { directory, wanted, complaints: String::new() }
    }

    /// Fetches the lists of packages, unless they are fresh.
    pub fn update(&mut self) -> Result<()> {
        for private in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.directory.join(private))?;
        }
        let stamp = self.directory.join("updated");
        let age = |path: &Path| fs::metadata(path).ok()?.modified().ok()?.elapsed().ok();
        if age(&stamp).is_none_or(|age| age > FRESH) {
            fs::write(self.directory.join("debian.sources"), sources(&self.wanted)?)?;
            eprintln!("fetching the lists of packages of {}", self.wanted.architectures.join(", "));
            let update = self.command("apt-get").args(["-q", "update"]).output()?;
            // A suite that is not there makes apt fail, but it has fetched the others.
            self.complaints = complaints(&update.stderr);
            if update.status.success() {
                fs::write(&stamp, "")?;
            }
        }
        Ok(())
    }

    /// The names of packages that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = self.command("apt-cache").args(["pkgnames", prefix]).output()?;
        let names = String::from_utf8(names.stdout).context("the names of packages")?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Why something is not there, as far as apt has said.
    pub fn reason(&self) -> &str {
        match &*self.complaints {
            "" if self.directory.join("state/lists").exists() => "its lists name none",
            "" => "no lists",
            complaints => complaints,
        }
    }

    /// Downloads packages into a directory.
    pub fn download(&self, packages: &[&str], directory: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        download.args(["-q", "download"]).args(packages).current_dir(directory);
        let output = download.output()?;
        if !output.status.success() {
            bail!("{} cannot be had: {}", packages.join(", "), complaints(&output.stderr));
        }
        Ok(())
    }

    /// Downloads packages, and of what they need all that is not among the installed packages of `status`.
    pub fn download_all(&self, packages: &[&str], status: &Path, directory: &Path) -> Result<()> {
        let mut install = self.command("apt-get");
        for (option, value) in [("Dir::State::status", status), ("Dir::Cache::archives", directory)]
        {
            let mut text = OsString::from(format!("{option}="));
            text.push(value);
            install.arg("-o").arg(text);
        }
        fs::create_dir_all(directory.join("partial"))?;
        // What is only downloaded needs no lock of the machine's own.
        install.args(["-o", "Debug::NoLocking=1", "-q", "-y", "--download-only"]);
        install.args(["--no-install-recommends", "install"]).args(packages);
        let output = install.output()?;
        if !output.status.success() {
            bail!("{} cannot be had: {}", packages.join(", "), complaints(&output.stderr));
        }
        Ok(())
    }

    /// apt on our own sources and our own state.
    pub fn command(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        let mut set = |option: &str, value: OsString| {
            let mut text = OsString::from(format!("{option}="));
            text.push(value);
            apt.arg("-o").arg(text);
        };
        set("Dir::Etc::sourcelist", self.directory.join("debian.sources").into());
        for none in ["sourceparts", "preferences", "preferencesparts"] {
            set(&format!("Dir::Etc::{none}"), "/dev/null".into());
        }
        set("Dir::State", self.directory.join("state").into());
        set("Dir::Cache", self.directory.join("cache").into());
        set("Acquire::Languages", "none".into());
        set("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into());
        // apt's own user may have no way into the target directory.
        set("APT::Sandbox::User", "".into());
        set("APT::Architecture", self.wanted.architectures[0].into());
        for architecture in self.wanted.architectures {
            set("APT::Architectures::", architecture.into());
        }
        apt.env("LC_ALL", "C").stdin(Stdio::null());
        apt
    }
}

/// Unpacks packages' files into a tree.
pub fn unpack(packages: &[PathBuf], tree: &Path) -> Result<()> {
    for package in packages {
        let mut dpkg = Command::new("dpkg-deb");
        let status = dpkg.arg("-x").args([package, tree]).stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("{} cannot be unpacked: {status}", package.display());
        }
    }
    Ok(())
}

/// The packages in a directory.
pub fn packages(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = entries(directory)?;
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(packages)
}

/// All that lies in a directory.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// Sources for apt, on the mirrors that the machine itself uses.
fn sources(wanted: &Wanted) -> Result<String> {
    let mut apt = Command::new("apt-get");
    let apt =
        apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages"]);
    let targets = apt.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let targets = targets.context("there is no apt-get: all is taken from Debian's packages")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let keys =
        if Path::new(KEYS).exists() { format!("Signed-By: {KEYS}\n") } else { String::new() };
    let source = |mirror: &str, suites: &[&str]| {
        let (suites, architectures) = (suites.join(" "), wanted.architectures.join(" "));
        format!(
            "Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nArchitectures: {architectures}\n{keys}\n"
        )
    };
    let own = mirror(&targets, "Debian", "/debian");
    let own = own.context("this machine has no package source of Debian's")?;
    let mut sources = source(own, wanted.suites);
    if !wanted.security.is_empty() {
        let security = mirror(&targets, "Debian-Security", "/debian-security");
        let security =
            security.context("this machine has no source of Debian's security updates")?;
        sources += &source(security, wanted.security);
    }
    Ok(sources)
}

/// The first source with Debian's label; or, while the machine has not fetched its lists and knows no labels, with its
/// path.
fn mirror<'a>(targets: &'a str, label: &str, path: &str) -> Option<&'a str> {
    let mut lines = targets.lines().filter_map(|line| line.split_once(' '));
    let labelled = lines.find_map(|(found, address)| (found == label).then_some(address));
    let by_path = || {
        let mut addresses = targets.lines().filter_map(|line| line.split_whitespace().last());
        addresses.find(|address| address.trim_end_matches('/').ends_with(path))
    };
    labelled.or_else(by_path).map(str::trim)
}

/// The errors and warnings in what apt wrote.
fn complaints(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:"));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirrors_are_the_machines_own() {
        let own = |targets| mirror(targets, "Debian", "/debian");
        let known = "Other http://example.org/debian/\nDebian http://example.com/linux/\n";
        assert_eq!(own(known), Some("http://example.com/linux/"));
        let unknown = " http://example.com/debian-security/\n http://example.com/debian/\n";
        assert_eq!(own(unknown), Some("http://example.com/debian/"));
        assert_eq!(own(" http://example.com/ubuntu/\n"), None);

        let security = |targets| mirror(targets, "Debian-Security", "/debian-security");
        let known = "Debian http://example.com/linux/\nDebian-Security http://example.com/fixes/\n";
        assert_eq!(security(known), Some("http://example.com/fixes/"));
        assert_eq!(security(unknown), Some("http://example.com/debian-security/"));
        assert_eq!(security("Debian http://example.com/debian/\n"), None);
    }
}
