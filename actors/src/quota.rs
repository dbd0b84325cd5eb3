//! QuotaGate: whether a caller may go on.

use std::time::Duration;

use serde::Deserialize;

/// How limits are held: `[quota]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The most accounts kept in memory; the idle ones go first.
    pub max_accounts: usize,
    /// How long an account without requests is kept.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a cold account's first request waits for the store.
    #[serde(with = "humantime_serde")]
    pub load_timeout: Duration,
}
