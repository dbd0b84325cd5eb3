//! What the headers of an answer say of limits and time, and the one by which a request is traced.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest,
    http::header::{HeaderName, HeaderValue},
};
use actors::{
    domain::{Timestamp, Timings},
    quota::{Dimension, Figure, Shortage, Standing},
};
use bytes::Bytes;

const EMPTY: HeaderValue = HeaderValue::from_static("");

/// `x-ratelimit-…`: how far the window with the least left is used.
pub(super) struct LimitHeaders([Option<(Figure, Duration)>; 2]);

const LIMIT_NAMES: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

impl LimitHeaders {
    /// Says where an account stands.
    pub(super) fn of(standing: Option<Standing>) -> Self {
        let Some(standing) = standing else { return Self([None, None]) };
        let limited = |figure: Figure| figure.limit.map(|_| (figure, standing.resets_in));
        Self([limited(standing.requests), limited(standing.tokens)])
    }

    /// Says where the ceiling stands that a request met; nobody has looked at the other one.
    pub(super) fn of_shortage(shortage: &Shortage, now: Timestamp) -> Self {
        let &Shortage { dimension, figure, window, .. } = shortage;
        let met = |of| (dimension == of).then(|| (figure, window.end().since(now)));
        Self([met(Dimension::Requests), met(Dimension::Tokens)])
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.0.iter().zip(LIMIT_NAMES).filter_map(|(limited, names)| Some((limited.as_ref()?, names))).flat_map(
            |((figure, left), [limit, remaining, reset])| {
                let number = |value: Option<i64>| HeaderValue::from(value.unwrap_or_default());
                let time = HeaderValue::from_maybe_shared(Bytes::from(duration(*left))).unwrap_or(EMPTY);
                [(limit, number(figure.limit)), (remaining, number(figure.remaining())), (reset, time)]
            },
        )
    }
}

/// Writes a duration as OpenAI's headers do: `1s`, `6m0s`, `23h59m1s`. Rounded up, so that whoever waits for so long
/// doesn't come too early.
fn duration(left: Duration) -> String {
    let left = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    let (hours, minutes, seconds) = (left / 3_600, left / 60 % 60, left % 60);
    let (mut text, mut digits) = (String::with_capacity(16), itoa::Buffer::new());
    if hours > 0 {
        text.extend([digits.format(hours), "h"]);
    }
    if hours > 0 || minutes > 0 {
        text.extend([digits.format(minutes), "m"]);
    }
    text.extend([digits.format(seconds), "s"]);
    text
}

/// Says where the time went, in milliseconds. Written without a formatter, which took 4,500 instructions for each answer.
pub(super) fn server_timing(timings: &Timings) -> HeaderValue {
    let stages =
        [("auth", timings.auth), ("quota", timings.quota), ("connect", timings.connect), ("ttfb", timings.ttft)];
    let (mut text, mut digits) = (String::with_capacity(80), itoa::Buffer::new());
    for (name, took) in stages.into_iter().filter_map(|(name, took)| Some((name, took?))) {
        let comma = if text.is_empty() { "" } else { ", " };
        text.extend([
            comma,
            name,
            ";dur=",
            digits.format(took.as_secs() * 1_000 + u64::from(took.subsec_millis())),
            ".",
        ]);
        let thousandths = took.subsec_micros() % 1_000;
        text.push_str(digits.format(1_000 + thousandths).get(1..).unwrap_or_default());
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(EMPTY)
}

/// Returns the client's `traceparent`, if it is one.
pub(super) fn traceparent(request: &HttpRequest) -> Option<Arc<str>> {
    let value = request.headers().get("traceparent")?.to_str().ok()?;
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return None };
    // Ids of zeros and the version ff are invalid (W3C Trace Context, 2.2.2).
    let sane = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2]
        && parts.iter().all(|part| hex(part))
        && *version != "ff"
        && [trace, parent].iter().all(|id| id.bytes().any(|byte| byte != b'0'));
    sane.then(|| Arc::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (360, "6m0s"), (86_399, "23h59m59s"), (2_592_000, "720h0m0s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(duration(Duration::from_millis(59_001)), "1m0s");
    }

    #[test]
    fn server_timing_lists_what_happened() {
        let timings = Timings {
            auth: Some(Duration::from_micros(1_234)),
            ttft: Some(Duration::from_millis(5)),
            ..Timings::default()
        };
        assert_eq!(server_timing(&timings), "auth;dur=1.234, ttfb;dur=5.000");
    }
}
