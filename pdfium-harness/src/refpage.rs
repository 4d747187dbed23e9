//! refpage as cargo builds it here, under the services that are compared.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use refpage_bench::peers::{self, Found, Missing};

/// The preload library of this workspace: built if it must be, else why there is none.
#[derive(Debug)]
pub struct Refpage {
    library: Result<PathBuf, String>,
    extra_options: String,
}

impl Refpage {
    /// Has cargo bring `librefpage.so` up to date under `target`.
    ///
    /// Without a cargo or the sources, a library that is there is taken as it is, and said so.
    pub fn build(target: &Path, extra_options: Option<String>) -> Self {
        let library = build(target).and_then(|library| peers::preloadable(&library));
        let extra_options = extra_options.map_or_else(String::new, |extra| format!(":{extra}"));
        Self { library: library.map_err(|e| format!("{e:#}")), extra_options }
    }

    /// refpage under the service of that name, or the best.
    pub fn peer(&self, name: &str) -> Found {
        let missing = |remedy: &String| Missing { name: name.into(), remedy: remedy.clone() };
        let mut peer = peers::refpage(name, self.library.as_ref().map_err(missing)?, "");
        // Behind those of the peer: the pattern is the user's to choose, since nobody here reads it.
        for (_, options) in &mut peer.environment {
            options.push_str(&self.extra_options);
        }
        Ok(peer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_options_stand_behind_the_peers_own() {
        let refpage = |library: Result<&str, &str>| Refpage {
            library: library.map(PathBuf::from).map_err(String::from),
            extra_options: ":pattern=0x5c".into(),
        };
        let peer = refpage(Ok("/x")).peer("cow").unwrap();
        assert_eq!(peer.service, Some("cow"));
        assert!(peer.environment[0].1.ends_with(":pattern=0x5c"), "{:?}", peer.environment);
        assert_eq!(refpage(Err("no cargo")).peer("off").unwrap_err().remedy, "no cargo");
    }
}
