//! The clocks of tests and load programs: the engine's own Clock is not for the far ends of its wires.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads the monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the far ends measure the engine, so they need a clock it does not own")]
pub fn now() -> Instant {
    Instant::now()
}

/// Reads the wall clock in nanoseconds since 1970, which processes on one machine share.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "stamps are compared across processes")]
pub fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
