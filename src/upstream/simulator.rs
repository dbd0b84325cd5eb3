//! The simulator: a provider in this process, so that the service can be tried, and loaded, with nothing else.
//!
//! It answers in the provider's own form, frame by frame with the configured pauses, and reports usage, so that
//! everything behind it works as with a real one. It is no model: it says so in each answer.

use std::time::Duration;

use actors::ports::{UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse};
use bytes::Bytes;
use futures_util::{StreamExt, future::LocalBoxFuture, stream};
use serde_json::json;

use crate::config::SimulatorProvider;

/// What it says, word by word, and again from the start.
const WORDS: [&str; 12] =
    ["This", " is", " the", " simulator", ",", " not", " a", " model", ":", " nothing", " was", " asked."];
/// What it reports as the prompt's tokens: nothing counts them here.
const PROMPT_TOKENS: u32 = 8;

pub(super) struct Simulator {
    first_frame: Duration,
    frame_gap: Duration,
    frames: u32,
    /// Each content frame once, then the last frames: clones of `Bytes` cost next to nothing.
    words: Vec<Bytes>,
    last: Bytes,
}

impl Simulator {
    pub(super) fn new(config: &SimulatorProvider) -> Self {
        let frame = |delta: serde_json::Value, finish: Option<&str>| {
            let choice = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
            let chunk = json!({"id": "sim", "object": "chat.completion.chunk", "created": 0, "model": "simulator", "choices": choice});
            format!("data: {chunk}\n\n")
        };
        let usage = json!({"id": "sim", "object": "chat.completion.chunk", "created": 0, "model": "simulator", "choices": [], "usage": usage(config.frames)});
        let last = format!("{}data: {usage}\n\ndata: [DONE]\n\n", frame(json!({}), Some("stop")));
        Self {
            first_frame: config.first_frame,
            frame_gap: config.frame_gap,
            frames: config.frames,
            words: WORDS.iter().map(|word| Bytes::from(frame(json!({"content": word}), None))).collect(),
            last: Bytes::from(last),
        }
    }

    pub(super) fn open(
        &self,
        request: UpstreamRequest,
    ) -> LocalBoxFuture<'static, Result<UpstreamResponse, UpstreamError>> {
        let (body, content_type) = match request.stream {
            true => (self.frames(), "text/event-stream"),
            false => (self.answer(), "application/json"),
        };
        let content_type = content_type.into();
        let head = UpstreamResponse { status: 200, content_type, retry_after: None, connect: Duration::ZERO, body };
        let first_frame = self.first_frame;
        Box::pin(async move {
            pause(first_frame).await;
            Ok(head)
        })
    }

    fn frames(&self) -> UpstreamBody {
        let (gap, frames) = (self.frame_gap, self.frames);
        let words = self.words.clone().into_iter().cycle().take(usize::try_from(frames).unwrap_or(usize::MAX));
        let words = stream::iter(words.enumerate()).then(move |(index, frame)| async move {
            if index > 0 {
                pause(gap).await;
            }
            Ok(frame)
        });
        words.chain(stream::iter([Ok(self.last.clone())])).boxed_local()
    }

    fn answer(&self) -> UpstreamBody {
        let words = WORDS.iter().cycle().take(usize::try_from(self.frames).unwrap_or(usize::MAX));
        let message = json!({"role": "assistant", "content": words.copied().collect::<String>()});
        let answer = json!({
            "id": "sim", "object": "chat.completion", "created": 0, "model": "simulator",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage(self.frames),
        });
        let whole = self.frame_gap * self.frames.saturating_sub(1);
        let answer = Bytes::from(answer.to_string());
        stream::once(async move {
            pause(whole).await;
            Ok(answer)
        })
        .boxed_local()
    }
}

fn usage(completion: u32) -> serde_json::Value {
    json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": completion, "total_tokens": PROMPT_TOKENS + completion})
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
