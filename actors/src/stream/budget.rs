//! How many retries a provider is asked to bear: pure, no clock.
//!
//! A provider that fails all it is sent would get each request twice or more just when it can't take them. So retries are
//! a share of the requests of the last 10 s, and a few besides, without which a quiet service could never retry: as in
//! Finagle's `RetryBudget` (20 %, ten a second) and linkerd's and tower's, which follow it, but tighter.

use std::time::Instant;

use super::recent::Recent;

/// So many retries are there in 10 s, whatever the requests.
pub(super) const LEAST_RETRIES: u32 = 10;

/// The requests and retries of one provider, on one worker.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u32,
    recent: Recent,
}

impl Budget {
    /// Makes a budget of so many retries for 100 requests.
    pub(super) fn new(percent: u32, now: Instant) -> Self {
        Self { percent, recent: Recent::new(now) }
    }

    /// A request is sent for the first time.
    pub(super) fn requested(&mut self, now: Instant) {
        self.recent.add(now, [1, 0]);
    }

    /// Takes one retry out of the budget; `false` where nothing is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let [requests, retries] = self.recent.counts(now).map(u64::from);
        let left = retries < u64::from(LEAST_RETRIES) + requests * u64::from(self.percent) / 100;
        if left {
            self.recent.add(now, [0, 1]);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ports::Clock, testing::ManualClock};

    /// Sends requests that all fail, over nine seconds; returns how many of them may be repeated.
    fn retries(percent: u32, requests: u32) -> usize {
        let start = ManualClock::new().now();
        let mut budget = Budget::new(percent, start);
        let retried = |number: u32| {
            let now = start + Duration::from_secs(9) * number / requests;
            budget.requested(now);
            budget.take(now)
        };
        (0..requests).map(retried).filter(|&may| may).count()
    }

    #[test]
    fn retries_are_a_tenth_of_the_requests_and_ten() {
        assert_eq!(retries(10, 1), 1, "a quiet service can retry");
        assert_eq!(retries(10, 10), 10);
        assert_eq!(retries(10, 100), 20);
        assert_eq!(retries(10, 10_000), 1_010);
        assert_eq!(retries(0, 1_000), 10);
        assert_eq!(retries(100, 1_000), 1_000);
    }

    #[test]
    fn the_budget_fills_again() {
        let start = ManualClock::new().now();
        let mut budget = Budget::new(10, start);
        assert_eq!((0..50).filter(|_| budget.take(start)).count(), 10);
        let later = start + Duration::from_secs(10);
        assert!(!budget.take(later - Duration::from_millis(1)));
        assert_eq!((0..50).filter(|_| budget.take(later)).count(), 10);
    }
}
