//! How often the log has one thing that each request could say, and all for one reason.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::lock::lock;

/// So long the next complaints are only counted.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// What was complained of lately, by all that share it.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    /// Takes a complaint. Returns how many were not said since the last one that was; `None` if this isn't to be, either.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < SILENCE) {
            state.unsaid += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ports::Clock, testing::ManualClock};

    #[test]
    fn the_first_is_said_and_then_one_each_10_seconds_with_a_count() {
        let (clock, complaints) = (ManualClock::new(), Complaints::default());
        let same = complaints.clone();
        assert_eq!(complaints.take(clock.now()), Some(0));
        for _ in 0..7 {
            assert_eq!(same.take(clock.now()), None);
        }
        clock.advance(SILENCE - Duration::from_millis(1));
        assert_eq!(complaints.take(clock.now()), None);
        clock.advance(Duration::from_millis(1));
        assert_eq!(complaints.take(clock.now()), Some(8));
        clock.advance(SILENCE);
        assert_eq!(complaints.take(clock.now()), Some(0));
    }
}
