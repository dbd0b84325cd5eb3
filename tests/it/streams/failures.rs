//! Providers that fail before the first frame: statuses, retries, fallbacks.

use hne_load::mock::Entry;
use serde_json::{Value, json};

use super::{Charge, caller, charges, last_error};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, complete, run, stream};

/// What mock errors have in their bodies.
const DETAIL: &str = "mock-provider-detail";

/// Options of the model, then status, code and the provider's status.
type Case = (&'static str, u16, &'static str, Option<u16>);

const CASES: [Case; 16] = [
    ("status-500", 502, "provider_error", Some(500)),
    ("status-503", 502, "provider_error", Some(503)),
    ("status-401", 502, "provider_error", Some(401)),
    ("status-402", 502, "provider_error", Some(402)),
    ("status-403", 502, "provider_error", Some(403)),
    ("status-404", 502, "provider_error", Some(404)),
    ("status-400", 502, "provider_error", Some(400)),
    ("status-429+retry-after-7", 503, "provider_overloaded", Some(429)),
    ("error-first", 502, "provider_error", None),
    ("html", 502, "provider_error", Some(200)),
    ("redirect", 502, "provider_error", Some(302)),
    ("gzip", 502, "provider_error", None),
    ("garbage", 502, "provider_error", None),
    ("reset", 502, "provider_error", None),
    ("flood-2000000", 502, "provider_error", None),
    ("hang", 504, "provider_timeout", None),
];

fn failures(streamed: bool) {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "500ms").start();
    run(async {
        for (options, status, code, provider_status) in CASES {
            let mut body = chat(&format!("mock/chat+{options}"), options);
            body["stream"] = streamed.into();
            let mut response = complete(&caller(&app, "unlucky"), &body).await;
            assert_eq!(response.status, status, "{options}");
            let retry_after = if options.contains("retry-after") { Some("7") } else { None };
            assert_eq!(response.header("retry-after"), retry_after, "{options}");
            let is_final = provider_status == Some(400);
            assert_eq!(response.header("x-should-retry"), is_final.then_some("false"), "{options}");
            let text = response.text().await.unwrap();
            assert!(!text.contains(DETAIL), "{options}: {text}");
            let error = &serde_json::from_str::<Value>(&text).unwrap()["error"];
            assert_eq!(error["code"], code, "{options}");
            assert_eq!(error["provider_status"], json!(provider_status), "{options}");
        }
    });
    let rows = app.wait_for_postings(CASES.len());
    assert_eq!(charges(&rows, "unlucky"), [Charge::nothing("provider_error"); CASES.len()]);
    let usage = run(async { caller(&app, "unlucky").get("/api/usage").await.unwrap().json().await.unwrap() });
    assert_eq!(
        (&usage["classes"][0]["requests"]["used"], &usage["classes"][0]["requests"]["reserved"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn a_stream_that_fails_before_its_first_frame_costs_nothing() {
    failures(true);
}

#[test]
fn an_answer_that_fails_costs_nothing() {
    failures(false);
}

#[test]
fn of_a_line_without_end_no_more_is_read_than_a_frame_may_have() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
    let mut body = chat("mock/chat+flood-1000000000", "endless");
    body["stream"] = true.into();
    run(async {
        let asked = hne_load::clock::now();
        assert_eq!(complete(&caller(&app, "ann"), &body).await.status, 502);
        // A gigabyte would take longer, and its place in memory.
        assert!(asked.elapsed() < std::time::Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(app.mock.wait_for_end("endless", DEADLINE).await.unwrap().peer_closed_at.is_some());
    });
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::nothing("provider_error")]);
}

#[test]
fn an_answer_that_is_cut_or_no_json_is_refused() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__GAP_TIMEOUT", "200ms").start();
    let cases = [
        ("invalid-json", 502),
        ("truncate-at-40", 502),
        ("close-after-1", 502),
        ("reset-after-1", 502),
        ("chunked+truncate-at-40", 502),
        ("stall-after-1", 504),
    ];
    run(async {
        for (options, status) in cases {
            let body = chat(&format!("mock/chat+{options}"), options);
            assert_eq!(complete(&caller(&app, "unlucky"), &body).await.status, status, "{options}");
        }
    });
    assert_eq!(charges(&app.wait_for_postings(cases.len()), "unlucky"), [Charge::nothing("provider_error"); 6]);
}

#[test]
fn an_answer_that_broke_off_is_none() {
    let app = TestApp::on(Database::Sqlite).start();
    add_models(&app, &[("one", "basic", "1", "error-after-2"), ("two", "basic", "2", "prompt-5+completion-7")]);
    run(async {
        let answer = complete(&caller(&app, "lucky"), &chat("one", "again")).await.json().await.unwrap();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let answer = complete(&caller(&app, "unlucky"), &chat("mock/chat+error-after-2", "alone")).await;
        assert_eq!(answer.status, 502);
    });
    let rows = app.wait_for_postings(2);
    assert_eq!(charges(&rows, "lucky"), [Charge::reported("completed", 5, 7).costing(14_000)]);
    assert_eq!(charges(&rows, "unlucky"), [Charge::nothing("provider_error")]);
}

#[test]
fn a_failure_after_the_commit_is_an_error_frame() {
    let app = TestApp::on(Database::Sqlite).env("HNE__STREAM__COMMIT_AFTER", "10ms").start();
    let body = chat("mock/chat+first-300ms+status-500", "late");
    run(async {
        let mut response = stream(&caller(&app, "late"), &body).await;
        assert_eq!(response.status, 200);
        let frames = response.frames().await.unwrap();
        assert!(frames.first().unwrap().is_comment());
        assert_eq!(last_error(&frames), "provider_error");
        assert_eq!(frames.last().unwrap().error().unwrap()["provider_status"], 500);
        // There is no header any more to say it.
        let limited = chat("mock/chat+first-300ms+status-429+retry-after-7", "late");
        let frames = stream(&caller(&app, "late"), &limited).await.frames().await.unwrap();
        assert_eq!(last_error(&frames), "provider_overloaded");
        let error = frames.last().unwrap().error().unwrap();
        assert_eq!(error["retry_after"], 7, "{error}");
        assert!(error["message"].as_str().unwrap().contains("`retry_after`"), "{error}");
        let mut body = body.clone();
        body["stream"] = true.into();
        assert_eq!(complete(&caller(&app, "late"), &body).await.status, 502, "SDKs go by the status");
    });
    assert_eq!(charges(&app.wait_for_postings(3), "late"), [Charge::nothing("provider_error"); 3]);
}

#[test]
fn a_provider_is_tried_again_before_its_first_frame() {
    let app = TestApp::on(Database::Sqlite).start();
    run(async {
        for options in ["fail-first-1", "fail-first-1+error-first", "fail-first-1+reset", "fail-first-1+status-429"] {
            let body = chat(&format!("mock/chat+prompt-11+completion-7+{options}"), options);
            let mut response = stream(&caller(&app, "patient"), &body).await;
            assert!(response.frames().await.unwrap().last().unwrap().is_done(), "{options}");
        }
    });
    assert_eq!(charges(&app.wait_for_postings(4), "patient"), [Charge::reported("completed", 11, 7); 4]);
    assert_eq!(app.mock.totals().requests, 8);
}

/// Adds models, each served by a mock with these options, in a class, with the others as fallbacks.
pub(super) fn add_models(app: &TestApp, models: &[(&str, &str, &str, &str)]) {
    let mut fallbacks: Vec<&str> = Vec::new();
    for (id, class, price, options) in models.iter().rev() {
        let upstream = format!("mock/{id}+{options}");
        let mut command = vec!["model", "add", id, "--class", class, "--provider", "openrouter"];
        command.extend(["--upstream-model", &upstream, "--output-price", price]);
        fallbacks.iter().rev().for_each(|fallback| command.extend(["--fallback", fallback]));
        app.cli(&command);
        fallbacks.push(id);
    }
}

#[test]
fn fallbacks_are_asked_in_order_each_priced_and_classed_as_itself() {
    let app = TestApp::on(Database::Sqlite).start();
    let broken = "status-401";
    add_models(
        &app,
        &[
            ("one", "basic", "1", broken),
            ("two", "basic", "2", broken),
            ("three", "premium", "3", "prompt-5+completion-7"),
        ],
    );
    let client = app.client("ann");
    run(async {
        let mut response = stream(&client, &chat("one", "falls")).await;
        assert!(response.frames().await.unwrap().last().unwrap().is_done());
    });
    let rows = app.wait_for_postings(1);
    assert_eq!(charges(&rows, "ann"), [Charge::reported("completed", 5, 7).costing(21_000)]);
    assert_eq!(rows[0].class, "premium");
    let asked: Vec<_> = app.mock.books().iter().map(|entry: &Entry| entry.model.clone()).collect();
    assert_eq!(asked, ["mock/one+status-401", "mock/two+status-401", "mock/three+prompt-5+completion-7"]);
    let usage: Value = run(async { client.get("/api/usage").await.unwrap().json().await.unwrap() });
    for class in usage["classes"].as_array().unwrap() {
        assert_eq!(class["requests"]["reserved"], 0, "{class}");
        assert_eq!(class["tokens"]["reserved"], 0, "{class}");
    }
}

#[test]
fn what_is_no_answer_falls_back() {
    for options in ["redirect", "html", "gzip"] {
        let app = TestApp::on(Database::Sqlite).start();
        add_models(&app, &[("one", "basic", "1", options), ("two", "basic", "2", "prompt-5+completion-7")]);
        run(async {
            assert_eq!(complete(&caller(&app, "ann"), &chat("one", "falls")).await.status, 200, "{options}");
        });
        assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 5, 7).costing(14_000)]);
    }
}

#[test]
fn the_last_request_of_a_limit_may_fall_back() {
    let app = TestApp::on(Database::Sqlite).start();
    add_models(&app, &[("one", "basic", "1", "status-401"), ("two", "basic", "2", "prompt-5+completion-7")]);
    app.cli(&["plan", "set", "single", "basic", "--window", "day", "--requests", "1", "--tokens", "100"]);
    app.user("ann", "single");
    run(async {
        let client = caller(&app, "ann");
        assert_eq!(complete(&client, &chat("one", "falls")).await.status, 200);
        assert_eq!(complete(&client, &chat("one", "refused")).await.status, 429);
    });
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 5, 7).costing(14_000)]);
}

#[test]
fn a_fallback_that_is_far_dearer_is_asked_while_the_limit_has_enough() {
    let app = TestApp::on(Database::Sqlite).start();
    let add = ["model", "add"];
    let of = ["--class", "basic", "--provider", "openrouter", "--upstream-model"];
    let dear = ["mock/two+prompt-5+completion-7", "--input-price", "1000", "--output-price", "1000"];
    app.cli(&[&add[..], &["two"], &of, &dear].concat());
    let cheap = ["mock/one+status-401", "--input-price", "0.001", "--output-price", "0.001", "--fallback", "two"];
    app.cli(&[&add[..], &["one"], &of, &cheap].concat());
    app.cli(&["plan", "set", "rich", "basic", "--window", "day", "--cost-usd", "50"]);
    app.user("ann", "rich");
    run(async {
        assert_eq!(complete(&caller(&app, "ann"), &chat("one", "falls")).await.status, 200);
    });
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 5, 7).costing(12_000_000)]);
}

#[test]
fn headers_tell_what_is_left_once_it_is_known() {
    let app = TestApp::on(Database::Sqlite).start();
    app.cli(&["plan", "set", "small", "basic", "--requests", "2", "--tokens", "5000"]);
    app.user("ann", "small");
    let client = caller(&app, "ann");
    run(async {
        let left = async |model: &str| {
            let response = complete(&client, &chat(model, "hello")).await;
            let of = |metric: &str| response.header(&format!("x-ratelimit-remaining-{metric}")).unwrap().to_owned();
            (response.status, of("requests"), of("tokens"))
        };
        assert_eq!(left("mock/chat+status-400").await, (502, "2".to_owned(), "5000".to_owned()), "nothing is charged");
        assert_eq!(left("mock/chat+prompt-10+completion-20").await, (200, "1".to_owned(), "4970".to_owned()));
    });
    app.wait_for_postings(2);
}
