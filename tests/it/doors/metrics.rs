//! `/metrics`: every family moves when what it counts happens.

use std::collections::BTreeSet;

use hasnot_engine::token::Algorithm;
use hne_load::{client::Request, clock};
use serde_json::json;
use tokio::task::JoinSet;

use super::{holding, ops::samples, post, valid};
use crate::{
    harness::{
        app::{DEADLINE, Database, TestApp, chat, complete, now, run, stream},
        servers,
    },
    token::signer::Signer,
};

/// What no test can make happen from outside, each with the reason. The engine's own tests count it.
const UNSEEN: [&str; 5] = [
    // Needs several instances near a limit: the proof of the shared limit makes them.
    "hne_lease_recalls_total",
    // Needs a crash: the proofs of crashes make them.
    "hne_recovered_journals_total",
    // Needs a provider that charges more than it was allowed to.
    "hne_overage_postings_total",
    // Needs more failures than it takes to open a breaker: the tests of the retry budget make them.
    "hne_refused_retries_total",
    // Only where Stats can't keep up with thousands of requests in half a second.
    "hne_dropped_observations_total",
];

/// Does a little of everything that is counted; returns what moved while a stream ran.
async fn live(app: &TestApp, round: usize) -> BTreeSet<String> {
    let client = app.anonymous().bearer(&holding("ann"));
    let model = format!("mock/{round}+hold-after-1+frames-3+cost-0.001");
    let mut held = stream(&client, &chat(&model, "held")).await;
    while held.frame().await.unwrap().unwrap().is_comment() {}
    let (_, moved) = seen(app).await;
    app.mock.release(&model);
    held.frames().await.unwrap();
    for (model, status) in [("falls", 200), ("mock/chat+status-500", 502), ("dear", 403)] {
        let mut response = complete(&client, &chat(model, "hello")).await;
        assert_eq!((response.status, response.text().await.unwrap().is_empty()), (status, false), "{model}");
    }
    // All of them are strangers at first, and each token is looked up once.
    let mut crowd = JoinSet::new();
    let request = Request::get("/v1/models").bearer(&holding(&format!("stranger-{round}")));
    for _ in 0..16 {
        let (anonymous, request) = (app.anonymous(), request.clone());
        crowd.spawn(async move { anonymous.send(&request).await.unwrap().status });
    }
    assert!(crowd.join_all().await.iter().all(|status| *status == 200));
    moved
}

/// Returns the families, and those of them in which something is not 0.
async fn seen(app: &TestApp) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned);
    let families: BTreeSet<String> = families.collect();
    let moved = samples(&text).into_iter().filter(|(_, value)| *value > 0.0).map(|(name, _)| name);
    let moved: BTreeSet<String> = moved.map(|name| name.split('{').next().unwrap().to_owned()).collect();
    let has_moved = |family: &String| moved.iter().any(|name| name.strip_suffix("_count").unwrap_or(name) == family);
    let moved = families.iter().filter(|family| has_moved(family)).cloned().collect();
    (families, moved)
}

#[test]
fn every_family_moves() {
    let app = TestApp::on(Database::Postgres).redis().env("HNE__LEDGER__FLUSH_INTERVAL", "1s");
    let app = app.env("HNE__PROVIDERS__OPENROUTER__BREAKER_MIN_ATTEMPTS", "2").start();
    app.cli(&["plan", "set", "small", "basic", "--window", "day", "--requests", "100000"]);
    app.user("ann", "small");
    let openrouter = ["--provider", "openrouter", "--upstream-model"];
    let dear = [&["model", "add", "dear", "--class", "premium"][..], &openrouter, &["mock/dear"]].concat();
    let stands = [&["model", "add", "stands", "--class", "basic"][..], &openrouter, &["mock/stands"]].concat();
    let falls = [&["model", "add", "falls", "--class", "basic"][..], &openrouter, &["mock/falls+status-500"]].concat();
    app.cli(&dear);
    app.cli(&stands);
    app.cli(&[&falls[..], &["--fallback", "stands"]].concat());
    super::settle(&app);
    run(async {
        let (started, mut moved) = (clock::now(), BTreeSet::new());
        for round in 0.. {
            moved.extend(live(&app, round).await);
            // What is sampled comes every half second: between two flushes something waits.
            let (families, more) = seen(&app).await;
            moved.extend(more);
            let still: Vec<_> = families.difference(&moved).filter(|name| !UNSEEN.contains(&name.as_str())).collect();
            if still.is_empty() {
                assert!(families.len() > 30, "{families:?}");
                break;
            }
            assert!(started.elapsed() < DEADLINE, "never moved: {still:?}");
        }
    });
}

#[test]
fn readings_of_published_keys_are_counted() {
    let signer = Signer::new(Algorithm::EdDsa);
    let app = |url: String| {
        let app = TestApp::on(Database::Sqlite).env("JWT_SECRET", "").env("JWT_ALGORITHM", "EdDSA");
        app.env("JWT_JWKS_URL", url).start()
    };
    let fine = app(servers::publish(0, json!({"keys": [signer.jwk("one")]}).to_string()));
    let away = app("http://127.0.0.1:1/keys".to_owned());
    let bearer = signer.sign_as("one", &json!({"sub": "ann", "exp": now() + 3_600}));
    run(async {
        let readings = async |app: &TestApp| {
            let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
            let of = |ok: bool| samples(&text)[&format!("hne_reloads_total{{ok=\"{ok}\",what=\"keys\"}}")].round();
            (format!("{}", of(true)), format!("{}", of(false)))
        };
        assert_eq!(readings(&fine).await, ("1".to_owned(), "0".to_owned()), "read at start");
        assert_eq!(readings(&away).await, ("0".to_owned(), "1".to_owned()));
        let request = post(&valid()).bearer(&bearer);
        assert_eq!(fine.anonymous().send(&request).await.unwrap().status, 200);
        assert_eq!(away.anonymous().send(&request).await.unwrap().status, 503, "nobody knows whether it is good");
    });
}
