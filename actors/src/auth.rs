//! AuthCache: who is calling.

use serde::Deserialize;

/// How callers are verified and cached: `[auth]`, as far as the actor is concerned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What happens to a valid token whose user is unknown.
    pub provision: Provision,
    /// The most tokens, and the most users, that each worker remembers.
    pub cache_entries: usize,
}

/// What happens to a valid token whose user is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provision {
    /// The user is added, with the token's plan or else the default one.
    DefaultPlan,
    /// The token is refused.
    Reject,
}
