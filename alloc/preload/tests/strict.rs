//! Where the kernel commits no more memory than it has (vm.overcommit_memory=2): what is reserved costs, and what runs
//! out is refused before it is touched.
//!
//! The setting is the whole machine's, so nothing here makes it: `refpage-kernels` does, in its guests.

mod common;

use std::fs;

use common::strain::{Lived, MIB, commits_little, rest, run_under, thrives};
use common::{DEFAULT, c_program, skipped, undivided};

under_each_service! {
    commitment_is_strict => strict;
}

fn strict(service: &str) {
    let setting = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if setting.trim() != "2" {
        return skipped(format_args!(
            "vm.overcommit_memory is {}, not 2, and refpage-kernels alone sets it, in its guests",
            setting.trim()
        ));
    }
    for behaviour in ["lives", "forks"] {
        thrives(behaviour, service, undivided(), &|_| {});
    }
    commits_little(service, &|_| {});
    runs_out(service);
}

/// All that is left to commit is taken.
fn runs_out(service: &str) {
    const MOST: u64 = 4096 * MIB;
    let Some(program) = c_program("strained") else { return };
    let left = left_to_commit();
    if left > MOST {
        return skipped(format_args!("{} MiB are too much to use up", left / MIB));
    }
    let outcome = run_under(&program, &["exhausts"], service, DEFAULT, &|command| {
        command.env("TEST_BYTES", (left + 64 * MIB).to_string());
    });
    let lived = Lived::of(&outcome);
    assert_eq!(lived.service, rest(service, undivided()));
    assert!(lived.refused > 0 && lived.given > 0, "{}", outcome.stdout_text());
}

fn left_to_commit() -> u64 {
    let about = fs::read_to_string("/proc/meminfo").expect("/proc is there");
    let kib = |name: &str| -> u64 {
        let value = about.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
        value.and_then(|value| value.trim().parse().ok()).expect("a number of KiB")
    };
    kib("CommitLimit:").saturating_sub(kib("Committed_AS:")) << 10
}
