//! The `refpage` binary as a user meets it: its texts, and programs that run under it.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use common::{BINARY, library, refpage, stderr, stdout};
use refpage_alloc::options::TABLE;
use serde_json::Value;

#[test]
fn help_options_lists_every_option_with_its_default() {
    let text = stdout(&refpage(&["help", "options"]));
    for spec in &TABLE {
        assert!(text.contains(&format!("  {}={}\n", spec.name, spec.value)), "{}", spec.name);
        assert!(text.contains(spec.help) && text.contains(spec.accepts), "{}", spec.name);
        assert!(text.contains(&format!("default {}\n", spec.default)), "{}", spec.name);
    }
}

/// Where it says otherwise, the document is made anew by the command that the test names.
#[test]
fn the_document_of_the_options_is_what_the_table_makes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPTIONS.md");
    let made = stdout(&refpage(&["help", "options", "--markdown"]));
    for spec in &TABLE {
        assert!(made.contains(&format!("| `{}` |", spec.name)), "{}", spec.name);
        assert!(made.contains(&format!("| `{}` |\n", spec.method)), "{}", spec.method);
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|document| document == made),
        "docs/OPTIONS.md is not what the table makes: \
         cargo run --release -- help options --markdown > docs/OPTIONS.md"
    );
}

#[test]
fn run_has_a_flag_for_every_option() {
    let text = stdout(&refpage(&["help", "run"]));
    for spec in &TABLE {
        assert!(text.contains(&format!("--{}", spec.name)), "{}", spec.name);
    }
    assert_eq!(stdout(&refpage(&["run", "--help"])), text);
}

#[test]
fn help_names_every_command_but_the_hidden_one() {
    let text = stdout(&refpage(&["help"]));
    for command in ["run", "doctor", "symbolize", "help"] {
        assert!(text.contains(&format!("  {command} ")), "{command}");
    }
    assert!(!text.contains("measure"));
    for text in [text, stdout(&refpage(&["help", "run"]))] {
        assert!(text.contains("\nExit status: 0; 1 if") && text.contains("126"), "{text}");
    }
    assert_eq!(refpage(&["--version"]).status.code(), Some(0));
}

#[test]
fn doctor_names_the_service_in_both_forms() {
    let text = stdout(&refpage(&["doctor"]));
    let service = text.lines().find(|line| line.starts_with("  taken ")).unwrap();
    let json = stdout(&refpage(&["doctor", "--json"]));
    let name = service.split_whitespace().nth(1).unwrap().trim_end_matches([',', ':']);
    assert!(json.contains(&format!("\"service\": \"{name}\"")), "{json}");
}

#[test]
fn doctors_json_has_every_key_with_its_type() {
    let json: Value = serde_json::from_str(&stdout(&refpage(&["doctor", "--json"]))).unwrap();
    let is = |value: &Value, kinds: &str| {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(text) if text == "none" => "none",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        kinds.split('|').any(|one| one == kind)
    };
    for (pointer, kinds) in [
        ("/service", "string"),
        ("/reason", "string"),
        ("/kernel", "string"),
        ("/architecture", "string"),
        ("/os_page_bytes", "number"),
        ("/transparent_huge_pages", "string|null"),
        ("/shmem_huge_pages", "string|null"),
        ("/guard_pages", "bool|null"),
        ("/pagemap_scan", "bool|null"),
        ("/memfd_sealing", "bool"),
        ("/page_table_reclaim", "bool"),
        ("/memory_tagging", "bool|null"),
        ("/memory_tags", "string|null"),
        ("/preferred_tag_checks", "string|null"),
        ("/tags", "string"),
        ("/ways/0/way", "string"),
        ("/ways/1/works", "bool"),
        ("/ways/1/errno", "number|null"),
        ("/ways/1/meaning", "string|null"),
        ("/user_mode_only/works", "bool"),
        ("/features/move", "bool|null"),
        ("/features/poison", "bool|null"),
        ("/features/write_protect", "bool|null"),
        ("/features/async_write_protect", "bool|null"),
        ("/device/path", "string"),
        ("/device/exists", "bool"),
        ("/device/errno", "number|null"),
        ("/device/mode", "string|null"),
        ("/device/user", "number|null"),
        ("/device/group", "number|null"),
        ("/cap_sys_ptrace", "bool|null"),
        ("/unprivileged_userfaultfd", "number|null"),
        ("/overcommit_memory", "number|null"),
        ("/commit_left_bytes", "number|null"),
        ("/address_space_limit_bytes", "number|none|null"),
        ("/data_limit_bytes", "number|none|null"),
        ("/locked_memory_limit_bytes", "number|none|null"),
        ("/descriptor_limit", "number|none|null"),
        ("/max_map_count", "number|null"),
        ("/maps_in_use", "number|null"),
        ("/control_group", "object|null"),
        ("/seccomp_filter", "bool|null"),
        ("/container", "string|null"),
        ("/user_namespace", "bool|null"),
        ("/advice", "array"),
    ] {
        let value = json.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {json:#}"));
        assert!(is(value, kinds), "{pointer}: {value} is not {kinds}");
    }
    if let Some(group) = json["control_group"].as_object() {
        assert!(is(&group["version"], "number"));
        assert!(is(&group["memory_limit_bytes"], "number|none|null"));
        assert!(is(&group["memory_used_bytes"], "number|null"));
    }
    // What it tells of this process can be compared with what the kernel says of this one.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(json["seccomp_filter"], status.lines().any(|line| line == "Seccomp:\t2"));
}

#[test]
fn doctors_text_fits_the_screen() {
    let lesser = |command: &mut Command| {
        command.env("REFPAGE_OPTIONS", "service=memset");
    };
    for prepare in [&(|_: &mut Command| ()) as &dyn Fn(&mut Command), &lesser] {
        let mut command = Command::new(BINARY);
        prepare(command.arg("doctor"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for heading in
            ["Service", "Kernel", "userfaultfd", "Limits", "Surroundings", "For a better service"]
        {
            assert!(text.lines().any(|line| line == heading), "{heading}: {text}");
        }
    }
}

/// Where there is hardly any room, it says what it can.
#[test]
fn doctor_works_under_a_limit() {
    let script = format!("ulimit -v 40000; exec {BINARY} doctor");
    let output = Command::new("sh").args(["-c", &script]).env_remove("REFPAGE_OPTIONS").output();
    let output = output.unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains("ulimit -v unlimited") && text.contains("39.1 MiB"), "{text}");
}

#[test]
fn doctor_says_when_the_environment_asks_for_less() {
    let output =
        Command::new(BINARY).arg("doctor").env("REFPAGE_OPTIONS", "service=off").output().unwrap();
    assert!(stdout(&output).contains("REFPAGE_OPTIONS asks for off"), "{}", stdout(&output));
}

#[test]
fn exit_status_and_signals_are_the_programs_own() {
    library();
    assert_eq!(refpage(&["run", "true"]).status.code(), Some(0));
    assert_eq!(refpage(&["run", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(refpage(&["run", "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(refpage(&["run", "--", "sh", "-c", "kill -TERM $$"]).status.signal(), Some(15));
}

#[test]
fn the_program_sees_the_flags_after_what_was_set_already() {
    library();
    let mut command = Command::new(BINARY);
    command.args(["run", "--pattern", "0x55", "--service", "memset", "--stats", "env"]);
    let output = command.env("REFPAGE_OPTIONS", "pool=1M").output().unwrap();
    let expected = "REFPAGE_OPTIONS=pool=1M:service=memset:pattern=0x55:stats=1";
    assert!(stdout(&output).lines().any(|line| line == expected), "{}", stdout(&output));
    assert!(stderr(&output).contains("memset"), "no statistics: {}", stderr(&output));
}

#[test]
fn statistics_go_to_the_file_that_was_named_from_here() {
    library();
    let name = format!("refpage-stats-{}.json", std::process::id());
    let directory = std::env::temp_dir();
    let mut command = Command::new(BINARY);
    // The program leaves the directory, the file must not. A shell would end without atexit.
    command.args(["run", "--stats-json", &name, "env", "-C", "/", "ls"]).current_dir(&directory);
    assert!(command.output().unwrap().status.success());
    let text = std::fs::read_to_string(directory.join(&name)).unwrap();
    std::fs::remove_file(directory.join(&name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    for name in ["service", "reason", "pattern", "tags", "live_bytes", "handler_cpu_ns"] {
        assert!(!json[name].is_null(), "no {name}: {text}");
    }
    let numbers = |name: &str| json[name].as_object().expect(name).len();
    assert_eq!(numbers("window_pages"), 10);
    assert_eq!(numbers("fall_backs"), refpage_alloc::Cause::ALL.len());
}

#[test]
fn a_profile_is_printed_when_the_program_exits() {
    library();
    let output = refpage(&["run", "--service", "memset", "--profile", "ls", "/"]);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("refpage: profile of process "), "{text}");
    assert!(
        text.contains(" (ls)") && text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
}

#[test]
fn each_process_has_a_file_for_its_profile() {
    library();
    let directory = std::env::temp_dir().join(format!("refpage-profiles-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let mut command = Command::new(BINARY);
    // A shell that waits for what it starts, and a program that leaves the directory.
    let script = "env -C / ls; env -C / ls; true";
    command.args([
        "run",
        "--profile-json",
        "p-%p.json",
        "--stats-json",
        "s-%p.json",
        "sh",
        "-c",
        script,
    ]);
    assert!(command.current_dir(&directory).output().unwrap().status.success());
    let files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
    let of = |kind: &str| {
        let is_it = |file: &&std::path::PathBuf| {
            file.file_name().unwrap().to_str().unwrap().starts_with(kind)
        };
        let json = |file| serde_json::from_slice::<Value>(&std::fs::read(file).unwrap()).unwrap();
        files.iter().filter(is_it).map(json).collect::<Vec<_>>()
    };
    let (profiles, statistics) = (of("p-"), of("s-"));
    std::fs::remove_dir_all(&directory).unwrap();
    // The shell itself may end without atexit.
    let listed = profiles.iter().filter(|profile| profile["program"] == "ls");
    assert_eq!(listed.count(), 2, "{files:?}");
    assert_eq!(profiles.len(), statistics.len(), "{files:?}");
    for profile in profiles {
        for name in ["process", "page_bytes", "threshold_bytes"] {
            assert!(profile[name].is_u64(), "{name}");
        }
        assert_eq!(profile["classes"][0]["share_written"].as_array().map(Vec::len), Some(8));
    }
}

#[test]
fn measurements_pass_their_own_checks() {
    for service in ["auto", "memset", "off"] {
        for usage in ["recycled", "fresh"] {
            for extra in [&["--verify"][..], &[]] {
                let mut command = Command::new(BINARY);
                command
                    .args(["measure", "--touch", "half", "--use", usage, "--iterations", "3"])
                    .args(extra);
                let output =
                    command.env("REFPAGE_MEASURE", format!("service={service}")).output().unwrap();
                let text = stdout(&output);
                assert!(
                    output.status.success(),
                    "{service} {usage} {extra:?}: {}",
                    stderr(&output)
                );
                assert_eq!(text.contains("checked_bytes 0\n"), service == "off", "{text}");
            }
        }
    }
}
