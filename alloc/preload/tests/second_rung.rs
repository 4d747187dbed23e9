//! The ladder's second rung: no way to /dev/userfaultfd, so that `lazy` has to come by the system call.

mod common;

use std::process::Command;

use common::confine::{self, Refusal};
use common::strain::{expect_told, run_under};
use common::{DEFAULT, ScratchDir, c_program, patterns, skipped};
use engine::sys::uffd::{Uffd, Way};

/// What the device is opened for.
fn without_the_device(command: &mut Command) {
    const USERFAULTFD_IOC_NEW: u32 = 0xaa00;
    let refusal = Refusal::of(libc::SYS_ioctl, libc::EPERM).with_argument(1, USERFAULTFD_IOC_NEW);
    confine::refuse(command, &[refusal]);
}

/// Runs these behaviours of a program under `lazy`, which needs nobody's word about it.
fn check(program: &str, behaviours: &[&str]) {
    if let Err(errno) = Uffd::open(Way::Syscall) {
        return skipped(format_args!(
            "the userfaultfd system call fails ({errno}): not root, and vm.unprivileged_userfaultfd is not 1"
        ));
    }
    let (Some(which), Some(program)) = (c_program("service"), c_program(program)) else { return };
    let dir = ScratchDir::new("second-rung");
    for service in ["lazy", "auto"] {
        let outcome = run_under(&which, &[], service, DEFAULT, &without_the_device);
        assert_eq!(outcome.expect_success().stdout_text(), "lazy\n", "{}", outcome.stderr);
    }
    for pattern in patterns() {
        for behaviour in behaviours {
            let outcome = run_under(&program, &[behaviour], "lazy", pattern, &|command| {
                without_the_device(command.current_dir(&dir.0));
            });
            expect_told("lazy", "lazy", outcome.expect_success());
        }
    }
}

#[test]
fn the_content_is_right() {
    let behaviours =
        ["fresh", "recycled", "same-block", "zeroed", "resized", "many-resized", "resized-calloc"];
    check("content", &behaviours);
    check("content", &["aligned", "aligned-then-resized"]);
}

#[test]
fn threads_find_the_content() {
    check("threads", &["exchange", "make-and-free", "come-and-go", "one-block"]);
}

#[test]
fn system_calls_see_the_content() {
    check("kernel", &["read-from-file", "read-from-pipe", "write-from-fresh", "results"]);
}

#[test]
fn children_have_a_heap() {
    check("fork", &["fork", "raw-clone", "generations", "vfork", "exec", "spawn"]);
}
