//! Clients that leave, and clients that read slowly.

use std::time::Duration;

use hne_load::mock::Ending;
use serde_json::json;

use super::{caller, charges};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, run, stream};

#[test]
fn the_provider_is_left_as_soon_as_the_client_leaves() {
    const STREAMS: usize = 50;
    let app = TestApp::on(Database::Sqlite).start();
    let mut delays = run(async {
        let client = caller(&app, "gone");
        let mut delays = Vec::new();
        for index in 0..STREAMS {
            let marker = format!("gone-{index}");
            let mut response = stream(&client, &chat("mock/chat+hold-after-1", &marker)).await;
            response.frame().await.unwrap();
            let left = hne_load::clock::now();
            match index % 3 {
                0 => response.close(),
                1 => response.reset().unwrap(),
                _ => drop(response.half_close().await),
            }
            let entry = app.mock.wait_for_end(&marker, DEADLINE).await.unwrap();
            assert_eq!(entry.ending, Ending::ClientGone);
            delays.push(entry.peer_closed_at.unwrap().saturating_duration_since(left));
        }
        delays
    });
    delays.sort_unstable();
    println!("the provider was left after {:?} at the median, {:?} at most", delays[STREAMS / 2], delays[STREAMS - 1]);
    assert!(delays[STREAMS / 2] < Duration::from_millis(10), "{delays:?}");
    assert!(delays[STREAMS - 1] < Duration::from_millis(500), "{delays:?}");
    let rows = app.wait_for_postings(STREAMS);
    assert!(charges(&rows, "gone").iter().all(|charge| charge.outcome == "client_gone" && charge.requests == 1));
    let usage: serde_json::Value =
        run(async { caller(&app, "gone").get("/api/usage").await.unwrap().json().await.unwrap() });
    assert_eq!(usage["classes"][0]["requests"]["reserved"], json!(0), "nothing stays reserved");
}

#[test]
fn a_slow_reader_slows_the_provider() {
    let app = TestApp::on(Database::Sqlite).start();
    let (frames, bytes) = (6_000, 10_000);
    let body = chat(&format!("mock/chat+frames-{frames}+bytes-{bytes}"), "slow");
    run(async {
        let client = caller(&app, "slow").receive_buffer(4_096);
        let mut response = stream(&client, &body).await;
        while response.frame().await.unwrap().unwrap().content().is_none() {}
        // Kernels hold up to about 10 MB between the two; the stream has 60.
        let more =
            app.mock.wait_for(|books| books.iter().any(|entry| entry.frames > 2_000), Duration::from_secs(2)).await;
        assert!(more.is_err(), "{:?}", more.map(|books| books[0].frames));
        let read = response.frames().await.unwrap();
        assert!(read.last().unwrap().is_done());
        assert_eq!(read.iter().filter(|frame| frame.content().is_some()).count(), frames - 1);
    });
    app.wait_for_postings(1);
}
