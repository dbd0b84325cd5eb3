//! Answers in forms that few providers send.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::{
    Charge, caller, charges, last_error, prompt_of,
    wire::{After, Bytes},
};
use crate::harness::app::{TestApp, chat, run, stream};

const FINISHED: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

/// A stream with these payloads.
fn events(payloads: &[&str]) -> String {
    let body: String = payloads.iter().map(|payload| format!("data: {payload}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Has a provider stream these payloads to a user of a plan with so many tokens a day beside the prompt's.
fn play(payloads: &[&str], tokens: i64) -> (TestApp, Value, Vec<hne_load::client::Frame>) {
    let provider = Bytes::answering(events(payloads), After::Keep);
    let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
    // This provider keeps no books.
    app.unbalanced();
    let body = chat("mock/chat", "odd");
    let limit = (prompt_of(&body) + tokens).to_string();
    app.cli(&["plan", "set", "tight", "basic", "--tokens", &limit]);
    app.user("ann", "tight");
    let frames = run(async { stream(&caller(&app, "ann"), &body).await.frames().await.unwrap() });
    (app, body, frames)
}

/// Asserts what one such stream is charged.
fn charged(payloads: &[&str], charge: impl Fn(&Value) -> Charge) {
    let (app, body, frames) = play(payloads, 100_000);
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [charge(&body)], "{payloads:?}: {frames:?}");
}

#[test]
fn text_in_parts_is_estimated_as_text_is() {
    let part = format!(r#"{{"choices":[{{"delta":{{"content":[{{"type":"text","text":"{}"}}]}}}}]}}"#, "x".repeat(400));
    charged(&[&part, &part, FINISHED, "[DONE]"], |body| Charge::estimated("completed", body, 200));
}

#[test]
fn what_is_quoted_is_no_text_of_the_model_s() {
    let quoted = format!(
        r#"{{"choices":[{{"delta":{{"content":"abcd","annotations":[{{"url_citation":{{"content":"{}"}}}}]}}}}]}}"#,
        "x".repeat(4_000)
    );
    charged(&[&quoted, FINISHED, "[DONE]"], |body| Charge::estimated("completed", body, 1));
}

#[test]
fn usage_beside_an_error_counts() {
    let error = r#"{"error":{"code":502},"choices":[],"usage":{"prompt_tokens":500,"completion_tokens":300}}"#;
    let text = r#"{"choices":[{"delta":{"content":"abcd"}}]}"#;
    charged(&[text, error], |_| Charge::reported("provider_error", 500, 300));
}

#[test]
fn a_whole_answer_is_handed_over_where_its_usage_is_within_the_limit() {
    let escaped = r"\u4e2d".repeat(1_000);
    let text = format!(r#"{{"choices":[{{"delta":{{"content":"{escaped}"}}}}]}}"#);
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":900}}"#;
    let (app, _, frames) = play(&[&text, FINISHED, usage, "[DONE]"], 1_000);
    assert!(frames.last().unwrap().is_done(), "{frames:?}");
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 9, 900)]);
}

#[test]
fn usage_that_is_not_the_last_word_limits_nothing() {
    let nothing_yet = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
    let text = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "x".repeat(8_000));
    let (app, body, frames) = play(&[nothing_yet, &text], 1_000);
    assert_eq!(last_error(&frames), "insufficient_quota");
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::estimated("cut_off", &body, 1_000)]);
}

/// Has a provider answer so many streams like this; returns what the last client got, and how often it was asked.
fn refused(answer: String, streams: usize) -> ((u16, Value), usize) {
    let provider = Bytes::answering(answer, After::Close);
    let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
    app.unbalanced();
    let mut told = (0, Value::Null);
    run(async {
        for _ in 0..streams {
            let mut response = stream(&caller(&app, "ann"), &chat("mock/chat", "odd")).await;
            told = (response.status, response.json().await.unwrap());
        }
    });
    (told, provider.connections.load(Ordering::SeqCst))
}

fn json(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_error_object_in_place_of_a_stream_goes_by_what_it_says() {
    // Who asks for what can't be is no reason to spare the model.
    for error in [r#"{"code":400}"#, r#"{"type":"invalid_request_error","code":"context_length_exceeded"}"#] {
        let ((status, _), asked) = refused(json(&format!(r#"{{"error":{error}}}"#)), 30);
        assert_eq!((status, asked), (502, 30), "{error}");
    }
    let ((status, error), _) = refused(json(r#"{"error":{"code":"429"}}"#), 1);
    assert_eq!((status, &error["error"]["code"]), (503, &"provider_overloaded".into()));
    let ((status, _), asked) = refused(json(r#"{"choices":[]}"#), 30);
    assert!(status == 502 && asked < 30, "{asked}");
}

#[test]
fn an_end_alone_is_no_answer_and_costs_nothing() {
    for payloads in [&["[DONE]"][..], &["", "[DONE]"], &["[DONE]", r#"{"error":{"code":502}}"#]] {
        let provider = Bytes::answering(events(payloads), After::Close);
        let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
        app.unbalanced();
        let (status, error) = run(async {
            let mut response = stream(&caller(&app, "ann"), &chat("mock/chat", "odd")).await;
            (response.status, response.json().await.unwrap())
        });
        assert_eq!((status, &error["error"]["code"]), (502, &"provider_error".into()));
        assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::nothing("provider_error")], "{payloads:?}");
    }
}

#[test]
fn a_stream_is_whole_when_each_of_its_choices_is() {
    let of = |index: u32, rest: &str| format!(r#"{{"choices":[{{"index":{index},{rest}}}]}}"#);
    let text = [of(0, r#""delta":{"content":"abcd"}"#), of(1, r#""delta":{"content":"efgh"}"#)];
    let ends = [of(0, r#""delta":{},"finish_reason":"stop""#), of(1, r#""delta":{},"finish_reason":"length""#)];
    for (ends, whole) in [(&ends[..1], false), (&ends[..], true)] {
        let payloads: Vec<_> = text.iter().chain(ends).map(String::as_str).collect();
        let provider = Bytes::answering(events(&payloads), After::Close);
        let mut app = provider.app().start();
        app.unbalanced();
        let mut body = chat("mock/chat", "two");
        body["n"] = 2.into();
        let frames = run(async { stream(&caller(&app, "ann"), &body).await.frames().await.unwrap() });
        assert_eq!(frames.last().unwrap().is_done(), whole, "{frames:?}");
        let outcome = if whole { "completed" } else { "provider_error" };
        assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::estimated(outcome, &body, 2)]);
    }
}
