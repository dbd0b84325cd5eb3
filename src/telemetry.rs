//! Logs: one line a request, JSON or pretty, to standard error. Never a token, a key or a prompt.

use std::io::IsTerminal;

use actix_web::{
    Error, HttpMessage,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use actors::domain::{ErrorCode, RequestId};
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogConfig, LogFormat};

/// Starts logging. Later calls change nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::builder().parse_lossy(&config.filter);
    let access = if config.access { "request=info" } else { "request=off" };
    let filter = match access.parse() {
        Ok(directive) if !config.filter.contains("request=") => filter.add_directive(directive),
        _ => filter,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // An application's own subscriber, or that of a test before this one, stays.
    let _started = match config.format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        LogFormat::Pretty => registry.with(layer).try_init(),
    }
    .is_ok();
}

/// Says whether anything of requests is logged. Where nothing is, their span would be made for nobody: 3 µs each.
pub fn logs_requests() -> bool {
    tracing::enabled!(target: "request", tracing::Level::ERROR)
}

/// Marks a request with a record of its own, by which it is logged and counted when it ends: a chat, with what it used.
pub struct OwnRecord;

/// The span around each request. For those without [`OwnRecord`] a line is written with the head of the answer.
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        tracing::info_span!(target: "request", "request", method = %request.method(), path = request.path())
    }

    fn on_request_end<B: MessageBody>(_span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        match outcome {
            Ok(response) => {
                let request = response.request();
                let extensions = request.extensions();
                if extensions.contains::<OwnRecord>() {
                    return;
                }
                tracing::info!(
                    target: "request",
                    request_id = extensions.get::<RequestId>().map(RequestId::as_str),
                    method = %request.method(),
                    path = request.path(),
                    status = response.status().as_u16(),
                    code = response.response().extensions().get().map(|code: &ErrorCode| code.as_str()),
                );
            }
            Err(error) => tracing::error!(target: "request", %error, "a request failed"),
        }
    }
}
