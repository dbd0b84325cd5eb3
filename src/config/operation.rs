//! `[shutdown]`, `[log]` and `[alerts]`: what operators see and wait for.

use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::{error::Problems, values::minutes};

/// How the service stops: `[shutdown]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long requests are refused before the listener closes: up to 5 min.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long running streams may go on: up to 1 h.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long the last flush may take if the store is away: up to 5 min.
    #[serde(with = "humantime_serde")]
    pub flush_timeout: Duration,
}

/// What is logged, and how: `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged: a valid directive of [`EnvFilter`].
    pub filter: String,
    /// Whether each request has its line.
    pub access: bool,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// When operators are alerted: `[alerts]`, the four rules of MISSION.md 9.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsConfig {
    /// The mean response time above which there is an alert: 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub mean_response: Duration,
    /// The share of requests that fail above which there is one: 0 to 100 %.
    pub error_rate_percent: f64,
    /// The share of `server.memory_limit_mb` in use above which there is one: 0 to 100 %.
    pub memory_percent: f64,
    /// The share of `database.pool_max` in use above which there is one: 0 to 100 %.
    pub connections_percent: f64,
}

impl ShutdownConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.within_time("shutdown.delay", self.delay, Duration::ZERO..=minutes(5));
        problems.within_time("shutdown.grace", self.grace, Duration::ZERO..=minutes(60));
        problems.within_time("shutdown.flush_timeout", self.flush_timeout, Duration::ZERO..=minutes(5));
    }
}

impl LogConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        if let Err(error) = EnvFilter::try_new(&self.filter) {
            let allowed = format_args!("a filter such as \"info\" or \"warn,hasnot_engine=debug\", but: {error}");
            problems.refuse("log.filter", format_args!("{:?}", self.filter), allowed);
        }
    }
}

impl AlertsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let range = Duration::from_millis(1)..=minutes(60);
        problems.within_time("alerts.mean_response", self.mean_response, range);
        problems.within("alerts.error_rate_percent", self.error_rate_percent, 0.0..=100.0);
        problems.within("alerts.memory_percent", self.memory_percent, 0.0..=100.0);
        problems.within("alerts.connections_percent", self.connections_percent, 0.0..=100.0);
    }
}
