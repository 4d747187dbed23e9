//! Tests of the options table and its parser.

use super::*;
use std::string::{String, ToString};
use std::{format, vec, vec::Vec};

fn parsed(text: &str) -> (Options, Vec<String>) {
    let (mut options, mut complaints) = (Options::new(), vec![]);
    options.apply(text.as_bytes(), &mut |error| complaints.push(error.to_string()));
    (options, complaints)
}

fn accepted(text: &str) -> Options {
    let (options, complaints) = parsed(text);
    assert_eq!(complaints, Vec::<String>::new(), "{text}");
    options
}

fn refused(text: &str) -> String {
    let (options, complaints) = parsed(text);
    assert_eq!(options, Options::new(), "{text} changed something");
    assert_eq!(complaints.len(), 1, "{text}: {complaints:?}");
    assert_eq!(complaints[0].lines().count(), 1, "{text}");
    complaints[0].clone()
}

#[test]
fn table_defaults_are_the_defaults() {
    for spec in &TABLE {
        // Other than the default first, so that applying the default must change it back.
        let before = Options::new()
            .service(ServiceChoice::Off)
            .pattern(1)
            .threshold(4096)
            .pool(1)
            .pool_low(1)
            .decay_ms(1)
            .region(16 << 20)
            .stats(ReportChoice::Stderr)
            .mte(MteChoice::Async)
            .verify(true)
            .random(true)
            .guards(GuardsChoice::Off)
            .quarantine(1)
            .quarantine_share(1)
            .sample(1)
            .backtraces(true)
            .profile(ReportChoice::Stderr);
        let mut options = before;
        options.set(spec.name.as_bytes(), spec.default.as_bytes()).unwrap();
        assert_ne!(options, before, "{}", spec.name);
        assert_eq!((spec.reset)(before), options, "{} and {}", spec.method, spec.name);
    }
    let all: Vec<String> =
        TABLE.iter().map(|spec| format!("{}={}", spec.name, spec.default)).collect();
    assert_eq!(accepted(&all.join(":")), Options::new());
}

#[test]
fn every_option_is_read() {
    let options = accepted(
        "service=lazy:pattern=0xA5:threshold=5000:pool=1G:pool_low=2M:decay=0:region=64g:stats=1:mte=asymm:verify=on:random=1:guards=right:quarantine=1T:quarantine_share=100:sample=1000:backtraces=1:profile=1",
    );
    let expected = Options::new()
        .service(ServiceChoice::Lazy)
        .pattern(0xa5)
        .threshold(5000)
        .pool(1 << 30)
        .pool_low(2 << 20)
        .decay_ms(0)
        .region(64 << 30)
        .stats(ReportChoice::Stderr)
        .mte(MteChoice::Asymm)
        .verify(true)
        .random(true)
        .guards(GuardsChoice::Right)
        .quarantine(1 << 40)
        .quarantine_share(100)
        .sample(1000)
        .backtraces(true)
        .profile(ReportChoice::Stderr);
    assert_eq!(options, expected);
}

#[test]
fn every_service_is_read_by_its_name() {
    for choice in ServiceChoice::ALL {
        let text = format!("service={}", choice.as_str());
        assert_eq!(accepted(&text).service, choice);
    }
}

#[test]
fn numbers_are_decimal_or_hex_with_binary_suffixes() {
    let sizes =
        [("0", 0), ("0x10", 16), ("3", 3), ("2k", 2048), ("0x10K", 16384), ("64G", 64 << 30)];
    for (text, bytes) in sizes {
        assert_eq!(accepted(&format!("pool={text}")).pool, bytes, "{text}");
    }
    assert_eq!(accepted("region=1T").region, 1 << 40);
    for text in "|K|0x|-1|+1| 1|1 |1KK|1KB|1.5M|65G|99999999999999999999|16777216T".split('|') {
        let complaint = refused(&format!("pool={text}"));
        assert!(complaint.starts_with("bad value"), "{text}");
    }
}

#[test]
fn a_pattern_is_a_byte_or_a_word_by_its_digits() {
    for (text, pattern) in [
        ("0", Pattern::ZERO),
        ("92", Pattern::byte(0x5c)),
        ("0x5", Pattern::byte(5)),
        ("0X5C", Pattern::byte(0x5c)),
        ("0x005c", Pattern::word16(0x5c)),
        ("0xdeadbeef", Pattern::word32(0xdead_beef)),
        ("0x00000001", Pattern::word32(1)),
        ("0x0123456789abcdef", Pattern::word64(0x0123_4567_89ab_cdef)),
    ] {
        let options = accepted(&format!("pattern={text}"));
        assert_eq!(options, Options::new().pattern_word(pattern), "{text}");
    }
    for text in
        "256|1000|0x|0x123|0x12345|0x1234567|0x123456789|0x12345678901234567|0xdeadbeeg".split('|')
    {
        assert!(refused(&format!("pattern={text}")).starts_with("bad value"), "{text}");
    }
}

#[test]
fn ranges_end_where_they_say() {
    let ends = "threshold=4K threshold=64K region=0 region=16M region=128T pool=64G pool_low=64G pattern=255 decay=4294967295 quarantine=64T quarantine_share=100 sample=4294967295";
    for text in ends.split(' ') {
        accepted(text);
    }
    let beyond = "threshold=4095 threshold=65537 region=1 region=16777215 region=129T pool_low=65G pattern=256 decay=4294967296 quarantine=65T quarantine_share=101 sample=4294967296";
    for text in beyond.split(' ') {
        assert!(refused(text).starts_with("bad value"), "{text}");
    }
}

#[test]
fn a_json_file_name_reaches_to_the_next_colon() {
    let json = |name: &str| ReportChoice::Json(PathText::new(name.as_bytes()).unwrap());
    let options = accepted("stats=json:/tmp/a b=c.json:pattern=7");
    assert_eq!((options.stats, options.pattern), (json("/tmp/a b=c.json"), Pattern::byte(7)));
    assert_eq!(accepted("pattern=7:stats=json:x").stats, json("x"));
    assert_eq!(accepted(&format!("stats=json:{}", "n".repeat(255))).stats, json(&"n".repeat(255)));
    for text in "stats=json|stats=json:|stats=json::|stats=2|stats=json:a\0b|stats=".split('|') {
        assert!(refused(text).starts_with("bad value"), "{text}");
    }
    refused(&format!("stats=json:{}", "n".repeat(256)));
    let mut options = Options::new();
    assert!(options.set(b"stats", b"json:a:b").is_err());
    let options = accepted("profile=json:/tmp/%p.json:stats=json:b:pattern=7");
    assert_eq!((options.profile, options.stats), (json("/tmp/%p.json"), json("b")));
    assert_eq!(options.pattern, Pattern::byte(7));
    for (text, choice) in [
        ("profile=off", ReportChoice::Off),
        ("profile=on", ReportChoice::Stderr),
        ("stats=on", ReportChoice::Stderr),
    ] {
        let options = accepted(text);
        assert!([options.stats, options.profile].contains(&choice), "{text}");
    }
    refused("profile=json:");
}

#[test]
fn a_bad_entry_does_not_stop_the_others() {
    let (options, complaints) = parsed("foo=1:pattern=300:pool:decay=5");
    assert_eq!(options, Options::new().decay_ms(5));
    assert_eq!(
        complaints,
        [
            "unknown option \"foo\"; options are service, pattern, threshold, pool, pool_low, decay, region, stats, mte, verify, random, guards, quarantine, quarantine_share, sample, backtraces, profile",
            "bad value \"300\" for pattern: a byte, 0 to 255 or 0x00 to 0xff, or a word, 0x and 4, 8 or 16 hex digits",
            "option \"pool\" needs a value: pool=SIZE, a size from 0 to 64G",
        ]
    );
    assert!(refused("foo").starts_with("unknown option"));
    assert!(refused("=1").starts_with("unknown option \"\""));
}

#[test]
fn the_last_entry_wins_and_empty_ones_do_not_count() {
    assert_eq!(accepted("::pattern=1::pattern=2:").pattern, Pattern::byte(2));
    assert_eq!(accepted(""), Options::new());
}

#[test]
fn a_complaint_is_one_printable_line() {
    assert_eq!(
        refused("pattern=1\n2\x1b[0m"),
        "bad value \"1\\n2\\x1b[0m\" for pattern: a byte, 0 to 255 or 0x00 to 0xff, or a word, 0x and 4, 8 or 16 hex digits"
    );
}

#[test]
fn no_text_makes_it_panic() {
    // Every string of up to six pieces that the grammar gives a meaning to, or cuts short.
    let pieces: [&[u8]; 8] = [b"", b":", b"=", b"stats", b"json", b"pool", b"0x", b"\xff"];
    for code in 0..8usize.pow(6) {
        let text: Vec<u8> =
            (0..6).flat_map(|at| pieces[code / 8usize.pow(at) % 8]).copied().collect();
        Options::new().apply(&text, &mut |error| assert!(error.to_string().is_ascii()));
    }
}

#[test]
fn the_builder_works_in_a_static() {
    static OPTIONS: Options = Options::new().service(ServiceChoice::Memset).region(1 << 30);
    assert_eq!((OPTIONS.service, OPTIONS.region), (ServiceChoice::Memset, 1 << 30));
}
