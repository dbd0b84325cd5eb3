//! Bodies that are too slow, too large or of the wrong kind, framing that is malformed, paths and methods.

use std::time::Duration;

use hne_load::client::{Client, Connection, Request};

use super::{CHAT, TOO_LARGE, TOO_SLOW, WRONG_MEDIA, assert_untouched, holding, refused, row, turned_away, valid};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, run};

const NO_METHOD: super::Row = row(405, "invalid_request_error", "method_not_allowed");

/// Opens a connection and sends the head of a chat of ann's, with this framing.
async fn begun(app: &TestApp, framing: &str) -> Connection {
    let mut connection = app.anonymous().connect().await.unwrap();
    let token = holding("ann");
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{framing}\r\n\r\n");
    connection.send_raw(head.as_bytes()).await.unwrap();
    connection
}

#[test]
fn slow_and_large_bodies_are_refused() {
    let app = TestApp::on(Database::Postgres)
        .env("HNE__SERVER__BODY_TIMEOUT", "1s")
        .env("HNE__SERVER__MAX_BODY_BYTES", "65536")
        .start();
    run(async {
        for framing in ["content-length: 100", "transfer-encoding: chunked"] {
            let mut connection = begun(&app, framing).await;
            connection.send_raw(b"5\r\n{\"mod").await.unwrap();
            let response = connection.response().await.unwrap();
            let took = response.head_at - response.sent_at;
            assert!(took > Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
            refused(response, TOO_SLOW, framing).await;
        }
        // Announced: refused before a byte of it is there. In chunks: as soon as it is too large.
        let connection = begun(&app, "content-length: 65537").await;
        refused(connection.response().await.unwrap(), TOO_LARGE, "announced").await;
        let mut connection = begun(&app, "transfer-encoding: chunked").await;
        for _ in 0..17 {
            let chunk = format!("1000\r\n{}\r\n", "a".repeat(4_096));
            connection.send_raw(chunk.as_bytes()).await.unwrap();
        }
        refused(connection.response().await.unwrap(), TOO_LARGE, "in chunks").await;
        // Sent in full by a client that reads only afterwards.
        let large = Request::post(CHAT).bearer(&holding("ann")).json(&"a".repeat(1 << 20));
        turned_away(&app.anonymous(), &large, TOO_LARGE, "sent in full").await;
    });
    assert_untouched(&app);
}

#[test]
fn a_body_that_is_answered_before_its_end_is_not_read_on() {
    let app = TestApp::start();
    run(async {
        for (request, status) in [
            (format!("POST {CHAT}"), 401),
            ("POST /nowhere".to_owned(), 404),
            ("GET /healthz".to_owned(), 200),
            ("HEAD /healthz".to_owned(), 200),
            ("OPTIONS /v1/models".to_owned(), 204),
        ] {
            for framing in ["content-length: 100", "transfer-encoding: chunked"] {
                let mut connection = app.anonymous().connect().await.unwrap();
                let head = format!("{request} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n5\r\n{{\"mod\r\n");
                connection.send_raw(head.as_bytes()).await.unwrap();
                let what = format!("{request}, {framing}");
                let told = read_to_end(&mut connection, &what).await.to_ascii_lowercase();
                assert!(told.starts_with(&format!("http/1.1 {status} ")), "{what}: {told}");
                assert!(told.contains("connection: close\r\n"), "{what}: {told}");
            }
        }
    });
}

#[test]
fn a_body_as_large_as_may_be_is_taken_in_chunks_too() {
    let app = TestApp::on(Database::Postgres).env("HNE__SERVER__MAX_BODY_BYTES", "65536").start();
    app.user("ann", "unlimited");
    let start = r#"{"model":"mock/chat+frames-2","messages":[{"role":"user","content":""#;
    let body = format!("{start}{}\"}}]}}", "a".repeat(65_536 - start.len() - 4));
    assert_eq!(body.len(), 65_536);
    run(async {
        let mut connection = begun(&app, "transfer-encoding: chunked").await;
        for part in body.as_bytes().chunks(1_000) {
            let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
            chunk.extend_from_slice(part);
            chunk.extend_from_slice(b"\r\n");
            connection.send_raw(&chunk).await.unwrap();
        }
        connection.send_raw(b"0\r\n\r\n").await.unwrap();
        assert_eq!(connection.response().await.unwrap().status, 200);
    });
    assert_eq!(app.mock.books()[0].body.len(), 65_536);
}

#[test]
fn only_json_that_is_not_packed_is_taken() {
    let app = TestApp::start();
    let client = app.client("ann");
    let plain = || Request::post(CHAT).body(valid().to_string());
    run(async {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""]
        {
            turned_away(&client, &plain().header("content-type", kind), WRONG_MEDIA, kind).await;
        }
        for coding in ["gzip", "br", "deflate", "identity, gzip"] {
            let request = plain().header("content-type", "application/json").header("content-encoding", coding);
            turned_away(&client, &request, WRONG_MEDIA, coding).await;
        }
        let twice = plain().header("content-encoding", "identity").header("content-encoding", "gzip");
        turned_away(&client, &twice, WRONG_MEDIA, "two codings").await;
        assert_untouched(&app);
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            let request = plain().header("content-type", kind).header("content-encoding", "identity");
            assert_eq!(client.send(&request).await.unwrap().status, 200, "{kind}");
        }
        assert_eq!(client.send(&plain()).await.unwrap().status, 200, "no content type");
    });
    assert_eq!(app.wait_for_postings(3).len(), 3);
}

#[test]
fn wrong_methods_are_told_the_right_ones() {
    let app = TestApp::start();
    let client = app.client("ann");
    let posts = [CHAT, "/api/hasNotEngine", "/api/hasNotEngine-optimized"];
    let gets =
        ["/v1/models", "/v1/models/a/b", "/api/usage", "/api/admin/performance", "/metrics", "/healthz", "/readyz"];
    let table = posts.map(|path| (path, "POST, OPTIONS", "GET")).into_iter();
    run(async {
        for (path, allow, wrong) in table.chain(gets.map(|path| (path, "GET, HEAD, OPTIONS", "POST"))) {
            for method in [wrong, "PUT", "DELETE", "PATCH", "NONSENSE"] {
                let what = format!("{method} {path}");
                let told = turned_away(&client, &Request::new(method, path), NO_METHOD, &what).await;
                assert_eq!(told.response.header("allow"), Some(allow), "{what}");
            }
            let options = client.send(&Request::new("OPTIONS", path)).await.unwrap();
            assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "{path}");
        }
    });
    assert_untouched(&app);
}

/// Sends HEAD, and another request on the same connection before it was answered; returns the first answer: no body
/// follows the head, and the connection stays in step.
async fn head_of(client: &Client, path: &str) -> String {
    let mut connection = client.connect().await.unwrap();
    connection.send(&Request::new("HEAD", path)).await.unwrap();
    connection.send(&Request::get("/healthz")).await.unwrap();
    let both = read_until(&mut connection, b"{\"status\":\"ok\"}").await;
    let (head, rest) = both.split_once("\r\n\r\n").unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {both}");
    head.to_ascii_lowercase()
}

#[test]
fn head_is_get_without_the_body() {
    let app = TestApp::start();
    let (ann, admin) = (app.client("ann"), app.admin());
    run(async {
        for (path, status) in [
            ("/v1/models", 200),
            ("/v1/models/none", 404),
            ("/api/usage", 200),
            ("/api/admin/performance", 200),
            ("/metrics", 200),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/nowhere", 404),
        ] {
            let client = if path.contains("admin") { &admin } else { &ann };
            let mut whole = client.get(path).await.unwrap();
            whole.bytes().await.unwrap();
            assert_eq!((whole.status, whole.header("cache-control")), (status, Some("no-store")), "{path}");
            let head = head_of(client, path).await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
            for (name, value) in
                whole.headers.iter().filter(|(name, _)| matches!(&**name, "content-type" | "cache-control"))
            {
                assert!(head.contains(&format!("\r\n{name}: {}", value.to_ascii_lowercase())), "{path}: {head}");
            }
        }
        for path in [CHAT, "/api/hasNotEngine-optimized"] {
            assert!(head_of(&ann, path).await.starts_with("http/1.1 405 "), "{path}");
        }
        let stranger = head_of(&app.anonymous(), "/v1/models").await;
        assert!(stranger.starts_with("http/1.1 401 "), "{stranger}");
    });
    assert_untouched(&app);
}

/// Reads raw bytes until these have come.
async fn read_until(connection: &mut Connection, end: &[u8]) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end) {
        let more = connection.read_raw().await.unwrap();
        assert!(!more.is_empty(), "{}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&more);
    }
    String::from_utf8(all).unwrap()
}

/// Reads until the connection ends.
async fn read_to_end(connection: &mut Connection, what: &str) -> String {
    let mut all = Vec::new();
    loop {
        let more = tokio::time::timeout(DEADLINE, connection.read_raw()).await.expect(what).expect(what);
        if more.is_empty() {
            return String::from_utf8(all).unwrap();
        }
        all.extend_from_slice(&more);
    }
}

#[test]
fn malformed_heads_are_refused_before_anybody_is_asked() {
    let app = TestApp::start();
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(400 << 10));
    let post = |rest: &str| format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{rest}\r\n");
    let table = [
        (post("content-length: 2\r\ncontent-length: 3\r\n"), 400),
        (post("content-length: 2\r\ntransfer-encoding: chunked\r\n"), 400),
        (post("content-length: -2\r\n"), 400),
        (post("content-length: two\r\n"), 400),
        (post("transfer-encoding: chunked, gzip\r\n"), 400),
        (post("bad header: 1\r\n"), 400),
        (post("x-nul: a\0b\r\n"), 400),
        (post(" folded: 1\r\n"), 400),
        ("GET\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400),
        (post(&many), 431),
        (post(&large), 431),
    ];
    run(async {
        for (bytes, status) in table {
            let mut connection = app.anonymous().connect().await.unwrap();
            // Where it is refused half-way, the rest can't be written.
            let _sent = connection.send_raw(bytes.as_bytes()).await.is_ok();
            let what: String = bytes.chars().take(120).collect();
            match connection.response().await {
                Ok(response) => assert_eq!(response.status, status, "{what}"),
                Err(error) => assert_eq!(status, 431, "{what}: {error}"),
            }
        }
    });
    assert_untouched(&app);
}

/// RFC 9112, section 6.1: no transfer coding for whoever speaks 1.0, and RFC 9112, section 6.3: the end is the close's.
#[test]
fn a_stream_to_http_1_0_has_no_chunks_and_ends_with_its_connection() {
    let app = TestApp::start();
    app.user("ann", "unlimited");
    let (token, body) = (holding("ann"), chat("mock/chat+frames-2+prompt-3+completion-2", "old").to_string());
    run(async {
        for kept in ["", "connection: keep-alive\r\n"] {
            let mut connection = app.anonymous().connect().await.unwrap();
            let head = format!("POST /api/hasNotEngine HTTP/1.0\r\nauthorization: Bearer {token}\r\n{kept}");
            let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            connection.send_raw(request.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            while let Some(more) = Some(connection.read_raw().await.unwrap()).filter(|more| !more.is_empty()) {
                all.extend_from_slice(&more);
            }
            let all = String::from_utf8(all).unwrap();
            let (head, frames) = all.split_once("\r\n\r\n").unwrap();
            let head = head.to_ascii_lowercase();
            assert!(head.starts_with("http/1.0 200 "), "{head}");
            assert!(!head.contains("transfer-encoding") && !head.contains("keep-alive"), "{head}");
            let (frames, end) = frames.rsplit_once("\n\n").unwrap();
            let strange = frames.split("\n\n").find(|frame| !frame.starts_with("data: ") && !frame.starts_with(':'));
            assert_eq!((strange, end), (None, ""), "{frames}");
            assert!(frames.ends_with("data: [DONE]"), "{frames}");
        }
    });
    assert_eq!(app.wait_for_postings(2).len(), 2);
}
