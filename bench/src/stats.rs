//! Medians with their spread, and ratios of runs of the same round.

use serde::Serialize;

/// The middle of some values, and their range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the values lie below it.
    pub median: f64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
}

/// Summarises `values`; `None` when there are none.
pub fn summarize(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (&min, &max) = (values.first()?, values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    };
    Some(Summary { median, min, max })
}

/// Summarises the ratios of values of the same round: what disturbs a whole round cancels out.
pub fn ratios(values: &[f64], base: &[f64]) -> Option<Summary> {
    summarize(values.iter().zip(base).filter(|(_, base)| **base > 0.0).map(|(v, b)| v / b))
}

/// The geometric mean; `None` when there are no values, or one is not above zero.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        if value.is_nan() || value <= 0.0 {
            return None;
        }
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// Summarises the differences of values of the same round.
pub fn differences(values: &[f64], base: &[f64]) -> Option<Summary> {
    summarize(values.iter().zip(base).map(|(v, b)| v - b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both_middles() {
        assert_eq!(summarize([3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(summarize([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(summarize([]), None);
    }

    #[test]
    fn a_geometric_mean_gives_a_half_and_a_double_the_same_weight() {
        let mean = |values: &[f64]| geometric_mean(values.iter().copied());
        assert!((mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!((mean(&[1.0, 10.0, 100.0]).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[1.0, 0.0]), None);
        assert_eq!(mean(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratio = ratios(&[2.0, 6.0, 9.0], &[2.0, 3.0, 3.0]).unwrap();
        assert_eq!(ratio, Summary { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(ratios(&[1.0], &[]), None);
        let difference = differences(&[2.0, 6.0, 9.0], &[2.0, 3.0, 3.0]).unwrap();
        assert_eq!(difference, Summary { median: 3.0, min: 0.0, max: 6.0 });
    }
}
