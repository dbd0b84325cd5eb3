//! What of a stream reaches the client: the provider's frames, whole and unchanged.

use hne_load::{
    client::Client,
    mock::{MockProvider, Options},
};
use serde_json::{Value, json};

use super::{Charge, caller, charges, last_error, text};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, complete, run, stream};

/// Ways to write a stream. Those that end in an error frame have no `[DONE]`.
const FORMS: [&str; 22] = [
    "lf",
    "crlf",
    "cr",
    "tight",
    "multiline",
    "comments",
    "split-1",
    "split-7",
    "unicode+split-3",
    "tool-calls",
    "reasoning",
    "coalesced",
    "usage-apart",
    "usage-openrouter",
    "usage-twice",
    "usage-running",
    "usage-negative",
    "crlf+multiline+comments+split-5",
    "cr+tight+comments+split-2",
    "crlf+split-1+unicode",
    "error-after-3",
    "frames-400+bytes-300+split-1000",
];

fn asking_for_usage(model: &str, marker: &str) -> Value {
    let mut body = chat(model, marker);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    body
}

#[test]
fn frames_arrive_as_they_were_sent() {
    let app = TestApp::on(Database::Sqlite).env("HNE__STREAM__COMMIT_AFTER", "30s").start();
    // Another one, so that asking it directly is not in the books.
    let provider = MockProvider::start(Options::default()).unwrap();
    let direct = Client::new(provider.addr());
    run(async {
        for form in FORMS {
            let body = asking_for_usage(&format!("mock/chat+{form}"), form);
            let sent = complete(&direct, &body).await.text().await.unwrap();
            let received = stream(&caller(&app, "reader"), &body).await.text().await.unwrap();
            assert_eq!(received, sent, "{form}");
        }
    });
    app.wait_for_postings(FORMS.len());
}

#[test]
fn a_byte_order_mark_is_left_out() {
    let app = TestApp::on(Database::Sqlite).start();
    run(async {
        for form in ["bom", "bom+comments+split-1", "bom+crlf"] {
            let mut response = stream(&caller(&app, "reader"), &chat(&format!("mock/chat+{form}"), form)).await;
            let received = response.text().await.unwrap();
            assert!(!received.contains('\u{feff}') && received.contains("w000004"), "{form}: {received}");
        }
    });
    app.wait_for_postings(3);
}

#[test]
fn the_usage_chunk_is_for_those_who_asked() {
    let app = TestApp::on(Database::Sqlite).start();
    let alone = |frame: &hne_load::client::Frame| frame.json().is_some_and(|json| json["choices"] == json!([]));
    run(async {
        for path in ["/api/hasNotEngine-optimized", "/api/hasNotEngine", "/v1/chat/completions"] {
            let asking = asking_for_usage("mock/chat+usage-apart", path);
            let mut silent = asking.clone();
            silent.as_object_mut().unwrap().remove("stream_options");
            for (body, chunks) in [(asking, 1), (silent, 0)] {
                let client = caller(&app, "reader");
                let frames = client.post_json(path, &body.to_string()).await.unwrap().frames().await.unwrap();
                assert_eq!(frames.iter().filter(|frame| alone(frame)).count(), chunks, "{path}");
                assert!(frames.last().unwrap().is_done(), "{path}");
            }
        }
    });
    let rows = app.wait_for_postings(6);
    assert!(charges(&rows, "reader").iter().all(|charge| !charge.estimated), "it is always asked of the provider");
    assert!(app.mock.books().iter().all(|entry| entry.include_usage));
}

#[test]
fn a_missing_end_is_added_once() {
    let app = TestApp::on(Database::Sqlite).start();
    run(async {
        for options in ["no-done", "no-done+usage-apart", "no-done+crlf+split-3", "no-finish"] {
            let body = chat(&format!("mock/chat+{options}"), options);
            let frames = stream(&caller(&app, "reader"), &body).await.frames().await.unwrap();
            assert_eq!(text(&frames).len(), 5 * 8, "{options}");
            assert!(frames.last().unwrap().is_done(), "{options}");
            assert_eq!(frames.iter().filter(|frame| frame.is_done()).count(), 1, "{options}");
        }
    });
    app.wait_for_postings(4);
}

#[test]
fn a_frame_does_not_wait_for_the_next() {
    let app = TestApp::on(Database::Sqlite).start();
    let body = chat("mock/chat+hold-after-1", "gated");
    run(async {
        let mut response = stream(&caller(&app, "reader"), &body).await;
        assert!(response.frame().await.unwrap().unwrap().content().is_some());
        assert_eq!(app.mock.totals().finished, 0);
        app.mock.release("mock/chat+hold-after-1");
        assert!(response.frames().await.unwrap().last().unwrap().is_done());
        app.mock.wait_for_end("gated", DEADLINE).await.unwrap();
    });
    app.wait_for_postings(1);
}

#[test]
fn the_providers_connection_serves_the_next_stream() {
    let app = TestApp::on(Database::Sqlite).env("HNE__SERVER__WORKERS", "1").start();
    run(async {
        for marker in ["one", "two", "three", "four"] {
            let frames = stream(&caller(&app, "reader"), &chat("mock/chat", marker)).await.frames().await.unwrap();
            assert!(frames.last().unwrap().is_done());
            assert_eq!(complete(&caller(&app, "reader"), &chat("mock/chat", marker)).await.status, 200);
        }
    });
    app.wait_for_postings(8);
    assert_eq!(app.mock.totals().connections, 1);
}

#[test]
fn a_frame_that_is_too_long_ends_the_stream() {
    const MOST: usize = 1_024;
    let mut app = TestApp::on(Database::Sqlite).env("HNE__STREAM__MAX_FRAME_BYTES", MOST.to_string()).start();
    // The provider has sent its usage, in the frame that is refused.
    app.unbalanced();
    let provider = MockProvider::start(Options::default()).unwrap();
    // The frame with the usage is the longest; the model's name makes it a byte too long.
    let asked = asking_for_usage("mock/chat:", "long");
    let sent = run(async { complete(&Client::new(provider.addr()), &asked).await.frames().await.unwrap() });
    let longest = sent.iter().map(|frame| frame.raw.len()).max().unwrap();
    let name = format!("mock/chat:{}", "x".repeat(MOST + 1 - longest));
    app.cli(&["model", "add", "long", "--class", "basic", "--provider", "openrouter", "--upstream-model", &name]);
    app.cli(&[
        "model",
        "add",
        "fits",
        "--class",
        "basic",
        "--provider",
        "openrouter",
        "--upstream-model",
        name.strip_suffix('x').unwrap(),
    ]);
    run(async {
        let frames = stream(&caller(&app, "fits"), &chat("fits", "long")).await.frames().await.unwrap();
        assert!(frames.last().unwrap().is_done());
        let frames = stream(&caller(&app, "long"), &chat("long", "long")).await.frames().await.unwrap();
        assert_eq!(text(&frames).len(), 5 * 8);
        assert_eq!(last_error(&frames), "provider_error");
    });
    let rows = app.wait_for_postings(2);
    assert_eq!(charges(&rows, "long"), [Charge::estimated("provider_error", &chat("", "long"), 10)]);
}
