//! Requests that are over.

use std::time::Duration;

use super::{ErrorCode, Outcome};

/// Where a request's time went. What didn't happen is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Verifying the caller.
    pub auth: Option<Duration>,
    /// Reserving quota.
    pub quota: Option<Duration>,
    /// Having a connection to the provider: zero where one was kept.
    pub connect: Option<Duration>,
    /// From the request's arrival to the first frame, or to the whole answer where it isn't streamed.
    pub ttft: Option<Duration>,
    /// Our share of `ttft`: what is left when the time of each provider that was asked is taken off.
    pub overhead: Option<Duration>,
    /// From the request's arrival to its end.
    pub total: Duration,
}

/// A request that is over, as reports and metrics see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// How it ended, if it was admitted.
    pub outcome: Option<Outcome>,
    /// What the client was told, or would have been, if it failed.
    pub code: Option<ErrorCode>,
    /// Whether it was a repeat that joined a running answer: then nothing was admitted or posted for it.
    pub joined: bool,
    /// Whether the tokens are an estimate.
    pub estimated: bool,
    /// Where its time went.
    pub timings: Timings,
}
