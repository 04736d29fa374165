//! A histogram of times with logarithmic bins of 9 %.
//!
//! Millions of generations fit into a small file, and reports can be added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bins for each doubling; each is 9 % wide.
const STEPS: f64 = 8.0;

/// Counts by bin.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: u64) {
        let step = ((value.max(1) as f64).log2() * STEPS).floor() as u16;
        *self.0.entry(step).or_default() += 1;
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(&step, count)| *self.0.entry(step).or_default() += count);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The value below which the fraction `part` of all values is, within one bin.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let mut left = (self.count() as f64 * part).ceil().max(1.0) as u64;
        self.0.iter().find_map(|(&step, &count)| {
            left = left.saturating_sub(count);
            (left == 0).then(|| middle(step))
        })
    }

    /// The middle value and the count of each bin, in order.
    pub fn steps(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter().map(|(&step, &count)| (middle(step), count))
    }
}

fn middle(step: u16) -> f64 {
    2_f64.powf((f64::from(step) + 0.5) / STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|value| histogram.add(value));
        histogram
    }

    #[test]
    fn quantiles_are_right_to_a_step() {
        let thousand = of(1..=1000);
        for (part, value) in [(0.1, 100.0), (0.5, 500.0), (0.9, 900.0), (1.0, 1000.0)] {
            let found = thousand.quantile(part).unwrap();
            assert!((found / value - 1.0).abs() < 0.09, "{part}: {found}");
        }
        assert_eq!(of([]).quantile(0.5), None);
        assert!(of([0]).quantile(0.5).unwrap() < 2.0);
    }

    #[test]
    fn a_merge_is_the_histogram_of_all() {
        let mut merged = of(1..=10);
        merged.merge(&of(5..=2000));
        assert_eq!(merged, of((1..=10).chain(5..=2000)));
        assert_eq!(merged.count(), 10 + 1996);
        let text = serde_json::to_string(&merged).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), merged);
    }
}
