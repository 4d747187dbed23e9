//! The life of a process around its heap: before main, at exit, across fork and exec, without privilege.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::confine::Nobody;
use common::strain::{expect_told, rest};
use common::{
    DEFAULT, ScratchDir, c_library, c_program, check_content, is_served, library, linked_c_program,
    patterns, preload, run, serve, skipped,
};

for_each_service! {
    constructors_and_destructors_have_a_heap => |service| check_content("early", &[], service);
    a_librarys_constructor_has_a_heap => in_a_library;
    thread_and_process_ends_have_a_heap => at_the_end;
    fork_gives_each_side_its_own_heap => |service| check_content("fork", &["fork"], service);
    a_raw_clone_is_noticed => |service| check_content("fork", &["raw-clone"], service);
    forks_of_forks_have_a_heap => |service| check_content("fork", &["generations"], service);
    a_vforked_child_touches_fresh_memory => |service| check_content("fork", &["vfork"], service);
    fork_among_allocating_threads_never_hangs => |service| check_content("fork", &["among-threads"], service);
    exec_starts_anew => |service| check_content("fork", &["exec"], service);
    posix_spawn_starts_anew => |service| check_content("fork", &["spawn"], service);
    system_and_popen_work => |service| check_content("fork", &["system"], service);
    a_childs_first_signal_finds_its_heap => |service| check_content("fork", &["early-signals"], service);
    a_daemon_keeps_its_heap => |service| check_content("fork", &["daemon"], service);
    closing_every_descriptor_stops_nothing =>
        |service| check_content("surroundings", &["descriptors-closed"], service);
    closing_every_descriptor_at_first_stops_nothing =>
        |service| check_content("surroundings", &["descriptors-closed-first"], service);
    threads_may_close_every_descriptor =>
        |service| check_content("surroundings", &["descriptors-closed-by-threads"], service);
    descriptors_may_become_others =>
        |service| check_content("surroundings", &["descriptors-replaced"], service);
    threads_may_make_descriptors_others =>
        |service| check_content("surroundings", &["descriptors-replaced-by-threads"], service);
    signals_go_to_the_programs_own_threads => |service| check_content("surroundings", &["signals"], service);
    pages_that_the_program_gives_up_come_back_in_order =>
        |service| check_content("surroundings", &["pages-given-up"], service);
    the_process_outlives_its_main_thread => main_thread_ends;
    libraries_come_and_go => libraries;
    it_works_without_privilege => without_privilege;
}

/// The library with the constructor is preloaded too, behind and before the heap.
fn in_a_library(service: &str) {
    let (Some(program), Some(other)) = (c_program("early"), c_library("library")) else {
        return;
    };
    if !is_served(service) {
        return;
    }
    for order in [[library(), other.clone()], [other, library()]] {
        let mut command = Command::new(&program);
        serve(&mut command, service, DEFAULT);
        command.env("LD_PRELOAD", format!("{}:{}", order[0].display(), order[1].display()));
        run(&mut command).expect_success();
    }
}

fn at_the_end(service: &str) {
    let Some(program) = c_program("ending") else {
        return;
    };
    if is_served(service) {
        let outcome = run(serve(&mut Command::new(program), service, "0x5c"));
        assert_eq!(outcome.expect_success().stdout_text(), "ended\n");
    }
}

fn main_thread_ends(service: &str) {
    let Some(program) = c_program("surroundings") else {
        return;
    };
    if is_served(service) {
        let outcome = run(serve(Command::new(program).arg("main-thread-ends"), service, DEFAULT));
        assert_eq!(outcome.expect_success().stdout_text(), "outlived\n");
    }
}

fn libraries(service: &str) {
    let (Some(program), Some(other)) = (c_program("surroundings"), c_library("library")) else {
        return;
    };
    if !is_served(service) {
        return;
    }
    let dir = ScratchDir::new("libraries");
    for i in 0..60 {
        fs::copy(&other, dir.0.join(format!("lib{i}.so"))).expect("a copy of a library");
    }
    let mut command = Command::new(program);
    command.arg("libraries").env("TEST_LIBRARIES", &dir.0);
    run(serve(&mut command, service, DEFAULT)).expect_success();
}

/// Whatever service nobody gets, it is named, told about once, and the content is right.
fn without_privilege(service: &str) {
    let (Some(which), Some(content)) = (c_program("service"), c_program("content")) else {
        return;
    };
    let Some(nobody) = Nobody::new() else { return };
    let outcome = run(&mut nobody.command(&which, service, DEFAULT));
    let taken = outcome.expect_success().stdout_text().trim().to_owned();
    assert_eq!(taken, rest(service, Nobody::lacks()), "{}", outcome.stderr);
    expect_told(service, &taken, &outcome);
    for pattern in patterns() {
        for behaviour in ["fresh", "recycled", "resized"] {
            run(nobody.command(&content, service, pattern).arg(behaviour)).expect_success();
        }
    }
}

/// Without `service=`, the best is taken: there is nothing to tell, unless it is the least.
#[test]
fn the_best_service_is_chosen() {
    let Some(which) = c_program("service") else {
        return;
    };
    let mut own = Command::new(&which);
    preload(&mut own, "");
    let mut commands = vec![(own, [].as_slice())];
    let nobody = Nobody::new();
    if let Some(nobody) = &nobody {
        commands.push((nobody.command(&which, "auto", DEFAULT), Nobody::lacks()));
    }
    for (mut command, lacks) in commands {
        let outcome = run(&mut command);
        let text = outcome.expect_success().stdout_text();
        assert_eq!(text.trim(), rest("auto", lacks), "{}", outcome.stderr);
        expect_told("auto", text.trim(), &outcome);
    }
}

/// Who may run a program with the rights of another must not choose what that program does.
#[test]
fn a_program_with_more_rights_than_its_caller_ignores_the_environment() {
    let Some(nobody) = Nobody::new() else { return };
    if let Some(reason) = rights_cannot_grow(&nobody.dir.0) {
        skipped(reason);
        return;
    }
    nobody.bring(&library());
    let Some(program) = linked_c_program("secure") else { return };
    let program = nobody.bring(&program);
    let options = "service=memset:pattern=0x5c:stats=1:nonsense=1";
    let found = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("an owner may");
        let mut command = Command::new(&program);
        command.uid(Nobody::ID).gid(Nobody::ID).env("REFPAGE_OPTIONS", options);
        // Where the library is.
        command.current_dir(&nobody.dir.0);
        let outcome = run(&mut command);
        (outcome.expect_success().stdout_text(), outcome.stderr)
    };
    // What the options do to a program without such rights.
    let (told, printed) = found(0o755);
    assert_eq!(told, "0 0x5c\n");
    assert!(printed.contains("nonsense") && printed.contains("statistics"), "{printed}");
    for mode in [0o4755, 0o2755] {
        let (told, printed) = found(mode);
        assert_eq!(told, "1 0xaa\n", "mode {mode:o}");
        // But that there is only `memset` is said to everyone.
        let printed: Vec<_> =
            printed.lines().filter(|line| !line.contains("instead of a lazy one")).collect();
        assert_eq!(printed, [""; 0], "mode {mode:o}");
    }
}

/// Why a set-user-ID program in `directory` would run like any other.
fn rights_cannot_grow(directory: &Path) -> Option<&'static str> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes()).expect("no NUL in a path");
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: statvfs reads a string and fills the struct, for which zeros are a value; prctl takes numbers.
    let (flags, no_new) = unsafe {
        assert_eq!(libc::statvfs(path.as_ptr(), about.as_mut_ptr()), 0);
        (about.assume_init().f_flag, libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))
    };
    match (flags & libc::ST_NOSUID != 0, no_new == 1) {
        (true, _) => Some("the directory for temporary files is mounted nosuid"),
        (_, true) => Some("this process may get no new rights (PR_SET_NO_NEW_PRIVS)"),
        _ => None,
    }
}
