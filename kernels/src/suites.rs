//! The tests to run, and what they need: cargo builds them as it builds them for this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Arguments;
use crate::event::{Plan, Setting, Suite};

/// The packages whose integration tests are run.
const PACKAGES: [&str; 3] = ["refpage", "refpage-alloc", "refpage-preload"];
/// Real programs, which are in no guest; and the check that the C programs compile, which is run before.
const LEFT_OUT: [&str; 2] = ["programs", COMPILE];
/// What a quick run leaves out, by parts of names: tests that take an emulated processor minutes (the suite `process` forks
/// too), and those that look at memory, at limits or at injected failures, which this machine's own kernel is as good for.
pub const SLOW: [&str; 7] = [
    "limits::",
    "vma::",
    "injected::",
    "unmovable::",
    "among_allocating_threads",
    "forks::",
    "rights::",
];
/// The suites that need a guest to be set up for them.
const SETTINGS: [(&str, Setting); 2] =
    [("strict", Setting::StrictCommitment), ("second_rung", Setting::UserfaultfdForAll)];
/// The test that compiles every C program.
const COMPILE: &str = "compile";
/// Tells the tests where their C programs lie: see alloc/preload/tests/common.
const PROGRAMS: &str = "REFPAGE_TEST_PROGRAMS";
/// Tells the tests where they may write: see there.
const SCRATCH: &str = "REFPAGE_TEST_SCRATCH";
/// Tells the tests to be content with one pattern: see there.
const QUICK: &str = "REFPAGE_TEST_QUICK";
/// Tells the tests how many seconds a program may take: see there.
const PROGRAM_LIMIT: &str = "REFPAGE_TEST_LIMIT";

/// Builds all there is to be run, below `target` and `scratch`.
pub fn build(target: &Path, scratch: &Path, arguments: &Arguments) -> Result<Plan> {
    eprintln!("building the tests");
    let mut build = cargo(target, "test");
    build.args(["--no-run", "--tests", "--message-format=json"]);
    build.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    let binaries = binaries(&output(&mut build)?)?;
    // One at a time: cargo unites the features of what it builds together.
    output(cargo(target, "build").args(["-p", "refpage-preload", "--lib"]))?;
    output(cargo(target, "build").args(["-p", "refpage-cli"]))?;

    let directory = scratch.join("programs");
    let compile = binaries.iter().find(|(name, _)| name == COMPILE);
    let (_, compile) = compile.context("no test compiles the C programs")?;
    output(Command::new(compile).env(PROGRAMS, &directory))?;
    let mut programs = Vec::new();
    for entry in fs::read_dir(&directory).context("no C program was compiled")? {
        programs.push(entry?.path());
    }
    programs.push(target.join("debug/librefpage.so"));

    let writable = scratch.join("tmp");
    fs::create_dir(&writable)?;
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o1777))?;

    let mut suites = Vec::new();
    for (name, binary) in binaries {
        if LEFT_OUT.contains(&&*name) {
            continue;
        }
        let list = output(Command::new(&binary).args(["--list", "--format", "terse"]))?;
        let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let chosen = |test: &str| {
            let test = format!("{name}::{test}");
            let named = |parts: &[String]| parts.iter().any(|part| test.contains(part));
            let slow = || SLOW.iter().any(|part| test.contains(part));
            (arguments.tests.is_empty() || named(&arguments.tests))
                && !named(&arguments.skip)
                && !(arguments.quick && slow())
        };
        let tests: Vec<_> = tests.filter(|test| chosen(test)).map(str::to_owned).collect();
        if !tests.is_empty() {
            let setting = SETTINGS.iter().find(|(suite, _)| *suite == name);
            let setting = setting.map(|&(_, setting)| setting);
            suites.push(Suite { name, binary, tests, setting });
        }
    }
    let environment = vec![
        (PROGRAMS.into(), directory.to_str().context("a path that is text")?.into()),
        (SCRATCH.into(), writable.to_str().context("a path that is text")?.into()),
        // The runner's own limit is to be the later one: the tests' names the program that hangs.
        (PROGRAM_LIMIT.into(), (arguments.limit - arguments.limit / 10).to_string()),
        (QUICK.into(), u8::from(arguments.quick).to_string()),
        ("PATH".into(), "/usr/bin:/bin".into()),
    ];
    let doctor = target.join("debug/refpage");
    Ok(Plan { suites, doctor, programs, scratch: writable, environment, limit: arguments.limit })
}

fn cargo(target: &Path, command: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.arg(command).arg("--quiet").arg("--target-dir").arg(target);
    cargo.arg("--manifest-path").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
    cargo
}

/// The integration tests among what cargo says that it built: their names and binaries.
fn binaries(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut binaries = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo writes JSON")?;
        let target = &message["target"];
        if let (Some("test"), Some(name), Some(binary)) =
            (target["kind"][0].as_str(), target["name"].as_str(), message["executable"].as_str())
        {
            binaries.push((name.to_owned(), binary.into()));
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
