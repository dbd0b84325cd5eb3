//! Providers that answer before they were sent the whole request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::Value;

use super::{caller, wire::ANSWER};
use crate::harness::app::{Database, TestApp, chat, complete, run};

/// More than the sockets' buffers hold.
const LARGE: usize = 8_000_000;

/// What a provider does with the rest of a request whose head it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It reads it before it goes on with its answer.
    Read,
    /// It leaves it unread, and the connection open.
    Left,
    /// It closes the connection.
    Closed,
}

/// Starts a provider that answers heads with this status. Returns its address, and how many requests have come.
fn answering(status: u16, rest: Rest) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    thread::spawn(move || {
        let mut left = Vec::new();
        for mut connection in listener.incoming().flatten() {
            let (length, read) = read_head(&mut connection);
            counted.fetch_add(1, Ordering::SeqCst);
            let lines = format!("content-type: application/json\r\ncontent-length: {}", ANSWER.len());
            connection.write_all(format!("HTTP/1.1 {status} Early\r\n{lines}\r\n\r\n").as_bytes()).unwrap();
            if rest == Rest::Read {
                connection.read_exact(&mut vec![0; length - read]).unwrap();
            }
            connection.write_all(ANSWER.as_bytes()).unwrap();
            if rest != Rest::Closed {
                left.push(connection);
            }
        }
    });
    (address, requests)
}

/// Reads a request's head. Returns its body's length, and how much of that was read with it.
fn read_head(connection: &mut TcpStream) -> (usize, usize) {
    let (mut read, mut piece) = (Vec::new(), [0; 1024]);
    loop {
        let count = connection.read(&mut piece).unwrap();
        read.extend_from_slice(&piece[..count]);
        let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = str::from_utf8(&read[..end]).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        return (length.parse().unwrap(), read.len() - end - 4);
    }
}

/// Sends a large request to a provider that answers so, and says what the client must be told.
fn ask(status: u16, rest: Rest, told: u16) {
    let (address, requests) = answering(status, rest);
    let mut app = TestApp::on(Database::Sqlite)
        .env("OPENROUTER_BASE_URL", format!("http://{address}/v1"))
        .env("HNE__SERVER__WORKERS", "1")
        .env("HNE__PROVIDERS__OPENROUTER__RETRIES", if status == 429 { "0" } else { "2" })
        .env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "5s")
        .start();
    // This provider keeps no books.
    app.unbalanced();
    run(async {
        let mut response = complete(&caller(&app, "ann"), &chat("mock/chat", &"x".repeat(LARGE))).await;
        let text = response.text().await.unwrap();
        assert_eq!(response.status, told, "{status}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        if status != 200 {
            assert_eq!(answer["error"]["provider_status"], status, "{text}");
        }
    });
    assert_eq!(requests.load(Ordering::SeqCst), 1, "{status}");
    app.wait_for_postings(1);
}

const REFUSALS: [(u16, u16); 3] = [(413, 502), (401, 502), (429, 503)];

#[test]
fn a_refusal_counts_where_the_rest_of_the_request_is_left_unread() {
    for (status, told) in REFUSALS {
        ask(status, Rest::Left, told);
    }
}

#[test]
fn a_refusal_counts_where_the_connection_is_closed_upon_it() {
    for (status, told) in REFUSALS {
        ask(status, Rest::Closed, told);
    }
}

#[test]
fn an_answer_that_begins_early_is_not_left_without_the_rest_of_the_request() {
    ask(200, Rest::Read, 200);
}
