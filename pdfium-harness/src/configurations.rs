//! What the runs are compared under: refpage's services, glibc, and whatever else can be preloaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use refpage_bench::libraries;

/// The baseline that every ratio is taken against.
pub const BASELINE: &str = "off";

/// Services of refpage that can be asked for by name; `refpage` stands for the machine's best.
const SERVICES: [&str; 5] = [BASELINE, "memset", "eager", "cow", "lazy"];

/// The option's value that leaves the choice to refpage.
const AUTO: &str = "auto";

/// An allocator as the command line names it.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// A service of refpage: the column's name, and the option's value.
    Refpage(String, &'static str),
    /// No preload: the C library's own malloc.
    Glibc,
    /// A library to look for by the allocator's name.
    Named(String),
    /// A library given by its path.
    At(String, PathBuf),
}

impl Choice {
    /// The three columns that are always there.
    pub fn defaults() -> Vec<Self> {
        [BASELINE, "memset", "refpage"]
            .iter()
            .map(|name| name.parse().expect("a known name"))
            .collect()
    }

    /// The column's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Refpage(name, _) | Self::Named(name) | Self::At(name, _) => name,
            Self::Glibc => "glibc",
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=') {
            if name.is_empty() || path.is_empty() {
                return Err(format!("'{text}' should be NAME=PATH/lib.so"));
            }
            return Ok(Self::At(name.into(), path.into()));
        }
        if let Some(service) = SERVICES.iter().find(|&&service| service == text) {
            return Ok(Self::Refpage(text.into(), service));
        }
        match text {
            "" => Err("an allocator's name is empty".into()),
            "refpage" => Ok(Self::Refpage(text.into(), AUTO)),
            "glibc" => Ok(Self::Glibc),
            _ if text.contains('/') => Err(format!("'{text}' should be NAME=PATH/lib.so")),
            _ => Ok(Self::Named(text.into())),
        }
    }
}

/// A choice made ready to run.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The library to preload; none for the C library's malloc.
    pub preload: Option<PathBuf>,
    /// refpage's options, when it is refpage.
    pub options: Option<String>,
    /// The service that refpage must take, unless the choice is its own.
    pub service: Option<&'static str>,
}

/// The preload library of this workspace: built if it must be, else why there is none.
#[derive(Debug)]
pub struct Refpage {
    library: Result<PathBuf, String>,
    extra_options: Option<String>,
}

impl Refpage {
    /// Has cargo bring `librefpage.so` up to date under `target`.
    ///
    /// Without a cargo or the sources, a library that is there is taken as it is, and said so.
    pub fn build(target: &Path, extra_options: Option<String>) -> Self {
        let library = build(target).map_err(|e| format!("{e:#}"));
        Self { library, extra_options }
    }
}

fn build(target: &Path) -> Result<PathBuf> {
    let library = target.join("release/librefpage.so");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = manifest.is_file().then(|| {
        // cargo's own progress goes to stderr, as ours does.
        Command::new(cargo)
            .args(["build", "--release", "-p", "refpage-preload", "--manifest-path"])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(target)
            .env_remove("LD_PRELOAD")
            .status()
    });
    match status {
        Some(Ok(status)) if !status.success() => bail!("cargo could not build refpage-preload"),
        Some(Ok(_)) if library.is_file() => Ok(library),
        Some(Ok(_)) => bail!("refpage-preload was built, but left no {}", library.display()),
        _ if library.is_file() => {
            eprintln!("no cargo or no sources here: taking {} as it is", library.display());
            Ok(library)
        }
        Some(Err(e)) => Err(e).context("cannot start cargo to build librefpage.so"),
        None => bail!("neither librefpage.so nor the sources to build it from are here"),
    }
}

/// Makes `choice` ready, or says why it cannot be run.
pub fn prepare(choice: &Choice, refpage: &Refpage) -> Result<Configuration, String> {
    let mut service = None;
    let (preload, options) = match choice {
        Choice::Glibc => (None, None),
        Choice::Refpage(_, asked) => {
            service = Some(*asked).filter(|asked| *asked != AUTO);
            let library = refpage.library.clone()?;
            let extra = refpage.extra_options.iter().map(|extra| format!(":{extra}"));
            (Some(library), Some(format!("service={asked}{}", extra.collect::<String>())))
        }
        Choice::Named(name) => (Some(find(name)?), None),
        Choice::At(_, path) => {
            let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
            (Some(path), None)
        }
    };
    // The loader splits LD_PRELOAD at both, and knows no escape.
    if let Some(path) = preload.as_deref().filter(|p| p.to_string_lossy().contains([' ', ':'])) {
        return Err(format!(
            "LD_PRELOAD cannot carry a path with spaces or colons: {}",
            path.display()
        ));
    }
    Ok(Configuration { preload, options, service })
}

/// Library names of allocators that are not called after them, without `lib` and the ending.
const ALIASES: [(&str, &[&str]); 5] = [
    ("tcmalloc", &["tcmalloc_minimal", "tcmalloc"]),
    ("snmalloc", &["snmallocshim", "snmalloc"]),
    ("rpmalloc", &["rpmallocwrap", "rpmalloc"]),
    ("scudo", &["scudo", "clang_rt.scudo_standalone"]),
    ("hardened_malloc", &["hardened_malloc", "hardened_malloc-light"]),
];

fn find(name: &str) -> Result<PathBuf, String> {
    let alias = ALIASES.iter().find(|(known, _)| *known == name);
    let stems = alias.map_or(std::slice::from_ref(&name), |(_, stems)| stems);
    libraries::installed(stems).ok_or_else(|| {
        format!(
            "no lib{}.so* in the system's library directories: give {name}=PATH/lib.so",
            stems.join(".so*, lib")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_services_are_told_apart() {
        let parse = |text: &str| text.parse::<Choice>();
        assert_eq!(parse("glibc"), Ok(Choice::Glibc));
        assert_eq!(parse("refpage"), Ok(Choice::Refpage("refpage".into(), "auto")));
        assert_eq!(parse("cow"), Ok(Choice::Refpage("cow".into(), "cow")));
        assert_eq!(parse("jemalloc"), Ok(Choice::Named("jemalloc".into())));
        assert_eq!(parse("mine=/a/b.so"), Ok(Choice::At("mine".into(), "/a/b.so".into())));
        for text in ["", "=x", "x=", "/a/b.so"] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }
}
