//! What a short request writes: its two records, and nothing else. Sockets aside, a write is a file's, or an event's that
//! wakes a thread, which costs as much.

use hne_load::{
    client::{Connection, Request},
    mock::{MockProvider, Options},
};

use super::world::{Serving, World};
use crate::harness::app::{Database, chat, run};

/// How many requests are counted.
const REQUESTS: u64 = 400;
/// A request's records: how it begins, and how it ends.
const RECORDS: u64 = 2;
/// What flushing, syncing and the clocks of reports write beside them, in the second or two that this takes.
const BESIDE: u64 = REQUESTS / 2;

/// Returns how often a process has written, to anything but sockets.
fn writes(service: &Serving) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", service.process.id())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap().parse().unwrap()
}

async fn ask(mut connection: Connection, request: &Request, times: u64) -> Connection {
    for _ in 0..times {
        let mut response = connection.exchange(request).await.unwrap();
        assert_eq!(response.status, 200);
        response.bytes().await.unwrap();
        connection = response.into_connection().unwrap();
    }
    connection
}

#[test]
fn a_short_request_writes_its_records_and_wakes_nobody() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Postgres).asking(&mock).env("HNE__LOG__ACCESS", "false");
    let service = world.serve();
    let client = service.client(&world, "ann");
    let body = chat("mock/short+frames-1+prompt-3+completion-1", "hello").to_string();
    let request = Request::post("/v1/chat/completions").json(&body);
    run(async {
        let connection = ask(client.connect().await.unwrap(), &request, 10).await;
        let before = writes(&service);
        ask(connection, &request, REQUESTS).await;
        let written = writes(&service) - before;
        println!("{written} writes for {REQUESTS} requests");
        let records = REQUESTS * RECORDS;
        assert!((records..=records + BESIDE).contains(&written), "{written} writes, {records} records");
    });
}
