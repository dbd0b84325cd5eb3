//! The front door: what is let in, what is turned away and how, and what goes on to the provider.

mod catalog;
mod changes;
mod cors;
mod errors;
mod framing;
mod fuzz;
mod labels;
mod logs;
mod metrics;
mod ops;
mod order;
mod provider;
mod server;
mod tls;
mod tokens;

use std::time::Duration;

use hne_load::{
    client::{Client, Request, Response},
    clock,
};
use serde_json::{Value, json};

use crate::harness::app::{DEADLINE, TestApp, chat, now, run, token};

/// Where OpenAI's SDKs send chats. Here the status tells what happened.
pub(crate) const CHAT: &str = "/v1/chat/completions";

/// A refusal, as the table of errors has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    status: u16,
    kind: &'static str,
    code: &'static str,
    param: Option<&'static str>,
}

/// Makes a line of the table.
pub(crate) const fn row(status: u16, kind: &'static str, code: &'static str) -> Row {
    Row { status, kind, code, param: None }
}

/// Makes a 400 or 404 about a field.
pub(crate) const fn about(param: &'static str) -> Row {
    Row { param: Some(param), ..row(400, "invalid_request_error", "invalid_value") }
}

pub(crate) const NO_TOKEN: Row = row(401, "authentication_error", "invalid_api_key");
pub(crate) const EXPIRED: Row = row(401, "authentication_error", "token_expired");
pub(crate) const NOT_ALLOWED: Row = Row { param: Some("model"), ..row(403, "permission_error", "model_not_allowed") };
pub(crate) const NO_MODEL: Row = Row { param: Some("model"), ..row(404, "invalid_request_error", "model_not_found") };
pub(crate) const BAD_JSON: Row = row(400, "invalid_request_error", "invalid_json");
pub(crate) const TOO_SLOW: Row = row(408, "invalid_request_error", "request_timeout");
pub(crate) const TOO_LARGE: Row = row(413, "invalid_request_error", "request_too_large");
pub(crate) const WRONG_MEDIA: Row = row(415, "invalid_request_error", "unsupported_media_type");
pub(crate) const RATE: Row = row(429, "rate_limit_error", "rate_limit_exceeded");
pub(crate) const QUOTA: Row = row(429, "insufficient_quota", "insufficient_quota");

/// What of a refusal a test may look at beyond its row.
pub(crate) struct Refused {
    pub(crate) response: Response,
    pub(crate) error: Value,
}

/// Reads a refusal and compares it with its row: status, shape, type, code, field, label, nothing to be cached.
pub(crate) async fn refused(mut response: Response, row: Row, what: &str) -> Refused {
    let text = response.text().await.unwrap();
    assert_eq!(response.status, row.status, "{what}: {text}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{what}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{what}");
    assert!(response.header("x-request-id").is_some_and(|id| !id.is_empty()), "{what}: {:?}", response.headers);
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"], "{what}");
    let error = body["error"].clone();
    let told = (error["type"].as_str(), error["code"].as_str(), error["param"].as_str());
    assert_eq!(told, (Some(row.kind), Some(row.code), row.param), "{what}: {text}");
    assert!(error.get("param").is_some(), "{what}: `param` is there, null too");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{what}: {text}");
    let challenge = response.header("www-authenticate");
    assert_eq!(challenge, (row.status == 401).then_some("Bearer"), "{what}");
    let waits = matches!(row.status, 503) || row.code == "rate_limit_exceeded";
    let wait = response.header("retry-after").map(|wait| wait.parse::<u32>().unwrap() >= 1);
    assert_eq!(wait, waits.then_some(true), "{what}: {:?}", response.headers);
    let said = error.get("retry_after").map(Value::to_string);
    assert_eq!(said.as_deref(), response.header("retry-after"), "{what}: {text}");
    Refused { response, error }
}

/// Asserts that no request reached the provider and nothing was booked.
pub(crate) fn assert_untouched(app: &TestApp) {
    assert_eq!(app.mock.totals().requests, 0, "{:#?}", app.mock.books());
    assert_eq!(app.postings(), []);
}

/// A valid chat, not to be streamed.
pub(crate) fn valid() -> Value {
    chat("mock/chat+frames-2", "hello")
}

/// A request for a chat with this body.
pub(crate) fn post(body: &Value) -> Request {
    Request::post(CHAT).json(&body.to_string())
}

/// A token of this user that holds for an hour.
pub(crate) fn holding(user: &str) -> String {
    token(&json!({"sub": user, "exp": now() + 3_600}))
}

/// Sends a request and reads the refusal.
pub(crate) async fn turned_away(client: &Client, request: &Request, row: Row, what: &str) -> Refused {
    refused(client.send(request).await.unwrap(), row, what).await
}

/// Sends a request until it is answered like that six times in a row, and tells how long that took.
pub(crate) async fn until(app: &TestApp, request: &Request, status: u16) -> Duration {
    until_of(&app.anonymous(), request, status).await
}

/// As [`until`], of any instance.
pub(crate) async fn until_of(client: &Client, request: &Request, status: u16) -> Duration {
    let started = clock::now();
    let (mut in_a_row, mut first) = (0, Duration::ZERO);
    // Each connection may meet another worker.
    while in_a_row < 6 {
        let mut response = client.send(request).await.unwrap();
        let text = response.text().await.unwrap();
        if response.status != status {
            assert!(started.elapsed() < DEADLINE, "never {status}: {text}");
            in_a_row = 0;
            continue;
        }
        if in_a_row == 0 {
            first = started.elapsed();
        }
        in_a_row += 1;
    }
    first
}

/// Waits until the service goes by everything that was changed in the catalog before: its snapshots are whole.
pub(crate) fn settle(app: &TestApp) {
    app.cli(&["model", "add", "settled", "--class", "basic", "--provider", "openrouter"]);
    let request = Request::get("/v1/models/settled").bearer(&holding("settler"));
    run(until(app, &request, 200));
}
