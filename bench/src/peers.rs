//! The allocators that are compared, and where to get them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::libraries;
use crate::memory::{Baseline, PATTERN};

/// The peer that ratios are taken to.
pub const OFF: &str = "off";
/// refpage under the best service that is to be had.
pub const REFPAGE: &str = "refpage";
/// refpage's file, which cargo leaves beside this binary.
const LIBRARY: &str = "librefpage.so";
/// The variant of refpage that has a page pool large enough for every case.
pub const LARGE_POOL: &str = "refpage pool=512M";

/// An allocator, ready to run.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in the tables.
    pub name: String,
    /// How its memory is got.
    pub source: Source,
    /// What a fresh block of it holds, if it says so.
    pub promise: Option<u8>,
    /// The environment that it needs.
    pub environment: Vec<(&'static str, String)>,
    /// The service of refpage that must have been taken.
    pub service: Option<&'static str>,
    /// What a reader of its numbers has to know.
    pub note: Option<&'static str>,
}

/// How memory is got.
#[derive(Clone, Debug)]
pub enum Source {
    /// From the C library's malloc.
    Libc,
    /// From the malloc of a library that is preloaded.
    Preload(PathBuf),
    /// By a baseline, without malloc.
    Baseline(Baseline),
}

/// An allocator that is not here.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// What to do about it.
    pub remedy: String,
}

/// An allocator that was looked for.
pub type Found = Result<Peer, Missing>;

/// An allocator that can be had.
pub struct Known {
    /// Its name in the tables.
    pub name: &'static str,
    /// Library names, without `lib` and the ending.
    stems: &'static [&'static str],
    /// Where it comes from.
    pub origin: Origin,
    environment: &'static [(&'static str, &'static str)],
    note: Option<&'static str>,
}

/// Where an allocator comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The C library itself.
    Libc,
    /// A package of Debian's.
    Package(&'static str),
    /// The source in a crate, which `small --install` compiles.
    Crate(&'static str),
}

const GLIBC: Known =
    Known { name: "glibc", stems: &[], origin: Origin::Libc, environment: &[], note: None };

const JEMALLOC: Known = packaged("jemalloc", &["jemalloc"], "libjemalloc2");

const SCUDO: Known = Known {
    name: "scudo",
    stems: &["clang_rt.scudo_standalone", "scudo"],
    origin: Origin::Package("libclang-rt-14-dev"),
    environment: &[],
    note: None,
};

/// An allocator of the distribution without settings.
const fn packaged(
    name: &'static str,
    stems: &'static [&'static str],
    package: &'static str,
) -> Known {
    Known { name, stems, origin: Origin::Package(package), environment: &[], note: None }
}

/// All of them.
pub const KNOWN: [Known; 12] = [
    GLIBC,
    Known {
        name: "glibc-perturb",
        // malloc fills with the complement: 0x55 so that it is 0xaa.
        environment: &[("GLIBC_TUNABLES", "glibc.malloc.perturb=0x55")],
        note: Some(
            "glibc fills neither the new part of a realloc nor what comes back from a thread's cache, \
             blocks of up to 1,032 bytes; what goes past it is filled again when freed, with 0x55",
        ),
        ..GLIBC
    },
    JEMALLOC,
    Known {
        name: "jemalloc-junk",
        environment: &[("MALLOC_CONF", "junk:true")],
        note: Some("jemalloc fills with 0xa5, and again when freed, with 0x5a"),
        ..JEMALLOC
    },
    packaged("mimalloc", &["mimalloc"], "libmimalloc-dev"),
    packaged("tcmalloc", &["tcmalloc_minimal", "tcmalloc"], "libtcmalloc-minimal4"),
    SCUDO,
    Known {
        name: "scudo-fill",
        environment: &[("SCUDO_OPTIONS", "pattern_fill_contents=true")],
        ..SCUDO
    },
    Known {
        name: "scudo-fill-zero",
        environment: &[("SCUDO_OPTIONS", "pattern_fill_contents=true:zero_contents=true")],
        note: Some("Scudo fills in one way at a time: asked for both, it fills with zeros"),
        ..SCUDO
    },
    Known {
        name: "scudo-quarantine",
        environment: &[(
            "SCUDO_OPTIONS",
            "quarantine_size_kb=262144:thread_local_quarantine_size_kb=1024:quarantine_max_chunk_size=16777216",
        )],
        note: Some(
            "Scudo's quarantine takes what its primary serves, up to 128 KiB; larger blocks pass it by",
        ),
        ..SCUDO
    },
    Known {
        name: "snmalloc",
        stems: &["snmalloc", "snmallocshim"],
        origin: Origin::Crate("snmalloc-sys"),
        environment: &[],
        note: None,
    },
    Known {
        name: "rpmalloc",
        stems: &["rpmalloc", "rpmallocwrap"],
        origin: Origin::Crate("rpmalloc-sys"),
        environment: &[],
        note: None,
    },
];

impl Known {
    /// How its memory is got, if it can be.
    fn source(&self) -> Result<Option<Source>> {
        if self.origin == Origin::Libc {
            return Ok(cfg!(target_env = "gnu").then_some(Source::Libc));
        }
        let library = self.library().map(|path| preloadable(&path)).transpose()?;
        Ok(library.map(Source::Preload))
    }

    /// Its library: the one that `small --install` made, else one of the system's.
    pub fn library(&self) -> Option<PathBuf> {
        let made = made_here().ok().map(|directory| directory.join(self.file()));
        made.filter(|path| path.exists()).or_else(|| libraries::installed(self.stems))
    }

    /// The name of the library that `small --install` makes.
    pub fn file(&self) -> String {
        format!("lib{}.so", self.name)
    }

    fn remedy(&self) -> String {
        match self.origin {
            Origin::Libc => "this program is linked with another C library".into(),
            Origin::Package(package) => {
                format!("not installed; Debian's package is {package}, or that of another version")
            }
            Origin::Crate(name) => {
                format!("not built; `refpage-bench small --install` builds it from {name}")
            }
        }
    }
}

/// Where `small --install` puts what it makes: `target/peers`, beside the directory of this binary.
pub fn made_here() -> Result<PathBuf> {
    Ok(own_directory()?.with_file_name("peers"))
}

/// What `--with` takes besides names of allocators: none of them.
const NONE: &str = "none";

/// Services of refpage; `refpage` itself takes the best that is to be had.
const SERVICES: [&str; 5] = [OFF, "memset", "eager", "cow", "lazy"];

/// Whether a row is refpage's own, under whichever service.
pub fn is_own(name: &str) -> bool {
    name == REFPAGE || SERVICES.contains(&name)
}

/// The allocators of this run: refpage as each of `own`, and those of `with`, or else `others`.
pub fn find(
    own: &[&str],
    others: &[&str],
    with: &[String],
    extra_options: &str,
) -> Result<(Vec<Peer>, Vec<Missing>)> {
    let library = own_library()?;
    let mut peers: Vec<Peer> =
        own.iter().map(|name| refpage(name, &library, extra_options)).collect();
    let mut missing = Vec::new();
    let all: Vec<String> = others.iter().copied().map(String::from).collect();
    for text in if with.is_empty() { &all } else { with } {
        if text == NONE || peers.iter().any(|peer| peer.name == *text) {
            continue;
        }
        if SERVICES.contains(&text.as_str()) {
            peers.push(refpage(text, &library, extra_options));
            continue;
        }
        match named(text)? {
            Ok(peer) => peers.push(peer),
            Err(gone) => missing.push(gone),
        }
    }
    Ok((peers, missing))
}

/// refpage's file.
pub fn own_library() -> Result<PathBuf> {
    preloadable(&own_directory()?.join(LIBRARY)).with_context(|| {
        format!("no usable {LIBRARY} beside this binary: cargo build --release -p refpage-preload")
    })
}

/// refpage under the service of that name, or the best.
pub fn refpage(name: &str, library: &Path, extra_options: &str) -> Peer {
    let service = SERVICES.into_iter().find(|&service| service == name);
    // Behind the extra ones, because the last entry counts: service and pattern are this program's.
    let asked = service.unwrap_or("auto");
    let options = format!("{extra_options}:service={asked}:pattern={PATTERN:#04x}:stats=0");
    Peer {
        name: name.into(),
        source: Source::Preload(library.into()),
        promise: (name != OFF).then_some(PATTERN),
        environment: vec![("REFPAGE_OPTIONS", options)],
        service,
        note: None,
    }
}

/// refpage with a page pool that holds the memory of a whole case.
pub fn with_large_pool(refpage: &Peer) -> Peer {
    let mut peer = refpage.clone();
    peer.name = LARGE_POOL.into();
    for (_, options) in &mut peer.environment {
        options.push_str(":pool=512M");
    }
    peer
}

/// A baseline as a peer.
pub fn baseline(baseline: Baseline) -> Found {
    let name = baseline.name().to_owned();
    let setting = "/sys/kernel/mm/transparent_hugepage/enabled";
    if baseline.needs_huge_pages()
        && !fs::read_to_string(setting).is_ok_and(|text| !text.contains("[never]"))
    {
        let remedy = format!("transparent huge pages are off: echo madvise > {setting}");
        return Err(Missing { name, remedy });
    }
    Ok(Peer {
        name,
        source: Source::Baseline(baseline),
        promise: None,
        environment: Vec::new(),
        service: None,
        note: None,
    })
}

/// An allocator that is not refpage.
fn peer(name: &str, source: Source) -> Peer {
    let environment = Vec::new();
    Peer { name: name.into(), source, promise: None, environment, service: None, note: None }
}

/// The C library's malloc.
pub fn glibc() -> Peer {
    peer("glibc", Source::Libc)
}

/// An allocator that is not refpage: one of [`KNOWN`], another whose library the system has, or NAME=PATH.
pub fn named(text: &str) -> Result<Found> {
    if let Some((name, path)) = text.split_once('=') {
        if name.is_empty() || path.is_empty() {
            bail!("'{text}' should be NAME=PATH/lib.so");
        }
        return Ok(Ok(peer(name, Source::Preload(preloadable(path.as_ref())?))));
    }
    let Some(known) = KNOWN.iter().find(|known| known.name == text) else {
        if let Some(path) = libraries::installed(&[text]) {
            return Ok(Ok(peer(text, Source::Preload(preloadable(&path)?))));
        }
        let names = KNOWN.map(|known| known.name).join(", ");
        let services = SERVICES.join(", ");
        bail!(
            "no allocator is called '{text}': {names}, a service of refpage ({services}), or NAME=PATH/lib.so"
        )
    };
    let Some(source) = known.source()? else {
        return Ok(Err(Missing { name: text.into(), remedy: known.remedy() }));
    };
    let environment = known.environment.iter().map(|&(key, value)| (key, value.into())).collect();
    Ok(Ok(Peer { environment, note: known.note, ..peer(text, source) }))
}

/// Gives the command the peer's settings, and nothing of this process's own. What is to be preloaded is the caller's to add.
pub fn surround(command: &mut Command, peer: &Peer) {
    command.env_remove("LD_PRELOAD").env_remove("REFPAGE_OPTIONS").stdin(Stdio::null());
    for (key, _) in KNOWN.iter().flat_map(|known| known.environment) {
        command.env_remove(key);
    }
    command.envs(peer.environment.iter().map(|(key, value)| (key, value)));
}

/// The path as LD_PRELOAD and /proc/self/maps have it.
pub fn preloadable(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    if path.to_string_lossy().contains([' ', ':']) {
        bail!("LD_PRELOAD cannot carry a path with spaces or colons: {}", path.display());
    }
    Ok(path)
}

/// The directory that this program lies in.
pub fn own_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    Ok(own.parent().context("this executable is in no directory")?.to_owned())
}

/// How long ago a library was made: one built before the last change measures the wrong code.
pub fn age(source: &Source) -> Option<String> {
    let Source::Preload(path) = source else { return None };
    let made = path.metadata().ok()?.modified().ok()?;
    let minutes = SystemTime::now().duration_since(made).ok()?.as_secs() / 60;
    Some(match minutes {
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_adds_cannot_change_the_service_or_the_pattern() {
        let peer = refpage(OFF, "/lib/librefpage.so".as_ref(), "service=memset:pattern=0");
        let (_, options) = &peer.environment[0];
        assert!(options.ends_with(":service=off:pattern=0xaa:stats=0"), "{options}");
        assert_eq!(peer.promise, None);
        assert_eq!(refpage("refpage", "/x".as_ref(), "").promise, Some(PATTERN));
    }

    #[test]
    fn a_name_that_nobody_knows_is_an_error_and_not_a_missing_package() {
        for wrong in ["gemalloc", "mine=/no/such/lib.so", "mine=", "=/lib.so", "/lib.so"] {
            assert!(named(wrong).is_err(), "{wrong:?} was taken");
        }
        assert!(matches!(named("glibc"), Ok(Ok(_))));
    }
}
