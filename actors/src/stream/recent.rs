//! Two counts over the last ten seconds: pure, no clock.
//!
//! A ring of ten slots of a second each, so that what is summed is 10 s old at most. 100 bytes. Time is an argument; what
//! comes late counts as now. A slot's counts saturate.

use std::time::{Duration, Instant};

/// How long something counts.
pub(super) const WINDOW: Duration = Duration::from_secs(SLOTS as u64);

/// Slots of the ring, of a second each.
const SLOTS: usize = 10;

/// The ring.
#[derive(Debug)]
pub(super) struct Recent {
    /// The newest first.
    slots: [[u32; 2]; SLOTS],
    /// When the newest began.
    newest: Instant,
}

impl Recent {
    pub(super) fn new(now: Instant) -> Self {
        Self { slots: Default::default(), newest: now }
    }

    /// Counts that many more of each.
    pub(super) fn add(&mut self, now: Instant, more: [u32; 2]) {
        self.turn(now);
        if let Some(newest) = self.slots.first_mut() {
            *newest = sum(*newest, more);
        }
    }

    /// Returns how many there were of each.
    pub(super) fn counts(&mut self, now: Instant) -> [u32; 2] {
        self.turn(now);
        self.slots.iter().copied().fold([0, 0], sum)
    }

    fn turn(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.newest).as_secs();
        let gone = usize::try_from(seconds).unwrap_or(SLOTS).min(SLOTS);
        self.slots.rotate_right(gone);
        self.slots.iter_mut().take(gone).for_each(|slot| *slot = [0, 0]);
        self.newest += Duration::from_secs(seconds);
    }
}

fn sum([a, b]: [u32; 2], [c, d]: [u32; 2]) -> [u32; 2] {
    [a.saturating_add(c), b.saturating_add(d)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ports::Clock, testing::ManualClock};

    #[test]
    fn what_is_ten_seconds_old_is_forgotten() {
        let start = ManualClock::new().now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut recent = Recent::new(start);
        recent.add(at(0), [1, 0]);
        recent.add(at(999), [1, 1]);
        recent.add(at(5_500), [3, 2]);
        assert_eq!(recent.counts(at(9_999)), [5, 3]);
        assert_eq!(recent.counts(at(10_000)), [3, 2]);
        assert_eq!(recent.counts(at(3_000)), [3, 2], "what comes late counts as now");
        assert_eq!(recent.counts(at(14_999)), [3, 2]);
        assert_eq!(recent.counts(at(15_000)), [0, 0]);
        recent.add(at(100_000_000), [u32::MAX, 1]);
        recent.add(at(100_000_000), [7, 0]);
        assert_eq!(recent.counts(at(100_009_999)), [u32::MAX, 1]);
    }
}
