//! Kernels from Debian's package archive: downloaded and taken apart, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt, Wanted, entries};
use crate::arch::Arch;

/// The suites that hold the kernels.
const SUITES: [&str; 5] = ["bookworm", "bookworm-backports", "trixie", "sid", "experimental"];
/// The packages that hold a kernel: to Linux 6, and from Linux 7 on.
const PACKAGES: [&str; 2] = ["linux-image-", "linux-binary-"];

/// A kernel to boot.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, as its package names it.
    pub name: String,
    /// The image.
    pub image: PathBuf,
}

/// The kernels of an architecture.
pub struct Archive {
    arch: &'static Arch,
    directory: PathBuf,
    apt: Apt,
    /// The packages with kernels, once they were asked for, or why there are none.
    packages: Option<Result<Vec<String>, String>>,
}

impl Archive {
    /// An archive whose files are kept below `directory`.
    pub fn new(arch: &'static Arch, directory: &Path) -> Self {
        let architectures = std::slice::from_ref(&arch.debian);
        let apt = Apt::new(
            directory.join("apt"),
            Wanted { suites: &SUITES, security: &[], architectures },
        );
        Self { arch, directory: directory.into(), apt, packages: None }
    }

    /// What apt complained about when it fetched the lists.
    pub fn complaints(&self) -> &str {
        &self.apt.complaints
    }

    /// The kernel with the highest version that begins with `wanted`, or the highest of all.
    pub fn kernel(&mut self, wanted: &str) -> Result<Kernel> {
        let packages = match self.packages.take() {
            Some(packages) => packages,
            None => self.list().map_err(|error| format!("{error:#}")),
        };
        let (wanted, size, flavour) = flavour(self.arch, wanted);
        let package = match self.packages.insert(packages) {
            Ok(packages) => choose(packages, wanted, flavour).map(str::to_owned),
            Err(error) => bail!("{error}"),
        };
        let Some(package) = package else {
            bail!("no package of such a kernel on the mirror: {}", self.apt.reason());
        };
        let version = version(&package, flavour).context("packages were chosen by version")?;
        let name = format!("{version}{size}");
        let image = self.directory.join("images").join(&name);
        if !image.exists() {
            self.download(&package, &image)?;
        }
        Ok(Kernel { name, image })
    }

    fn list(&mut self) -> Result<Vec<String>> {
        self.apt.update()?;
        let mut packages = self.apt.names("linux-")?;
        let is_kernel = |name: &str| {
            self.arch.flavours.iter().any(|(_, flavour)| version(name, flavour).is_some())
        };
        packages.retain(|name| is_kernel(name));
        if packages.is_empty() {
            bail!("the mirror has no kernel packages: {}", self.apt.reason());
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
        self.apt.download(&[package], directory)?;
        let unpacked = directory.join("files");
        apt::unpack(&apt::packages(directory)?, &unpacked)?;
        let found = find_image(&unpacked)?.with_context(|| format!("{package} has no kernel"))?;
        fs::create_dir_all(image.parent().expect("an image lies in a directory"))?;
        // Under its name only when it is whole.
        let partial = directory.join("image");
        fs::copy(found, &partial)?;
        Ok(fs::rename(partial, image)?)
    }
}

/// What is asked for without the size of its pages, that size, and how packages' names with such kernels end.
fn flavour<'a>(arch: &Arch, wanted: &'a str) -> (&'a str, &'static str, &'static str) {
    let sized = arch.flavours.iter().filter(|(size, _)| !size.is_empty());
    let mut sized = sized.filter_map(|&(size, end)| Some((wanted.strip_suffix(size)?, size, end)));
    sized.next().unwrap_or((wanted, "", arch.flavours[0].1))
}

/// The version in the name of a package that holds a kernel of the flavour.
fn version<'a>(package: &'a str, flavour: &str) -> Option<&'a str> {
    let version = PACKAGES.iter().find_map(|prefix| package.strip_prefix(prefix))?;
    let version = version.strip_suffix(flavour)?;
    // In "6.12.1-cloud" another flavour has left its name.
    let is_one = version.starts_with(|first: char| first.is_ascii_digit())
        && !version.rsplit('-').next()?.starts_with(|first: char| first.is_ascii_alphabetic());
    is_one.then_some(version)
}

/// The package to take: of the highest version that begins with `wanted`, and where that version is spread over
/// several packages, the one that has the kernel itself.
fn choose<'a>(packages: &'a [String], wanted: &str, flavour: &str) -> Option<&'a str> {
    let fits = |package: &&String| {
        let Some(version) = version(package, flavour) else { return false };
        let rest = version.strip_prefix(wanted);
        // 6.1 is not the beginning of 6.12.
        wanted == "newest"
            || rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let key = |package: &&String| (numbers(package, flavour), package.starts_with(PACKAGES[1]));
    packages.iter().filter(fits).max_by_key(key).map(String::as_str)
}

/// The numbers in a version, in order: the way versions compare.
fn numbers(package: &str, flavour: &str) -> Vec<u64> {
    let version = version(package, flavour).unwrap_or_default();
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
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

    fn choice<'a>(arch: &str, packages: &'a [String], wanted: &str) -> Option<&'a str> {
        let (wanted, _, flavour) = flavour(Arch::named(arch).expect("its name"), wanted);
        choose(packages, wanted, flavour)
    }

    #[test]
    fn the_highest_version_is_chosen_as_numbers_compare() {
        let packages = [
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
        .map(String::from);
        for (wanted, package) in [
            ("6.1", "linux-image-6.1.0-50-cloud-amd64"),
            ("6.12", "linux-image-6.12.107+deb13-cloud-amd64"),
            ("6.12.95", "linux-image-6.12.95+deb12-cloud-amd64"),
            ("newest", "linux-binary-7.2.13+deb14-cloud-amd64"),
        ] {
            assert_eq!(choice("x86_64", &packages, wanted), Some(package), "{wanted}");
        }
        assert_eq!(choice("x86_64", &packages, "5.10"), None);
    }

    #[test]
    fn the_size_of_pages_is_a_part_of_what_is_asked_for() {
        let packages = [
            "linux-image-6.12.107+deb13-cloud-arm64",
            "linux-image-6.12.117+deb13-arm64",
            "linux-image-6.12.101+deb13-arm64-16k",
            "linux-image-6.12.117+deb13-rt-arm64-16k",
            "linux-binary-7.3-cloud-arm64",
            "linux-binary-7.2-arm64-16k",
        ]
        .map(String::from);
        for (wanted, package) in [
            ("6.12", "linux-image-6.12.107+deb13-cloud-arm64"),
            ("6.12-16k", "linux-image-6.12.101+deb13-arm64-16k"),
            ("newest", "linux-binary-7.3-cloud-arm64"),
            ("newest-16k", "linux-binary-7.2-arm64-16k"),
        ] {
            assert_eq!(choice("aarch64", &packages, wanted), Some(package), "{wanted}");
        }
        assert_eq!(choice("x86_64", &packages, "6.12-16k"), None);
    }
}
