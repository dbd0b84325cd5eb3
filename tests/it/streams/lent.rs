//! Running streams under a limit that is lent out in parts.

use serde_json::json;

use super::{Charge, caller, charges, last_error};
use crate::harness::{
    app::{Database, TestApp, chat, complete, now, run, stream, token},
    servers::Postgres,
};

/// Two tokens each, by estimate.
const FRAMES: i64 = 9_600;

#[test]
fn a_stream_goes_on_with_what_another_instance_holds_unspent() {
    let mut app = TestApp::on(Database::Postgres).start();
    app.cli(&["plan", "set", "small", "basic", "--window", "day", "--tokens", "20000"]);
    app.user("ann", "small");
    let (here, there) = (caller(&app, "ann"), app.second());
    let there = there.bearer(&token(&json!({"sub": "ann", "exp": now() + 3_600})));
    let mut body = chat(&format!("mock/chat+usage-none+frames-{FRAMES}"), "long");
    body["max_tokens"] = 200.into();
    run(async {
        // It leases more than a thousand.
        assert_eq!(complete(&there, &chat("mock/chat+prompt-3+completion-5", "there")).await.status, 200);
        let frames = stream(&here, &body).await.frames().await.unwrap();
        assert!(frames.last().unwrap().is_done(), "{:?}", frames.last());
    });
    let rows = app.wait_for_postings(2);
    let mut expected = vec![Charge::reported("completed", 3, 5)];
    expected.push(Charge::estimated("completed", &body, 2 * FRAMES));
    assert_eq!(charges(&rows, "ann"), expected);
}

#[test]
fn where_the_store_is_away_nobody_is_told_that_the_quota_is_used_up() {
    let server = Postgres::start();
    let app = TestApp::on(Database::Postgres).losing(&server, "300ms").start();
    app.cli(&["plan", "set", "small", "basic", "--window", "day", "--tokens", "20000"]);
    app.user("ann", "small");
    let held = format!("mock/chat+usage-none+frames-{FRAMES}+hold-after-3");
    let mut body = chat(&held, "away");
    body["max_tokens"] = 200.into();
    run(async {
        let client = caller(&app, "ann");
        let mut response = stream(&client, &body).await;
        assert!(response.frame().await.unwrap().is_some());
        server.kill();
        app.mock.release(&held);
        let frames = response.frames().await.unwrap();
        assert_eq!(last_error(&frames), "quota_unavailable");
        server.restart();
    });
    let charge = charges(&app.wait_for_postings(1), "ann")[0];
    assert_eq!((charge.outcome, charge.estimated), ("cut_off", true));
    assert!((200..20_000).contains(&charge.tokens.1), "{charge:?}");
}
