//! Kernels from Debian's package archive: downloaded and taken apart, never installed.
//!
//! apt is run on a configuration of its own, below the target directory: the machine's package sources are read for
//! the address of its mirror and otherwise left alone.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The suites that hold the kernels; the mirror need not have all.
const SUITES: [&str; 5] = ["bookworm", "bookworm-backports", "trixie", "sid", "experimental"];
/// The kernels for virtual machines: small, and with all that a guest needs built in.
const FLAVOUR: &str = "-cloud-amd64";
/// The packages that hold a kernel: to Linux 6, and from Linux 7 on.
const PACKAGES: [&str; 2] = ["linux-image-", "linux-binary-"];
/// Where Debian keeps its keys.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The lists of packages are fetched again when they are older.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A kernel to boot.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, as its package names it.
    pub name: String,
    /// The image.
    pub image: PathBuf,
}

/// The package archive.
pub struct Archive {
    directory: PathBuf,
    /// The packages with kernels, once they were asked for, or why there are none.
    packages: Option<Result<Vec<String>, String>>,
    /// What apt complained about when it fetched the lists: of what it could not fetch, an older one may have been used.
    pub complaints: String,
}

impl Archive {
    /// An archive whose files are kept below `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.into(), packages: None, complaints: String::new() }
    }

    /// The kernel with the highest version that begins with `wanted`, or the highest of all.
    pub fn kernel(&mut self, wanted: &str) -> Result<Kernel> {
        let packages = match self.packages.take() {
            Some(packages) => packages,
            None => self.list().map_err(|error| format!("{error:#}")),
        };
        let package = match self.packages.insert(packages) {
            Ok(packages) => choose(packages, wanted).map(str::to_owned),
            Err(error) => bail!("{error}"),
        };
        let Some(package) = package else {
            let complaints = if self.complaints.is_empty() { "" } else { ": " };
            bail!("no package of such a kernel on the mirror{complaints}{}", self.complaints);
        };
        let name = version(&package).context("packages were chosen by their version")?.to_owned();
        let image = self.directory.join("images").join(&name);
        if !image.exists() {
            self.download(&package, &image)?;
        }
        Ok(Kernel { name, image })
    }

    fn list(&mut self) -> Result<Vec<String>> {
        let lists = self.directory.join("apt/state/lists");
        let stamp = self.directory.join("apt/updated");
        for private in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.directory.join("apt").join(private))?;
        }
        let age = |path: &Path| fs::metadata(path).ok()?.modified().ok()?.elapsed().ok();
        if age(&stamp).is_none_or(|age| age > FRESH) {
            fs::write(self.directory.join("apt/debian.sources"), sources()?)?;
            eprintln!("fetching the lists of packages");
            let update = self.apt("apt-get").args(["-q", "update"]).output()?;
            // A suite that is not there makes apt fail, but it has fetched the others.
            self.complaints = complaints(&update.stderr);
            if update.status.success() {
                fs::write(&stamp, "")?;
            }
        }
        let names = self.apt("apt-cache").args(["pkgnames", "linux-"]).output()?;
        let names = String::from_utf8(names.stdout).context("the names of packages")?;
        let packages: Vec<_> =
            names.lines().filter(|name| version(name).is_some()).map(str::to_owned).collect();
        if packages.is_empty() {
            let had = if lists.exists() { complaints_or(&self.complaints) } else { "no lists" };
            bail!("the mirror has no kernel packages: {had}");
        }
        Ok(packages)
    }

    fn download(&self, package: &str, image: &Path) -> Result<()> {
        eprintln!("fetching {package}");
        let directory = self.directory.join(format!("unpacked.{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let result = self.unpack(package, &directory, image);
        fs::remove_dir_all(&directory)?;
        result
    }

    fn unpack(&self, package: &str, directory: &Path, image: &Path) -> Result<()> {
        let mut download = self.apt("apt-get");
        let output = download.args(["-q", "download", package]).current_dir(directory).output()?;
        if !output.status.success() {
            bail!("{package} cannot be had: {}", complaints(&output.stderr));
        }
        let file = entries(directory)?.pop().context("apt has downloaded nothing")?;
        let unpacked = directory.join("files");
        let mut dpkg = Command::new("dpkg-deb");
        let status = dpkg.arg("-x").args([&file, &unpacked]).stdin(Stdio::null()).status()?;
        if !status.success() {
            bail!("{package} cannot be unpacked: {status}");
        }
        let found = find_image(&unpacked)?.with_context(|| format!("{package} has no kernel"))?;
        fs::create_dir_all(image.parent().expect("an image lies in a directory"))?;
        // Under its name only when it is whole.
        let partial = directory.join("image");
        fs::copy(found, &partial)?;
        Ok(fs::rename(partial, image)?)
    }

    /// apt on our own sources and our own state.
    fn apt(&self, program: &str) -> Command {
        let directory = self.directory.join("apt");
        let mut apt = Command::new(program);
        let mut set = |option: &str, value: OsString| {
            let mut text = OsString::from(format!("{option}="));
            text.push(value);
            apt.arg("-o").arg(text);
        };
        set("Dir::Etc::sourcelist", directory.join("debian.sources").into());
        for none in ["sourceparts", "preferences", "preferencesparts"] {
            set(&format!("Dir::Etc::{none}"), "/dev/null".into());
        }
        set("Dir::State", directory.join("state").into());
        set("Dir::Cache", directory.join("cache").into());
        set("Acquire::Languages", "none".into());
        set("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into());
        // apt's own user may have no way into the target directory.
        set("APT::Sandbox::User", "".into());
        apt.env("LC_ALL", "C").stdin(Stdio::null());
        apt
    }
}

/// Sources for apt, on the mirror that the machine itself uses.
fn sources() -> Result<String> {
    let mut apt = Command::new("apt-get");
    let apt =
        apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages"]);
    let targets = apt.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let targets = targets.context("there is no apt-get: the kernels are Debian's packages")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let mirror = mirror(&targets).context("this machine has no package source of Debian's")?;
    let keys =
        if Path::new(KEYS).exists() { format!("Signed-By: {KEYS}\n") } else { String::new() };
    let suites = SUITES.join(" ");
    Ok(format!(
        "Types: deb\nURIs: {mirror}\nSuites: {suites}\nComponents: main\nArchitectures: amd64\n{keys}"
    ))
}

/// The first source that is Debian's own by its label; or, while the machine has not fetched its lists and knows
/// no labels, by its path.
fn mirror(targets: &str) -> Option<&str> {
    let labelled = targets.lines().find_map(|line| line.strip_prefix("Debian "));
    let by_path = || {
        let mut addresses = targets.lines().filter_map(|line| line.split_whitespace().last());
        addresses.find(|address| address.trim_end_matches('/').ends_with("/debian"))
    };
    labelled.or_else(by_path).map(str::trim)
}

/// The errors and warnings in what apt wrote.
fn complaints(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:"));
    lines.collect::<Vec<_>>().join("; ")
}

fn complaints_or(complaints: &str) -> &str {
    if complaints.is_empty() { "its lists name none" } else { complaints }
}

/// The version in the name of a package that holds a kernel of the flavour.
fn version(package: &str) -> Option<&str> {
    let version = PACKAGES.iter().find_map(|prefix| package.strip_prefix(prefix))?;
    let version = version.strip_suffix(FLAVOUR)?;
    version.starts_with(|first: char| first.is_ascii_digit()).then_some(version)
}

/// The package to take: of the highest version that begins with `wanted`, and where that version is spread over
/// several packages, the one that has the kernel itself.
fn choose<'a>(packages: &'a [String], wanted: &str) -> Option<&'a str> {
    let fits = |package: &&String| {
        let rest = version(package).and_then(|version| version.strip_prefix(wanted));
        // 6.1 is not the beginning of 6.12.
        wanted == "newest"
            || rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let key = |package: &&String| (numbers(package), package.starts_with(PACKAGES[1]));
    packages.iter().filter(fits).max_by_key(key).map(String::as_str)
}

/// The numbers in a version, in order: the way versions compare.
fn numbers(package: &str) -> Vec<u64> {
    let version = version(package).unwrap_or_default();
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// The file `vmlinuz` or `vmlinuz-<version>` in a tree.
fn find_image(tree: &Path) -> Result<Option<PathBuf>> {
    for path in entries(tree)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_symlink() {
            continue;
        } else if path.is_dir() {
            if let Some(found) = find_image(&path)? {
                return Ok(Some(found));
            }
        } else if name.starts_with("vmlinuz") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> Vec<String> {
        [
            "linux-image-6.1.0-47-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64-dbg",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-amd64",
            "linux-binary-7.2.13+deb14-cloud-amd64",
            "linux-binary-unsigned-7.2.13+deb14-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(String::from)
        .into()
    }

    #[test]
    fn the_highest_version_is_chosen_as_numbers_compare() {
        let packages = packages();
        for (wanted, package) in [
            ("6.1", "linux-image-6.1.0-50-cloud-amd64"),
            ("6.12", "linux-image-6.12.107+deb13-cloud-amd64"),
            ("6.12.95", "linux-image-6.12.95+deb12-cloud-amd64"),
            ("newest", "linux-binary-7.2.13+deb14-cloud-amd64"),
        ] {
            assert_eq!(choose(&packages, wanted), Some(package), "{wanted}");
        }
        assert_eq!(choose(&packages, "5.10"), None);
    }

    #[test]
    fn the_mirror_is_the_machines_own() {
        let known = "Other http://example.org/debian/\nDebian http://example.com/linux/\n";
        assert_eq!(mirror(known), Some("http://example.com/linux/"));
        let unknown = " http://example.com/debian-security/\n http://example.com/debian/\n";
        assert_eq!(mirror(unknown), Some("http://example.com/debian/"));
        assert_eq!(mirror(" http://example.com/ubuntu/\n"), None);
    }
}
