//! Answers that go wrong as they were told to, and callers that leave.

use crate::harness::{SOON, chat, ended, start, stream, text, whole};
use hne_load::{client::Client, clock, mock::Ending};
use std::io::ErrorKind;

/// Reads a stream up to the error that ends it.
async fn broken(client: &Client, model: &str) -> (String, Option<ErrorKind>) {
    let mut response = stream(client, model).await;
    let mut frames = Vec::new();
    loop {
        match response.frame().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (text(&frames), None),
            Err(error) => return (text(&frames), Some(error.kind())),
        }
    }
}

#[tokio::test]
async fn streams_break_where_they_were_told_to() {
    let (mock, client) = start();
    let two = " w000000 w000001".to_owned();
    assert_eq!(broken(&client, "m+close-after-2").await, (two.clone(), Some(ErrorKind::UnexpectedEof)));
    assert_eq!(broken(&client, "m+reset-after-2+gap-1ms").await, (two.clone(), Some(ErrorKind::ConnectionReset)));
    assert_eq!(broken(&client, "m+close-after-9").await.1, Some(ErrorKind::UnexpectedEof));
    assert_eq!(broken(&client, "m+coalesced+close-after-2").await, (two, Some(ErrorKind::UnexpectedEof)));
    for bytes in [0, 1, 30, 400, 900] {
        let mut response = stream(&client, &format!("m+truncate-at-{bytes}")).await;
        let mut received = 0;
        let error = loop {
            match response.chunk().await {
                Ok(chunk) => received += chunk.unwrap().len(),
                Err(error) => break error.kind(),
            }
        };
        assert_eq!((received, error), (bytes, ErrorKind::UnexpectedEof));
    }
    let books = mock.wait_for(|books| books.iter().all(|entry| entry.ended_at.is_some()), SOON).await.unwrap();
    assert!(books.iter().all(|entry| entry.ending == Ending::Faulted && !entry.done_sent && !entry.usage_sent));
}

#[tokio::test]
async fn errors_in_the_stream() {
    let (mock, client) = start();
    let mut response = stream(&client, "m+error-first").await;
    let frames = response.frames().await.unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames.first().unwrap().error().unwrap()["code"], 502);
    assert_eq!(ended(&mock).await.ending, Ending::Faulted);

    let frames = stream(&client, "m+error-after-2").await.frames().await.unwrap();
    assert_eq!(text(&frames), " w000000 w000001");
    let last = frames.last().unwrap().json().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "error");
    assert_eq!(last["error"]["code"], 502);

    let frames = stream(&client, "m+invalid-json").await.frames().await.unwrap();
    assert!(frames.first().unwrap().json().is_none() && frames.first().unwrap().data().is_some());
    assert!(frames.last().unwrap().is_done());
}

#[tokio::test]
async fn refusals_of_every_kind() {
    let (mock, client) = start();
    let mut limited = stream(&client, "m+status-429+retry-after-7").await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("7")));
    assert_eq!(limited.json().await.unwrap()["error"]["code"], 429);
    let html = stream(&client, "m+html").await;
    assert_eq!((html.status, html.header("content-type")), (200, Some("text/html")));
    assert_eq!(stream(&client, "m+redirect").await.status, 302);
    let mut zipped = stream(&client, "m+gzip").await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
    let kind = async |model: &str| client.send(&chat(model, "x")).await.unwrap_err().kind();
    assert_eq!(kind("m+garbage").await, ErrorKind::InvalidData);
    assert_eq!(kind("m+reset").await, ErrorKind::ConnectionReset);
    assert_eq!(kind("m+close").await, ErrorKind::UnexpectedEof);
    let books = mock.wait_for(|books| books.iter().all(|entry| entry.ended_at.is_some()), SOON).await.unwrap();
    assert_eq!(books.iter().map(|entry| entry.status).collect::<Vec<_>>(), [429, 200, 302, 200, 0, 0, 0]);
}

#[tokio::test]
async fn whole_answers_break_too() {
    let (_mock, client) = start();
    let kind = async |model: &str| client.send(&whole(model)).await.unwrap().bytes().await.unwrap_err().kind();
    assert_eq!(kind("m+close-after-1").await, ErrorKind::UnexpectedEof);
    assert_eq!(kind("m+truncate-at-5+chunked").await, ErrorKind::UnexpectedEof);
    let mut invalid = client.send(&whole("m+invalid-json")).await.unwrap();
    assert_eq!(invalid.json().await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "serde's word for half a document");
    let broken = client.send(&whole("m+error-after-2")).await.unwrap().json().await.unwrap();
    assert_eq!(
        (&broken["choices"][0]["finish_reason"], &broken["choices"][0]["error"]["code"]),
        (&"error".into(), &502.into())
    );
    let error = client.send(&whole("m+error-first")).await.unwrap().json().await.unwrap();
    assert_eq!(error["error"]["code"], 502);
}

#[tokio::test]
async fn a_flood_has_no_line_end() {
    let (_mock, client) = start();
    let bytes = stream(&client, "m+flood-100000").await.bytes().await.unwrap();
    assert_eq!(bytes.len(), 100_006);
    assert!(!bytes.contains(&b'\n'));
}

#[tokio::test]
async fn the_first_requests_fail_then_it_works() {
    let (_mock, client) = start();
    let status = async |model: &str| stream(&client, model).await.status;
    for model in ["m+fail-first-2", "other+fail-first-2"] {
        assert_eq!([status(model).await, status(model).await, status(model).await], [500, 500, 200]);
    }
    assert!(client.send(&chat("m+reset+fail-first-1", "x")).await.is_err());
    assert_eq!(status("m+reset+fail-first-1").await, 200);
}

#[tokio::test]
async fn a_caller_that_leaves_is_noticed_at_once() {
    for model in [
        "m+stall-after-1",
        "m+hold-after-1",
        "m+gap-1000s+frames-9",
        "m+drip-1000s",
        "m+hang",
        "m+first-1000s",
        "m+hold-head",
    ] {
        for way in 0..3 {
            let (mock, client) = start();
            let mut connection = client.connect().await.unwrap();
            connection.send(&chat(model, "leaver")).await.unwrap();
            mock.wait_for(|books| !books.is_empty(), SOON).await.unwrap();
            let left = clock::now();
            match way {
                0 => connection.close(),
                1 => connection.reset().unwrap(),
                _ => connection.half_close().await.unwrap(),
            }
            let entry = mock.wait_for_end("leaver", SOON).await.unwrap();
            assert_eq!(entry.ending, Ending::ClientGone, "{model}");
            assert!(entry.peer_closed_at.unwrap() >= left);
            assert_eq!(mock.open_streams(), 0);
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_without_reading_is_noticed_in_mid_write() {
    let (mock, client) = start();
    let client = client.receive_buffer(4096);
    let response = client.send(&chat("m+frames-1000+bytes-60000", "slow")).await.unwrap();
    mock.wait_for(|books| books.first().is_some_and(|entry| entry.frames > 0), SOON).await.unwrap();
    assert_eq!(mock.open_streams(), 1, "the caller's window is full");
    response.reset().unwrap();
    let entry = ended(&mock).await;
    assert_eq!(entry.ending, Ending::ClientGone);
    assert!(entry.frames < 1000);
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let (mock, client) = start();
    let mut connection = client.connect().await.unwrap();
    connection.send_raw(b"NONSENSE\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 400);
    assert_eq!(client.post_json("/v1/chat/completions", "{").await.unwrap().status, 400);
    mock.wait_for_totals(|totals| totals.refused == 1, SOON).await.unwrap();
}
