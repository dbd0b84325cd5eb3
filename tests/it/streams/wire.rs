//! Connections to providers: where an answer on one ends, which is used again, how long it is kept, and how much of what
//! comes before an answer.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::caller;
use crate::harness::app::{AppBuilder, DEADLINE, Database, TestApp, chat, complete, run, stream};

/// A whole answer.
pub(super) const ANSWER: &str = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

/// What a provider does when it was asked.
#[derive(Clone, Copy)]
pub(super) enum After {
    /// It waits for the next request.
    Keep,
    /// It closes the connection.
    Close,
    /// It closes the connection when it is asked once more.
    CloseWhenAsked,
}

/// A provider that answers each request with these bytes. Lives until the test's process ends.
pub(super) struct Bytes {
    address: SocketAddr,
    /// Connections that came.
    pub(super) connections: Arc<AtomicUsize>,
    /// Told of each connection that has been closed here.
    closed: mpsc::Receiver<()>,
}

impl Bytes {
    pub(super) fn answering(answer: String, after: After) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let (closing, closed) = mpsc::channel();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let (answer, closing) = (answer.clone(), closing.clone());
                thread::spawn(move || {
                    serve(connection, &answer, after);
                    closing.send(())
                });
            }
        });
        Self { address, connections, closed }
    }

    /// An app with this provider, on one thread.
    pub(super) fn app(&self) -> AppBuilder {
        TestApp::on(Database::Sqlite)
            .env("OPENROUTER_BASE_URL", format!("http://{}/v1", self.address))
            .env("HNE__SERVER__WORKERS", "1")
    }
}

/// Reads requests, and answers each.
fn serve(mut connection: TcpStream, answer: &str, after: After) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    let mut answered = false;
    loop {
        while !is_request(&read) {
            match connection.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => read.extend_from_slice(&piece[..count]),
            }
        }
        read.clear();
        if answered && matches!(after, After::CloseWhenAsked) {
            return;
        }
        answered = connection.write_all(answer.as_bytes()).is_ok();
        if !answered || matches!(after, After::Close) {
            return;
        }
    }
}

/// Whether head and body are there.
fn is_request(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// An answer with these lines in its head, and this body.
fn answer(version: &str, lines: &str, body: &str) -> String {
    format!("HTTP/{version} 200 OK\r\ncontent-type: application/json\r\n{lines}\r\n{body}")
}

fn sized(lines: &str) -> String {
    answer("1.1", &format!("{lines}content-length: {}\r\n", ANSWER.len()), ANSWER)
}

fn chunked(end: &str) -> String {
    let (first, second) = ANSWER.split_at(100);
    let body = format!("{:x}\r\n{first}\r\n{:x};ext=1\r\n{second}\r\n{end}", first.len(), second.len());
    answer("1.1", "transfer-encoding: chunked\r\n", &body)
}

#[test]
fn an_answer_ends_where_its_framing_says_and_only_then_its_connection_serves_again() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let long = format!("content-length: {}\r\n", ANSWER.len() + 1);
    let upgrade = "upgrade: websocket\r\n";
    let to_come = |lines: &str| format!("HTTP/1.1 500 Internal Server Error\r\n{lines}\r\n");
    // What the provider does, the status that the client gets, and the connections that two requests take.
    let cases = [
        ("content-length", sized(""), After::Keep, 200, 1),
        ("chunks", chunked("0\r\n\r\n"), After::Keep, 200, 1),
        ("trailers", chunked("0\r\nx-checksum: 1\r\n\r\n"), After::Keep, 200, 1),
        ("what comes before an answer", format!("{early}{}", sized("")), After::Keep, 200, 1),
        ("connection: close", sized("connection: close\r\n"), After::Keep, 200, 2),
        ("HTTP/1.1 to the end", answer("1.1", "", ANSWER), After::Close, 200, 2),
        ("HTTP/1.0 to the end", answer("1.0", "", ANSWER), After::Close, 200, 2),
        ("more than was asked for", format!("{}{}", sized(""), sized("")), After::Keep, 200, 2),
        ("too short", answer("1.1", &long, ANSWER), After::Close, 502, 2),
        ("no last chunk", chunked(""), After::Close, 502, 2),
        ("nothing", answer("1.1", "content-length: 0\r\n", ""), After::Keep, 502, 1),
        ("no length at all", "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), After::Keep, 502, 1),
        ("another protocol", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(), After::Keep, 502, 2),
        ("no coding, to come", to_come("transfer-encoding: identity\r\n"), After::Keep, 502, 2),
        ("an offer, to come", to_come(&format!("{upgrade}content-length: 5\r\n")), After::Keep, 502, 2),
        ("no coding", answer("1.1", "transfer-encoding: identity\r\n", ANSWER), After::Close, 200, 2),
        ("an offer to upgrade", sized(upgrade), After::Close, 200, 2),
        ("an offer and nothing", to_come(&format!("{upgrade}content-length: 0\r\n")), After::Keep, 502, 1),
        ("nothing that is HTTP", "yes\r\n\r\n".to_owned(), After::Keep, 502, 2),
    ];
    for (case, answer, after, status, connections) in cases {
        let provider = Bytes::answering(answer, after);
        let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
        // This provider keeps no books.
        app.unbalanced();
        run(async {
            let client = caller(&app, "ann");
            for asked in 1..=2 {
                let mut response = complete(&client, &chat("mock/chat", case)).await;
                let body = response.text().await.unwrap();
                assert_eq!(response.status, status, "{case}, {asked}: {body}");
                assert!(status != 200 || body == ANSWER, "{case}, {asked}: {body}");
            }
        });
        assert_eq!(provider.connections.load(Ordering::SeqCst), connections, "{case}");
        app.wait_for_postings(2);
    }
}

#[test]
fn a_connection_that_the_provider_has_closed_is_not_used() {
    let provider = Bytes::answering(sized(""), After::Close);
    let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
    app.unbalanced();
    run(async {
        let client = caller(&app, "ann");
        for _ in 0..20 {
            assert_eq!(complete(&client, &chat("mock/chat", "closed")).await.status, 200);
            // What it is told of is at the service before the next request is.
            provider.closed.recv_timeout(DEADLINE).unwrap();
        }
    });
    assert_eq!(provider.connections.load(Ordering::SeqCst), 20);
    app.wait_for_postings(20);
}

#[test]
fn a_connection_that_rests_is_closed() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__IDLE_TIMEOUT", "300ms").start();
    run(async {
        let client = app.client("ann");
        let streams: Vec<_> = (0..20).map(|marker| chat("mock/chat+hold-after-1", &marker.to_string())).collect();
        let mut running = Vec::new();
        for body in &streams {
            let mut response = stream(&client, body).await;
            response.frame().await.unwrap();
            running.push(response);
        }
        assert_eq!(app.mock.open_connections(), 20);
        app.mock.release("");
        for mut response in running {
            assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
        }
        let closed = app.mock.wait_for_totals(|totals| totals.open_connections == 0, DEADLINE).await;
        assert!(closed.is_ok(), "{} connections are left", app.mock.open_connections());
    });
}

#[test]
fn connections_serve_one_request_after_another() {
    let provider = Bytes::answering(sized(""), After::Keep);
    let mut app = provider.app().start();
    app.unbalanced();
    run(async {
        let client = caller(&app, "ann");
        let body = chat("mock/chat", "again");
        for _ in 0..50 {
            assert_eq!(complete(&client, &body).await.status, 200);
        }
        // At once, they need as many as they are; then the last one is used again.
        let eight = futures_util::future::join_all((0..8).map(|_| complete(&client, &body))).await;
        assert!(eight.iter().all(|response| response.status == 200));
    });
    let connections = provider.connections.load(Ordering::SeqCst);
    assert!((1..=8).contains(&connections), "{connections}");
    app.wait_for_postings(58);
}

#[test]
fn comments_before_an_answer_are_kept_up_to_a_bound() {
    const COMMENT: &str = ": OPENROUTER PROCESSING\n\n";
    let frame = r#"{"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}"#;
    let (comments, end) = (COMMENT.repeat(2_000), format!("data: {frame}\n\ndata: [DONE]\n\n"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let provider = Bytes::answering(format!("{head}{comments}{end}"), After::Close);
    // All that were read at once can come with the frame that ends the waiting, beside what is kept.
    for (bound, fewest, most) in [(65_536, comments.len(), comments.len()), (4_096, 0, 4_096 + 8_192)] {
        let mut app = provider.app().env("HNE__STREAM__BUFFER_BYTES", bound.to_string()).start();
        app.unbalanced();
        run(async {
            let client = caller(&app, "ann");
            let mut body = chat("mock/chat", "comments");
            body["stream"] = true.into();
            let mut response = complete(&client, &body).await;
            let text = response.text().await.unwrap();
            let came = text.strip_suffix(&end).unwrap_or_else(|| panic!("{bound}: {text}"));
            assert_eq!(came.replace(COMMENT, ""), "", "{bound}: whole comments");
            assert!((fewest..=most).contains(&came.len()), "{bound}: {} of {} bytes came", came.len(), comments.len());
        });
        app.wait_for_postings(1);
    }
}

/// As a provider does that keeps connections for a short time: its end and the next request meet halfway.
#[test]
fn a_kept_connection_that_ends_costs_its_request_nothing() {
    const REQUESTS: usize = 40;
    let provider = Bytes::answering(sized(""), After::CloseWhenAsked);
    let mut app = provider.app().env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0").start();
    app.unbalanced();
    let client = caller(&app, "ann");
    run(async {
        for request in 0..REQUESTS {
            assert_eq!(complete(&client, &chat("mock/chat", "kept")).await.status, 200, "{request}");
        }
    });
    assert_eq!(provider.connections.load(Ordering::SeqCst), REQUESTS);
}
