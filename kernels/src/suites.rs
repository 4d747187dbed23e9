//! The tests to run, and what they need: cargo builds them as it builds them for this machine, or for another one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::event::{Plan, Setting, Suite};
use crate::toolchain::Toolchain;

/// The packages whose tests are run.
const PACKAGES: [&str; 5] =
    ["refpage", "refpage-alloc", "refpage-compactor", "refpage-mte", "refpage-preload"];
/// What the suite of a library's own tests is called, behind its name.
const UNIT: &str = "unit";
/// Real programs, which are in no guest; and the check that the C programs compile, which is run before.
const LEFT_OUT: [&str; 2] = ["programs", COMPILE];
/// What a quick run leaves out, by parts of names: tests that take an emulated processor minutes (the suite `process` forks
/// too), and those that look at memory and its use, at limits, at small blocks, at injected failures or at many kinds of
/// misuse, which this machine's own kernel is as good for.
pub const SLOW: [&str; 16] = [
    "limits::",
    "vma::",
    "injected::",
    "unmovable::",
    "among_allocating_threads",
    "forks::",
    "rights::",
    "small::",
    "juliet::",
    "quarantine::",
    "large_calloc",
    "aligned_allocation",
    "what_realloc_",
    "sampled_small_allocations",
    "map_limit::",
    "profile::",
];
/// The suites that need a guest to be set up for them.
const SETTINGS: [(&str, Setting); 2] =
    [("strict", Setting::StrictCommitment), ("second_rung", Setting::UserfaultfdForAll)];
/// The test that compiles every C program.
const COMPILE: &str = "compile";
/// Tells the tests where their C programs lie: see alloc/preload/tests/common.
const PROGRAMS: &str = "REFPAGE_TEST_PROGRAMS";
/// Tells the tests what compiles them: see there.
const COMPILER: &str = "REFPAGE_TEST_CC";
/// Tells the tests where they may write: see there.
const SCRATCH: &str = "REFPAGE_TEST_SCRATCH";
/// Tells the tests to be content with one pattern: see there.
const QUICK: &str = "REFPAGE_TEST_QUICK";
/// Tells the tests how many seconds a program may take: see there.
const PROGRAM_LIMIT: &str = "REFPAGE_TEST_LIMIT";

/// All there is to be run, and what it needs. Every path is the same in a guest.
pub struct Built {
    /// With all their tests.
    pub suites: Vec<Suite>,
    /// The `refpage` command.
    pub doctor: PathBuf,
    /// Process 1 of a guest: this program.
    pub guest: PathBuf,
    /// The C programs of the tests, and librefpage.so: what else is to be brought, and may be executed.
    pub programs: Vec<PathBuf>,
    /// A directory that every user may write to.
    pub scratch: PathBuf,
    /// Where the C programs are.
    directory: PathBuf,
}

/// Which tests are to be run, and how.
pub struct Choice<'a> {
    /// Only tests with one of these in their names; all, if there are none.
    pub tests: &'a [String],
    /// And none with one of these.
    pub skip: &'a [String],
    pub quick: bool,
    /// Seconds that one test may take.
    pub limit: u64,
}

/// Builds all there is to be run, below cargo's target directory and `scratch`.
pub fn build(toolchain: &Toolchain, scratch: &Path) -> Result<Built> {
    eprintln!("building the tests for {}", toolchain.arch.name);
    let mut build = toolchain.cargo("test");
    build.args(["--no-run", "--tests", "--message-format=json"]);
    build.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    let binaries = binaries(&output(&mut build)?)?;
    // One at a time: cargo unites the features of what it builds together.
    output(toolchain.cargo("build").args(["-p", "refpage-preload", "--lib"]))?;
    output(toolchain.cargo("build").args(["-p", "refpage-cli"]))?;
    let guest = if toolchain.arch.is_foreign() {
        output(toolchain.cargo("build").args(["-p", "refpage-kernels"]))?;
        toolchain.built().join("refpage-kernels")
    } else {
        env::current_exe()?
    };

    let directory = scratch.join("programs");
    let compile = binaries.iter().find(|(name, _)| name == COMPILE);
    let (_, compile) = compile.context("no test compiles the C programs")?;
    // Without cargo the test takes the library that was just built.
    let mut compile = toolchain.command(compile);
    compile.env(PROGRAMS, &directory).env_remove("CARGO");
    output(compile.envs(toolchain.compiler().map(|compiler| (COMPILER, compiler))))?;
    let mut programs = Vec::new();
    for entry in fs::read_dir(&directory).context("no C program was compiled")? {
        programs.push(entry?.path());
    }
    programs.push(toolchain.built().join("librefpage.so"));

    let writable = scratch.join("tmp");
    fs::create_dir(&writable)?;
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o1777))?;

    let mut suites = Vec::new();
    for (name, binary) in binaries {
        if LEFT_OUT.contains(&&*name) {
            continue;
        }
        let list = output(toolchain.command(&binary).args(["--list", "--format", "terse"]))?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let tests = tests.map(str::to_owned).collect();
        let setting = SETTINGS.iter().find(|(suite, _)| *suite == name);
        let setting = setting.map(|&(_, setting)| setting);
        suites.push(Suite { name, binary, tests, setting });
    }
    let doctor = toolchain.built().join("refpage");
    Ok(Built { suites, doctor, guest, programs, scratch: writable, directory })
}

impl Built {
    /// Those of the tests that are chosen.
    pub fn plan(&self, choice: &Choice) -> Result<Plan> {
        let mut suites = self.suites.clone();
        for Suite { name, tests, .. } in &mut suites {
            tests.retain(|test| choice.has(&format!("{name}::{test}")));
        }
        suites.retain(|suite| !suite.tests.is_empty());
        let environment = vec![
            (PROGRAMS.into(), self.directory.to_str().context("a path that is text")?.into()),
            (SCRATCH.into(), self.scratch.to_str().context("a path that is text")?.into()),
            // The runner's own limit is to be the later one: the tests' names the program that hangs.
            (PROGRAM_LIMIT.into(), (choice.limit - choice.limit / 10).to_string()),
            (QUICK.into(), u8::from(choice.quick).to_string()),
            ("PATH".into(), "/usr/bin:/bin".into()),
        ];
        let (doctor, scratch) = (self.doctor.clone(), self.scratch.clone());
        Ok(Plan { suites, doctor, scratch, environment, limit: choice.limit })
    }
}

impl Choice<'_> {
    /// Whether a test is one of them, by its name as in suite::module::test.
    fn has(&self, test: &str) -> bool {
        let named = |parts: &[String]| parts.iter().any(|part| test.contains(part));
        let slow = || SLOW.iter().any(|part| test.contains(part));
        (self.tests.is_empty() || named(self.tests)) && !named(self.skip) && !(self.quick && slow())
    }
}

/// The tests among what cargo says that it built: their names and binaries.
fn binaries(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut binaries = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo writes JSON")?;
        let target = &message["target"];
        let (Some(kind), Some(name), Some(binary)) =
            (target["kind"][0].as_str(), target["name"].as_str(), message["executable"].as_str())
        else {
            continue;
        };
        match kind {
            "test" => binaries.push((name.to_owned(), binary.into())),
            "lib" => binaries.push((format!("{name}::{UNIT}"), binary.into())),
            _ => {}
        }
    }
    binaries.sort();
    Ok(binaries)
}

/// What a command writes to stdout; what it writes to stderr belongs to the error if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let started = command.stdin(Stdio::null()).output();
    let output = started.with_context(|| format!("cannot run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}
