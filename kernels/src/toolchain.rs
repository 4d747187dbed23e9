//! What builds programs for an architecture and runs them here: this machine's own means, or, for another architecture,
//! Debian's compiler and qemu's emulation of a process, downloaded and taken apart, never installed.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt, Wanted};
use crate::arch::Arch;
use crate::suites::output;

/// The release that the tools are taken from, and what is built on it later: the first qemu that is right about tags.
const RELEASE: &str = "bookworm";
const BACKPORTS: &str = "bookworm-backports";
const SECURITY: &str = "bookworm-security";
/// Packages with these in their names do not count as installed, so that they are taken from the archive.
const OWN: [&str; 5] = ["rustc-web", "cargo-web", "rust-web", "qemu-system-arm", "qemu-user"];
/// The packages of the machine itself.
const STATUS: &str = "/var/lib/dpkg/status";
/// What the dynamic loader may be asked for, by the names that Debian's cross compiler has it under.
const LIBRARIES: [&str; 6] = [
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
];

/// How to build for an architecture.
#[derive(Debug)]
pub struct Toolchain {
    pub arch: &'static Arch,
    /// cargo's target directory for it.
    target: PathBuf,
    /// What another architecture than this machine's takes.
    cross: Option<Cross>,
}

/// Tools of the archive's, in a tree of their own, and of this machine's.
#[derive(Debug)]
struct Cross {
    tree: PathBuf,
    compiler: String,
    /// Where the cross compiler's libraries lie.
    sysroot: PathBuf,
}

impl Toolchain {
    /// This machine's own.
    pub fn own(target: &Path) -> Self {
        Self { arch: Arch::own(), target: target.into(), cross: None }
    }

    /// One for another architecture, whose files are kept below `directory`.
    pub fn cross(arch: &'static Arch, directory: &Path) -> Result<Self> {
        let compiler = format!("{}-linux-gnu-gcc", arch.name);
        let gcc = output(Command::new(&compiler).arg("-print-file-name=libc.so.6"));
        let libc = gcc.with_context(|| {
            format!("there is no compiler for it (package gcc-{}-linux-gnu)", arch.name)
        })?;
        // A path only if there is such a file.
        let libc = fs::canonicalize(libc.trim()).ok().filter(|path| path.is_absolute());
        let sysroot = libc.as_deref().and_then(|path| path.ancestors().nth(2));
        let sysroot = sysroot.with_context(|| {
            format!("there is no libc for it (package libc6-dev-{}-cross)", arch.debian)
        })?;
        let sysroot = sysroot.to_owned();
        let tree = tools(arch, directory)?;
        let cross = Cross { tree, compiler, sysroot };
        let toolchain = Self { arch, target: directory.join("target"), cross: Some(cross) };
        toolchain.check()?;
        Ok(toolchain)
    }

    /// The reason why the tools are not good enough, if there is one.
    fn check(&self) -> Result<()> {
        let Some(cross) = &self.cross else { return Ok(()) };
        for program in [self.qemu(), cross.emulator(self.arch)] {
            output(Command::new(&program).arg("--version"))
                .with_context(|| format!("{} does not run", program.display()))?;
        }
        let version = output(cross.with_libraries(&mut Command::new(cross.rustc())).arg("-vV"))?;
        let release = version.lines().find_map(|line| line.strip_prefix("release: "));
        let release = release.context("rustc names no release")?;
        let (has, needs) = (numbers(release), numbers(env!("CARGO_PKG_RUST_VERSION")));
        if has < needs {
            bail!("the archive's rustc is {release}, and refpage needs {needs:?}");
        }
        Ok(())
    }

    /// Emulates a machine.
    pub fn qemu(&self) -> PathBuf {
        match &self.cross {
            Some(cross) => cross.tree.join("usr/bin").join(self.arch.qemu),
            None => self.arch.qemu.into(),
        }
    }

    /// cargo, to build something for it.
    pub fn cargo(&self, command: &str) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.arg(command).arg("--quiet").arg("--target-dir").arg(&self.target);
        cargo.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
        if let Some(cross) = &self.cross {
            let triple = self.arch.triple();
            let linker = triple.replace('-', "_").to_uppercase();
            cargo.arg("--target").arg(&triple).env("RUSTC", cross.rustc());
            // A guest has all of it in memory, twice while it is unpacked.
            cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
            cargo.env(format!("CARGO_TARGET_{linker}_LINKER"), &cross.compiler);
            cross.with_libraries(&mut cargo);
        }
        cargo
    }

    /// Where cargo puts what it builds.
    pub fn built(&self) -> PathBuf {
        match &self.cross {
            Some(_) => self.target.join(self.arch.triple()).join("debug"),
            None => self.target.join("debug"),
        }
    }

    /// A program that was built for it, to be run here.
    pub fn command(&self, program: &Path) -> Command {
        let Some(cross) = &self.cross else { return Command::new(program) };
        let mut command = Command::new(cross.emulator(self.arch));
        command.arg("-L").arg(&cross.sysroot).arg(program);
        command
    }

    /// The C compiler for it, where it is not the usual one.
    pub fn compiler(&self) -> Option<&str> {
        self.cross.as_ref().map(|cross| &*cross.compiler)
    }

    /// The shell, and what the dynamic loader would load for these programs and libraries, the loader itself included:
    /// by the place where a guest is to have it, the file.
    pub fn files(&self, programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>> {
        let mut files = BTreeMap::new();
        let Some(cross) = &self.cross else {
            let shell = PathBuf::from("/bin/sh");
            for program in programs.iter().chain([&shell]) {
                files.extend(libraries(program)?.into_iter().map(|path| (path.clone(), path)));
            }
            files.insert(shell.clone(), shell);
            return Ok(files);
        };
        files.insert("/bin/sh".into(), cross.tree.join("bin/dash"));
        for library in LIBRARIES {
            files.insert(Path::new("/lib").join(library), cross.sysroot.join("lib").join(library));
        }
        Ok(files)
    }
}

impl Cross {
    fn rustc(&self) -> PathBuf {
        self.tree.join("usr/bin/rustc")
    }

    /// Runs a program of that architecture.
    fn emulator(&self, arch: &Arch) -> PathBuf {
        self.tree.join("usr/bin").join(format!("qemu-{}", arch.name))
    }

    /// Has the compiler find its own libraries.
    fn with_libraries<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let triplet = format!("{}-linux-gnu", Arch::own().name);
        command.env("LD_LIBRARY_PATH", self.tree.join("usr/lib").join(triplet))
    }
}

/// The tree with the tools, which is made if it is not there.
fn tools(arch: &'static Arch, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("tools");
    if tree.exists() {
        return Ok(tree);
    }
    let architectures = Box::leak(Box::new([Arch::own().debian, arch.debian]));
    let wanted = Wanted { suites: &[RELEASE, BACKPORTS], security: &[SECURITY], architectures };
    let mut apt = Apt::new(directory.join("tools-apt"), wanted);
    apt.update()?;
    eprintln!("fetching the tools for {}", arch.name);
    let partial = directory.join(format!("unpacked.{}", std::process::id()));
    let archives = partial.join("archives");
    fs::create_dir_all(&archives)?;
    let fetched = || -> Result<()> {
        let status = partial.join("status");
        fs::write(&status, installed(&fs::read_to_string(STATUS).context(STATUS)?))?;
        let qemu = ["system-arm", "user"].map(|which| format!("qemu-{which}/{BACKPORTS}"));
        apt.download_all(&[&qemu[0], &qemu[1], "rustc-web"], &status, &archives)?;
        // The standard library for it has to be of the same build; alone, since nothing that it needs is run here.
        let policy = output(apt.command("apt-cache").args(["policy", "rustc-web"]))?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        let version = version.context("apt knows no version of rustc-web")?;
        let library = format!("libstd-rust-web-dev:{}={version}", arch.debian);
        apt.download(&[&library, &format!("dash:{}", arch.debian)], &archives)?;
        apt::unpack(&apt::packages(&archives)?, &partial.join("tree"))?;
        // Under its name only when it is whole.
        Ok(fs::rename(partial.join("tree"), &tree)?)
    };
    let result = fetched();
    fs::remove_dir_all(&partial)?;
    result.with_context(|| format!("no tools for {}", arch.name))?;
    Ok(tree)
}

/// dpkg's list of packages, without those that are to be taken from the archive in any case.
fn installed(status: &str) -> String {
    let is_own = |stanza: &&str| {
        let name = stanza.lines().find_map(|line| line.strip_prefix("Package: "));
        name.is_some_and(|name| OWN.iter().any(|own| name.contains(own)))
    };
    let stanzas = status.split("\n\n").filter(|stanza| !is_own(stanza));
    stanzas.collect::<Vec<_>>().join("\n\n")
}

/// The first numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// What the dynamic loader would load for a program or a library, the loader itself included.
fn libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let list = output(Command::new("ldd").arg(file).stdin(Stdio::null()))?;
    // "libc.so.6 => /lib/libc.so.6 (0x7f…)", "/lib64/ld-linux-x86-64.so.2 (0x7f…)", "linux-vdso.so.1 (0x7f…)"
    let paths = list.lines().filter_map(|line| {
        let line = line.rsplit("=>").next()?.trim();
        line.starts_with('/').then(|| line.split(" (").next().unwrap_or(line).into())
    });
    Ok(paths.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_the_archive_counts_as_missing() {
        let status = "Package: libc6\nStatus: a\n\nPackage: libstd-rust-web-dev\n\nPackage: dash\n";
        assert_eq!(installed(status), "Package: libc6\nStatus: a\n\nPackage: dash\n");
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("1.100.0-beta") > numbers("1.88"));
        assert!(numbers("1.85.1") < numbers("1.88"));
    }
}
