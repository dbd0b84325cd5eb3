//! The journal through the front door: synced one by one, out of reach, full.

use std::{fs, path::Path};

use futures_util::future::join_all;
use hne_load::client::Client;
use serde_json::{Value, json};

use super::{Charge, caller, charges, last_error, ledger::serve};
use crate::harness::{
    app::{Database, TestApp, chat, complete, run, stream},
    servers::Postgres,
};

/// Streams that run when the folder gets out of reach: on both workers, whichever takes them.
const HELD: usize = 12;

#[test]
fn with_each_record_synced_streams_and_whole_answers_end_well() {
    let app = TestApp::on(Database::Sqlite).env("HNE__JOURNAL__FSYNC", "each").start();
    let clients: Vec<_> = (0..8).map(|_| caller(&app, "ann")).collect();
    run(join_all(clients.iter().map(|client| serve(client, 10))));
    assert_eq!(charges(&app.wait_for_postings(160), "ann").len(), 160);
}

async fn code(client: &Client, marker: &str) -> (u16, Value) {
    let mut response = complete(client, &chat("mock/chat", marker)).await;
    let body: Value = response.json().await.unwrap();
    (response.status, body["error"]["code"].clone())
}

/// Asks until the service is as ready as that, and returns what it says of the journal.
async fn journal_when(app: &TestApp, status: u16) -> Value {
    loop {
        let mut ready = app.anonymous().get("/readyz").await.unwrap();
        let body: Value = ready.json().await.unwrap();
        if ready.status == status {
            let all = body["dependencies"].as_array().unwrap();
            return all.iter().find(|entry| entry["name"] == "journal").unwrap().clone();
        }
    }
}

#[test]
fn out_of_reach_streams_end_with_an_error_and_service_resumes() {
    let mut app = TestApp::on(Database::Sqlite).start();
    app.unbalanced();
    let journal = Path::new(app.variable("HNE_DATA_DIR")).join("journal");
    let aside = journal.with_file_name("aside");
    app.cli(&["plan", "set", "small", "basic", "--window", "day", "--requests", &(HELD + 1).to_string()]);
    app.user("held", "small");
    let held = caller(&app, "held");
    run(async {
        serve(&caller(&app, "before"), 4).await;
        let body = chat("mock/chat+hold-after-2", "held");
        let streams: Vec<_> = join_all((0..HELD).map(|_| stream(&held, &body))).await;
        assert!(streams.iter().all(|stream| stream.status == 200));
        fs::rename(&journal, &aside).unwrap();
        fs::write(&journal, "in the way").unwrap();
        let said = journal_when(&app, 503).await;
        assert_eq!((&said["ok"], &said["required"]), (&json!(false), &json!(true)), "{said}");
        assert_eq!(code(&held, "refused").await, (503, json!("ledger_unavailable")));
        app.mock.release("");
        for mut stream in streams {
            let frames = stream.frames().await.unwrap();
            assert_eq!(last_error(&frames), "ledger_unavailable");
        }
        fs::remove_file(&journal).unwrap();
        assert_eq!(journal_when(&app, 200).await["ok"], true);
        // What wasn't recorded isn't used up.
        let usage: Value = held.get("/api/usage").await.unwrap().json().await.unwrap();
        let requests = &usage["classes"][0]["requests"];
        assert_eq!((&requests["used"], &requests["reserved"]), (&json!(0), &json!(0)), "{usage}");
        serve(&held, HELD / 2).await;
        serve(&caller(&app, "after"), 4).await;
    });
    // What was out of reach is drained when it is back.
    for store in fs::read_dir(&aside).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        for lost in fs::read_dir(store.path()).unwrap().map(Result::unwrap) {
            fs::rename(lost.path(), journal.join(store.file_name()).join(lost.file_name())).unwrap();
        }
    }
    let rows = app.wait_for_postings(8 + HELD + HELD + 8);
    assert_eq!((charges(&rows, "before").len(), charges(&rows, "after").len()), (8, 8));
    let held = charges(&rows, "held");
    let (lost, served) = held.split_at(HELD);
    assert_eq!(lost, [Charge::nothing("interrupted"); HELD]);
    assert!(served.iter().all(|charge| charge.outcome == "completed"));
    assert_eq!(app.stop(), 0);
}

/// How many bytes a folder's files have.
fn bytes_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| if entry.path().is_dir() { bytes_of(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

#[test]
fn a_full_journal_refuses_until_the_database_is_back() {
    const MOST: u64 = 1 << 20;
    let server = Postgres::start();
    let app = TestApp::on(Database::Postgres)
        .losing(&server, "300ms")
        .env("HNE__JOURNAL__MAX_BYTES", MOST.to_string())
        .env("HNE__JOURNAL__SEGMENT_BYTES", (64 << 10).to_string())
        .start();
    let journal = Path::new(app.variable("HNE_DATA_DIR")).join("journal");
    let clients = vec![app.client("ann"); 16];
    let served = run(async {
        app.wait_for_changes().await;
        for client in &clients {
            serve(client, 1).await;
        }
        server.kill();
        let until_refused = async |client: &Client| {
            let mut served = 0;
            loop {
                match code(client, "more").await {
                    (200, _) => served += 1,
                    refused => {
                        assert_eq!(refused, (503, json!("ledger_unavailable")));
                        // Segments this small may be full before the next one is made.
                        if bytes_of(&journal) >= MOST {
                            return served;
                        }
                    }
                }
            }
        };
        let served: usize = join_all(clients.iter().map(until_refused)).await.into_iter().sum();
        assert!(served > 2_000, "{served} took 1 MiB");
        server.restart();
        let mut again = 0;
        while again < 100 {
            again += usize::from(code(&clients[0], "again").await.0 == 200);
        }
        served + again + clients.len() * 2
    });
    assert_eq!(app.wait_for_postings(served).len(), served);
}
