//! The four alerts of the original plan, and since when each is as it is. Pure: time is an argument.

use super::Config;
use crate::domain::Timestamp;

/// With fewer requests in the last minute, neither a mean nor a rate says anything: one slow request at night is no alarm.
pub(super) const MIN_REQUESTS: u64 = 20;

/// What the rules look at. What can't be said is `None` and doesn't fire.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Readings {
    /// Mean time to the first frame in the last minute, in milliseconds.
    pub(super) mean_response: Option<f64>,
    /// Share of requests that failed in the last minute.
    pub(super) error_rate: Option<f64>,
    /// Resident memory, as a share of its limit.
    pub(super) memory: Option<f64>,
    /// Database connections in use, as a share of the pool's size.
    pub(super) connections: Option<f64>,
}

/// A rule: it fires while its reading is above the threshold.
struct Rule {
    name: &'static str,
    threshold: fn(&Config) -> f64,
    reading: fn(&Readings) -> Option<f64>,
}

const RULES: [Rule; 4] = [
    Rule { name: "mean_response_ms", threshold: mean_response_ms, reading: |readings| readings.mean_response },
    Rule {
        name: "error_rate",
        threshold: |config| config.error_rate_percent / 100.0,
        reading: |readings| readings.error_rate,
    },
    Rule { name: "memory", threshold: |config| config.memory_percent / 100.0, reading: |readings| readings.memory },
    Rule {
        name: "database_connections",
        threshold: |config| config.connections_percent / 100.0,
        reading: |readings| readings.connections,
    },
];

fn mean_response_ms(config: &Config) -> f64 {
    config.mean_response.as_secs_f64() * 1e3
}

/// How an alert stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Alert {
    /// The rule's name.
    pub(super) name: &'static str,
    /// Whether it fires.
    pub(super) firing: bool,
    /// When that last changed; the start, if it never did.
    pub(super) since: Timestamp,
    /// The last reading.
    pub(super) value: Option<f64>,
    /// What it must not exceed.
    pub(super) threshold: f64,
}

/// All alerts.
#[derive(Debug)]
pub(super) struct Alerts([Alert; RULES.len()]);

impl Alerts {
    /// Makes alerts that are all fine since `now`.
    pub(super) fn new(config: &Config, now: Timestamp) -> Self {
        Self(RULES.map(|Rule { name, threshold, .. }| Alert {
            name,
            firing: false,
            since: now,
            value: None,
            threshold: threshold(config),
        }))
    }

    /// Looks at new readings.
    pub(super) fn evaluate(&mut self, readings: &Readings, now: Timestamp) {
        for (alert, rule) in self.0.iter_mut().zip(RULES) {
            alert.value = (rule.reading)(readings);
            let firing = alert.value.is_some_and(|value| value > alert.threshold);
            if firing != alert.firing {
                (alert.firing, alert.since) = (firing, now);
            }
        }
    }

    /// Returns each of them.
    pub(super) fn all(&self) -> &[Alert] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firing(alerts: &Alerts) -> Vec<(&'static str, i64)> {
        alerts.all().iter().filter(|alert| alert.firing).map(|alert| (alert.name, alert.since.seconds())).collect()
    }

    #[test]
    fn an_alert_fires_above_its_threshold_and_knows_since_when() {
        let at = Timestamp::from_seconds;
        let mut alerts = Alerts::new(&Config::default(), at(100));
        let calm =
            Readings { mean_response: Some(500.0), error_rate: Some(0.05), memory: Some(0.8), connections: Some(0.9) };
        alerts.evaluate(&calm, at(105));
        assert_eq!(firing(&alerts), []);
        assert!(alerts.all().iter().all(|alert| alert.since == at(100)));

        let slow = Readings { mean_response: Some(500.1), memory: Some(0.81), ..calm };
        alerts.evaluate(&slow, at(110));
        alerts.evaluate(&slow, at(115));
        assert_eq!(firing(&alerts), [("mean_response_ms", 110), ("memory", 110)]);

        alerts.evaluate(&Readings { mean_response: None, error_rate: Some(0.5), ..calm }, at(120));
        assert_eq!(firing(&alerts), [("error_rate", 120)]);
        assert_eq!((alerts.all()[0].since, alerts.all()[0].value), (at(120), None));

        let full = Readings { connections: Some(1.0), ..calm };
        alerts.evaluate(&full, at(125));
        assert_eq!(firing(&alerts), [("database_connections", 125)]);
    }
}
