//! Quota and rate, as callers meet them.

use std::time::Duration;

use hne_load::{client::Client, mock::Ending};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Charge, caller, charges, last_error, prompt_of};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, complete, run, stream};

fn plan(app: &TestApp, user: &str, limits: &[&str]) -> Client {
    app.cli(&[&["plan", "set", "small", "basic", "--window", "day"], limits].concat());
    app.user(user, "small");
    caller(app, user)
}

async fn usage(client: &Client) -> Value {
    client.get("/api/usage").await.unwrap().json().await.unwrap()["classes"][0].take()
}

/// Sends so many requests at once; returns each one's status and body.
async fn at_once(client: &Client, count: usize, body: &Value) -> Vec<(u16, String)> {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let (client, body) = (client.clone(), body.clone());
        requests.spawn(async move {
            let mut response = stream(&client, &body).await;
            (response.status, response.text().await.unwrap())
        });
    }
    requests.join_all().await
}

fn a_limit_is_exact(database: Database) {
    let app = TestApp::on(database).start();
    let client = plan(&app, "ann", &["--requests", "20"]);
    let held = "mock/chat+hold-head+prompt-5+completion-7";
    run(async {
        let body = chat(held, "crowd");
        let answers = at_once(&client, 100, &body);
        let release = async {
            app.mock.wait_for_totals(|totals| totals.open_streams == 20, DEADLINE).await.unwrap();
            // Whoever waits for the twenty keeps none of the others waiting.
            let now = usage(&client).await;
            assert_eq!((&now["requests"]["reserved"], &now["requests"]["remaining"]), (&json!(20), &json!(0)));
            app.mock.release(held);
        };
        let (answers, ()) = tokio::join!(answers, release);
        let refused: Vec<_> = answers.iter().filter(|(status, _)| *status == 429).collect();
        assert_eq!((answers.len() - refused.len(), refused.len()), (20, 80));
        for (_, body) in refused {
            let error = &serde_json::from_str::<Value>(body).unwrap()["error"];
            assert_eq!((&error["code"], &error["type"]), (&json!("insufficient_quota"), &json!("insufficient_quota")));
            assert_eq!(
                (&error["limit"], &error["remaining"], &error["class"], &error["window"]),
                (&json!(20), &json!(0), &json!("basic"), &json!("day"))
            );
            assert_eq!(error["used"].as_i64().unwrap() + error["reserved"].as_i64().unwrap(), 20);
        }
        let mut response = complete(&client, &chat("mock/chat", "late")).await;
        assert_eq!((response.status, response.header("x-should-retry")), (429, Some("false")));
        let error = response.json().await.unwrap();
        assert_eq!(
            (&error["error"]["used"], &error["error"]["resets_at"]),
            (&json!(20), &usage(&client).await["resets_at"])
        );
    });
    assert_eq!(charges(&app.wait_for_postings(20), "ann"), [Charge::reported("completed", 5, 7); 20]);
    assert_eq!(app.mock.totals().requests, 20);
}

#[test]
fn a_limit_is_exact_over_clients_and_workers_on_postgres() {
    a_limit_is_exact(Database::Postgres);
}

#[test]
fn a_limit_is_exact_over_clients_and_workers_on_sqlite() {
    a_limit_is_exact(Database::Sqlite);
}

#[test]
fn a_stream_is_cut_off_when_the_tokens_are_used_up() {
    let app = TestApp::on(Database::Sqlite).start();
    let body = chat("mock/chat+frames-60+hold-after-40", "cut");
    let limit = prompt_of(&body) + 20;
    let client = plan(&app, "ann", &["--tokens", &limit.to_string()]);
    run(async {
        let frames = stream(&client, &body).await.frames().await.unwrap();
        assert_eq!(last_error(&frames), "insufficient_quota");
        let error = frames.last().unwrap().error().unwrap();
        assert_eq!(
            (&error["metric"], &error["limit"], &error["remaining"]),
            (&json!("tokens"), &json!(limit), &json!(0))
        );
        // Two tokens a frame.
        assert!(frames.iter().filter(|frame| frame.content().is_some()).count() <= 10);
        assert_eq!(app.mock.wait_for_end("cut", DEADLINE).await.unwrap().ending, Ending::ClientGone);
        assert_eq!(complete(&client, &chat("mock/chat", "refused")).await.status, 429);
        assert_eq!(usage(&client).await["tokens"]["used"], limit);
    });
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::estimated("cut_off", &body, 20)]);
}

#[test]
fn a_whole_answer_is_charged_as_its_provider_says() {
    let limits = [["--tokens", "1000"], ["--cost-usd", "0.01"]];
    // Where the provider's figure of tokens is far above its cost, that decides.
    let usages = ["", "+usage-apart", "+usage-openrouter", "+usage-apart+cost-0.009", "+no-done"];
    for (limit, usage) in limits.iter().flat_map(|limit| usages.map(|usage| (limit, usage))) {
        let app = TestApp::on(Database::Sqlite).start();
        let model = ["model", "add", "dear", "--class", "basic", "--provider", "openrouter", "--output-price", "5"];
        let upstream = format!("mock/chat+prompt-5+completion-3000{usage}");
        app.cli(&[&model[..], &["--upstream-model", &upstream]].concat());
        let client = plan(&app, "ann", limit);
        let streamed = run(async {
            let frames = stream(&client, &chat("dear", "more")).await.frames().await.unwrap();
            complete(&plan(&app, "bob", limit), &chat("dear", "more")).await;
            frames
        });
        assert!(streamed.last().unwrap().is_done(), "{limit:?} {usage}: {streamed:?}");
        let rows = app.wait_for_postings(2);
        let cost = if usage.contains("cost") { 9_000_000 } else { 15_000_000 };
        for user in ["ann", "bob"] {
            let reported = Charge::reported("completed", 5, 3_000).costing(cost);
            assert_eq!(charges(&rows, user), [reported], "{limit:?} {usage}, {user}");
        }
    }
}

/// What has no ceiling isn't capped by what was reserved of it.
#[test]
fn a_stream_that_is_cut_off_is_charged_for_all_that_was_handed_over() {
    let mut body = chat("dear", "cut");
    // Far less than the answer has, or than there is money or are tokens for.
    body["max_tokens"] = 5.into();
    let tokens = (prompt_of(&body) + 20).to_string();
    for limit in [["--cost-usd", "0.02"], ["--tokens", tokens.as_str()]] {
        let app = TestApp::on(Database::Sqlite).start();
        let model = ["model", "add", "dear", "--class", "basic", "--provider", "openrouter", "--output-price", "1000"];
        app.cli(&[&model[..], &["--upstream-model", "mock/chat+frames-60+hold-after-40"]].concat());
        let client = plan(&app, "ann", &limit);
        let frames = run(async { stream(&client, &body).await.frames().await.unwrap() });
        assert_eq!(last_error(&frames), "insufficient_quota", "{limit:?}");
        let charge = charges(&app.wait_for_postings(1), "ann")[0];
        assert_eq!((charge.outcome, charge.cost), ("cut_off", 20_000_000), "{limit:?}");
        let handed_over = 2 * i64::try_from(frames.iter().filter(|frame| frame.content().is_some()).count()).unwrap();
        assert!((handed_over..=handed_over + 4).contains(&charge.tokens.1), "{limit:?}: {charge:?}, {handed_over}");
    }
}

#[test]
fn a_stream_is_cut_off_when_the_cost_is_used_up() {
    let app = TestApp::on(Database::Sqlite).start();
    let model = ["model", "add", "dear", "--class", "basic", "--provider", "openrouter", "--output-price", "1000"];
    app.cli(&[&model[..], &["--upstream-model", "mock/chat+frames-60+hold-after-40"]].concat());
    let body = chat("dear", "cut");
    // Twenty tokens at a thousandth of a dollar each.
    let client = plan(&app, "ann", &["--cost-usd", "0.02"]);
    run(async {
        let frames = stream(&client, &body).await.frames().await.unwrap();
        assert_eq!(last_error(&frames), "insufficient_quota");
        assert_eq!(frames.last().unwrap().error().unwrap()["metric"], "cost_nanodollars");
        assert_eq!(app.mock.wait_for_end("cut", DEADLINE).await.unwrap().ending, Ending::ClientGone);
        assert_eq!(complete(&client, &chat("mock/chat", "refused")).await.status, 429);
        assert_eq!(usage(&client).await["cost_nanodollars"]["used"], 20_000_000);
    });
    let charges = charges(&app.wait_for_postings(1), "ann");
    assert_eq!((charges[0].outcome, charges[0].cost, charges[0].estimated), ("cut_off", 20_000_000, true));
}

#[test]
fn a_model_without_a_price_is_served_under_a_limit_of_cost() {
    let app = TestApp::on(Database::Sqlite).start();
    let client = plan(&app, "ann", &["--cost-usd", "0.02"]);
    run(async {
        assert_eq!(complete(&client, &chat("mock/chat", "free")).await.status, 200);
    });
    app.wait_for_postings(1);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_and_a_running_request_holds_its_share() {
    let app = TestApp::on(Database::Sqlite).start();
    let held = "mock/chat+hold-head+prompt-3+completion-5";
    let mut body = chat(held, "held");
    body["max_tokens"] = 50.into();
    let client = plan(&app, "ann", &["--tokens", &(prompt_of(&body) + 55).to_string()]);
    run(async {
        let long = chat("mock/chat", &"x".repeat(400));
        assert_eq!(complete(&client, &long).await.status, 429);
        let first = at_once(&client, 1, &body);
        let meanwhile = async {
            app.mock.wait_for_totals(|totals| totals.open_streams == 1, DEADLINE).await.unwrap();
            assert_eq!(usage(&client).await["tokens"]["remaining"], 5);
            assert_eq!(complete(&client, &body).await.status, 429);
            app.mock.release(held);
        };
        tokio::join!(first, meanwhile);
        assert_eq!(usage(&client).await["tokens"]["remaining"], prompt_of(&body) + 55 - 8);
    });
    app.wait_for_postings(1);
}

#[test]
fn requests_a_minute_and_streams_at_once_are_limited() {
    let app = TestApp::on(Database::Sqlite).start();
    app.cli(&["plan", "set", "slow", "basic", "--unlimited"]);
    app.cli(&["plan", "rate", "slow", "--requests-per-minute", "5", "--concurrent-streams", "2"]);
    app.user("ann", "slow");
    let client = caller(&app, "ann");
    let held = "mock/chat+hold-head";
    run(async {
        let body = chat(held, "running");
        let running = at_once(&client, 2, &body);
        let meanwhile = async {
            app.mock.wait_for_totals(|totals| totals.open_streams == 2, DEADLINE).await.unwrap();
            let mut third = complete(&client, &chat("mock/chat", "third")).await;
            assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
            assert_eq!(third.json().await.unwrap()["error"]["code"], "rate_limit_exceeded");
            app.mock.release(held);
        };
        let (running, ()) = tokio::join!(running, meanwhile);
        assert!(running.iter().all(|(status, _)| *status == 200));
        for _ in 0..3 {
            assert_eq!(complete(&client, &chat("mock/chat", "paced")).await.status, 200);
        }
        let sixth = complete(&client, &chat("mock/chat", "sixth")).await;
        let wait: u64 = sixth.header("retry-after").unwrap().parse().unwrap();
        assert!(sixth.status == 429 && (1..=60).contains(&wait), "{wait}");
    });
    app.wait_for_postings(5);
}

#[test]
fn headers_usage_and_enforcement_agree_also_after_a_restart() {
    let mut app = TestApp::start();
    let client = plan(&app, "ann", &["--requests", "3", "--tokens", "100000"]);
    let body = chat("mock/chat+prompt-100+completion-20", "counted");
    run(async {
        for left in [2, 1] {
            let response = complete(&client, &body).await;
            assert_eq!(response.header("x-ratelimit-limit-requests"), Some("3"));
            assert_eq!(response.header("x-ratelimit-remaining-requests"), Some(left.to_string().as_str()));
            assert_eq!(response.header("x-ratelimit-limit-tokens"), Some("100000"));
            assert!(response.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
            assert_eq!(usage(&client).await["requests"]["remaining"], left);
        }
    });
    app.restart();
    let client = caller(&app, "ann");
    run(async {
        let now = usage(&client).await;
        assert_eq!((&now["requests"]["used"], &now["tokens"]["used"]), (&json!(2), &json!(240)));
        assert_eq!(complete(&client, &body).await.status, 200);
        assert_eq!(complete(&client, &body).await.status, 429);
    });
    app.wait_for_postings(3);
    let shown = app.cli(&["usage", "show", "ann"]);
    assert_eq!(shown["classes"][0]["requests"]["used"], 3, "{shown}");
    app.restart();
    run(async { assert_eq!(complete(&caller(&app, "ann"), &body).await.status, 429) });
}

#[test]
fn counts_survive_a_change_of_window() {
    let app = TestApp::on(Database::Sqlite).start();
    let client = plan(&app, "ann", &["--requests", "50"]);
    run(async {
        for window in ["month", "day", "month", "day"] {
            assert_eq!(complete(&client, &chat("mock/chat", "counted")).await.status, 200);
            app.cli(&["plan", "set", "small", "basic", "--window", window, "--requests", "50"]);
            while usage(&client).await["window"] != window {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(usage(&client).await["requests"]["used"], 4);
    });
    app.wait_for_postings(4);
}

#[test]
fn a_stream_that_outgrows_what_was_lent_goes_on_while_the_limit_has_more() {
    let mut app = TestApp::start();
    // What is cut off is charged by estimate.
    app.unbalanced();
    // One request is lent 960 tokens at most here, and its answer is counted as 6,000 before the provider says so.
    let client = plan(&app, "ann", &["--tokens", "10000"]);
    run(async {
        let mut body = chat("mock/chat+frames-60+bytes-400+prompt-5+completion-5500", "long");
        body["max_tokens"] = json!(10);
        let frames = stream(&client, &body).await.frames().await.unwrap();
        assert!(frames.last().unwrap().is_done(), "{:?}", frames.last());
        // The next one is cut off where the limit ends, 4,495 tokens on.
        let frames = stream(&client, &body).await.frames().await.unwrap();
        assert!(last_error(&frames).to_string().contains("insufficient_quota"));
    });
    let charges = charges(&app.wait_for_postings(2), "ann");
    assert_eq!(charges[0], Charge::reported("completed", 5, 5_500));
    let used = usage_of(&app, "ann");
    assert!((9_000..=10_000).contains(&used), "{used}");
}

fn usage_of(app: &TestApp, user: &str) -> i64 {
    app.cli(&["usage", "show", user])["classes"][0]["tokens"]["used"].as_i64().unwrap()
}

#[test]
fn a_lease_under_another_limit_goes_back_within_2_seconds() {
    let app = TestApp::start();
    let client = plan(&app, "ann", &["--requests", "1000"]);
    run(async { assert_eq!(complete(&client, &chat("mock/chat", "one")).await.status, 200) });
    app.wait_for_postings(1);
    let shown = || app.cli(&["usage", "show", "ann"])["classes"][0]["requests"].take();
    assert_eq!(shown(), json!({"limit": 1_000, "used": 1, "reserved": 63, "remaining": 936}));
    app.cli(&["plan", "set", "small", "basic", "--window", "day", "--requests", "3"]);
    let lowered = hne_load::clock::now();
    while shown() != json!({"limit": 3, "used": 1, "reserved": 0, "remaining": 2}) {
        assert!(lowered.elapsed() < Duration::from_secs(4), "{}", shown());
    }
    run(async {
        for status in [200, 200, 429] {
            assert_eq!(complete(&client, &chat("mock/chat", "more")).await.status, status);
        }
    });
}

/// Asks one after the other until it is refused, and returns how many were answered.
async fn until_refused(client: &Client, body: &Value) -> usize {
    for answered in 0..30 {
        let status = complete(client, body).await.status;
        if status != 200 {
            assert_eq!(status, 429);
            return answered;
        }
    }
    30
}

/// What a provider reports beyond a request's reserve isn't in the store until it is flushed; it would lend it once more.
#[test]
fn a_limit_is_passed_by_one_request_s_excess_at_most() {
    for (limit, model, most) in
        [(["--cost-usd", "1"], "mock/chat+cost-0.4", 3), (["--tokens", "1000"], "mock/chat+prompt-5+completion-395", 3)]
    {
        let app = TestApp::on(Database::Sqlite)
            .env("HNE__LEDGER__FLUSH_INTERVAL", "300ms")
            // Of a machine that does much else.
            .env("HNE__QUOTA__LEASE_WAIT", "30s")
            .start();
        let client = plan(&app, "ann", &limit);
        let mut body = chat(model, "excess");
        body["max_tokens"] = 1.into();
        assert_eq!(run(until_refused(&client, &body)), most, "{limit:?}");
        // And when the store has it all.
        app.wait_for_postings(most);
        assert_eq!(run(until_refused(&client, &body)), 0, "{limit:?}");
    }
}

#[test]
fn a_correction_shows_while_streams_run() {
    const HELD: &str = "mock/held+hold-after-1+prompt-5+completion-7";
    let app = TestApp::on(Database::Sqlite).start();
    let client = plan(&app, "ann", &["--requests", "10"]);
    run(async {
        let mut running = stream(&client, &chat(HELD, "running")).await;
        running.frame().await.unwrap();
        for _ in 0..9 {
            assert_eq!(complete(&client, &chat("mock/chat", "done")).await.status, 200);
        }
        app.wait_for_postings(9);
        assert_eq!(complete(&client, &chat("mock/chat", "refused")).await.status, 429);
        app.cli(&["ledger", "adjust", "ann", "basic", "--requests", "-5", "--reason", "excused"]);
        let well = async { while complete(&client, &chat("mock/chat", "again")).await.status != 200 {} };
        tokio::time::timeout(DEADLINE, well).await.unwrap();
        let requests = &usage(&client).await["requests"];
        assert_eq!(
            (&requests["used"], &requests["reserved"], &requests["remaining"]),
            (&json!(5), &json!(1), &json!(4))
        );
        app.mock.release(HELD);
        running.text().await.unwrap();
    });
}
