//! UpstreamStream: one request's life at a provider.

pub mod sse;
pub mod usage;

use std::time::Duration;

use serde::Deserialize;

/// How answers are relayed: `[stream]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long a stream is silent before a keep-alive comment is sent, and again between them.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long the `/api` paths wait for the provider before the 200 is sent.
    #[serde(with = "humantime_serde")]
    pub commit_after: Duration,
    /// The most bytes of complete frames that are held for a client that reads slowly.
    pub buffer_bytes: usize,
    /// The most bytes of one frame.
    pub max_frame_bytes: usize,
    /// The most bytes of an answer that isn't streamed.
    pub max_answer_bytes: usize,
}
