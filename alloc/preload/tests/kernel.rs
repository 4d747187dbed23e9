//! System calls that read and write memory which nobody has touched: they see the pattern, and never EFAULT.

mod common;

use std::process::Command;

use common::{ScratchDir, c_program, is_served, patterns, run, serve, skipped};

/// As `check_content`, in a scratch directory, and with an eye on what the program could not do here.
fn check(behaviour: &str, service: &str) {
    let Some(program) = c_program("kernel") else {
        return;
    };
    if !is_served(service) {
        return;
    }
    let dir = ScratchDir::new("kernel");
    for pattern in patterns() {
        let mut command = Command::new(&program);
        let outcome = run(serve(command.arg(behaviour).current_dir(&dir.0), service, pattern));
        outcome.expect_success();
        for reason in outcome.stdout_text().lines() {
            skipped(reason);
        }
    }
}

for_each_service! {
    read_from_a_file_into_fresh_memory => |service| check("read-from-file", service);
    direct_io_into_and_from_fresh_memory => |service| check("read-directly", service);
    read_from_a_pipe_into_fresh_memory => |service| check("read-from-pipe", service);
    receive_into_fresh_memory => |service| check("receive-from-socket", service);
    readv_into_many_fresh_blocks => |service| check("read-into-many", service);
    getrandom_into_fresh_memory => |service| check("random-bytes", service);
    futex_in_fresh_memory => |service| check("futex-word", service);
    write_from_fresh_memory => |service| check("write-from-fresh", service);
    results_of_system_calls_in_fresh_memory => |service| check("results", service);
    signal_stack_in_fresh_memory => |service| check("signal-stack", service);
    thread_stack_in_fresh_memory => |service| check("thread-stack", service);
    access_from_outside_to_fresh_memory => |service| check("remote-access", service);
    memory_that_the_program_locks_and_protects => |service| check("locked-and-protected", service);
    a_heap_that_is_locked_in_memory => |service| check("locked-heap", service);
    faults_that_signals_interrupt => |service| check("faults-under-signals", service);
}
