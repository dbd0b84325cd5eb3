//! The server's own manners: no waiting for Nagle, leaving is noticed, heads have a deadline, a full house says so fast.

use std::time::Duration;

use hne_load::{
    client::{Connection, Request},
    clock,
};

use super::{CHAT, holding, post, refused, row, valid};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, run, stream};

/// Sends a request over a connection that is kept, and tells how long the whole answer took.
async fn timed(connection: Connection, request: &Request, status: u16) -> (Connection, Duration) {
    let mut response = connection.exchange(request).await.unwrap();
    response.bytes().await.unwrap();
    assert_eq!(response.status, status);
    let took = clock::now().duration_since(response.sent_at);
    (response.into_connection().unwrap(), took)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn small_writes_leave_at_once() {
    let app = TestApp::start();
    let client = app.client("ann");
    let body = chat("mock/chat+frames-4+gap-1ms", "a").to_string();
    let request = Request::post("/api/hasNotEngine-optimized").json(&body);
    let median = run(async {
        let mut connection = client.connect().await.unwrap();
        let mut times = Vec::new();
        for _ in 0..41 {
            let took;
            (connection, took) = timed(connection, &request, 200).await;
            times.push(took);
        }
        median(times)
    });
    println!("a stream of 4 frames, 1 ms apart, on a kept connection: {median:?} at the median");
    // With Nagle's algorithm the second small write waits for a delayed acknowledgement: 40 ms.
    assert!(median < Duration::from_millis(20), "{median:?}");
}

#[test]
fn a_client_that_leaves_in_any_way_cancels() {
    let app = TestApp::start();
    let client = app.client("ann");
    let mut times = Vec::new();
    for (marker, hold) in [("half", "hold-after-1"), ("fin", "hold-after-1"), ("reset", "hold-after-1")] {
        run(async {
            let mut response = stream(&client, &chat(&format!("mock/chat+{hold}+frames-3"), marker)).await;
            while response.frame().await.unwrap().unwrap().is_comment() {}
            let left = clock::now();
            match marker {
                "half" => response.half_close().await.unwrap(),
                "fin" => response.close(),
                _ => response.reset().unwrap(),
            }
            let entry = app.mock.wait_for_end(marker, DEADLINE).await.unwrap();
            times.push((marker, entry.peer_closed_at.unwrap().saturating_duration_since(left)));
        });
    }
    println!("the provider's connection was closed after {times:?}");
    assert!(times.iter().all(|(_, took)| *took < Duration::from_millis(500)), "{times:?}");
    let rows = app.wait_for_postings(3);
    assert!(rows.iter().all(|row| row.outcome() == "client_gone"), "{rows:?}");
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    let app = TestApp::on(Database::Postgres).env("HNE__SERVER__HEADER_TIMEOUT", "1s").start();
    run(async {
        let mut connection = app.anonymous().connect().await.unwrap();
        let started = clock::now();
        connection.send_raw(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n").as_bytes()).await.unwrap();
        let closed = connection.closed().await.unwrap();
        let took = closed.duration_since(started);
        assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn neither_do_later_ones_keep_a_connection() {
    let app = TestApp::on(Database::Sqlite)
        .env("HNE__SERVER__HEADER_TIMEOUT", "1s")
        .env("HNE__SERVER__KEEP_ALIVE", "1s")
        .start();
    let whole = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    run(async {
        for (first, then) in [(whole.to_owned(), "GE"), (format!("{whole}GE"), ""), (format!("{whole}GE"), "T")] {
            let mut connection = app.anonymous().connect().await.unwrap();
            connection.send_raw(first.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") {
                answer.extend_from_slice(&connection.read_raw().await.unwrap());
            }
            let started = clock::now();
            connection.send_raw(then.as_bytes()).await.unwrap();
            let closed = connection.closed().await.unwrap();
            let took = closed.duration_since(started);
            assert!(
                took > Duration::from_millis(900) && took < Duration::from_secs(5),
                "{first:?}, {then:?}: {took:?}"
            );
        }
    });
}

#[test]
fn a_stream_outlives_the_beginning_of_a_next_head() {
    let app = TestApp::on(Database::Sqlite)
        .env("HNE__SERVER__HEADER_TIMEOUT", "1s")
        .env("HNE__SERVER__KEEP_ALIVE", "1s")
        .start();
    let mut body = chat("mock/chat+frames-6+gap-700ms", "long");
    body["stream"] = true.into();
    let body = body.to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        holding("ann"),
        body.len()
    );
    app.user("ann", "unlimited");
    run(async {
        let mut connection = app.anonymous().connect().await.unwrap();
        for part in [format!("{head}{body}"), "GE".to_owned()] {
            connection.send_raw(part.as_bytes()).await.unwrap();
        }
        let mut told = Vec::new();
        while !told.ends_with(b"\r\n0\r\n\r\n") {
            let more = connection.read_raw().await.unwrap();
            assert!(!more.is_empty(), "{}", String::from_utf8_lossy(&told));
            told.extend_from_slice(&more);
        }
        assert!(String::from_utf8(told).unwrap().contains("data: [DONE]"));
        connection.closed().await.unwrap();
    });
}

#[test]
fn a_full_house_refuses_in_5_ms() {
    let app = TestApp::on(Database::Postgres).env("HNE__SERVER__MAX_STREAMS", "1").start();
    let client = app.client("ann");
    let full = row(503, "server_error", "overloaded");
    run(async {
        let mut held = stream(&client, &chat("mock/chat+hold-after-1+frames-2", "held")).await;
        held.frame().await.unwrap().unwrap();
        let mut connection = client.connect().await.unwrap();
        let mut times = Vec::new();
        for _ in 0..101 {
            let response = connection.exchange(&post(&valid())).await.unwrap();
            times.push(response.head_at.duration_since(response.sent_at));
            connection = refused(response, full, "full").await.response.into_connection().unwrap();
        }
        let median = median(times);
        println!("refused for overload in {median:?} at the median");
        assert!(median < Duration::from_millis(5), "{median:?}");
        // Readers and operators are not turned away.
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
        assert_eq!(app.anonymous().get("/readyz").await.unwrap().status, 200);
        app.mock.release("");
        held.frames().await.unwrap();
        let request = post(&valid()).bearer(&holding("ann"));
        super::until(&app, &request, 200).await;
    });
}

#[test]
fn connections_beyond_the_cap_wait_and_are_served_when_one_is_free() {
    let app =
        TestApp::on(Database::Sqlite).env("HNE__SERVER__WORKERS", "1").env("HNE__SERVER__MAX_CONNECTIONS", "2").start();
    let health = Request::get("/healthz");
    run(async {
        let kept = async || {
            let mut response = app.anonymous().connect().await.unwrap().exchange(&health).await.unwrap();
            response.bytes().await.unwrap();
            response.into_connection().unwrap()
        };
        let (first, second) = (kept().await, kept().await);
        let mut third = app.anonymous().connect().await.unwrap();
        third.send(&health).await.unwrap();
        let mut third = std::pin::pin!(third.response());
        let early = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
        assert!(early.is_err(), "a third connection is served beside two");
        let mut metrics = first.exchange(&Request::get("/metrics")).await.unwrap();
        let text = metrics.text().await.unwrap();
        assert!(text.lines().any(|line| line == "hne_open_connections 2"), "{text}");
        second.close();
        assert_eq!(third.await.unwrap().status, 200);
    });
}
