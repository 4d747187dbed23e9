//! What the tests share: the binary, the library that it preloads, and somebody without privilege.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub const BINARY: &str = env!("CARGO_BIN_EXE_refpage");

/// The command with these arguments, and nothing in its environment that concerns it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("REFPAGE_OPTIONS").env_remove("LD_PRELOAD");
    command
}

pub fn refpage(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Says that something was not tested, and why.
pub fn skipped(reason: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // libtest captures what is printed, but not this. It has nowhere to go if it fails.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// The library that `refpage run` preloads, built: testing this package alone does not.
pub fn library() -> &'static Path {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let profile_dir = Path::new(BINARY).parent().expect("target/<profile>/refpage");
        let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("{} names no profile", profile_dir.display()),
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "refpage-preload", "--profile", profile]);
        build.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
        build.arg("--target-dir").arg(profile_dir.parent().expect("target"));
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "{build:?}: {built}");
        profile_dir.join("librefpage.so")
    });
    &LIBRARY
}

/// A directory that everybody may read, and that goes away with its owner.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("refpage-cli-{}-{serial}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("a directory for temporary files");
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).expect("its owner may");
        Self(directory)
    }

    /// Copies a program or library here.
    pub fn bring(&self, file: impl AsRef<Path>) -> PathBuf {
        let file = file.as_ref();
        let copy = self.0.join(file.file_name().expect("a file's name"));
        fs::copy(file, &copy).expect("a copy");
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("its owner may");
        copy
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command as a user without privilege runs it: nobody, if this is root.
pub fn unprivileged(directory: &Directory, arguments: &[&str]) -> Command {
    directory.bring(library());
    let mut command = Command::new(directory.bring(BINARY));
    command.args(arguments).env_remove("REFPAGE_OPTIONS").env_remove("LD_PRELOAD");
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    command
}
