//! Durations counted in buckets that grow with them: 1.6 % wrong at most, from 1 µs to 10 min. Pure.

use std::time::Duration;

/// Buckets in each doubling; a power of two. The middle of a bucket is off by 1/64 of its value at most.
const PER_OCTAVE: u64 = 32;

/// Bits of `PER_OCTAVE`.
const OCTAVE_BITS: u32 = PER_OCTAVE.trailing_zeros();

/// What is longer counts as this long in percentiles: 10 min. The maximum stays exact.
const MAX_MICROS: u64 = 600_000_000;

/// Buckets in all: 804, which is 3.2 KB.
const BUCKETS: usize = bucket(MAX_MICROS) + 1;

/// A log-linear histogram. Takes no memory for buckets until something is recorded.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
    sum: Duration,
    max: Duration,
}

/// What a histogram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Summary {
    /// How many there were.
    pub(super) count: u64,
    /// Their mean, exact.
    pub(super) mean: Duration,
    /// Half of them took no longer.
    pub(super) p50: Duration,
    /// 95 of 100 took no longer.
    pub(super) p95: Duration,
    /// 99 of 100 took no longer.
    pub(super) p99: Duration,
    /// The longest, exact.
    pub(super) max: Duration,
}

impl Histogram {
    /// Takes a duration down.
    pub(super) fn record(&mut self, took: Duration) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS].into_boxed_slice();
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
        self.max = self.max.max(took);
        let micros = u64::try_from(took.as_micros()).unwrap_or(MAX_MICROS).min(MAX_MICROS);
        if self.buckets.get(bucket(micros)) == Some(&u32::MAX) {
            self.halve();
        }
        if let Some(bucket) = self.buckets.get_mut(bucket(micros)) {
            *bucket += 1;
        }
    }

    /// Adds all that `other` has taken down.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
        } else {
            let is_full = |(mine, others): (&u32, &u32)| mine.checked_add(*others).is_none();
            if self.buckets.iter().zip(&other.buckets).any(is_full) {
                self.halve();
            }
            for (mine, others) in self.buckets.iter_mut().zip(&other.buckets) {
                *mine = mine.saturating_add(*others);
            }
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// Returns the figures of a report.
    #[must_use]
    pub(super) fn summary(&self) -> Summary {
        let mean = self.sum.as_nanos().checked_div(self.count.into()).unwrap_or(0);
        Summary {
            count: self.count,
            mean: Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)),
            p50: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
            max: self.max,
        }
    }

    /// Returns the duration that `percent` of all didn't exceed: the middle of the bucket in which the last of them is.
    fn percentile(&self, percent: u64) -> Duration {
        let total: u64 = self.buckets.iter().map(|&count| u64::from(count)).sum();
        let rank = (total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        Duration::ZERO
    }

    /// Makes room in a bucket after four billion recordings: shapes, and so percentiles, stay.
    #[cold]
    fn halve(&mut self) {
        for count in &mut self.buckets {
            *count = count.div_ceil(2);
        }
    }
}

/// Below `PER_OCTAVE` a bucket is one microsecond wide; above, a doubling is cut into `PER_OCTAVE` equal ones.
#[expect(clippy::cast_possible_truncation, reason = "MAX_MICROS keeps it below 1,000; `try_from` isn't const")]
const fn bucket(micros: u64) -> usize {
    let shift = match micros.checked_ilog2() {
        Some(log) if log > OCTAVE_BITS => log - OCTAVE_BITS,
        _ => 0,
    };
    ((micros >> shift) + shift as u64 * PER_OCTAVE) as usize
}

fn middle(bucket: usize) -> Duration {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    // Buckets of octave `shift` have the numbers PER_OCTAVE × (shift + 1) to PER_OCTAVE × (shift + 2) − 1.
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let low = (bucket - shift * PER_OCTAVE) << shift;
    Duration::from_nanos(low * 1000 + (1000 << shift) / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        micros.iter().for_each(|&micros| histogram.record(Duration::from_micros(micros)));
        histogram
    }

    proptest! {
        #[test]
        fn percentiles_are_within_two_percent(mut micros in prop::collection::vec(
            prop_oneof![0_u64..100, 0_u64..1_000_000, 0..=MAX_MICROS], 1..500,
        )) {
            let summary = of(&micros).summary();
            micros.sort_unstable();
            for (percent, found) in [(50, summary.p50), (95, summary.p95), (99, summary.p99)] {
                let exact = micros[(micros.len() * percent).div_ceil(100) - 1] * 1000;
                let found = u64::try_from(found.as_nanos()).unwrap();
                // A bucket's middle: 1/64 of the value, or half a microsecond where buckets are that narrow.
                prop_assert!(found.abs_diff(exact) <= (exact / 64).max(500) + 500, "{percent}: {found} for {exact}");
            }
            prop_assert_eq!(summary.count, u64::try_from(micros.len()).unwrap());
            prop_assert_eq!(summary.max, Duration::from_micros(*micros.last().unwrap()));
            let mean = micros.iter().sum::<u64>() * 1000 / summary.count;
            prop_assert_eq!(summary.mean, Duration::from_nanos(mean));
        }

        #[test]
        fn merging_is_recording_both(left in prop::collection::vec(0_u64..=MAX_MICROS, 0..50),
                                     right in prop::collection::vec(0_u64..=MAX_MICROS, 0..50)) {
            let mut merged = of(&left);
            merged.merge(&of(&right));
            prop_assert_eq!(merged.summary(), of(&[left, right].concat()).summary());
        }
    }

    #[test]
    fn buckets_are_dense_and_in_order() {
        let mut last = 0;
        for micros in 0..100_000 {
            let this = bucket(micros);
            assert!(this == last || this == last + 1, "{micros}");
            last = this;
        }
        assert_eq!(BUCKETS, 804);
    }

    #[test]
    fn nothing_recorded_is_all_zero_and_takes_no_memory() {
        let empty = Histogram::default();
        assert_eq!(empty.summary(), Summary::default());
        assert!(empty.buckets.is_empty());
    }

    #[test]
    fn what_is_longer_than_the_range_keeps_its_maximum() {
        let hour = Duration::from_secs(3600);
        let mut histogram = of(&[]);
        histogram.record(hour);
        assert_eq!(histogram.summary().max, hour);
        assert!(histogram.summary().p50 >= Duration::from_micros(MAX_MICROS - MAX_MICROS / 32));
    }

    #[test]
    fn a_full_bucket_is_halved_with_all_others() {
        let mut histogram = of(&[5, 5, 5, 900]);
        histogram.buckets[5] = u32::MAX;
        histogram.record(Duration::from_micros(5));
        assert_eq!(histogram.buckets[5], u32::MAX / 2 + 2);
        assert_eq!(histogram.buckets[bucket(900)], 1);
        let mut other = of(&[5]);
        other.buckets[5] = u32::MAX / 2;
        histogram.merge(&other);
        assert_eq!(histogram.summary().p50, Duration::from_nanos(5500));
        assert_eq!(histogram.buckets[5], u32::MAX / 4 + 2 + u32::MAX / 2, "halved here, too");
    }
}
