//! Looks as text: a block, a line, a JSON object, and the numbers in all of them.

use std::fmt::Write;

use refpage_alloc::Cause;
use serde_json::{Map, Value, json};

use super::sample::{Parts, Sample};

/// A number of bytes with its unit, "340.2 MiB".
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"");
    for next in units {
        // As it would be rounded.
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// A number with its thousands apart, "12,345".
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How often in a second: with a digit behind the point where it is seldom.
pub fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        count(per_second.round() as u64)
    }
}

/// A share in percent, "93 %"; one that is small with a digit behind the point.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

/// The same of what may not be known.
pub fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

/// How many times RSS it is what memset would hold, "2.60 x".
pub fn factor(sample: &Sample) -> Option<String> {
    let memset = sample.memset_bytes().filter(|_| sample.status.rss > 0)?;
    Some(format!("{:.2} x", memset as f64 / sample.status.rss as f64))
}

/// RSS by what it is for, each with its name.
pub fn named(parts: Parts) -> [(&'static str, u64); 5] {
    let Parts { large, small, cached, pool, rest } = parts;
    [("large", large), ("small", small), ("cached", cached), ("pool", pool), ("rest", rest)]
}

/// What went a worse way, the most frequent first.
pub fn worse_ways(sample: &Sample) -> Vec<(&'static str, u64)> {
    let counts = Cause::ALL.iter().map(|cause| cause.as_str()).zip(sample.look.figures.fall_backs);
    let mut counts: Vec<_> = counts.filter(|&(_, count)| count > 0).collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    counts
}

/// The service, and why it is not a better one.
pub fn service(sample: &Sample) -> String {
    if sample.look.has_started() {
        format!("{} ({})", sample.service(), sample.look.reason)
    } else {
        "none yet: nothing was allocated".into()
    }
}

/// "4 threads, 2 children (not shown)", and what else there is to say of the process.
pub fn company(sample: &Sample) -> String {
    let plural = |count: u64, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{} {many}", self::count(count)),
    };
    let mut text = plural(sample.status.threads, "thread", "threads");
    if let Some(children) = sample.status.children.filter(|&children| children > 0) {
        let _ = write!(text, ", {} (not shown)", plural(children, "child", "children"));
    }
    if sample.heaps > 1 {
        let file = sample.file.rsplit('/').next().unwrap_or_default();
        let _ = write!(text, ", the heap of {file}: 1 of {}", sample.heaps);
    }
    text
}

/// All of a look, a figure a line.
pub fn block(sample: &Sample) -> String {
    let counted = &sample.look.figures.counted;
    let mut text = format!("refpage: process {}: {}\n", sample.pid, sample.status.command);
    let mut line = |name: &str, value: String| {
        // A String takes all that it is given.
        let _ = writeln!(text, "  {name:<18} {value}");
    };
    line("service", service(sample));
    line("process", company(sample));
    let swapped = match sample.status.swapped {
        0 => String::new(),
        swapped => format!(", {} swapped out", bytes(swapped)),
    };
    let peak = bytes(sample.status.peak_rss);
    line("RSS", format!("{}, peak {peak}{swapped}", bytes(sample.status.rss)));
    match &sample.residency {
        Ok((_, age)) => {
            let age = match age.as_secs() {
                0 => String::new(),
                seconds => format!(", as of {seconds} s ago"),
            };
            line(
                "memset would hold",
                format!(
                    "{}, {}{age}",
                    or_dash(sample.memset_bytes(), bytes),
                    or_dash(factor(sample), |factor| factor),
                ),
            );
        }
        Err(why) => line("memset would hold", format!("not known: {why}")),
    }
    if let Some(parts) = sample.parts() {
        let parts = named(parts).map(|(name, part)| format!("{name} {}", bytes(part)));
        line("RSS in parts", parts.join(", "));
    }
    line(
        "live",
        format!(
            "large {} in {}, small {}",
            bytes(sample.large_live_bytes()),
            count(sample.large_live()),
            bytes(sample.small_live_bytes()),
        ),
    );
    line(
        "kept for reuse",
        format!("pool {}, cached {}", bytes(sample.pool_bytes()), bytes(sample.cached_bytes())),
    );
    line(
        "large allocations",
        format!(
            "{}, recycled {}{}",
            count(counted.large_allocated),
            or_dash(sample.recycled_share(), percent),
            sample.rates.map_or_else(String::new, |r| format!(", {} /s", rate(r.large_per_second)))
        ),
    );
    line(
        "faults",
        format!(
            "{}{}",
            count(counted.faults),
            sample
                .rates
                .map_or_else(String::new, |r| format!(", {} /s", rate(r.faults_per_second)))
        ),
    );
    let cpu = format!("{:.2} s", counted.handler_cpu_ns as f64 / 1e9);
    let share = sample.rates.map(|rates| percent(rates.handler_cpu_share));
    line("handler CPU", share.map_or_else(|| cpu.clone(), |share| format!("{cpu}, {share}")));
    let windows = windows(sample).filter(|&(_, count)| count > 0);
    let windows: Vec<_> = windows.map(|(size, n)| format!("{size}: {}", count(n))).collect();
    line("pages per fault", none_if_empty(&windows));
    let worse = worse_ways(sample);
    let worse: Vec<_> = worse.iter().map(|(name, n)| format!("{name}: {}", count(*n))).collect();
    line("worse ways", none_if_empty(&worse));
    text
}

fn none_if_empty(texts: &[String]) -> String {
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// Pages per answered fault, "1" to "512+", and how many faults brought at least so many.
pub fn windows(sample: &Sample) -> impl Iterator<Item = (String, u64)> {
    let counts = sample.look.figures.windows;
    counts.into_iter().enumerate().map(move |(place, count)| {
        let open = if place + 1 == counts.len() { "+" } else { "" };
        (format!("{}{open}", 1 << place), count)
    })
}

/// The most important figures of a look in one line.
pub fn line(sample: &Sample) -> String {
    let rates = sample.rates;
    let memset = or_dash(sample.memset_bytes(), bytes);
    format!(
        "{} RSS {}, memset would hold {memset}, live {} large and {} small, {} faults/s, \
         {} large/s, recycled {}, handler CPU {}",
        sample.service(),
        bytes(sample.status.rss),
        bytes(sample.large_live_bytes()),
        bytes(sample.small_live_bytes()),
        or_dash(rates, |rates| rate(rates.faults_per_second)),
        or_dash(rates, |rates| rate(rates.large_per_second)),
        or_dash(sample.recycled_share(), percent),
        or_dash(rates, |rates| percent(rates.handler_cpu_share)),
    )
}

/// The same and everything else as a JSON object, without a newline. What is not known is null.
pub fn object(sample: &Sample) -> String {
    let counted = &sample.look.figures.counted;
    let residency = sample.residency.as_ref().ok().map(|(residency, _)| residency);
    let pages = |pages: Option<u64>| pages.map(|pages| pages << sample.look.values.page_shift);
    let mut object = json!({
        "pid": sample.pid,
        "command": sample.status.command,
        "service": sample.service(),
        "reason": sample.look.reason,
        "threads": sample.status.threads,
        "children": sample.status.children,
        "heaps": sample.heaps,
        "heap_file": sample.file,
        "rss_bytes": sample.status.rss,
        "peak_rss_bytes": sample.status.peak_rss,
        "swapped_bytes": sample.status.swapped,
        "memset_would_hold_bytes": sample.memset_bytes(),
        "unfilled_bytes": sample.unfilled_bytes(),
        "residency_age_ms": sample.residency.as_ref().ok().map(|(_, age)| age.as_millis() as u64),
        "region_resident_bytes": pages(residency.map(|residency| residency.present)),
        "large_resident_bytes": pages(residency.map(|residency| residency.large_present)),
        "live_bytes": sample.large_live_bytes() + sample.small_live_bytes(),
        "large_live_bytes": sample.large_live_bytes(),
        "small_live_bytes": sample.small_live_bytes(),
        "large_live": sample.large_live(),
        "large_allocated": counted.large_allocated,
        "large_recycled": counted.large_recycled,
        "large_freed": counted.large_freed,
        "recycled_share": sample.recycled_share(),
        "pool_bytes": sample.pool_bytes(),
        "cached_bytes": sample.cached_bytes(),
        "faults": counted.faults,
        "pages_moved": counted.moved,
        "pages_copied": counted.copied,
        "pages_filled": counted.filled,
        "pages_refilled": counted.refilled,
        "pages_purged": counted.purged,
        "handler_cpu_ns": counted.handler_cpu_ns,
        "faults_per_second": sample.rates.map(|rates| rates.faults_per_second),
        "large_per_second": sample.rates.map(|rates| rates.large_per_second),
        "recycled_share_now": sample.rates.and_then(|rates| rates.recycled_share),
        "handler_cpu_share": sample.rates.map(|rates| rates.handler_cpu_share),
    });
    let windows = sample.look.figures.windows.into_iter().enumerate();
    let windows: Map<String, Value> =
        windows.map(|(place, count)| ((1u64 << place).to_string(), count.into())).collect();
    object["window_pages"] = windows.into();
    let causes = Cause::ALL.iter().zip(sample.look.figures.fall_backs);
    let causes: Map<String, Value> =
        causes.map(|(cause, count)| (cause.as_str().into(), count.into())).collect();
    object["fall_backs"] = causes.into();
    object.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::tests::sample;

    #[test]
    fn numbers_have_units_and_thousands() {
        assert_eq!(bytes(0), "0.0 KiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.25, 12.4, 1234.5].map(rate), ["0", "0.2", "12", "1,235"]);
        assert_eq!([0.0, 0.003, 0.0996, 1.0].map(percent), ["0 %", "0.3 %", "10 %", "100 %"]);
    }

    #[test]
    fn a_block_has_every_figure() {
        let text = block(&sample());
        for part in [
            "process 4711: python3",
            "service            lazy (as chosen)",
            "4 threads, 2 children (not shown)",
            "RSS                120.0 MiB, peak 130.0 MiB",
            "memset would hold  312.0 MiB, 2.60 x",
            "large 64.0 MiB, small 4.0 MiB, cached 10.0 MiB, pool 5.0 MiB, rest 37.0 MiB",
            "large 256.0 MiB in 1, small 3.0 MiB",
            "1,000, recycled 93 %",
            "faults             12,345",
            "1: 7, 4: 100, 8: 1,000, 64: 20, 256: 3, 512+: 11",
            "pool_empty: 4",
        ] {
            assert!(text.contains(part), "no \"{part}\" in\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let mut sample = sample();
        sample.residency = Err("no page map".into());
        assert!(block(&sample).contains("memset would hold  not known: no page map"));
        let object: Value = serde_json::from_str(&object(&sample)).expect("JSON");
        assert!(
            object["memset_would_hold_bytes"].is_null() && object["faults_per_second"].is_null()
        );
        assert_eq!(object["faults"], 12_345);
        assert_eq!(object["window_pages"]["512"], 11);
        assert!(line(&sample).contains("memset would hold -"));
        assert!(!object.to_string().contains('\n'));
    }
}
