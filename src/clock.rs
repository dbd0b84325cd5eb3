//! The machine's clocks, and the store's time of day.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use actors::{domain::Timestamp, ports::Clock};

/// Time as this process sees it: the machine's monotonic clock, and the store's time of day as an offset to it, so
/// that neither a wrong clock on this machine nor a jump of it moves a window.
#[derive(Debug)]
pub struct StoreClock {
    started: Instant,
    /// The store's time of day at `started`, in microseconds since 1970.
    started_wall: AtomicI64,
}

impl StoreClock {
    /// Starts with the machine's time of day.
    #[must_use]
    pub fn new() -> Self {
        Self { started: monotonic(), started_wall: AtomicI64::new(machine_wall().0) }
    }

    /// Sets the time of day to the store's, which was read between `asked` and now.
    pub fn set(&self, store: Timestamp, asked: Instant) {
        let half = self.now().saturating_duration_since(asked) / 2;
        let since_start = self.now().saturating_duration_since(self.started);
        let then = store.plus(half).0.saturating_sub(Timestamp(0).plus(since_start).0);
        self.started_wall.store(then, Ordering::Relaxed);
    }
}

impl Default for StoreClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for StoreClock {
    fn now(&self) -> Instant {
        monotonic()
    }

    fn wall(&self) -> Timestamp {
        self.both().1
    }

    fn both(&self) -> (Instant, Timestamp) {
        let (now, then) = (self.now(), Timestamp(self.started_wall.load(Ordering::Relaxed)));
        (now, then.plus(now.saturating_duration_since(self.started)))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the Clock")]
fn monotonic() -> Instant {
    Instant::now()
}

/// Returns this machine's own time of day.
#[expect(clippy::disallowed_methods, reason = "this is the Clock")]
pub(crate) fn machine_wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(0).plus(since_epoch)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_store_decides_the_time_of_day() {
        let clock = StoreClock::new();
        assert!(clock.wall().since(machine_wall()) < Duration::from_secs(1));
        clock.set(Timestamp::from_seconds(1_000), clock.now());
        assert_eq!(clock.wall().seconds(), 1_000);
    }
}
