use super::*;
use crate::classes;
use crate::extents::BINS;
use serde_json::Value;

/// Every number at its most.
fn most() -> Sum {
    const WORDS: usize = size_of::<Sum>() / size_of::<u64>();
    // SAFETY: `Sum` is words and nothing else, for which any number is a value.
    unsafe { core::mem::transmute::<[u64; WORDS], Sum>([u64::MAX; WORDS]) }
}

fn large(bytes: (usize, usize), zeroed: bool, sum: Sum) -> Row {
    Row { bytes, large: true, zeroed, sum }
}

fn every_class(each: &mut dyn FnMut(&Row)) {
    for class in 0..classes::COUNT {
        let bytes = (classes::size(class), classes::size(class));
        each(&Row { bytes, large: false, zeroed: false, sum: most() });
    }
    for class in 0..BINS {
        each(&large(tally::bounds(class), false, most()));
        each(&large(tally::bounds(class), true, most()));
    }
}

/// As long as it can get.
fn longest() -> Report<'static> {
    Report {
        process: 1 << 22,
        program: ([0xff; 16], 15),
        service: Service::Lazy,
        page_bytes: u64::MAX,
        threshold_bytes: u64::MAX,
        peaks: (u64::MAX, u64::MAX),
        faults: u64::MAX,
        prices: Some(Prices { fresh: u64::MAX, warm: u64::MAX }),
        ..Report::with_rows(&every_class)
    }
}

fn block(report: &Report<'_>) -> String {
    let mut text = String::new();
    report.write_block(&mut text).expect("text");
    text
}

fn json(report: &Report<'_>) -> Value {
    let mut text = String::new();
    report.write_json(&mut text).expect("text");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_longest_block_fits_the_screen() {
    for service in [Service::Lazy, Service::Cow, Service::Eager, Service::Memset, Service::Off] {
        let text = block(&Report { service, ..longest() });
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        }
        // Written at once.
        assert!(text.len() <= crate::exit::PIECE, "{}", text.len());
        assert_eq!(
            text.lines().filter(|line| line.contains(" to ") && line.contains("##")).count(),
            ROWS
        );
    }
}

#[test]
fn the_longest_json_is_complete() {
    let json = json(&longest());
    let classes = json["classes"].as_array().expect("classes");
    assert_eq!(classes.len(), classes::COUNT + 2 * BINS);
    let most = Value::from(u64::MAX);
    for (name, _) in Sum::default().entries() {
        assert!(classes.iter().all(|class| class[name] == most), "{name}");
        for total in ["malloc", "calloc", "small"] {
            assert_eq!(json["totals"][total][name], most, "{total} {name}");
        }
    }
    assert!(
        classes.iter().all(|class| class["share_written"].as_array().expect("shares").len() == 8)
    );
    assert_eq!(json["program"].as_str().map(str::len), Some(15 * 4));
    for (part, names) in [
        ("memset", &["bytes", "recycled_bytes", "peak_pages"][..]),
        ("refpage", &["pages_placed", "pages_refilled", "peak_pages", "faults"]),
        ("estimate", &["fresh_page_ns", "warm_page_ns", "memset_us", "refpage_us"]),
    ] {
        for name in names {
            assert!(json[part][name].is_u64(), "{part} {name}");
        }
    }
}

#[test]
fn nothing_is_told_as_nothing() {
    let none =
        Report { service: Service::Lazy, threshold_bytes: 65536, ..Report::with_rows(&|_| ()) };
    let text = block(&none);
    assert_eq!(text, "refpage: profile of process 0 (): none of 64 KiB or more; small blocks 0\n");
    let json = json(&none);
    assert_eq!(
        (&json["classes"], &json["estimate"]),
        (&Value::from(Vec::<u64>::new()), &Value::Null)
    );
}

#[test]
fn the_classes_that_leave_most_untouched_are_marked() {
    let sum = |pages_asked, pages_written| Sum {
        mallocs: 10,
        frees: 10,
        bytes_asked: pages_asked * 4096,
        pages_asked,
        pages_present: pages_written,
        pages_written,
        sparse: if pages_written * 2 < pages_asked { 10 } else { 0 },
        ..Sum::default()
    };
    let rows = |each: &mut dyn FnMut(&Row)| {
        each(&large((64 << 10, (80 << 10) - 1), false, sum(100, 100)));
        each(&large((1 << 20, (1280 << 10) - 1), false, sum(10_000, 700)));
        each(&large((1 << 20, (1280 << 10) - 1), true, sum(10_000, 9_000)));
        each(&large((4 << 20, (5 << 20) - 1), false, sum(200, 20)));
    };
    let text = block(&Report { service: Service::Lazy, ..Report::with_rows(&rows) });
    let row = |start: &str| {
        text.lines()
            .find(|line| line.trim_start().starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(row("64 KiB to 80 KiB").contains("100 % ##########        0"), "{text}");
    assert!(row("1 MiB to 1.25 MiB    malloc").ends_with("7 % ..........       10 *"), "{text}");
    assert!(row("1 MiB to 1.25 MiB    calloc").ends_with("90 % #########.        0"), "{text}");
    assert!(row("4 MiB to 5 MiB").ends_with("10 % #.........       10"), "{text}");
    assert!(text.contains("\n  * sparse, and"), "{text}");
}
