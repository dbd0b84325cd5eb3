//! UsageLedger: brings postings into the store.

use std::time::Duration;

use serde::Deserialize;

/// How usage is booked: `[ledger]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How often postings are brought into the store.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// So many postings are brought at once, and at once.
    pub flush_postings: usize,
    /// The most postings that wait, those of running requests included; beyond them new requests are refused.
    pub max_pending: usize,
}
