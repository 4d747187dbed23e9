//! Programs where something is scarce or forbidden: they start, take the best service that works, say so once if it
//! is less than what was asked for, and what they are given holds the pattern.

mod common;

use std::fs;
use std::process::Command;

use common::confine::{self, MemoryGroup, Nobody, Refusal};
use common::strain::{
    Confine, Lived, MIB, commits_little, content, expect_told, rest, run_under, strained, thrives,
};
use common::{
    DEFAULT, c_library, c_program, is_served, library, patterns, run, serve, skipped, undivided,
};
use engine::probe_channel;
use engine::sys::uffd::Way;

/// As many MiB are enough for the two parts that `cow` needs: half of it is the Region.
const DIVIDED: u64 = 128 << 10;
/// From this many MiB on a limit takes nothing from these programs.
const ROOMY: u64 = 256;

under_each_service! {
    address_space_is_limited => address_space;
    address_space_runs_out => exhaustion;
    data_is_limited => data;
    addresses_have_39_bits => |service| constrained(service, &["address-bits:39", "address-bits:38"]);
    addresses_are_few => |service| constrained(service, &["address-bits:32", "address-bits:30"]);
    mappings_are_few => maps;
    descriptors_are_few => |service| constrained(service, &["files:0", "files:1", "files:3", "files:4"]);
    the_stack_is_small => |service| {
        content(service, &[], &|command| confine::limit(command, libc::RLIMIT_STACK, 128 << 10));
    };
    nothing_may_be_locked => |service| {
        content(service, &[], &|command| confine::limit(command, libc::RLIMIT_MEMLOCK, 0));
    };
    everything_is_locked => locked;
    no_thread_can_be_made => no_thread;
    userfaultfd_is_filtered => filtered;
    other_calls_are_filtered => other_filters;
    there_is_no_proc => no_proc;
    a_control_group_limits_memory => control_group;
}

fn address_space(service: &str) {
    for mib in
        [4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096, 65536, 1 << 20]
    {
        let confine: Confine<'_> = &|command| confine::limit(command, libc::RLIMIT_AS, mib * MIB);
        let lacks = if mib < DIVIDED { undivided() } else { &[] };
        if mib >= ROOMY {
            thrives("lives", service, lacks, confine);
            continue;
        }
        for lived in strained("lives", service, confine) {
            // Room for the heap twice over, and for libc: nothing may be refused.
            assert!(mib < 64 || lived.refused == 0, "under {mib} MiB: {lived:?}");
            assert!(mib < 24 || lived.given > 0, "under {mib} MiB: {lived:?}");
        }
    }
}

fn exhaustion(service: &str) {
    for mib in [24, 64, 256] {
        strained("exhausts", service, &|command| {
            confine::limit(command, libc::RLIMIT_AS, mib * MIB)
        });
    }
}

/// A limit on private writable memory, which counts what is reserved unless it is not writable yet.
fn data(service: &str) {
    for mib in [16, 32, 64, 128, 1024, 65536] {
        let confine: Confine<'_> = &|command| confine::limit(command, libc::RLIMIT_DATA, mib * MIB);
        if mib >= ROOMY {
            thrives("lives", service, undivided(), confine);
            thrives("forks", service, undivided(), confine);
            continue;
        }
        strained("lives", service, confine);
        if mib >= 64 {
            strained("forks", service, confine);
        }
        strained("exhausts", service, confine);
    }
    commits_little(service, &|command| confine::limit(command, libc::RLIMIT_DATA, 65536 * MIB));
}

/// Something is used up before the heap starts, and after it has.
fn constrained(service: &str, constraints: &[&str]) {
    let Some(constrain) = c_library("constrain") else { return };
    let preloaded = format!("{}:{}", library().display(), constrain.display());
    for constraint in constraints {
        let confine = |when| {
            let preloaded = &preloaded;
            move |command: &mut Command| {
                command.env("LD_PRELOAD", preloaded).env(when, constraint);
            }
        };
        // The heap itself begins with more mappings than these: every malloc fails, and says so.
        let no_heap = ["maps:0", "maps:1", "maps:3"].contains(constraint);
        for lived in strained("lives", service, &confine("TEST_CONSTRAINT")) {
            if let Some(lacks) = lacks_under(constraint) {
                assert_eq!(lived.service, rest(service, lacks), "{constraint}");
            }
            assert!(no_heap || lived.refused == 0 && lived.given > 0, "{constraint}: {lived:?}");
        }
        // What the heap has, it keeps.
        for lived in strained("later", service, &confine("TEST_CONSTRAINT_LATER")) {
            assert_eq!(lived.service, rest(service, &[]), "{constraint}, later");
            assert!(lived.refused == 0 && lived.given > 0, "{constraint}, later: {lived:?}");
        }
    }
}

/// The services that a heap cannot have that starts under the constraint; none where it depends on how many
/// mappings or descriptors each needs.
fn lacks_under(constraint: &str) -> Option<&'static [&'static str]> {
    match constraint {
        "address-bits:39" | "address-bits:38" | "maps:20" | "maps:100" => Some(&[]),
        "address-bits:32" | "address-bits:30" => Some(undivided()),
        "files:0" | "files:1" | "files:3" => Some(&["lazy", "cow", "eager"]),
        _ => None,
    }
}

/// Each run maps until the kernel refuses more.
fn maps(service: &str) {
    const MOST: u64 = 1 << 18;
    let count = fs::read_to_string("/proc/sys/vm/max_map_count");
    let count = count.ok().and_then(|count| count.trim().parse().ok()).unwrap_or(u64::MAX);
    if count > MOST {
        return skipped(format_args!("vm.max_map_count is {count}: to use it up takes too long"));
    }
    constrained(service, &["maps:0", "maps:1", "maps:3", "maps:8", "maps:20", "maps:100"]);
}

fn locked(service: &str) {
    let (nobody, program) = (Nobody::new(), c_program("strained"));
    for bytes in [None, Some(0), Some(64 << 10), Some(256 * MIB)] {
        let limited = |command: &mut Command| {
            if let Some(bytes) = bytes {
                confine::limit(command, libc::RLIMIT_MEMLOCK, bytes);
            }
        };
        strained("locks-all", service, &limited);
        // Root may lock what it likes: the limit is for others.
        let (Some(nobody), Some(program)) = (&nobody, &program) else { continue };
        let mut command = nobody.command(program, service, DEFAULT);
        limited(command.arg("locks-all"));
        let outcome = run(&mut command);
        let taken = Lived::of(&outcome).service;
        assert_eq!(taken, rest(service, Nobody::lacks()), "{bytes:?}");
        expect_told(service, &taken, &outcome);
        let text = outcome.stdout_text();
        assert!(bytes != Some(0) || text.contains("mlockall: Operation not permitted"), "{text}");
    }
}

/// The handler's clone fails: by a filter, and by the limit on a user's processes.
fn no_thread(service: &str) {
    let flags = libc::CLONE_VM
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS;
    let refusal = Refusal::of(libc::SYS_clone, libc::EAGAIN).with_argument(0, flags as u32);
    // It is missed when the handler is needed. For `cow` it is too late then.
    let lazy = ["auto", "lazy"].contains(&service);
    let lacks: &[_] = if lazy { &["lazy", "cow"] } else { &["lazy"] };
    content(service, lacks, &|command| confine::refuse(command, &[refusal]));

    let (Some(nobody), Some(program)) = (Nobody::new(), c_program("strained")) else { return };
    let mut command = Command::new(nobody.bring(&program));
    serve(command.arg("lives"), service, DEFAULT).env("LD_PRELOAD", nobody.bring(&library()));
    // CAP_SYS_PTRACE opens a userfaultfd, and has no say in limits.
    confine::only_tracing(&mut command, Nobody::ID);
    let outcome = run(&mut command);
    if lazy && Lived::of(&outcome).service != "lazy" {
        skipped(format_args!(
            "CAP_SYS_PTRACE does not give the service lazy here: {}",
            outcome.stderr.trim()
        ));
    }
    confine::limit(&mut command, libc::RLIMIT_NPROC, 0);
    let outcome = run(&mut command);
    let taken = Lived::of(&outcome).service;
    assert_eq!(taken, rest(service, lacks), "without its handler");
    expect_told(service, &taken, &outcome);
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
        let both = &["lazy", "eager"];
        content(service, both, &|command| confine::refuse(command, &refusals));
        let device = probe_channel().0.is_some_and(|(way, _)| way == Way::Device);
        let lacks: &[_] = if device { &["eager"] } else { both };
        let refusals = [Refusal::of(libc::SYS_userfaultfd, errno)];
        content(service, lacks, &|command| confine::refuse(command, &refusals));
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
    for refusal in refusals {
        let lacks: &[_] = if refusal.call == libc::SYS_memfd_create { &["cow"] } else { &[] };
        thrives("lives", service, lacks, &|command| confine::refuse(command, &[refusal]));
    }
    content(service, &["cow"], &|command| confine::refuse(command, &refusals));
}

fn no_proc(service: &str) {
    if confine::is_root("unmount /proc in a name space of its own") {
        content(service, &[], &confine::without_proc);
    }
}

/// Where the group has nobody killed, it is the handler that is told that there is no memory: the process ends, and says
/// why. (Without a handler, the kernel has the program wait in its own fault, as under any malloc.)
#[test]
fn a_fault_that_there_is_no_memory_for_ends_the_process() {
    const LIMIT: u64 = 48 * MIB;
    let Some(program) = c_program("strained") else { return };
    if !confine::is_root("make a control group") || !is_served("lazy") {
        return;
    }
    let Some(group) = MemoryGroup::new(LIMIT).filter(MemoryGroup::spare) else { return };
    for pattern in patterns() {
        let outcome = run_under(&program, &["one-block"], "lazy", pattern, &|command| {
            group.confine(command.env("TEST_BYTES", (2 * LIMIT).to_string()));
        });
        outcome.expect_signal(libc::SIGABRT);
        let lines = outcome.refpage_lines();
        let told = matches!(lines[..], [line] if line.starts_with("refpage: cannot fill the page at 0x")
            && line.ends_with("out of memory or address space (12)"));
        assert!(told, "{}", outcome.stderr);
    }
}

/// What is touched counts, not what is reserved: and who touches too much is killed, as under any malloc.
fn control_group(service: &str) {
    const LIMIT: u64 = 96 * MIB;
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
    assert_eq!(Lived::of(&run_with("lives")).service, rest(service, &[]));
    run_with("dense").expect_signal(libc::SIGKILL);
    let outcome = run_with("sparse");
    // These touch it all.
    match (service, outcome.refpage_lines().is_empty()) {
        ("memset" | "eager", _) | (_, false) => outcome.expect_signal(libc::SIGKILL),
        _ => outcome.expect_success(),
    };
}
