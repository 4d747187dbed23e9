//! What the tests share: the freshly built library, C programs compiled on demand, and runs that cannot hang.

#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]

pub mod confine;
pub mod strain;
pub mod swap;
pub mod traps;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// A run that takes longer hangs. No healthy one takes a tenth of it, on a real processor: an emulated one asks for
/// more, in seconds.
static TIMEOUT: LazyLock<Duration> = LazyLock::new(|| {
    let asked = std::env::var("REFPAGE_TEST_LIMIT").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(120))
});

/// Names a directory for compiled C programs. What lies there already is taken as it is, so that the tests also run
/// where there is no compiler.
const PROGRAMS: &str = "REFPAGE_TEST_PROGRAMS";

/// Names the C compiler, instead of `cc`: one that compiles for the machine that the tests are for.
const COMPILER: &str = "REFPAGE_TEST_CC";

/// Names a directory that the tests may write to, instead of cargo's, which may be another user's.
const SCRATCH: &str = "REFPAGE_TEST_SCRATCH";

/// Asks for fewer runs of the same tests.
const QUICK: &str = "REFPAGE_TEST_QUICK";

/// The default pattern.
pub const DEFAULT: &str = "0xaa";

/// The default, and two that it cannot be mistaken for: a byte, and a word of eight different ones. With
/// REFPAGE_TEST_QUICK=1, for slow machines, the word alone.
pub fn patterns() -> &'static [&'static str] {
    const ALL: [&str; 3] = [DEFAULT, "0x5c", "0x0123456789abcdef"];
    if is_quick() { &ALL[2..] } else { &ALL }
}

/// Whether fewer runs are asked for.
pub fn is_quick() -> bool {
    std::env::var_os(QUICK).is_some_and(|value| value == "1")
}

/// Says on the real stderr, which libtest does not capture, that something was not tested, and why.
pub fn skipped(reason: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // A test that cannot even say so has nothing better to do than to go on.
    let _ = writeln!(io::stderr(), "skipped: {test}: {reason}");
}

/// The library under test. Cargo does not build a cdylib for its package's own tests, so the first test of a
/// binary has it built, with the profile that the test was built with: there is never a stale one to test.
pub fn library() -> PathBuf {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("the test knows its own path");
        let profile_dir = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
        let target_dir = profile_dir.parent().expect("target/<profile> lies in target");
        let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
            Some("debug") => "dev",
            Some(name) => name,
            None => panic!("{} names no profile", profile_dir.display()),
        };
        // Without cargo, somebody runs the test by hand, and gets what was built last.
        if let Some(cargo) = std::env::var_os("CARGO") {
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--lib", "--profile", profile, "--manifest-path"]);
            build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
            build.arg("--target-dir").arg(target_dir);
            let built = build.stdin(Stdio::null()).status().expect("cargo runs");
            assert!(built.success(), "{build:?}: {built}");
        }
        let library = profile_dir.join("librefpage.so");
        assert!(library.exists(), "cargo build first: there is no {}", library.display());
        library
    });
    LIBRARY.clone()
}

/// The directory of the C sources.
pub fn c_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// A new file or directory name in the scratch directory.
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::var_os(SCRATCH).unwrap_or(env!("CARGO_TARGET_TMPDIR").into());
    Path::new(&dir).join(format!("{name}.{}.{serial}", std::process::id()))
}

/// A scratch directory that goes away with its owner.
pub struct ScratchDir(pub PathBuf);

impl ScratchDir {
    pub fn new(name: &str) -> Self {
        let dir = scratch(name);
        fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A leftover in cargo's target directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a program is there to be run; if not, says that the test is skipped.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        skipped(format_args!("{program} is not installed"));
    }
    found
}

/// `tests/c/<name>.c` as an executable, compiled once per test binary. None, and said so, without a compiler.
pub fn c_program(name: &str) -> Option<PathBuf> {
    compile(name, &["-pie", "-fPIE", "-rdynamic"])
}

/// `tests/c/<name>.c` as an executable that names the library itself, to be found where it is run: the loader
/// preloads nothing into a program with more rights than its caller.
pub fn linked_c_program(name: &str) -> Option<PathBuf> {
    let built = format!("-L{}", library().parent()?.display());
    compile(name, &["-pie", "-fPIE", "-Wl,-rpath,.", "-Wl,--no-as-needed", &built, "-lrefpage"])
}

/// `tests/c/<name>.c` as a shared library.
pub fn c_library(name: &str) -> Option<PathBuf> {
    compile(name, &["-shared", "-fPIC"])
}

fn compile(name: &str, kind: &[&str]) -> Option<PathBuf> {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    let kept = std::env::var_os(PROGRAMS).map(|dir| Path::new(&dir).join(name));
    if let Some(path) = kept.as_ref().filter(|path| path.exists()) {
        return Some(path.clone());
    }
    let compiler = std::env::var(COMPILER).unwrap_or("cc".into());
    if !have(&compiler) {
        return None;
    }
    // A test that failed to compile its program poisons the lock; the map is as good as before.
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = built.get(name) {
        return Some(path.clone());
    }
    let output = kept.unwrap_or_else(|| scratch(name));
    fs::create_dir_all(output.parent().expect("a program lies in a directory"))
        .expect("a directory for programs");
    let mut cc = Command::new(compiler);
    // -fno-builtin: to the compiler, fresh memory is undefined and a malloc that is only freed is nothing.
    cc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-pthread"])
        .args(kind)
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(c_dir().join(format!("{name}.c")))
        .arg("-o")
        .arg(&output)
        .arg("-ldl");
    run(&mut cc).expect_success();
    built.insert(name.to_owned(), output.clone());
    Some(output)
}

/// Has `command` served by the library under test.
pub fn preload<'a>(command: &'a mut Command, options: &str) -> &'a mut Command {
    command.env("LD_PRELOAD", library()).env("REFPAGE_OPTIONS", options)
}

/// The content options for one service and one pattern. The C programs read TEST_PATTERN.
pub fn serve<'a>(command: &'a mut Command, service: &str, pattern: &str) -> &'a mut Command {
    command.env("TEST_PATTERN", pattern);
    // The default pattern is tested as the default.
    let option = if pattern == DEFAULT { String::new() } else { format!(":pattern={pattern}") };
    preload(command, &format!("service={service}{option}"))
}

/// Which service a process gets that asks for `service`, and what it is told about that.
pub fn service_taken(service: &str) -> Option<(String, String)> {
    let outcome = run(serve(&mut Command::new(c_program("service")?), service, DEFAULT));
    outcome.expect_success();
    Some((outcome.stdout_text().trim().to_owned(), outcome.stderr))
}

/// Whether this machine gives a process the service it asks for; if not, says that the test is skipped.
pub fn is_served(service: &str) -> bool {
    match service_taken(service) {
        Some((taken, _)) if taken == service => true,
        Some((taken, why)) => {
            skipped(format_args!(
                "service {service} is not to be had here, {taken} is: {}",
                why.trim()
            ));
            false
        }
        None => false,
    }
}

/// Whether memory has tags in a process that is served so.
pub fn has_tags(options: &str) -> bool {
    let Some(program) = c_program("tags") else { return false };
    let outcome = run(preload(Command::new(program).arg("tags"), options));
    outcome.expect_success().stdout_text().trim() == "on"
}

/// What is not to be had in a Region that is not divided. With tags no Region is, and nobody minds.
pub fn undivided() -> &'static [&'static str] {
    if has_tags("") { &[] } else { &["cow"] }
}

/// What the lines of a report begin with that follow its first.
pub const MORE: &str = "refpage:   ";

/// How a subprocess ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn expect_success(&self) -> &Self {
        assert!(
            self.status.success(),
            "{}: {}\n{}{}",
            self.what,
            self.status,
            self.stdout_text(),
            self.stderr
        );
        self
    }

    #[track_caller]
    pub fn expect_signal(&self, signal: i32) -> &Self {
        assert_eq!(
            self.status.signal(),
            Some(signal),
            "{}: {}\n{}",
            self.what,
            self.status,
            self.stderr
        );
        self
    }

    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What the library, not the program, had to say: of each report the first line.
    pub fn refpage_lines(&self) -> Vec<&str> {
        let first = |line: &&str| line.starts_with("refpage: ") && !line.starts_with(MORE);
        self.stderr.lines().filter(first).collect()
    }
}

/// Runs `command` to its end, or panics when there is none. The output goes through files, so that neither a
/// full pipe nor a grandchild that keeps one open can make a run look like a hang.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    let what = format!("{command:?}");
    let mut stdout = unnamed_file();
    let mut stderr = unnamed_file();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a second descriptor"))
        .stderr(stderr.try_clone().expect("a second descriptor"))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let group = -(child.id() as i32);
    let deadline = Instant::now() + *TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(4));
    };
    // SAFETY: `kill` takes any numbers. The group is this child's own: it was made its leader above, and what
    // is left of the group (the child if it hangs, and what it forked) keeps the number from being reused.
    unsafe { libc::kill(group, libc::SIGKILL) };
    let status = status.or_else(|| {
        child.wait().expect("a killed child can be waited for");
        None
    });
    let (stdout, stderr) = (contents(&mut stdout), contents(&mut stderr));
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let Some(status) = status else {
        panic!(
            "{what} hung: no end after {:?}\n{}{stderr}",
            *TIMEOUT,
            String::from_utf8_lossy(&stdout)
        );
    };
    Outcome { what, status, stdout, stderr }
}

fn unnamed_file() -> File {
    let path = scratch("output");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a scratch file");
    fs::remove_file(&path).expect("an open file can lose its name");
    file
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a file can be read back");
    bytes
}

/// Runs `tests/c/<program>.c` with `arguments` under one service, with each pattern. What it says on stdout that it
/// skipped is passed on.
pub fn check_content(program: &str, arguments: &[&str], service: &str) {
    let Some(path) = c_program(program) else {
        return;
    };
    if !is_served(service) {
        return;
    }
    for pattern in patterns() {
        let outcome = run(serve(Command::new(&path).args(arguments), service, pattern));
        outcome.expect_success();
        assert_eq!(
            outcome.refpage_lines(),
            [""; 0],
            "nothing to complain about in {}",
            outcome.what
        );
        for reason in outcome.stdout_text().lines().filter_map(|l| l.strip_prefix("skipped: ")) {
            skipped(reason);
        }
    }
}

/// One test per service and behaviour: `mod behaviour { #[test] fn lazy() … }`. The right side takes the
/// service's name.
#[macro_export]
macro_rules! for_each_service {
    ($($(#[doc = $doc:expr])* $behaviour:ident => $check:expr;)*) => {$(
        $(#[doc = $doc])*
        mod $behaviour {
            #[allow(unused_imports, reason = "not every check names something of its file")]
            use super::*;
            #[test] fn lazy() { ($check)("lazy") }
            #[test] fn cow() { ($check)("cow") }
            #[test] fn eager() { ($check)("eager") }
            #[test] fn memset() { ($check)("memset") }
        }
    )*};
}
