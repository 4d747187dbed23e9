//! What memory tags cost: one guest whose processor has them and whose clock counts instructions, in which
//! `refpage-bench instructions` and the PDFium experiment are run.
//!
//! An emulated machine's time means nothing. With `-icount shift=0` qemu lets the guest's clock go forward by a
//! nanosecond with each instruction, so that there a CPU second is 10⁹ of them; and when there is nothing to execute, to
//! the next timer (`sleep=off`).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arch::Arch;
use crate::boot::{self, Machine};
use crate::fetch::{Archive, Kernel};
use crate::suites::output;
use crate::toolchain::Toolchain;
use crate::{Scratch, able_to_boot, guest, initramfs, target_directory};

/// Has the guest's clock count instructions.
const COUNT: [&str; 2] = ["-icount", "shift=0,sleep=off"];
/// The packages whose programs and libraries are counted.
const PACKAGES: [&[&str]; 3] = [
    &["refpage-preload", "--lib"],
    &["refpage-bench", "--bin", "refpage-bench"],
    &["pdfium-harness", "--bin", "pdfium-harness"],
];
/// Where the guest finds what it has to do.
const STEPS: &str = "/steps.json";
/// How the kernel hands out huge pages.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// What the kernel takes at most to test its own ciphers after it has booted, which would come into the counts. To wait
/// costs nothing: a clock that counts instructions leaps where there are none.
const SETTLING: Duration = Duration::from_secs(30);
/// Counted runs of PDFium: an emulated one takes long, and one hardly differs from the next.
const RENDERINGS: &str = "3";

/// Count what memory tags cost, in instructions: in an aarch64 guest on one processor
///
/// Runs `refpage-bench instructions`, with huge pages as the kernel has them and without, and PDFium on some pages of
/// the default document, with tags and without.
#[derive(clap::Args)]
pub struct Arguments {
    /// The kernel, by the beginning of its version, or the `newest` in the archive
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,
    /// Rounds of each count
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    runs: u32,
    /// Pages for PDFium to render
    #[arg(long, value_name = "RANGES", default_value = "1-15")]
    pages: String,
    /// Memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// Seconds without a word until the guest is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    limit: u64,
    /// Write the programs' figures, as JSON, to this directory
    #[arg(long, value_name = "DIRECTORY")]
    json: Option<PathBuf>,
}

/// A program to run.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    /// What its figures are called.
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    /// The setting for huge pages, if it is not to be the kernel's own.
    huge_pages: Option<String>,
}

impl Step {
    /// Where its figures are in the guest.
    fn figures(&self) -> PathBuf {
        Path::new("/tmp").join(format!("{}.json", self.name))
    }
}

/// What the guest says, one a line.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// A step begins.
    Begun(String),
    /// It writes something for people.
    Printed(String),
    /// It writes something to stderr.
    Complained(String),
    /// It is over, by its exit code or signal, with its figures if it has written some.
    Over { name: String, success: bool, status: String, figures: Option<String> },
    /// All of it is over.
    Done,
}

/// Boots, shows what the guest says, and keeps the figures.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let arch = Arch::named("aarch64").map_err(|error| anyhow!(error))?;
    let target = target_directory()?;
    let scratch = Scratch::new(&target.join("kernels"), false)?;
    let directory = target.join("kernels").join(arch.name);
    let toolchain = if arch.is_foreign() {
        Toolchain::cross(arch, &directory)?
    } else {
        Toolchain::own(&target)
    };
    able_to_boot(&toolchain)?;
    let kernel = Archive::new(arch, &directory).kernel(&arguments.kernel)?;
    if let Some(directory) = &arguments.json {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let initramfs = initramfs(&toolchain, arguments, &scratch.path)?;
    let (qemu, memory) = (toolchain.qemu(), arguments.memory);
    let machine = Machine { arch, qemu, initramfs, smp: 1, memory };
    println!("Linux {}, {}, {}", kernel.name, arch.title(true), COUNT.join(" "));
    follow(&machine, &kernel, arguments, &scratch.path.join("console"))
}

/// Builds what is run, and the guest's files.
fn initramfs(toolchain: &Toolchain, arguments: &Arguments, scratch: &Path) -> Result<PathBuf> {
    eprintln!("building for {}", toolchain.arch.name);
    for package in PACKAGES {
        let mut build = toolchain.cargo("build");
        if toolchain.arch.is_foreign() {
            build.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        }
        output(build.args(["--release", "-p"]).args(package))?;
    }
    // Process 1 is counted by nobody: it is the one that runs the tests.
    output(toolchain.cargo("build").args(["-p", "refpage-kernels"]))?;
    let guest = toolchain.built().join("refpage-kernels");
    let released = toolchain.built().with_file_name("release");
    let [library, bench, harness] =
        ["librefpage.so", "refpage-bench", "pdfium-harness"].map(|name| released.join(name));
    // PDFium of that architecture, its hash checked, and the document, where the harness then finds them in the guest.
    let setup = output(toolchain.command(&harness).arg("setup"))?;
    let setup: Value = serde_json::from_str(&setup).context("the harness writes JSON")?;
    let path = |key: &str| setup[key].as_str().map(PathBuf::from).context("the harness's files");
    let steps = steps(&bench, &harness, arguments);
    let programs = vec![library, bench, harness, path("library")?];
    let mut files = initramfs::files(toolchain, programs, &guest)?;
    let document = path("file")?;
    files.insert(document.clone(), document);
    let texts = [(STEPS.into(), serde_json::to_vec(&steps)?)];
    initramfs::archive(&files, &texts, Path::new("/tmp"), scratch)
}

fn steps(bench: &Path, harness: &Path, arguments: &Arguments) -> Vec<Step> {
    let step = |name: &str, program: &Path, arguments: &[&str], huge_pages: Option<&str>| Step {
        name: name.into(),
        program: program.into(),
        arguments: arguments.iter().copied().map(String::from).collect(),
        huge_pages: huge_pages.map(String::from),
    };
    let runs = arguments.runs.to_string();
    let count = ["instructions", "--runs", &runs];
    let render = ["--pages", &arguments.pages, "--runs", RENDERINGS, "--with", "cow,glibc"];
    let without = [&render[..], &["--options", "mte=off"]].concat();
    vec![
        step("instructions", bench, &count, None),
        step("instructions-small-pages", bench, &count, Some("never")),
        step("pdfium", harness, &render, None),
        step("pdfium-no-tags", harness, &without, None),
    ]
}

/// Passes on what the guest says, until it is done or says nothing any more.
fn follow(
    machine: &Machine,
    kernel: &Kernel,
    arguments: &Arguments,
    console: &Path,
) -> Result<ExitCode> {
    let mut qemu = machine.qemu(true);
    qemu.args(COUNT).arg("-kernel").arg(&kernel.image);
    machine.attach(&mut qemu, console, "costs-guest");
    let mut qemu = qemu.spawn().with_context(|| format!("cannot run {qemu:?}"))?;
    let said = boot::events(qemu.stdout.take().expect("it was piped"));
    let silence = Duration::from_secs(arguments.limit);
    let mut code = ExitCode::SUCCESS;
    let result = loop {
        match said.recv_timeout(silence) {
            Ok(Ok(Said::Done)) => break Ok(code),
            Ok(Ok(Said::Begun(what))) => println!("\n== {what}"),
            Ok(Ok(Said::Printed(line))) => println!("{line}"),
            Ok(Ok(Said::Complained(line))) => eprintln!("{line}"),
            Ok(Ok(Said::Over { name, success, status, figures })) => {
                if !success {
                    eprintln!("error: {name}: {status}");
                    code = ExitCode::FAILURE;
                }
                if let Err(error) = keep(arguments.json.as_deref(), &name, figures) {
                    break Err(error);
                }
            }
            Ok(Err(line)) => break Err(anyhow!("the guest says {line:?}")),
            Err(RecvTimeoutError::Timeout) => {
                break Err(anyhow!("no sign of life for {} s", silence.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) => break Err(anyhow!("the guest ended by itself")),
        }
    };
    boot::end(&mut qemu)?;
    result.map_err(|error| anyhow!("{error:#}\n{}", boot::last_words(console).trim_end()))
}

fn keep(directory: Option<&Path>, name: &str, figures: Option<String>) -> Result<()> {
    let (Some(directory), Some(figures)) = (directory, figures) else { return Ok(()) };
    let path = directory.join(format!("{name}.json"));
    fs::write(&path, figures).with_context(|| format!("cannot write {}", path.display()))
}

/// Does all that process 1 of the guest has to do; never returns if it is process 1.
pub fn guest() -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is for process 1 of a guest alone");
    }
    let host = guest::set_up()?;
    let steps: Vec<Step> = serde_json::from_slice(&fs::read(STEPS)?)?;
    let usual = fs::read_to_string(HUGE_PAGES).unwrap_or_default();
    std::thread::sleep(SETTLING);
    for step in &steps {
        if let Some(huge_pages) = &step.huge_pages {
            fs::write(HUGE_PAGES, huge_pages).context(HUGE_PAGES)?;
        }
        let over = execute(step, &host)?;
        guest::tell(&host, &over)?;
        if let (Some(_), Some((_, usual))) = (&step.huge_pages, usual.split_once('[')) {
            fs::write(HUGE_PAGES, usual.split(']').next().unwrap_or(usual)).context(HUGE_PAGES)?;
        }
    }
    guest::tell(&host, &Said::Done)?;
    // The host ends the machine when it has heard that; process 1 must not end by itself.
    loop {
        std::thread::park();
    }
}

fn execute(step: &Step, host: &File) -> Result<Said> {
    let figures = step.figures();
    let mut command = Command::new(&step.program);
    command.args(&step.arguments).arg("--json").arg(&figures).current_dir("/tmp");
    command.env_clear().env("PATH", "/usr/bin:/bin");
    guest::tell(host, &Said::Begun(format!("{} {}", step.name, step.arguments.join(" "))))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (stdout.expect("it was piped"), stderr.expect("it was piped"));
    std::thread::scope(|scope| {
        let complaints = scope.spawn(|| pass_on(stderr, host, Said::Complained));
        pass_on(stdout, host, Said::Printed)?;
        complaints.join().expect("it does not panic")
    })?;
    let status = child.wait()?;
    Ok(Said::Over {
        name: step.name.clone(),
        success: status.success(),
        status: status.to_string(),
        figures: fs::read_to_string(figures).ok(),
    })
}

/// Tells the lines, as they come.
fn pass_on(lines: impl Read, host: &File, said: fn(String) -> Said) -> Result<()> {
    for line in BufReader::new(lines).lines() {
        guest::tell(host, &said(line?))?;
    }
    Ok(())
}
