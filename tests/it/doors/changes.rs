//! Changes made by the command line beside running servers hold within a second, on every instance, whatever Redis says.

use std::time::Duration;

use hne_load::client::{Client, Request};
use serde_json::{Value, json};

use super::{holding, post, until_of, valid};
use crate::harness::{
    app::{Database, TestApp, chat, now, run, token},
    servers,
};

/// Within this a change holds.
const PROMISED: Duration = Duration::from_secs(1);
/// What a machine adds that runs other tests beside this one.
const BUSY: Duration = Duration::from_secs(2);

/// Makes a change and measures on both instances how long after it the request is answered like that.
fn holds(app: &TestApp, instances: &[Client], change: &[&str], request: &Request, status: u16) {
    app.cli(change);
    let started = hne_load::clock::now();
    run(async {
        for instance in instances {
            let before = started.elapsed();
            let took = before + until_of(instance, request, status).await;
            println!("{} {}: {status} after {} ms", change[0], change[1], took.as_millis());
            assert!(took < PROMISED + BUSY, "{change:?}: {took:?}");
        }
    });
}

fn usage(token: &str) -> Request {
    Request::get("/api/usage").bearer(token)
}

/// Two instances on one database and one Redis, on which a request of ann's is answered like that.
fn two() -> (TestApp, Vec<Client>) {
    let mut app = TestApp::on(Database::Postgres).redis().start();
    let instances = vec![app.anonymous(), app.second()];
    (app, instances)
}

fn warm(instances: &[Client], request: &Request, status: u16) {
    run(async {
        for instance in instances {
            for _ in 0..4 {
                assert_eq!(instance.send(request).await.unwrap().status, status);
            }
        }
    });
}

#[test]
fn a_user_s_changes_hold_everywhere_within_a_second() {
    let (app, instances) = two();
    app.user("ann", "default");
    app.cli(&["plan", "set", "other", "premium", "--unlimited"]);
    let ann = holding("ann");
    warm(&instances, &usage(&ann), 200);
    holds(&app, &instances, &["user", "disable", "ann"], &usage(&ann), 401);
    holds(&app, &instances, &["user", "add", "ann"], &usage(&ann), 200);

    let report = Request::get("/api/admin/performance").bearer(&ann);
    warm(&instances, &report, 403);
    holds(&app, &instances, &["user", "add", "ann", "--role", "admin"], &report, 200);
    holds(&app, &instances, &["user", "add", "ann", "--role", "user"], &report, 403);

    let chat = post(&valid()).bearer(&ann);
    holds(&app, &instances, &["user", "add", "ann", "--plan", "other"], &chat, 403);
    holds(&app, &instances, &["user", "add", "ann", "--plan", "default"], &chat, 200);
    holds(&app, &instances, &["plan", "set", "default", "basic", "--requests", "0"], &chat, 429);
    holds(&app, &instances, &["plan", "set", "default", "basic", "--unlimited"], &chat, 200);
}

/// Ann is disabled in the database while these are told; she is let in nowhere a second later.
fn holds_when_told(changes: &str) {
    let (app, instances) = two();
    app.user("ann", "default");
    for _ in 0..3 {
        app.cli(&["plan", "set", "other", "premium", "--unlimited"]);
    }
    let ann = holding("ann");
    warm(&instances, &usage(&ann), 200);
    run(app.wait_for_changes());
    let disable = "UPDATE users SET disabled = true WHERE name = 'ann'";
    servers::psql(app.variable("DATABASE_URL"), &format!("BEGIN; {disable}; {changes}; COMMIT"));
    holds(&app, &instances, &["user", "list"], &usage(&ann), 401);
}

/// As with a backup that was made three changes ago.
#[test]
fn changes_hold_in_a_database_that_was_put_back() {
    holds_when_told(
        "DELETE FROM changes WHERE seq > (SELECT seq - 3 FROM change_counter);
         INSERT INTO changes (seq, kind, subject, at) SELECT seq - place, 0, 'ann', extract(epoch FROM now()) * 1000000
         FROM change_counter, generate_series(0, 2) place",
    );
}

/// A newer version may run beside this one.
#[test]
fn changes_hold_that_can_not_be_read() {
    holds_when_told(
        "UPDATE change_counter SET seq = seq + 1;
         INSERT INTO changes (seq, kind, subject, at) SELECT seq, 9, 'ann', extract(epoch FROM now()) * 1000000
         FROM change_counter",
    );
}

#[test]
fn tokens_and_keys_that_are_revoked_hold_nowhere_after_a_second() {
    let (app, instances) = two();
    app.user("ann", "default");
    let revoked = token(&json!({"sub": "ann", "jti": "1", "exp": now() + 3_600}));
    warm(&instances, &usage(&revoked), 200);
    holds(&app, &instances, &["token", "revoke", &revoked], &usage(&revoked), 401);
    let made = app.cli(&["key", "create", "ann"]);
    let key = made["key"].as_str().unwrap();
    // A new key is looked up before it is refused.
    warm(&instances, &usage(key), 200);
    holds(&app, &instances, &["key", "revoke", made["id"].as_str().unwrap()], &usage(key), 401);
    warm(&instances, &usage(&holding("ann")), 200);
}

#[test]
fn a_token_is_revoked_however_it_is_written() {
    let app = TestApp::on(Database::Sqlite).start();
    let instances = [app.anonymous()];
    app.user("ann", "default");
    let until = |jti: &str, seconds: f64| token(&json!({"sub": "ann", "jti": jti, "exp": seconds}));
    let end = f64::from(u32::try_from(now()).unwrap() + 3_600);
    for (token, written) in [
        // As RFC 7519 allows, and as many signers do.
        (until("1", end + 0.5), "TOKEN"),
        (until("2", end), "TOKEN"),
        // As it is copied out of a header.
        (until("3", end), "Bearer TOKEN"),
        (until("4", end), " bearer  TOKEN\n"),
        (until("5", end), "\tTOKEN "),
    ] {
        warm(&instances, &usage(&token), 200);
        holds(&app, &instances, &["token", "revoke", &written.replace("TOKEN", &token)], &usage(&token), 401);
    }
}

#[test]
fn a_plan_is_looked_up_before_it_is_refused() {
    let (app, instances) = two();
    app.cli(&["plan", "set", "new-plan", "basic", "--unlimited"]);
    app.user("zoe", "new-plan");
    let request = post(&valid()).bearer(&holding("zoe"));
    warm(&instances, &request, 200);
}

#[test]
fn a_plan_is_looked_up_before_its_users_are_shown_nothing() {
    let app = TestApp::on(Database::Sqlite).start();
    app.cli(&["model", "add", "a-model", "--class", "basic", "--provider", "openrouter"]);
    for (plan, path, list) in [("one", "/api/usage", "classes"), ("two", "/v1/models", "data")] {
        // The second time, the catalog that was read for the change isn't new any more.
        run(app.wait_for_changes());
        run(app.wait_for_changes());
        app.cli(&["plan", "set", plan, "basic", "--unlimited"]);
        app.user(plan, plan);
        let client = app.anonymous().bearer(&holding(plan));
        let shown = run(async { client.get(path).await.unwrap().json().await.unwrap() });
        assert_eq!(shown[list].as_array().unwrap().len(), 1, "{path}: {shown}");
        assert!(shown.get("plan").is_none_or(|shown| shown == plan), "{path}: {shown}");
    }
}

#[test]
fn a_model_is_looked_up_before_it_is_refused() {
    let (app, instances) = two();
    let name = "mock/chat+frames-2";
    let request = post(&chat("fresh", "a")).bearer(&holding("ann"));
    warm(&instances, &usage(&holding("ann")), 200);
    app.cli(&["model", "add", "fresh", "--class", "basic", "--provider", "openrouter", "--upstream-model", name]);
    // At once, and not within a second.
    warm(&instances, &request, 200);
    let shown = Request::get("/v1/models/fresh").bearer(&holding("ann"));
    warm(&instances, &shown, 200);
    holds(&app, &instances, &["model", "remove", "fresh"], &request, 404);
}

/// Asks the tests' Redis.
fn redis(command: &[&str]) -> Option<String> {
    let client = redis::Client::open(servers::redis().url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).unwrap()
}

/// Waits until a key is there; the service writes behind its answers.
fn remembered(key: &str) -> String {
    let started = hne_load::clock::now();
    loop {
        if let Some(value) = redis(&["GET", key]) {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{key} never came");
    }
}

/// A backup is made; then ann becomes an administrator and gets a key. The backup is put back, and so many changes are
/// made before a cold instance is asked: Redis still knows what was.
fn what_redis_knows_of_a_lost_future_is_worth_nothing(changes: usize) {
    let mut app = TestApp::on(Database::Postgres).redis().start();
    app.user("ann", "default");
    run(app.wait_for_changes());
    let url = app.variable("DATABASE_URL").to_owned();
    servers::psql(&url, BACK_UP);
    app.cli(&["user", "add", "ann", "--role", "admin"]);
    let made = app.cli(&["key", "create", "ann"]);
    let (ann, key) = (holding("ann"), made["key"].as_str().unwrap());
    let report = Request::get("/api/admin/performance").bearer(&ann);
    let first = [app.anonymous()];
    run(async { until_of(&first[0], &report, 200).await });
    warm(&first, &usage(key), 200);
    let prefix = app.variable("HNE__REDIS__KEY_PREFIX").to_owned();
    remembered(&format!("{prefix}key:auth:{}", actors::domain::TokenHash::of(key).to_hex()));
    assert!(remembered(&format!("{prefix}user:auth:ann")).contains("admin"));
    run(app.wait_for_changes());
    servers::psql(&url, PUT_BACK);
    for number in 0..changes {
        app.user(&format!("other{number}"), "default");
    }
    let second = app.second();
    run(async {
        assert_eq!(second.send(&report).await.unwrap().status, 403);
        assert_eq!(second.send(&usage(key)).await.unwrap().status, 401);
        // The one that ran on hears of it by its next poll.
        until_of(&first[0], &report, 403).await;
        until_of(&first[0], &usage(key), 401).await;
    });
}

const BACK_UP: &str = "CREATE SCHEMA backup;
    CREATE TABLE backup.users AS SELECT * FROM users;
    CREATE TABLE backup.changes AS SELECT * FROM changes;
    CREATE TABLE backup.change_counter AS SELECT * FROM change_counter";
const PUT_BACK: &str = "BEGIN;
    UPDATE users SET role = old.role, version = old.version FROM backup.users old WHERE old.id = users.id;
    DELETE FROM api_keys;
    DELETE FROM changes;
    INSERT INTO changes SELECT * FROM backup.changes;
    UPDATE change_counter SET seq = (SELECT seq FROM backup.change_counter);
    COMMIT";

#[test]
fn a_database_that_was_put_back_is_believed_and_not_redis() {
    what_redis_knows_of_a_lost_future_is_worth_nothing(0);
}

#[test]
fn so_is_one_whose_changes_have_caught_up() {
    what_redis_knows_of_a_lost_future_is_worth_nothing(5);
}

#[test]
fn a_stale_redis_never_lets_anybody_in() {
    let mut app = TestApp::on(Database::Postgres).redis().start();
    app.user("ann", "default");
    app.user("bob", "default");
    let made = app.cli(&["key", "create", "ann"]);
    let key = made["key"].as_str().unwrap();
    let (ann, bob) = (holding("ann"), holding("bob"));
    let first = [app.anonymous()];
    for token in [&ann, &bob, key] {
        warm(&first, &usage(token), 200);
    }
    let prefix = app.variable("HNE__REDIS__KEY_PREFIX").to_owned();
    let hash = actors::domain::TokenHash::of(key).to_hex();
    let names =
        [format!("{prefix}user:auth:ann"), format!("{prefix}user:auth:bob"), format!("{prefix}key:auth:{hash}")];
    let copies = names.clone().map(|name| remembered(&name));
    let copy: Value = serde_json::from_str(&copies[0]).unwrap();
    assert_eq!(copy["disabled"], false, "{copy}");
    app.cli(&["key", "revoke", made["id"].as_str().unwrap()]);
    app.cli(&["user", "disable", "ann"]);
    app.cli(&["plan", "set", "other", "basic", "--unlimited"]);
    app.user("bob", "other");
    run(async {
        until_of(&first[0], &usage(&ann), 401).await;
        until_of(&first[0], &usage(key), 401).await;
    });
    // As they would stand there if a late write had brought them back; a cold instance reads them.
    let stale = || {
        for (name, copy) in names.iter().zip(&copies) {
            redis(&["SET", name, copy]);
        }
    };
    stale();
    let second = app.second();
    stale();
    run(async {
        for instance in [&second, &first[0]] {
            assert_eq!(instance.send(&usage(&ann)).await.unwrap().status, 401);
            assert_eq!(instance.send(&usage(key)).await.unwrap().status, 401);
        }
        let mut response = second.send(&usage(&bob)).await.unwrap();
        assert_eq!(response.json().await.unwrap()["plan"], "other");
    });
}
