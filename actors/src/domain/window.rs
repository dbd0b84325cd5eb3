//! When: points in time and the periods in which limits reset.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Makes one of whole seconds since 1970.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Returns whole seconds since 1970, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns the time that lies `duration` later; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Returns how long after `earlier` this is; zero if it isn't.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the time as RFC 3339 with whole seconds, such as `2026-11-23T00:00:00Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        self.date_time().format(&Rfc3339).unwrap_or_default()
    }

    fn date_time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// How often a limit resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// At midnight UTC.
    Day,
    /// At midnight UTC before the first of the month.
    Month,
}

impl WindowKind {
    /// Both kinds. Every posting counts in a window of each, so that a change of plan keeps the counts.
    pub const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// Returns the window of this kind that `now` lies in.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Window {
        let today = now.date_time().date();
        let start = match self {
            Self::Day => today,
            Self::Month => today.replace_day(1).unwrap_or(today),
        };
        Window { kind: self, start: midnight(start) }
    }

    /// Returns the name, as the store and reports spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl std::str::FromStr for WindowKind {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            other => Err(format!("a window is `day` or `month`, not `{other}`")),
        }
    }
}

/// One period in which a limit holds: UTC, start inclusive, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    kind: WindowKind,
    start: Timestamp,
}

impl Window {
    /// Returns how often it resets.
    #[must_use]
    pub fn kind(self) -> WindowKind {
        self.kind
    }

    /// Returns its first moment.
    #[must_use]
    pub fn start(self) -> Timestamp {
        self.start
    }

    /// Returns the first moment after it: when the limit resets.
    #[must_use]
    pub fn end(self) -> Timestamp {
        let first = self.start.date_time().date();
        let next = match self.kind {
            WindowKind::Day => first.next_day(),
            WindowKind::Month => {
                let month = first.month().next();
                let year = first.year() + i32::from(month == Month::January);
                Date::from_calendar_date(year, month, 1).ok()
            }
        };
        midnight(next.unwrap_or(Date::MAX))
    }
}

fn midnight(date: Date) -> Timestamp {
    Timestamp::from_seconds(date.midnight().assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_seconds(OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp())
    }

    #[test]
    fn windows_start_and_end_at_midnight_utc() {
        for (kind, now, start, end) in [
            (WindowKind::Day, "2026-11-23T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (WindowKind::Day, "2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (WindowKind::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (WindowKind::Month, "2027-02-10T12:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"),
        ] {
            let window = kind.at(at(now));
            assert_eq!(window.start().to_rfc3339(), start);
            assert_eq!(window.end().to_rfc3339(), end);
            assert_eq!(kind.at(window.end()).start(), window.end());
        }
    }

    #[test]
    fn times_are_measured_in_microseconds() {
        let time = Timestamp::from_seconds(10).plus(Duration::from_millis(1500));
        assert_eq!(time, Timestamp(11_500_000));
        assert_eq!(time.seconds(), 11);
        assert_eq!(time.since(Timestamp::from_seconds(10)), Duration::from_millis(1500));
        assert_eq!(Timestamp::from_seconds(10).since(time), Duration::ZERO);
    }
}
