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
