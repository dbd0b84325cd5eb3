//! Clocks that tests can turn.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{domain::Timestamp, ports::Clock};

/// A clock that stands still until it is moved. Its wall clock starts at 2026-11-23T00:00:00Z.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Instant, Timestamp)>);

impl ManualClock {
    /// The wall clock's start.
    pub const START: Timestamp = Timestamp(1_795_392_000_000_000);

    /// Makes a clock at its start.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "there is no other way to get some Instant to count from")]
    pub fn new() -> Self {
        Self(Mutex::new((Instant::now(), Self::START)))
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *times = (times.0 + by, times.1.plus(by));
    }

    /// Turns the wall clock alone, as an operator or NTP does.
    pub fn set_wall(&self, wall: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = wall;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A clock that goes with tokio's: where that is paused, timers and this clock move together and at once.
#[derive(Debug)]
pub struct VirtualClock(tokio::time::Instant);

impl VirtualClock {
    /// Makes a clock whose wall clock is at [`ManualClock::START`].
    #[must_use]
    pub fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> Timestamp {
        ManualClock::START.plus(self.now().saturating_duration_since(self.0.into_std()))
    }
}
