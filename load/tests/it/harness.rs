//! What the tests share: a mock, a client of it, and a request for a model.

use hne_load::{
    client::{Client, Frame, Request, Response},
    mock::{Entry, MockProvider, Options},
};
use std::time::Duration;

/// A deadline for what must happen at once: only a failing test waits so long.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn start() -> (MockProvider, Client) {
    let mock = MockProvider::start(Options::default()).unwrap();
    let client = Client::new(mock.addr());
    (mock, client)
}

/// A streaming request that asks for usage; its marker is `marker`.
pub(crate) fn chat(model: &str, marker: &str) -> Request {
    Request::post("/api/v1/chat/completions").json(&format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"{marker}"}}],"stream":true,"stream_options":{{"include_usage":true}}}}"#
    ))
}

pub(crate) fn whole(model: &str) -> Request {
    Request::post("/v1/chat/completions")
        .json(&format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"whole"}}]}}"#))
}

pub(crate) async fn stream(client: &Client, model: &str) -> Response {
    client.send(&chat(model, "m")).await.unwrap()
}

pub(crate) async fn frames(client: &Client, model: &str) -> Vec<Frame> {
    let mut response = stream(client, model).await;
    assert_eq!(response.status, 200);
    response.frames().await.unwrap()
}

pub(crate) fn text(frames: &[Frame]) -> String {
    frames.iter().filter_map(Frame::content).collect()
}

/// Waits until the first request has ended.
pub(crate) async fn ended(mock: &MockProvider) -> Entry {
    let books = mock.wait_for(|books| books.first().is_some_and(|entry| entry.ended_at.is_some()), SOON).await;
    books.unwrap().remove(0)
}
