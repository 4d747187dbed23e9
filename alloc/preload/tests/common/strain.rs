//! Programs under a constraint: the service that is left to them, what they are told about it, and what they are given.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use engine::probe_channel;
use engine::sys::uffd::{Uffd, Way};

use super::{DEFAULT, Outcome, c_program, patterns, run, serve};

pub const MIB: u64 = 1 << 20;

/// Has a command meet a constraint.
pub type Confine<'a> = &'a dyn Fn(&mut Command);

/// Each behaviour under every service, and under none in particular.
#[macro_export]
macro_rules! under_each_service {
    ($($behaviour:ident => $check:expr;)*) => {
        for_each_service! { $($behaviour => $check;)* }
        mod auto {
            use super::*;
            $(#[test] fn $behaviour() { ($check)("auto") })*
        }
    };
}

/// The best service for a process that asks for `service` and cannot have these.
pub fn rest(service: &str, lacks: &[&str]) -> &'static str {
    const LADDER: [&str; 3] = ["lazy", "cow", "eager"];
    // What the kernel has for this process, whatever refpage makes of it.
    static HAS: LazyLock<[bool; 3]> = LazyLock::new(|| {
        let mover = Uffd::open(Way::UserMode);
        let moves = mover.is_ok_and(|uffd| uffd.features().moves());
        // `cow` also needs a Region of two parts, for which there is too little where reserving costs.
        let strict = fs::read_to_string("/proc/sys/vm/overcommit_memory");
        let strict = strict.is_ok_and(|value| value.trim() == "2");
        [probe_channel().0.is_some(), has_memory_files() && !strict, moves]
    });
    let from = match service {
        "auto" => 0,
        _ => LADDER.iter().position(|&rung| rung == service).unwrap_or(LADDER.len()),
    };
    let mut rungs = LADDER.into_iter().zip(*HAS).skip(from);
    let found = rungs.find(|&(rung, has)| has && !lacks.contains(&rung));
    found.map_or("memset", |(rung, _)| rung)
}

fn has_memory_files() -> bool {
    // SAFETY: the name is a string; what is opened is closed by its only owner.
    unsafe {
        let file = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
        file >= 0 && libc::close(file) == 0
    }
}

pub fn run_under(
    program: &Path,
    arguments: &[&str],
    service: &str,
    pattern: &str,
    confine: Confine<'_>,
) -> Outcome {
    let mut command = Command::new(program);
    serve(command.args(arguments), service, pattern);
    confine(&mut command);
    run(&mut command)
}

/// One line, if the process runs on less than it asked for, and none otherwise.
#[track_caller]
pub fn expect_told(service: &str, taken: &str, outcome: &Outcome) {
    let least = !["lazy", "cow", "eager"].contains(&taken);
    let less = if service == "auto" { least } else { taken != service };
    let lines = outcome.refpage_lines();
    assert_eq!(lines.len(), usize::from(less), "{taken}, {}: {}", outcome.what, outcome.stderr);
}

/// What a run of `strained` says about itself at its end.
#[derive(Debug)]
pub struct Lived {
    pub given: u64,
    pub refused: u64,
    pub service: String,
}

impl Lived {
    #[track_caller]
    pub fn of(outcome: &Outcome) -> Self {
        let text = outcome.expect_success().stdout_text();
        // "7 given, 0 refused, service lazy"
        let words: Vec<_> = text.lines().last().unwrap_or_default().split(' ').collect();
        let [given, "given,", refused, "refused,", "service", service] = words[..] else {
            panic!("{}: {text}", outcome.what);
        };
        let number = |word: &str| word.parse().expect("a number of blocks");
        Self { given: number(given), refused: number(refused), service: service.into() }
    }
}

/// Runs a behaviour of `strained` with each pattern. None without a compiler, which is said.
#[track_caller]
pub fn strained(behaviour: &str, service: &str, confine: Confine<'_>) -> Vec<Lived> {
    let Some(program) = c_program("strained") else { return Vec::new() };
    let run_with = |pattern: &&str| {
        let outcome = run_under(&program, &[behaviour], service, pattern, confine);
        let lived = Lived::of(&outcome);
        expect_told(service, &lived.service, &outcome);
        lived
    };
    patterns().iter().map(run_with).collect()
}

/// The same, where nothing may be refused and all services but these may be had.
#[track_caller]
pub fn thrives(behaviour: &str, service: &str, lacks: &[&str], confine: Confine<'_>) {
    for lived in strained(behaviour, service, confine) {
        assert_eq!(lived.service, rest(service, lacks), "{behaviour}");
        assert_eq!(lived.refused, 0, "{behaviour}: {lived:?}");
    }
}

/// The content checks, which memory is not scarce for; all services but these may be had.
#[track_caller]
pub fn content(service: &str, lacks: &[&str], confine: Confine<'_>) {
    let (Some(which), Some(content)) = (c_program("service"), c_program("content")) else {
        return;
    };
    let taken = rest(service, lacks);
    let outcome = run_under(&which, &[], service, DEFAULT, confine);
    assert_eq!(outcome.expect_success().stdout_text().trim(), taken, "{}", outcome.stderr);
    expect_told(service, taken, &outcome);
    for pattern in patterns() {
        for behaviour in ["fresh", "recycled", "resized"] {
            let outcome = run_under(&content, &[behaviour], service, pattern, confine);
            expect_told(service, taken, outcome.expect_success());
        }
    }
    thrives("forks", service, lacks, confine);
}

/// What one process has not used is left for others: a program that holds 21 MiB at most takes the Region's first steps
/// and the smallest pool, not the terabytes that are reserved.
#[track_caller]
pub fn commits_little(service: &str, confine: Confine<'_>) {
    let Some(program) = c_program("strained") else { return };
    let outcome = run_under(&program, &["commits"], service, DEFAULT, confine);
    let text = outcome.expect_success().stdout_text();
    let mib: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(mib.len() == 2 && mib.iter().all(|&mib| mib < 256), "{text}");
}
