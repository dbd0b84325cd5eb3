//! The main job from end to end: a client with a token streams a chat, quota is checked, usage is booked.

use serde_json::Value;

use crate::harness::app::{Database, TestApp, chat, complete, run, stream};

fn main_job(database: Database) {
    let app = TestApp::on(database).start();
    let client = app.client("ann");
    run(async {
        let mut response = stream(&client, &chat("mock/chat+frames-7+prompt-11+completion-7", "streamed")).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let frames = response.frames().await.unwrap();
        assert!(frames.last().unwrap().is_done());
        let content: String = frames.iter().filter_map(|frame| frame.content()).collect();
        assert!(!content.is_empty());

        let mut response = complete(&client, &chat("mock/chat+frames-3+prompt-5+completion-3", "whole")).await;
        assert_eq!(response.status, 200);
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], 3);
    });
    let rows = app.wait_for_postings(2);
    assert!(rows.iter().all(|row| row.user == "ann" && row.class == "basic" && row.requests == 1));
    assert!(rows.iter().all(|row| row.outcome() == "completed" && row.estimated == 0));
    let usage = run(async { client.get("/api/usage").await.unwrap().json().await.unwrap() });
    assert_eq!(usage["classes"][0]["requests"]["used"], 2);
    assert_eq!(usage["classes"][0]["tokens"]["used"], 11 + 7 + 5 + 3);
    assert_eq!(usage["classes"], app.cli(&["usage", "show", "ann"])["classes"]);
}

#[test]
fn the_main_job_on_postgres() {
    main_job(Database::Postgres);
}

#[test]
fn the_main_job_on_sqlite() {
    main_job(Database::Sqlite);
}
