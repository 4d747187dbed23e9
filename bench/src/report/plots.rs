//! What was measured, as plots of a page.

use super::latency::Quantile;
use super::timeline::Sample;
use super::work::Detail;
use crate::page::{Axis, Plot, Point, Scale, Series};
use crate::peers::REFPAGE;
use crate::results::{CaseResults, Metric, Row};

/// An axis.
fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

/// The number at the end of a case's name.
fn number(case: &CaseResults) -> f64 {
    case.name.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

/// One metric of cases that are told apart by the number at the end of their names: a line for each allocator.
fn against(cases: &[&CaseResults], metric: Metric, unit: f64) -> Vec<Series> {
    let names = cases.iter().flat_map(|case| &case.rows).map(|row| row.peer.as_str());
    let mut series: Vec<Series> = Vec::new();
    for name in names {
        if series.iter().any(|line| line.name == name) {
            continue;
        }
        let point = |case: &&CaseResults| {
            let summary = case.row(name)?.summary(metric)?;
            let range =
                (summary.min < summary.max).then_some([summary.min / unit, summary.max / unit]);
            Some(Point { x: number(case), y: summary.median / unit, range })
        };
        let points = cases.iter().filter_map(point).collect();
        series.push(Series { name: name.into(), own: name == REFPAGE, points });
    }
    series
}

/// Time and memory against the share of a block that is touched.
pub fn shares(cases: &[CaseResults]) -> Vec<Plot> {
    let kind = |kind: &str| -> Vec<&CaseResults> {
        let prefix = format!("share-{kind}-");
        cases.iter().filter(|case| case.name.starts_with(&prefix)).collect()
    };
    let (recycled, fresh) = (kind("recycled"), kind("fresh"));
    let share = || axis("pages touched, %", Scale::Linear);
    let plot = |id: &str, title: &str, caption: &str, y: &str, scale, series| Plot {
        id: id.into(),
        title: title.into(),
        caption: caption.into(),
        x: share(),
        y: axis(y, scale),
        series,
    };
    vec![
        plot(
            "time-recycled",
            "Time against touched share, memory used before",
            "malloc of 1 MiB, touch the first part of its pages, free, again and again. Who fills all of it pays \
             for all of it; where nothing is touched, only for the calls.",
            "CPU time a block, us",
            Scale::Log10,
            against(&recycled, Metric::Cpu, 1e3),
        ),
        plot(
            "time-fresh",
            "Time against touched share, fresh memory",
            "malloc of blocks of 1 MiB that stay, touch the first part of each. Whoever touches a page for the first \
             time pays for its fault, or for the move that spares it.",
            "CPU time a block, us",
            Scale::Linear,
            against(&fresh, Metric::Cpu, 1e3),
        ),
        plot(
            "rss-fresh",
            "RSS against touched share",
            "The peak of the resident set for the same blocks. Who fills all of it holds all of it, however little is \
             touched.",
            "peak RSS, MiB",
            Scale::Linear,
            against(&fresh, Metric::Peak, 1024.0),
        ),
    ]
}

/// The distributions of single touches.
pub fn latency(cases: &[CaseResults]) -> Vec<Plot> {
    let line = |row: &Row| {
        let quantiles = row.measured.iter().rev().find_map(quantiles)?;
        let points = quantiles.iter().map(|q| Point { x: q.ns as f64, y: q.percent, range: None });
        Some(Series { name: row.peer.clone(), own: row.peer == REFPAGE, points: points.collect() })
    };
    let plot = |case: &CaseResults| Plot {
        id: format!("latency-{}", case.name),
        title: format!("Fault latency, {} order", case.name),
        caption: format!(
            "{}: which share of them took at most so long, in the last round. Left and up is better; the clock's own \
             time is in it.",
            case.title
        ),
        x: axis("time of one touch, ns", Scale::Log10),
        y: axis("share of the touches, %", Scale::Linear),
        series: case.rows.iter().filter_map(line).collect(),
    };
    cases.iter().map(plot).collect()
}

fn quantiles(measured: &crate::work::Measured) -> Option<&Vec<Quantile>> {
    match measured.detail.as_ref()? {
        Detail::Latency(quantiles) => Some(quantiles),
        _ => None,
    }
}

/// First-touch throughput against the window.
pub fn windows(cases: &[CaseResults]) -> Plot {
    let page_kib = crate::memory::page_bytes() as f64 / 1024.0;
    let all: Vec<&CaseResults> = cases.iter().collect();
    // Nanoseconds a page to GiB a second.
    let throughput = |ns: f64| page_kib / f64::from(1 << 20) / (ns / 1e9);
    let lines = [("wall time", Metric::Wall), ("CPU time of all threads", Metric::Cpu)];
    let series = lines.map(|(name, metric)| {
        let mut line = against(&all, metric, 1.0).pop().unwrap_or_else(|| Series {
            name: String::new(),
            own: true,
            points: Vec::new(),
        });
        for point in &mut line.points {
            point.y = throughput(point.y);
            point.range = point.range.map(|[least, most]| [throughput(most), throughput(least)]);
        }
        Series { name: name.into(), own: metric == Metric::Wall, ..line }
    });
    Plot {
        id: "throughput".into(),
        title: "First-touch throughput against window".into(),
        caption: "Every page of fresh memory touched in order, when the fault handler answers each fault with so many \
                  pages at once; a window of 512 pages is a huge page, moved whole, and the handler then runs ahead."
            .into(),
        x: axis("pages a fault", Scale::Log2),
        y: axis("GiB/s", Scale::Log10),
        series: series.into(),
    }
}

/// Memory over time.
pub fn timeline(case: &CaseResults) -> Plot {
    let line = |row: &Row| {
        let samples = row.measured.iter().rev().find_map(samples)?;
        let point = |s: &Sample| Point { x: s.ms / 1e3, y: s.kib as f64 / 1024.0, range: None };
        let points = samples.iter().map(point).collect();
        Some(Series { name: row.peer.clone(), own: row.peer == REFPAGE, points })
    };
    Plot {
        id: "memory-over-time".into(),
        title: "Memory over time".into(),
        caption: format!("The resident set of PDFium while it renders: {}.", case.title),
        x: axis("time, s", Scale::Linear),
        y: axis("RSS, MiB", Scale::Linear),
        series: case.rows.iter().filter_map(line).collect(),
    }
}

fn samples(measured: &crate::work::Measured) -> Option<&Vec<Sample>> {
    match measured.detail.as_ref()? {
        Detail::Timeline(samples) => Some(samples),
        _ => None,
    }
}
