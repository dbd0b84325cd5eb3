//! `Idempotency-Key`: requests that are sent again while the first one runs.

use futures_util::future::join_all;
use hne_load::{
    client::{Client, Request, Response},
    mock::Ending,
};
use serde_json::{Value, json};

use super::{Charge, caller, charges, last_error, text};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, post, run};

const API: &str = "/api/hasNotEngine-optimized";

fn with_key(path: &str, body: &Value, key: &str) -> Request {
    post(path, body).header("idempotency-key", key)
}

async fn send(client: &Client, body: &Value, key: &str) -> Response {
    client.send(&with_key(API, body, key)).await.unwrap()
}

async fn code(mut response: Response) -> (u16, String) {
    let status = response.status;
    let error: Value = response.json().await.unwrap();
    (status, error["error"]["code"].as_str().unwrap().to_owned())
}

/// Waits until so many callers were looked up: a request with its body enters right after that.
async fn wait_for_callers(app: &TestApp, count: u64) {
    let looked_up = async || {
        let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with("hne_auth_lookups_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let waiting = async {
        while looked_up().await < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}

#[test]
fn repeats_on_any_worker_get_the_whole_answer_of_the_first() {
    const REPEATS: usize = 7;
    let app = TestApp::start();
    let model = "mock/chat+frames-8+prompt-11+completion-7+hold-after-3";
    let body = chat(model, "again");
    let answers = run(async {
        let client = caller(&app, "ann");
        let mut all = vec![send(&client, &body, "one").await];
        all[0].frame().await.unwrap();
        for _ in 0..REPEATS {
            let mut repeat = send(&client, &body, "one").await;
            assert_eq!(repeat.status, 200);
            repeat.frame().await.unwrap();
            all.push(repeat);
        }
        app.mock.release(model);
        join_all(all.into_iter().map(async |mut response| {
            assert!(response.header("x-ratelimit-remaining-requests").is_some());
            assert!(response.header("server-timing").unwrap().contains("connect"));
            response.frames().await.unwrap()
        }))
        .await
    });
    for frames in &answers {
        assert!(frames.last().unwrap().is_done());
        assert_eq!(text(frames), text(&answers[0]));
    }
    assert_eq!(app.mock.totals().requests, 1);
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 11, 7)]);
    let metrics = run(async { app.anonymous().get("/metrics").await.unwrap().text().await.unwrap() });
    assert!(metrics.contains(&format!("hne_requests_total{{outcome=\"joined\"}} {REPEATS}\n")), "{metrics}");
}

#[test]
fn answers_that_are_no_streams_are_shared_too() {
    let app = TestApp::on(Database::Sqlite).start();
    let asked = |options: &str| chat(&format!("mock/chat+prompt-5+completion-6+hold-head{options}"), "whole");
    let client = caller(&app, "ann");
    let both = |options: &str, callers: u64| {
        let body = asked(options);
        let request = with_key("/v1/chat/completions", &body, "whole");
        run(async {
            let send = || async { client.send(&request).await.unwrap() };
            let release = async {
                wait_for_callers(&app, callers).await;
                app.mock
                    .wait_for(|books| books.last().is_some_and(|entry| entry.ending == Ending::Open), DEADLINE)
                    .await
                    .unwrap();
                app.mock.release(body["model"].as_str().unwrap());
            };
            let (mut first, mut second, ()) = futures_util::join!(send(), send(), release);
            assert_eq!(first.status, second.status);
            let answer = first.text().await.unwrap();
            assert_eq!(answer, second.text().await.unwrap());
            (first.status, answer)
        })
    };
    let (status, answer) = both("", 2);
    assert_eq!(status, 200);
    assert!(answer.contains("chat.completion"), "{answer}");
    let (status, answer) = both("+status-400", 4);
    assert_eq!(status, 502, "{answer}");
    assert_eq!(app.mock.totals().requests, 2);
    let rows = charges(&app.wait_for_postings(2), "ann");
    assert_eq!(rows, [Charge::reported("completed", 5, 6), Charge::nothing("provider_error")]);
}

#[test]
fn a_key_in_use_is_of_one_user_and_one_request() {
    let app = TestApp::on(Database::Sqlite).start();
    let model = "mock/chat+hold-after-1";
    let body = chat(model, "mine");
    run(async {
        let (ann, bob) = (caller(&app, "ann"), caller(&app, "bob"));
        let mut first = send(&ann, &body, "k").await;
        first.frame().await.unwrap();
        let mismatch = (422, "idempotency_mismatch".to_owned());
        assert_eq!(code(send(&ann, &chat(model, "another"), "k").await).await, mismatch);
        let elsewhere = ann.send(&with_key("/v1/chat/completions", &body, "k")).await.unwrap();
        assert_eq!(code(elsewhere).await, mismatch, "the path decides how it is answered");
        let mut another = send(&ann, &body, "l").await;
        let mut of_bob = send(&bob, &body, "k").await;
        another.frame().await.unwrap();
        of_bob.frame().await.unwrap();
        assert_eq!(app.mock.totals().requests, 3);
        app.mock.release(model);
        for mut response in [first, another, of_bob] {
            assert!(response.frames().await.unwrap().last().unwrap().is_done());
        }
        for key in ["", " ", "a b", &"k".repeat(256), "ключ"] {
            assert_eq!(code(send(&ann, &body, key).await).await, (400, "invalid_value".to_owned()), "{key:?}");
        }
        let twice = with_key(API, &body, "a").header("idempotency-key", "b");
        assert_eq!(code(ann.send(&twice).await.unwrap()).await, (400, "invalid_value".to_owned()));
    });
    app.wait_for_postings(3);
}

#[test]
fn a_finished_answer_is_not_kept() {
    let app = TestApp::on(Database::Sqlite).start();
    run(async {
        let client = caller(&app, "ann");
        for marker in ["first", "second", "second"] {
            let mut response = send(&client, &chat("mock/chat", marker), "key").await;
            assert!(response.frames().await.unwrap().last().unwrap().is_done());
        }
    });
    assert_eq!(app.mock.totals().requests, 3);
    app.wait_for_postings(3);
}

#[test]
fn an_answer_goes_on_while_anybody_reads_it() {
    let app = TestApp::on(Database::Sqlite).start();
    let model = "mock/chat+frames-6+prompt-3+completion-4+hold-after-2";
    let body = chat(model, "stays");
    run(async {
        let client = caller(&app, "ann");
        let mut first = send(&client, &body, "key").await;
        first.frame().await.unwrap();
        let mut second = send(&client, &body, "key").await;
        second.frame().await.unwrap();
        first.reset().unwrap();
        let mut third = send(&client, &body, "key").await;
        third.frame().await.unwrap();
        app.mock.release(model);
        let (second, third) = (second.frames().await.unwrap(), third.frames().await.unwrap());
        assert!(second.last().unwrap().is_done());
        assert_eq!(text(&second), text(&third));
    });
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::reported("completed", 3, 4)]);
}

#[test]
fn the_provider_is_left_when_the_last_reader_leaves() {
    let app = TestApp::on(Database::Sqlite).start();
    let body = chat("mock/chat+hold-after-1", "left");
    run(async {
        let client = caller(&app, "ann");
        let mut readers = vec![send(&client, &body, "key").await, send(&client, &body, "key").await];
        for reader in &mut readers {
            reader.frame().await.unwrap();
        }
        readers.pop().unwrap().reset().unwrap();
        readers.pop().unwrap().reset().unwrap();
        let entry = app.mock.wait_for_end("left", DEADLINE).await.unwrap();
        assert_eq!(entry.ending, Ending::ClientGone);
    });
    assert_eq!(app.wait_for_postings(1)[0].outcome(), "client_gone");
}

#[test]
fn a_reader_that_is_stuck_holds_up_nobody_else() {
    let app = TestApp::on(Database::Sqlite).start();
    let (frames, bytes) = (500, 10_000);
    let body = chat(&format!("mock/chat+frames-{frames}+bytes-{bytes}"), "stuck");
    run(async {
        let stuck = caller(&app, "ann").receive_buffer(4_096);
        let mut first = send(&stuck, &body, "key").await;
        first.frame().await.unwrap();
        let mut second = send(&caller(&app, "ann"), &body, "key").await;
        let read = second.frames().await.unwrap();
        assert!(read.last().unwrap().is_done());
        assert_eq!(text(&read).len(), frames * bytes);
        assert_eq!(app.wait_for_postings(1)[0].outcome(), "completed", "before the first has read it");
        assert!(first.frames().await.unwrap().last().unwrap().is_done());
    });
}

#[test]
fn what_does_not_fit_is_not_kept() {
    let app = TestApp::on(Database::Sqlite).env("HNE__STREAM__REPLAY_BYTES", "4000000").start();
    // The kernel holds some 200 KB for a client that doesn't read: less than is kept, and less than comes.
    let model = "mock/chat+frames-2000+bytes-10000+hold-after-1";
    let body = chat(model, "large");
    run(async {
        let stuck = caller(&app, "ann").receive_buffer(4_096);
        let mut first = send(&caller(&app, "ann"), &body, "key").await;
        first.frame().await.unwrap();
        let mut behind = send(&stuck, &body, "key").await;
        behind.frame().await.unwrap();
        app.mock.release(model);
        for _ in 0..1_000 {
            first.frame().await.unwrap();
        }
        let late = code(send(&stuck, &body, "key").await).await;
        assert_eq!(late, (503, "overloaded".to_owned()));
        assert!(first.frames().await.unwrap().last().unwrap().is_done());
        assert_eq!(last_error(&behind.frames().await.unwrap()), "overloaded");
    });
    assert_eq!(app.wait_for_postings(1)[0].outcome(), "completed");
}

#[test]
fn a_refused_request_gives_its_key_away() {
    let app = TestApp::on(Database::Sqlite).start();
    app.cli(&["plan", "set", "one", "basic", "--window", "day", "--requests", "1"]);
    app.user("ann", "one");
    let (used, refused) = (chat("mock/chat", "used"), chat("mock/chat", "refused"));
    run(async {
        let client = caller(&app, "ann");
        send(&client, &used, "a").await.frames().await.unwrap();
        let quota = (429, "insufficient_quota".to_owned());
        let all = (0..8).map(|_| send(&client, &refused, "b"));
        for response in join_all(all).await {
            assert_eq!(code(response).await, quota);
        }
        assert_eq!(code(send(&client, &chat("mock/chat", "other"), "b").await).await, quota, "the key is free");
    });
    let usage: Value = run(async { caller(&app, "ann").get("/api/usage").await.unwrap().json().await.unwrap() });
    assert_eq!(usage["classes"][0]["requests"]["used"], json!(1));
    app.wait_for_postings(1);
}
