//! Programs where something is scarce or forbidden: they start, take the best service that works, say so once if it
//! is less than what was asked for, and what they are given holds the pattern.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::RwLock;

use common::confine::{self, MemoryGroup, Nobody, Refusal, Strict};
use common::{DEFAULT, Outcome, PATTERNS, c_library, c_program, library, run, serve, skipped};

const MIB: u64 = 1 << 20;

/// Each behaviour under every service, and under none in particular.
macro_rules! under_each_service {
    ($($behaviour:ident => $check:expr;)*) => {
        for_each_service! { $($behaviour => $check;)* }
        mod auto {
            use super::*;
            $(#[test] fn $behaviour() { ($check)("auto") })*
        }
    };
}

under_each_service! {
    address_space_is_limited => address_space;
    address_space_runs_out => exhaustion;
    data_is_limited => data;
    addresses_have_39_bits => |service| constrained(service, &["address-bits:39", "address-bits:38"]);
    addresses_are_few => |service| constrained(service, &["address-bits:32", "address-bits:30"]);
    mappings_are_few => |service| constrained(service, &["maps:0", "maps:1", "maps:3", "maps:8", "maps:20", "maps:100"]);
    descriptors_are_few => |service| constrained(service, &["files:0", "files:1", "files:3", "files:4"]);
    the_stack_is_small => |service| {
        content(service, &|command| confine::limit(command, libc::RLIMIT_STACK, 128 << 10));
    };
    nothing_may_be_locked => |service| {
        content(service, &|command| confine::limit(command, libc::RLIMIT_MEMLOCK, 0));
    };
    everything_is_locked => locked;
    no_thread_can_be_made => no_thread;
    userfaultfd_is_filtered => filtered;
    other_calls_are_filtered => other_filters;
    there_is_no_proc => no_proc;
    a_control_group_limits_memory => control_group;
    commitment_is_strict => strict;
}

/// The setting that [`Strict`] changes is the whole machine's: nobody else may run then.
static MACHINE: RwLock<()> = RwLock::new(());

type Confine<'a> = &'a dyn Fn(&mut Command);

fn run_under(
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
fn expect_told(service: &str, taken: &str, outcome: &Outcome) {
    let least = !["lazy", "cow", "eager"].contains(&taken);
    let less = if service == "auto" { least } else { taken != service };
    let lines = outcome.refpage_lines();
    assert_eq!(lines.len(), usize::from(less), "{taken}, {}: {}", outcome.what, outcome.stderr);
}

/// Runs a behaviour of `strained` with each pattern: what it wrote last, which names the service at the end.
#[track_caller]
fn strained(behaviour: &str, service: &str, confine: Confine<'_>) -> Option<String> {
    let program = c_program("strained")?;
    let mut last = String::new();
    for pattern in PATTERNS {
        let outcome = run_under(&program, &[behaviour], service, pattern, confine);
        let text = outcome.expect_success().stdout_text();
        last = text.lines().last().unwrap_or_default().to_owned();
        let taken = last.rsplit(' ').next().unwrap_or_default();
        expect_told(service, taken, &outcome);
    }
    Some(last)
}

/// Where memory is not scarce: the content checks, none of which may be refused anything. The service taken.
#[track_caller]
fn content(service: &str, confine: Confine<'_>) -> Option<String> {
    let _shared = MACHINE.read();
    let (which, content) = (c_program("service")?, c_program("content")?);
    let outcome = run_under(&which, &[], service, DEFAULT, confine);
    let taken = outcome.expect_success().stdout_text().trim().to_owned();
    expect_told(service, &taken, &outcome);
    for pattern in PATTERNS {
        for behaviour in ["fresh", "recycled", "resized"] {
            let outcome = run_under(&content, &[behaviour], service, pattern, confine);
            expect_told(service, &taken, outcome.expect_success());
        }
    }
    strained("forks", service, confine);
    Some(taken)
}

fn address_space(service: &str) {
    let _shared = MACHINE.read();
    for mib in
        [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096, 65536, 1 << 20]
    {
        let confine: Confine<'_> = &|command| confine::limit(command, libc::RLIMIT_AS, mib * MIB);
        let Some(last) = strained("lives", service, confine) else { return };
        // Room for the heap twice over, and for libc: nothing may be refused.
        assert!(mib < 64 || last.contains(" 0 refused"), "under {mib} MiB: {last}");
        assert!(mib < 24 || !last.starts_with("0 given"), "under {mib} MiB: {last}");
    }
}

fn exhaustion(service: &str) {
    let _shared = MACHINE.read();
    for mib in [24, 64, 256] {
        strained("exhausts", service, &|command| {
            confine::limit(command, libc::RLIMIT_AS, mib * MIB)
        });
    }
}

/// A limit on private writable memory, which counts what is reserved unless it is not writable yet.
fn data(service: &str) {
    let _shared = MACHINE.read();
    for mib in [16, 32, 64, 128, 1024, 65536] {
        let confine: Confine<'_> = &|command| confine::limit(command, libc::RLIMIT_DATA, mib * MIB);
        strained("lives", service, confine);
        if mib >= 64 {
            strained("forks", service, confine);
        }
        if mib <= 128 {
            strained("exhausts", service, confine);
        }
    }
    commits_little(service, &|command| confine::limit(command, libc::RLIMIT_DATA, 65536 * MIB));
}

/// Something is used up before the heap starts, and after it has.
fn constrained(service: &str, constraints: &[&str]) {
    let _shared = MACHINE.read();
    let Some(constrain) = c_library("constrain") else { return };
    let preloaded = format!("{}:{}", library().display(), constrain.display());
    for constraint in constraints {
        for (behaviour, when) in [("lives", "TEST_CONSTRAINT"), ("later", "TEST_CONSTRAINT_LATER")]
        {
            let last = strained(behaviour, service, &|command| {
                command.env("LD_PRELOAD", &preloaded).env(when, constraint);
            });
            let Some(last) = last else { return };
            let few_maps = constraint.starts_with("maps:");
            assert!(few_maps || last.contains(" 0 refused"), "{constraint}, {behaviour}: {last}");
        }
    }
}

fn locked(service: &str) {
    let _shared = MACHINE.read();
    for bytes in [None, Some(0), Some(64 << 10), Some(256 * MIB)] {
        let limited = |command: &mut Command| {
            if let Some(bytes) = bytes {
                confine::limit(command, libc::RLIMIT_MEMLOCK, bytes);
            }
        };
        strained("locks-all", service, &limited);
        // Root may lock what it likes: the limit is for others.
        let (Some(nobody), Some(program)) = (Nobody::new(), c_program("strained")) else { return };
        let mut command = nobody.command(&program, service, DEFAULT);
        limited(command.arg("locks-all"));
        let outcome = run(&mut command);
        let text = outcome.expect_success().stdout_text();
        let taken = text.trim().rsplit(' ').next().unwrap_or_default();
        expect_told(service, taken, &outcome);
        assert!(bytes != Some(0) || text.contains("mlockall: Operation not permitted"), "{text}");
    }
}

/// The handler's clone fails: by a filter, and by the limit on a user's processes.
fn no_thread(service: &str) {
    let flags = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_SYSVSEM;
    let refusal = Refusal::of(libc::SYS_clone, libc::EAGAIN).with_argument(0, flags as u32);
    let taken = content(service, &|command| confine::refuse(command, &[refusal]));
    assert_ne!(taken.as_deref(), Some("lazy"), "without its handler");

    let _shared = MACHINE.read();
    let (Some(nobody), Some(program)) = (Nobody::new(), c_program("strained")) else { return };
    let mut command = Command::new(nobody.bring(&program));
    serve(command.arg("lives"), service, DEFAULT).env("LD_PRELOAD", nobody.bring(&library()));
    // CAP_SYS_PTRACE opens a userfaultfd, and has no say in limits.
    confine::only_tracing(&mut command, Nobody::ID);
    let outcome = run(&mut command);
    let text = outcome.expect_success().stdout_text();
    if service != "memset" && !text.trim().ends_with(" lazy") {
        skipped(format_args!(
            "CAP_SYS_PTRACE does not give the service lazy here: {}",
            outcome.stderr.trim()
        ));
    }
    confine::limit(&mut command, libc::RLIMIT_NPROC, 0);
    let outcome = run(&mut command);
    let text = outcome.expect_success().stdout_text();
    let taken = text.trim().rsplit(' ').next().unwrap_or_default();
    assert_ne!(taken, "lazy", "without its handler");
    expect_told(service, taken, &outcome);
}

/// As the filters of containers do it, and older ones. What opening the device gives is refused, too: a container
/// has no such device.
fn filtered(service: &str) {
    const USERFAULTFD_IOC_NEW: u32 = 0xaa00;
    for errno in [libc::EPERM, libc::ENOSYS] {
        let refusals = [
            Refusal::of(libc::SYS_userfaultfd, errno),
            Refusal::of(libc::SYS_ioctl, errno).with_argument(1, USERFAULTFD_IOC_NEW),
        ];
        let taken = content(service, &|command| confine::refuse(command, &refusals));
        assert_ne!(taken.as_deref(), Some("lazy"), "without userfaultfd");
        let refusals = [Refusal::of(libc::SYS_userfaultfd, errno)];
        content(service, &|command| confine::refuse(command, &refusals));
    }
}

/// Other system calls that the library makes and a filter may refuse, one at a time and all at once.
fn other_filters(service: &str) {
    const MADV_GUARD_INSTALL: u32 = 102;
    const UFFDIO_MOVE: u32 = 0xc028_aa05;
    let refusals = [
        Refusal::of(libc::SYS_memfd_create, libc::EPERM),
        Refusal::of(libc::SYS_process_vm_readv, libc::EPERM),
        Refusal::of(libc::SYS_madvise, libc::EINVAL).with_argument(2, MADV_GUARD_INSTALL),
        Refusal::of(libc::SYS_ioctl, libc::EPERM).with_argument(1, UFFDIO_MOVE),
        Refusal::of(libc::SYS_close_range, libc::ENOSYS),
        Refusal::of(libc::SYS_capset, libc::EPERM),
        Refusal::of(libc::SYS_sched_getaffinity, libc::EPERM),
        Refusal::of(libc::SYS_prlimit64, libc::EPERM),
    ];
    let shared = MACHINE.read();
    for refusal in refusals {
        strained("lives", service, &|command| confine::refuse(command, &[refusal]));
    }
    drop(shared);
    content(service, &|command| confine::refuse(command, &refusals));
}

fn no_proc(service: &str) {
    if confine::is_root("unmount /proc in a name space of its own") {
        content(service, &confine::without_proc);
    }
}

/// What is touched counts, not what is reserved: and who touches too much is killed, as under any malloc.
fn control_group(service: &str) {
    const LIMIT: u64 = 96 * MIB;
    let _shared = MACHINE.read();
    let Some(program) = c_program("strained") else { return };
    if !confine::is_root("make a control group") {
        return;
    }
    let Some(group) = MemoryGroup::new(LIMIT) else { return };
    let run_with = |behaviour: &str| {
        run_under(&program, &[behaviour], service, DEFAULT, &|command| {
            group.confine(command.env("TEST_BYTES", (10 * LIMIT).to_string()));
        })
    };
    run_with("lives").expect_success();
    run_with("dense").expect_signal(libc::SIGKILL);
    let outcome = run_with("sparse");
    // These touch it all.
    match (service, outcome.refpage_lines().is_empty()) {
        ("memset" | "eager", _) | (_, false) => outcome.expect_signal(libc::SIGKILL),
        _ => outcome.expect_success(),
    };
}

/// What one process has not used is left for others: a program that holds 21 MiB at most takes the Region's first steps
/// and the smallest pool, not the terabytes that are reserved.
fn commits_little(service: &str, confine: Confine<'_>) {
    let Some(program) = c_program("strained") else { return };
    let outcome = run_under(&program, &["commits"], service, DEFAULT, confine);
    let text = outcome.expect_success().stdout_text();
    let mib: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(mib.len() == 2 && mib.iter().all(|&mib| mib < 256), "{text}");
}

fn strict(service: &str) {
    let _alone = MACHINE.write();
    let Some(_strict) = Strict::new() else { return };
    let free = &|_: &mut Command| {};
    for behaviour in ["lives", "forks"] {
        let Some(last) = strained(behaviour, service, free) else { return };
        assert!(last.contains(" 0 refused"), "{last}");
    }
    commits_little(service, free);
    strained("exhausts", service, free);
}
