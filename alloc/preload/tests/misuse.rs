//! What happens at and beyond the borders: misuse ends with one clear line, exhaustion with ENOMEM, and an
//! option that makes no sense with a word about it.

mod common;

use std::process::Command;

use common::{DEFAULT, MORE, c_program, confine, is_served, preload, run, serve, service_taken};

/// The option that asks for what is taken anyway: asked for, even a lesser service is no matter for a line on stderr.
fn best_service() -> Option<String> {
    let (taken, _) = service_taken("auto")?;
    Some(format!("service={taken}"))
}

fn misuse(behaviour: &str, verdict: &str) {
    let Some(program) = c_program("misuse") else {
        return;
    };
    let Some(options) = best_service() else {
        return;
    };
    let outcome = run(preload(Command::new(&program).arg(behaviour), &options));
    outcome.expect_signal(libc::SIGABRT);
    let pointer = outcome.stdout_text().trim().to_owned();
    // The first one says what it was; others, what is known of it.
    let mut lines = outcome.stderr.lines();
    let line = lines.next().expect("a line");
    assert!(line.starts_with("refpage: "), "{line}");
    assert!(lines.clone().count() > 0, "by whom: {}", outcome.stderr);
    assert!(lines.all(|line| line.starts_with(MORE)), "{}", outcome.stderr);
    assert!(line.contains(verdict), "it was a {verdict}: {line}");
    assert!(line.contains(&pointer), "it was {pointer}: {line}");
}

macro_rules! misuses {
    ($($name:ident: $behaviour:literal is $verdict:literal;)*) => {
        $(#[test] fn $name() { misuse($behaviour, $verdict) })*
    };
}

misuses! {
    double_free_of_a_small_block_ends_the_process: "double-free-small" is "double free";
    double_free_of_a_medium_block_ends_the_process: "double-free-medium" is "double free";
    double_free_of_a_large_block_ends_the_process: "double-free-large" is "double free";
    double_free_after_other_work_ends_the_process: "double-free-later" is "double free";
    double_free_after_another_of_its_class_ends_the_process: "double-free-after-one" is "double free";
    double_free_after_some_of_its_class_ends_the_process: "double-free-after-some" is "double free";
    double_free_after_hundreds_of_its_class_ends_the_process: "double-free-after-hundreds" is "double free";
    double_free_after_all_are_freed_ends_the_process: "double-free-of-all" is "free";
    double_free_of_trimmed_memory_ends_the_process: "double-free-after-trim" is "free";
    double_free_of_what_a_thread_freed_ends_the_process: "double-free-after-a-thread" is "double free";
    double_free_by_a_thread_ends_the_process: "double-free-by-a-thread" is "double free";
    double_free_of_a_dead_threads_block_ends_the_process: "double-free-of-a-threads" is "double free";
    free_of_the_stack_ends_the_process: "free-of-stack" is "invalid free";
    free_of_a_static_ends_the_process: "free-of-static" is "invalid free";
    free_of_a_wild_pointer_ends_the_process: "free-of-null-page" is "invalid free";
    free_inside_a_small_block_ends_the_process: "free-inside-small" is "invalid free";
    free_inside_one_of_the_least_blocks_ends_the_process: "free-inside-least" is "invalid free";
    free_inside_a_block_at_a_page_ends_the_process: "free-inside-at-a-page" is "invalid free";
    free_inside_a_dead_threads_block_ends_the_process: "free-inside-anothers" is "invalid free";
    free_before_a_blocks_start_ends_the_process: "free-before" is "invalid free";
    free_of_the_place_behind_a_block_ends_the_process: "free-behind" is "free";
    free_of_the_place_before_a_block_ends_the_process: "free-ahead" is "free";
    free_of_a_place_that_was_never_handed_out_ends_the_process: "free-far-behind" is "free";
    free_of_the_heaps_unused_addresses_ends_the_process: "free-a-gib-behind" is "invalid free";
    free_beside_the_alignment_ends_the_process: "free-misaligned" is "invalid free";
    free_inside_a_large_block_ends_the_process: "free-inside-large" is "invalid free";
    free_beside_a_large_blocks_start_ends_the_process: "free-large-misaligned" is "invalid free";
    realloc_of_a_freed_block_ends_the_process: "realloc-of-freed" is "free";
    realloc_of_a_freed_small_block_ends_the_process: "realloc-of-freed-small" is "free";
    realloc_inside_a_small_block_ends_the_process: "realloc-inside-small" is "invalid free";
    asking_for_a_freed_small_blocks_size_ends_the_process: "size-of-freed-small" is "free";
}

fn limits(behaviour: &str, service: &str) {
    let Some(program) = c_program("limits") else {
        return;
    };
    if is_served(service) {
        run(serve(Command::new(&program).arg(behaviour), service, DEFAULT)).expect_success();
    }
}

for_each_service! {
    sizes_that_cannot_be_are_enomem => |service| limits("no-memory", service);
    failed_realloc_keeps_the_block => |service| limits("failed-realloc", service);
    null_and_zero_are_as_in_glibc => |service| limits("null-and-zero", service);
    bad_alignments_are_told_apart => |service| limits("alignments", service);
    free_with_a_size_frees => |service| limits("freed-with-size", service);
    malloc_and_free_keep_errno => |service| limits("errno-is-kept", service);
    limit_set_later_is_enomem_for_more_than_the_heap => |service| limits("limited-later", service);
    limit_on_data_set_later => |service| limits("data-limited-later", service);
    a_program_lives_under_a_limit_of_2_gib => under_a_limit;
}

fn under_a_limit(service: &str) {
    let Some(program) = c_program("limits") else {
        return;
    };
    if !is_served(service) {
        return;
    }
    let mut command = Command::new(&program);
    serve(command.arg("under-a-limit"), service, DEFAULT);
    confine::limit(&mut command, libc::RLIMIT_AS, 2 << 30);
    run(&mut command).expect_success();
}

#[test]
fn accounting_symbols_add_up() {
    let Some(program) = c_program("limits") else {
        return;
    };
    let outcome = run(serve(Command::new(&program).arg("accounting"), "memset", DEFAULT));
    let xml = outcome.expect_success().stdout_text();
    assert!(xml.starts_with("<malloc version=\"1\">\n"), "{xml}");
    assert!(xml.trim_end().ends_with("</malloc>"), "{xml}");
    for (opening, closing) in
        [("<heap ", "</heap>"), ("<sizes>", "</sizes>"), ("<malloc ", "</malloc>")]
    {
        assert_eq!(xml.matches(opening).count(), 1, "{xml}");
        assert_eq!(xml.matches(closing).count(), 1, "{xml}");
    }
}

#[test]
fn own_api_names_version_service_and_pattern() {
    let Some(program) = c_program("own_api") else {
        return;
    };
    for (service, pattern, told) in [
        ("memset", DEFAULT, "170 1 0xaaaaaaaaaaaaaaaa"),
        ("memset", "0x5c", "92 1 0x5c5c5c5c5c5c5c5c"),
        ("memset", "0x5c5c", "92 1 0x5c5c5c5c5c5c5c5c"),
        ("memset", "0xdeadbeef", "-1 1 0xdeadbeefdeadbeef"),
        ("off", DEFAULT, "-1 0 0x1"),
        ("lazy", DEFAULT, "170 1 0xaaaaaaaaaaaaaaaa"),
    ] {
        if !is_served(service) {
            continue;
        }
        let outcome = run(serve(&mut Command::new(&program), service, pattern));
        let text = outcome.expect_success().stdout_text();
        let mut lines = text.lines();
        let first = format!("{} {service} {told}", env!("CARGO_PKG_VERSION"));
        assert_eq!(lines.next(), Some(&*first));
        assert!(lines.next().is_some(), "refpage_stats_print prints: {text}");
        assert!(!outcome.stderr.is_empty(), "malloc_stats prints on stderr");
    }
    let without = run(&mut Command::new(&program));
    assert_eq!(without.expect_success().stdout_text(), "not served by refpage\n");
}

/// The header's struct is the one that the library fills in.
#[test]
fn the_header_names_every_counter_in_its_place() {
    let header = include_str!("../include/refpage.h");
    let (_, header_from) = header.split_once("struct refpage_stats {").expect("the struct");
    let (fields, _) = header_from.split_once("\n};").expect("its end");
    let fields =
        fields.lines().filter_map(|line| line.strip_prefix("    uint64_t ")?.strip_suffix(';'));
    let arrays = ["window_pages[REFPAGE_WINDOWS]", "fall_backs[REFPAGE_CAUSES]"];
    let stats = refpage_alloc::Stats::default();
    let single: Vec<_> = stats.entries().map(|(name, _)| name).collect();
    assert_eq!(fields.collect::<Vec<_>>(), [&arrays[..], &single[..]].concat());
    for line in [
        format!("#define REFPAGE_WINDOWS {}", stats.window_pages.len()),
        format!("#define REFPAGE_CAUSES {}", stats.fall_backs.len()),
    ] {
        assert!(header.lines().any(|other| other == line), "{line}");
    }
}

#[test]
fn options_that_make_no_sense_are_named_and_passed_over() {
    let (Some(program), Some(best)) = (c_program("service"), best_service()) else {
        return;
    };
    for (options, named) in [
        ("nonsense=1", "nonsense"),
        ("service=memset:nonsense=1", "nonsense"),
        ("pattern=zebra", "zebra"),
        ("threshold=plenty", "plenty"),
        ("service=fastest", "fastest"),
        ("nonsense", "nonsense"),
        ("quarantine=65T", "65T"),
        ("guards=left", "left"),
    ] {
        let outcome = run(preload(&mut Command::new(&program), &format!("{best}:{options}")));
        outcome.expect_success();
        let lines = outcome.refpage_lines();
        assert_eq!(lines.len(), 1, "one line about {options}: {}", outcome.stderr);
        assert!(lines[0].contains(named), "{options}: {}", lines[0]);
    }
}

#[test]
fn exactly_the_intended_symbols_are_exported() {
    if !common::have("nm") {
        return;
    }
    let mut nm = Command::new("nm");
    let outcome = run(nm
        .args(["--dynamic", "--defined-only", "--format=just-symbols"])
        .arg(common::library()));
    let text = outcome.expect_success().stdout_text();
    let mut exported: Vec<_> = text.lines().collect();
    exported.sort_unstable();
    let expected = [
        "aligned_alloc",
        "calloc",
        "cfree",
        "free",
        "free_aligned_sized",
        "free_sized",
        "mallinfo",
        "mallinfo2",
        "malloc",
        "malloc_info",
        "malloc_stats",
        "malloc_trim",
        "malloc_usable_size",
        "memalign",
        "mlockall",
        "posix_memalign",
        "pvalloc",
        "realloc",
        "reallocarray",
        "refpage_cause_name",
        "refpage_compact",
        "refpage_describe",
        "refpage_get_write_watch",
        "refpage_pattern",
        "refpage_pattern_word",
        "refpage_reason",
        "refpage_reset_write_watch",
        "refpage_service",
        "refpage_stats",
        "refpage_stats_print",
        "refpage_tags",
        "refpage_version",
        "refpage_write_watch",
        "refpage_written",
        "valloc",
    ];
    assert_eq!(exported, expected);
}
