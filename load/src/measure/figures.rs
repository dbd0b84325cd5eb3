//! Percentiles and medians. Pure.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Durations of one kind: kept one by one, since a histogram's buckets would hide a shift of some per cent.
#[derive(Clone, Debug, Default)]
pub struct Times {
    micros: Vec<u32>,
}

impl Times {
    /// Adds one; what is above 71 minutes counts as that.
    pub fn add(&mut self, time: Duration) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds all of another one.
    pub fn join(&mut self, other: &Self) {
        self.micros.extend_from_slice(&other.micros);
    }

    /// Reads the percentiles.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = |percent| nearest_rank(&sorted, percent).map_or(0.0, |micros| f64::from(micros) / 1e3);
        Quantiles { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

/// Percentiles in milliseconds; zeros of nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// The smallest value that at least `percent` of all are not above (the nearest rank); `None` of nothing.
fn nearest_rank(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// A count as a number to divide by; exact below 2^53, which no run reaches.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub const fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(millis: impl IntoIterator<Item = u64>) -> Quantiles {
        let mut times = Times::default();
        millis.into_iter().for_each(|time| times.add(Duration::from_millis(time)));
        times.quantiles()
    }

    #[test]
    fn percentiles_are_nearest_ranks_in_any_order() {
        assert_eq!(quantiles(1..=100), Quantiles { p50: 50.0, p95: 95.0, p99: 99.0, max: 100.0 });
        assert_eq!(quantiles((1..=100).rev()), quantiles(1..=100));
        assert_eq!(quantiles([1, 2, 3, 4]), Quantiles { p50: 2.0, p95: 4.0, p99: 4.0, max: 4.0 });
        assert_eq!(quantiles([7]), Quantiles { p50: 7.0, p95: 7.0, p99: 7.0, max: 7.0 });
        assert_eq!(quantiles([]), Quantiles::default());
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
