//! Axes: what they span, where their ticks are, and what is written at them.

use std::ops::Range;

use anyhow::{Result, bail};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::page::{Axis, Scale};

/// Values closer than this share of themselves are the same: powers and their logarithms are rounded.
const NEAR: f64 = 1e-9;

/// An axis with its bounds.
pub struct Span {
    scale: Scale,
    low: f64,
    high: f64,
    /// Where a value is written.
    ticks: Vec<f64>,
    /// Where a line of the grid is.
    marks: Vec<f64>,
}

impl Span {
    /// The axis that shows all the values, with no more than `room` ticks.
    pub fn new(axis: &Axis, values: impl Iterator<Item = f64>, room: usize) -> Result<Self> {
        let mut bounds: Option<(f64, f64)> = None;
        for value in values {
            if !value.is_finite() {
                bail!("`{}` has a value that is no number: {value}", axis.label);
            }
            if value <= 0.0 && axis.scale != Scale::Linear {
                bail!("`{}` is logarithmic and has a value of {value}", axis.label);
            }
            let (low, high) = bounds.unwrap_or((value, value));
            bounds = Some((low.min(value), high.max(value)));
        }
        Ok(match axis.scale {
            Scale::Linear => Self::linear(bounds.unwrap_or((0.0, 1.0)), room),
            Scale::Log10 => Self::log10(bounds.unwrap_or((1.0, 10.0)), room),
            Scale::Log2 => Self::log2(bounds.unwrap_or((1.0, 2.0)), room),
        })
    }

    fn linear((low, high): (f64, f64), room: usize) -> Self {
        let (low, mut high) = (low.min(0.0), high.max(0.0));
        if low == high {
            high = 1.0;
        }
        let step = round_step((high - low) / room.saturating_sub(1).max(1) as f64);
        let numbers = (low / step - NEAR).ceil() as i64..=(high / step + NEAR).floor() as i64;
        let ticks: Vec<f64> = numbers.map(|number| number as f64 * step).collect();
        Self { scale: Scale::Linear, low, high, marks: ticks.clone(), ticks }
    }

    /// From a 1, 2 or 5 of a power of ten to another.
    fn log10((low, high): (f64, f64), room: usize) -> Self {
        let decades = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
        let steps =
            decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
        Self::of_powers(Scale::Log10, f64::log10, &between(steps.collect(), low, high), room)
    }

    /// From a power of two to another.
    fn log2((low, high): (f64, f64), room: usize) -> Self {
        let doublings = low.log2().floor() as i32 - 1..=high.log2().ceil() as i32 + 1;
        let steps = doublings.map(|doubling| 2f64.powi(doubling));
        Self::of_powers(Scale::Log2, f64::log2, &between(steps.collect(), low, high), room)
    }

    /// From the first step to the last, with a mark at each power at least, and as many ticks as have room.
    fn of_powers(scale: Scale, exponent: fn(f64) -> f64, steps: &[f64], room: usize) -> Self {
        let whole = |step: &f64| (exponent(*step) - exponent(*step).round()).abs() < NEAR;
        let powers: Vec<f64> = steps.iter().copied().filter(whole).collect();
        let every = powers.len().div_ceil(room).max(1) as i32;
        let ticks = match steps.len() <= room {
            true => steps.to_vec(),
            false => {
                let tick = |power: &f64| exponent(*power).round() as i32 % every == 0;
                powers.iter().copied().filter(tick).collect()
            }
        };
        let marks = if steps.len() <= 2 * room { steps.to_vec() } else { powers };
        Self { scale, low: steps[0], high: steps[steps.len() - 1], ticks, marks }
    }

    /// What is written at the ticks.
    pub fn labels(&self) -> Vec<String> {
        self.ticks.iter().map(|&tick| label(self.scale, tick)).collect()
    }

    /// Where a value lies between the bounds, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let along = |value: f64| if self.scale == Scale::Linear { value } else { value.ln() };
        (along(value) - along(self.low)) / (along(self.high) - along(self.low))
    }
}

impl Ranged for Span {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        start + (self.share(*value) * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let marks = hint.weight().allow_light_points();
        if marks { self.marks.clone() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Span {
    fn format_ext(&self, value: &f64) -> String {
        label(self.scale, *value)
    }
}

/// The steps that a range needs, of some that begin below it and end above; two of them at least.
fn between(steps: Vec<f64>, low: f64, high: f64) -> Vec<f64> {
    let last = steps.len() - 1;
    let below = steps.iter().rposition(|&step| step <= low * (1.0 + NEAR)).unwrap_or(0);
    let above = steps.iter().position(|&step| step >= high * (1.0 - NEAR)).unwrap_or(last);
    match below < above {
        true => steps[below..=above].to_vec(),
        false => steps[below.saturating_sub(1)..=(below + 1).min(last)].to_vec(),
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below this.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * power);
    steps.into_iter().find(|&step| step >= least * (1.0 - NEAR)).unwrap_or(10.0 * power)
}

/// A value as it is written at an axis: `0.25`, `1.5k`, `64K`. Doublings count by 1024, and say so by a capital K.
fn label(scale: Scale, value: f64) -> String {
    let (base, units) = match scale {
        Scale::Log2 => (1024.0, ["", "K", "M", "G", "T", "P"]),
        Scale::Linear | Scale::Log10 => (1000.0, ["", "k", "M", "G", "T", "P"]),
    };
    let size = value.abs() * (1.0 + NEAR);
    if size > 0.0 && size < 1e-3 {
        return format!(
            "{}e{}",
            digits(value / 10f64.powf(size.log10().floor())),
            size.log10().floor()
        );
    }
    let (mut unit, mut scaled) = (0, value);
    while scaled.abs() * (1.0 + NEAR) >= base && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    format!("{}{}", digits(scaled), units[unit])
}

/// Three significant digits, without the zeros at the end.
fn digits(value: f64) -> String {
    let before = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    let text = format!("{value:.*}", (2.0 - before).max(0.0) as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(scale: Scale, values: &[f64]) -> Result<Span> {
        Span::new(&Axis { label: "axis".into(), scale }, values.iter().copied(), 7)
    }

    fn labels(scale: Scale, values: &[f64]) -> Vec<String> {
        span(scale, values).unwrap().labels()
    }

    #[test]
    fn linear_axes_start_at_zero_and_step_evenly() {
        assert_eq!(labels(Scale::Linear, &[0.3, 1.0]), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(Scale::Linear, &[2_400_000.0]), ["0", "500k", "1M", "1.5M", "2M"]);
        assert_eq!(labels(Scale::Linear, &[-1.0, 1.0]), ["-1", "-0.5", "0", "0.5", "1"]);
    }

    #[test]
    fn equal_values_and_none_have_an_axis() {
        assert_eq!(labels(Scale::Linear, &[0.0, 0.0]), labels(Scale::Linear, &[]));
        assert_eq!(labels(Scale::Log10, &[100.0, 100.0]), ["50", "100", "200"]);
        assert_eq!(labels(Scale::Log10, &[]), ["1", "2", "5", "10"]);
        assert_eq!(labels(Scale::Log2, &[8.0]), ["4", "8", "16"]);
        for scale in [Scale::Linear, Scale::Log10, Scale::Log2] {
            let span = span(scale, &[3.0]).unwrap();
            assert!((0.0..=1.0).contains(&span.share(3.0)), "{scale:?}");
        }
    }

    #[test]
    fn powers_of_ten_are_written_short() {
        let decades = labels(Scale::Log10, &[10.0, 1e10]);
        assert_eq!(decades, ["100", "10k", "1M", "100M", "10G"]);
        assert_eq!(labels(Scale::Log10, &[300.0, 5e6]), ["1k", "10k", "100k", "1M"]);
        assert_eq!(labels(Scale::Log10, &[0.02, 0.5]), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(label(Scale::Log10, 1e-6), "1e-6");
    }

    #[test]
    fn doublings_are_all_marked_and_labelled_without_crowding() {
        let span = span(Scale::Log2, &[4096.0, 67_108_864.0]).unwrap();
        assert_eq!(span.labels(), ["4K", "32K", "256K", "2M", "16M"]);
        assert_eq!(span.marks.len(), 15);
    }

    #[test]
    fn no_axis_has_more_ticks_than_room() {
        for exponent in 0..60 {
            let high = 1.7f64.powi(exponent);
            for scale in [Scale::Linear, Scale::Log10, Scale::Log2] {
                let ticks = labels(scale, &[0.7, high]).len();
                assert!((2..=7).contains(&ticks), "{scale:?} to {high}: {ticks}");
            }
        }
    }

    #[test]
    fn logarithms_refuse_what_is_not_above_zero() {
        for scale in [Scale::Log10, Scale::Log2] {
            assert!(span(scale, &[1.0, 0.0]).is_err());
            assert!(span(scale, &[1.0, -1.0]).is_err());
        }
        assert!(span(Scale::Linear, &[f64::NAN]).is_err());
        assert!(span(Scale::Linear, &[f64::INFINITY]).is_err());
    }
}
