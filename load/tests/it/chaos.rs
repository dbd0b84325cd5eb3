//! The proxy, between the client and the mock.

use crate::harness::{SOON, chat, ended, frames, start, stream, text};
use hne_load::{
    chaos::{ChaosProxy, Cut, Direction, Moment},
    client::Client,
    clock,
    mock::{Ending, MockProvider},
};
use std::{io::ErrorKind, time::Duration};

fn proxied() -> (MockProvider, ChaosProxy, Client) {
    let (mock, _) = start();
    let proxy = ChaosProxy::start(mock.addr()).unwrap();
    let client = Client::new(proxy.addr());
    (mock, proxy, client)
}

#[tokio::test]
async fn a_harmless_proxy_passes_everything() {
    let (mock, proxy, client) = proxied();
    let all = frames(&client, "m+frames-500+bytes-2000").await;
    assert_eq!(all.len(), 502);
    assert_eq!(proxy.cuts(), 0);
    // A caller that leaves is noticed behind the proxy.
    let response = stream(&client, "m+stall-after-1").await;
    response.close();
    let books = mock.wait_for(|books| books.get(1).is_some_and(|entry| entry.ended_at.is_some()), SOON).await.unwrap();
    assert_eq!(books.get(1).unwrap().ending, Ending::ClientGone);
}

#[tokio::test]
async fn latency_delays_and_throttling_stretches() {
    let (_mock, proxy, client) = proxied();
    proxy.set_latency(Duration::from_millis(20));
    let asked = clock::now();
    frames(&client, "m").await;
    assert!(asked.elapsed() >= Duration::from_millis(40), "there and back");
    proxy.heal();
    proxy.set_throttle(Some(100_000));
    let asked = clock::now();
    assert_eq!(frames(&client, "m+frames-1+bytes-5000").await.len(), 3);
    assert!(asked.elapsed() >= Duration::from_millis(50), "5 kB at 100 kB/s");
}

#[tokio::test]
async fn a_black_hole_is_silent_and_loses_nothing() {
    let (mock, proxy, client) = proxied();
    let mut response = stream(&client, "m+hold-after-2").await;
    response.frame().await.unwrap().unwrap();
    response.frame().await.unwrap().unwrap();
    proxy.set_black_hole(true);
    mock.release("");
    ended(&mock).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), response.frame()).await.is_err());
    proxy.set_black_hole(false);
    assert_eq!(text(&response.frames().await.unwrap()), " w000002 w000003 w000004");
}

#[tokio::test]
async fn connections_are_cut_on_demand() {
    let (mock, proxy, client) = proxied();
    let mut response = stream(&client, "m+stall-after-1").await;
    response.frame().await.unwrap().unwrap();
    assert_eq!(proxy.open_connections(), 1);
    proxy.reset_all();
    assert_eq!(response.frame().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ended(&mock).await.ending, Ending::ClientGone);

    let mut response = stream(&client, "m+stall-after-1").await;
    response.frame().await.unwrap().unwrap();
    proxy.close_all();
    assert_eq!(response.frame().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);

    proxy.set_down(true);
    assert!(client.send(&chat("m", "refused")).await.is_err());
    assert!(proxy.wait_for_cuts(3, SOON).await);
    proxy.heal();
    assert_eq!(stream(&client, "m").await.status, 200);
}

#[tokio::test]
async fn cuts_after_exactly_so_many_bytes() {
    let (mock, proxy, client) = proxied();
    proxy.cut_after(Direction::Down, 10, Cut::Close);
    let mut connection = client.connect().await.unwrap();
    connection.send(&chat("m+hold-after-1", "cut")).await.unwrap();
    assert_eq!(connection.response().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(ended(&mock).await.ending, Ending::ClientGone);
    proxy.heal();
    proxy.cut_after(Direction::Up, 5, Cut::Reset);
    assert!(client.send(&chat("m", "never arrives")).await.is_err());
    assert_eq!(mock.totals().requests, 1);
    assert!(proxy.wait_for_cuts(2, SOON).await);
}

#[tokio::test]
async fn cuts_when_a_pattern_passes() {
    let (mock, proxy, client) = proxied();
    let marked = |marker: &str| mock.entry(marker).map(|entry| entry.ending);

    proxy.cut_when(Direction::Up, "before", Moment::Before, Cut::Reset);
    assert!(client.send(&chat("m", "before")).await.is_err());
    assert_eq!(marked("before"), None, "it never got there");
    assert_eq!(stream(&client, "m").await.status, 200, "once only");

    proxy.cut_when(Direction::Up, "answered", Moment::Answered, Cut::Close);
    let error = client.send(&chat("m", "answered")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(marked("answered").is_some(), "it was acted on");

    proxy.cut_when(Direction::Up, "after", Moment::After, Cut::Close);
    assert!(client.send(&chat("m", "after")).await.is_err());
    mock.wait_for(|books| books.iter().any(|entry| entry.marker == "after"), SOON).await.unwrap();

    proxy.cut_when(Direction::Down, "[DONE]", Moment::Before, Cut::Close);
    let mut response = stream(&client, "m+hold-after-1").await;
    response.frame().await.unwrap().unwrap();
    mock.release("");
    assert!(response.frames().await.is_err());
    assert!(proxy.wait_for_cuts(4, SOON).await);
}

#[tokio::test]
async fn a_pattern_may_be_cut_in_two() {
    let (_mock, proxy, client) = proxied();
    proxy.cut_when(Direction::Up, "half and half", Moment::Before, Cut::Reset);
    proxy.set_latency(Duration::from_millis(1));
    let mut connection = client.connect().await.unwrap();
    connection.send_raw(b"GET /v1/models?q=half").await.unwrap();
    // The first half has passed when another connection has been served.
    stream(&client, "m").await;
    connection.send_raw(b" and half HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(proxy.wait_for_cuts(1, SOON).await);
}

#[tokio::test]
async fn the_target_may_move() {
    let (mock, proxy, client) = proxied();
    let (other, _) = start();
    drop(mock);
    assert!(client.send(&chat("m", "nobody there")).await.is_err());
    proxy.set_target(other.addr());
    assert_eq!(stream(&client, "m").await.status, 200);
}
