//! Refusals come in this order, and the first answers: authentication, body, model, plan, rate, quota.

use serde_json::json;

use super::{
    BAD_JSON, CHAT, NO_MODEL, NO_TOKEN, NOT_ALLOWED, QUOTA, RATE, Row, about, holding, post, settle, turned_away, valid,
};
use crate::harness::app::{TestApp, chat, complete, run};
use hne_load::client::Request;

/// A request that fails at this stage and at all later ones.
fn failing_from(stage: usize) -> (Request, Row) {
    let holder = holding("ann");
    let forbidden = json!({"model": "nonsense", "messages": [1], "plugins": []});
    match stage {
        0 => (Request::post(CHAT).json("{"), NO_TOKEN),
        1 => (Request::post(CHAT).json("{").bearer(&holder), BAD_JSON),
        2 => (post(&forbidden).bearer(&holder), about("plugins")),
        3 => (post(&chat("nonsense", "a")).bearer(&holder), NO_MODEL),
        4 => (post(&chat("dear/model", "a")).bearer(&holder), NOT_ALLOWED),
        _ => (post(&valid()).bearer(&holder), RATE),
    }
}

#[test]
fn the_first_reason_answers() {
    let app = TestApp::start();
    app.cli(&["model", "add", "dear/model", "--class", "premium", "--provider", "openrouter"]);
    app.cli(&["plan", "set", "tiny", "basic", "--requests", "1"]);
    app.cli(&["plan", "rate", "tiny", "--requests-per-minute", "1"]);
    app.user("ann", "tiny");
    settle(&app);
    run(async {
        let client = app.anonymous().bearer(&holding("ann"));
        // From now on both the rate and the quota are used up.
        assert_eq!(complete(&client, &chat("mock/chat+frames-2", "first")).await.status, 200);
        for stage in 0..=5 {
            let (request, row) = failing_from(stage);
            turned_away(&app.anonymous(), &request, row, &format!("stage {stage}")).await;
        }
    });
    app.cli(&["plan", "rate", "tiny"]);
    run(async {
        let client = app.anonymous().bearer(&holding("ann"));
        let started = hne_load::clock::now();
        // The change of the rate holds within a second; then the quota is what is left to refuse for.
        loop {
            let mut response = client.send(&post(&valid())).await.unwrap();
            let body = response.json().await.unwrap();
            if body["error"]["code"] == RATE.code {
                assert!(started.elapsed().as_secs() < 2, "{body}");
                continue;
            }
            break;
        }
        turned_away(&client, &post(&valid()), QUOTA, "the quota is last").await;
    });
    assert_eq!(app.wait_for_postings(1).len(), 1);
    assert_eq!(app.mock.totals().requests, 1);
}

#[test]
fn a_bad_token_is_refused_though_its_body_never_ends() {
    let app = TestApp::start();
    run(async {
        for head in ["content-length: 1000", "content-length: 999999999", "transfer-encoding: chunked"] {
            let mut connection = app.anonymous().connect().await.unwrap();
            let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer nonsense\r\n{head}\r\n\r\n");
            connection.send_raw(head.as_bytes()).await.unwrap();
            let response = connection.response().await.unwrap();
            assert!(response.head_at - response.sent_at < std::time::Duration::from_secs(2));
            super::refused(response, NO_TOKEN, &head).await;
        }
        // Too large, but of a stranger: a stranger first.
        let request = Request::post(CHAT).json(&"a".repeat(1 << 20)).header("content-length", "999999999");
        turned_away(&app.anonymous(), &request, NO_TOKEN, "a stranger's large body").await;
    });
    super::assert_untouched(&app);
}
