//! What operators do to the books from the command line.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Stdio},
};

use hne_load::client::Client;
use serde_json::{Value, json};

use super::{
    commands::keys,
    world::{World, free_port},
};
use crate::harness::app::{Database, chat, complete, run, stream};

const DEAD: &str = "0192d1a6-7f7e-4a3c-9d57-000000000001";
const ALIVE: &str = "0192d1a6-7f7e-4a3c-9d57-000000000002";

/// Both databases, each with the user `ann`, who may do nothing but 5 `basic` requests a day.
fn with_ann(test: fn(&World)) {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        world.json(&["plan", "set", "gold", "basic", "--requests", "5"]);
        world.json(&["user", "add", "ann", "--plan", "gold"]);
        test(&world);
    }
}

/// Two instances, of which one was never seen again, each with something leased of ann's day in 2020.
fn lease(world: &World) {
    for (instance, heartbeat, requests) in [(DEAD, 1_000_000, 3), (ALIVE, 9_000_000_000_000_000_i64, 1)] {
        world.execute(&format!(
            "INSERT INTO instances (id, process, enrolled_at, heartbeat_at)
             VALUES ('{instance}', '{instance}', 1000000, {heartbeat})"
        ));
        world.execute(&format!(
            "INSERT INTO leases (user_id, class_id, window_kind, window_start, instance, requests, tokens,
                 cost_nanodollars, exchange, granted_requests, granted_tokens, granted_cost_nanodollars, obeyed)
             VALUES (1, 1, 0, 1577836800, '{instance}', {requests}, 20, 300, '{instance}', 0, 0, 0, 7)"
        ));
    }
}

#[test]
fn instances_are_inspected_and_written_off() {
    with_ann(|world| {
        let nothing = world.json(&["ledger", "inspect"]);
        assert_eq!(keys(&nothing), ["files", "instances", "journals", "leases"]);
        world.refused(&["ledger", "write-off", DEAD], 64);
        world.refused(&["ledger", "write-off", "garbage"], 64);
        lease(world);
        let found = world.json(&["ledger", "inspect"]);
        let of = |list: &str, key: &str, id: &str| -> Value {
            found[list].as_array().unwrap().iter().find(|row| row[key] == id).unwrap().clone()
        };
        let dead = of("instances", "id", DEAD);
        assert_eq!(keys(&dead), ["enrolled_at", "heartbeat_age_seconds", "heartbeat_at", "id", "written_off_at"]);
        assert_eq!((&dead["heartbeat_at"], &dead["written_off_at"]), (&json!("1970-01-01T00:00:01Z"), &Value::Null));
        assert_eq!(
            of("leases", "instance", DEAD),
            json!({
                "instance": DEAD, "user": "ann", "class": "basic", "window": "day", "start": "2020-01-01T00:00:00Z",
                "requests": 3, "tokens": 20, "cost_nanodollars": 300, "obeyed": 7,
            })
        );
        let text = world.run(&["ledger", "inspect"]).stdout;
        assert!(text.contains(DEAD) && text.contains("journals") && text.contains("ann"), "{text}");

        let why = world.refused(&["ledger", "write-off", ALIVE], 64);
        assert!(why.contains("10 minutes"), "{why}");
        let done = world.json(&["ledger", "write-off", DEAD]);
        assert_eq!(keys(&done), ["at", "freed", "instance", "leases", "operator"]);
        assert_eq!(done["freed"], json!({"requests": 3, "tokens": 20, "cost_nanodollars": 300}));
        assert!(done["operator"].is_string() && done["leases"] == 1, "{done}");
        let after = world.json(&["ledger", "inspect"]);
        assert_eq!((after["leases"].as_array().unwrap().len(), &after["leases"][0]["instance"]), (1, &json!(ALIVE)));
        let text = world.run(&["ledger", "write-off", DEAD]).stdout;
        assert!(text.contains("Its 0 leases"), "a second time frees nothing: {text}");
    });
}

#[test]
fn what_a_crash_has_left_is_inspected_and_recovered() {
    let world = World::on(Database::Sqlite).env("HNE__LEDGER__FLUSH_INTERVAL", "1m").env("HNE__SERVER__WORKERS", "1");
    let mut service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        for _ in 0..3 {
            assert_eq!(complete(&client, &chat("sim/basic", "hello")).await.status, 200);
        }
        let mut running = stream(&client, &chat("sim/basic", "hello")).await;
        while running.frame().await.unwrap().unwrap().is_comment() {}
        let left = world.json(&["ledger", "inspect"]);
        let files = &left["files"][0];
        assert_eq!((&files["unapplied_postings"], &files["open_reservations"]), (&json!(3), &json!(1)), "{left}");
        assert!(files["bytes"].as_u64().unwrap() >= 8 << 20 && left["journals"] == json!([]), "{left}");
        service.process.signal("KILL");
        assert!(running.frames().await.is_err());
    });
    service = world.serve();
    assert_eq!(service.stop("TERM").0.code, 0);
    let after = world.json(&["ledger", "inspect"]);
    for files in after["files"].as_array().unwrap() {
        assert_eq!((&files["unapplied_postings"], &files["open_reservations"]), (&json!(0), &json!(0)), "{after}");
    }
    assert!(after["journals"].as_array().unwrap().iter().all(|journal| journal["closed_at"].is_string()), "{after}");
    let proof = world.json(&["ledger", "verify"]);
    assert_eq!((&proof["postings"], &proof["drift"]), (&json!(4), &json!(0)));
    assert_eq!(world.json(&["usage", "show", "ann"])["classes"][0]["requests"]["used"], 3);
}

/// Holds a lock on the rows until it is dropped, as a long report in the wrong isolation would.
struct RowsLocked(std::process::Child);

impl RowsLocked {
    fn take(url: &str) -> Self {
        let mut psql =
            Command::new("psql").args(["-XqAt", url]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(psql.stdin.as_mut().unwrap(), "BEGIN; LOCK TABLE postings; SELECT 'locked';").unwrap();
        let mut line = String::new();
        BufReader::new(psql.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Self(psql)
    }
}

impl Drop for RowsLocked {
    fn drop(&mut self) {
        // The end of its input ends it, and the end of its connection the transaction.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Makes a world where a crash has left a posting, and a client of where it serves.
fn crashed() -> (World, Client) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let world =
        World::on(Database::Postgres).env("HNE__LEDGER__FLUSH_INTERVAL", "1m").env("LISTEN", address.to_string());
    let service = world.serve();
    let client = service.client(&world, "ann");
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    service.process.signal("KILL");
    (world, client)
}

/// Waits until it listens, and returns what it says of its readiness.
async fn readiness(client: &Client) -> (u16, Value) {
    loop {
        match client.get("/readyz").await {
            Ok(mut response) => break (response.status, response.json().await.unwrap()["status"].take()),
            Err(_not_listening_yet) => tokio::task::yield_now().await,
        }
    }
}

#[test]
fn nothing_is_served_before_what_a_crash_has_left_is_in_the_books() {
    let (world, client) = crashed();
    let locked = RowsLocked::take(&world.database_url());
    let process = world.spawn(&["serve"]);
    run(async {
        assert_eq!(readiness(&client).await, (503, json!("recovering")));
        let mut refused = complete(&client, &chat("sim/basic", "hello")).await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        assert_eq!(refused.json().await.unwrap()["error"]["code"], "ledger_unavailable");
        assert_eq!(client.get("/healthz").await.unwrap().status, 200);
        drop(locked);
        while readiness(&client).await.0 != 200 {}
        assert_eq!(complete(&client, &chat("sim/basic", "hello")).await.status, 200);
    });
    process.signal("TERM");
    assert_eq!(process.finish().code, 0);
    let proof = world.json(&["ledger", "verify"]);
    assert_eq!((&proof["postings"], &proof["drift"]), (&json!(2), &json!(0)));
}

#[test]
fn a_signal_ends_it_while_what_a_crash_has_left_is_recovered() {
    let (mut world, client) = crashed();
    world.set("HNE__SHUTDOWN__FLUSH_TIMEOUT", "100ms");
    let locked = RowsLocked::take(&world.database_url());
    let process = world.spawn(&["serve"]);
    assert_eq!(run(readiness(&client)), (503, json!("recovering")));
    process.signal("TERM");
    let done = process.finish();
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
    assert!(!done.stderr.contains("serving address="), "{done:?}");
    drop(locked);
    assert_eq!(world.serve().stop("TERM").0.code, 0);
    let proof = world.json(&["ledger", "verify"]);
    assert_eq!((&proof["postings"], &proof["drift"]), (&json!(1), &json!(0)));
}

#[test]
fn books_are_corrected() {
    with_ann(|world| {
        let adjust = ["ledger", "adjust", "ann", "basic"];
        let figures = ["--requests", "3", "--prompt-tokens", "20", "--completion-tokens", "7", "--cost-usd", "0.5"];
        let done = world.json(&[&adjust[..], &figures[..], &["--reason", " by hand "]].concat());
        assert_eq!(keys(&done), ["amounts", "at", "class", "posting", "reason", "user"]);
        let amounts =
            json!({"requests": 3, "prompt_tokens": 20, "completion_tokens": 7, "cost_nanodollars": 500_000_000});
        assert_eq!((&done["amounts"], &done["reason"]), (&amounts, &json!("by hand")));
        world.json(&[&adjust[..], &["--requests", "-1", "--cost-usd", "-0.25", "--reason", "too much"]].concat());
        let class = &world.json(&["usage", "show", "ann"])["classes"][0];
        assert_eq!(class["requests"], json!({"limit": 5, "used": 2, "reserved": 0, "remaining": 3}));
        assert_eq!((&class["tokens"]["used"], &class["cost_nanodollars"]["used"]), (&json!(27), &json!(250_000_000)));
        let proof = world.json(&["ledger", "verify"]);
        assert_eq!((&proof["postings"], &proof["drift"]), (&json!(2), &json!(0)));
        for bad in [
            &["--reason", "nothing"][..],
            &["--requests", "1"],
            &["--requests", "1", "--reason", " "],
            &["--requests", "much", "--reason", "r"],
            &["--cost-usd", "--1", "--reason", "r"],
        ] {
            world.refused(&[&adjust[..], bad].concat(), 64);
        }
        world.refused(&["ledger", "adjust", "nobody", "basic", "--requests", "1", "--reason", "r"], 64);
        world.refused(&["ledger", "adjust", "ann", "gold", "--requests", "1", "--reason", "r"], 64);
        assert_eq!(world.json(&["ledger", "verify"])["postings"], 2, "a refusal writes nothing");
    });
}

#[test]
fn leases_are_reserved_in_usage() {
    with_ann(|world| {
        lease(world);
        // Today, by the store's clock.
        world.execute("UPDATE leases SET window_start = (SELECT created_at FROM users) / 86400000000 * 86400");
        let class = &world.json(&["usage", "show", "ann"])["classes"][0];
        assert_eq!(class["requests"], json!({"limit": 5, "used": 0, "reserved": 4, "remaining": 1}));
        assert_eq!(class["tokens"]["reserved"], 40);
    });
}

#[test]
fn old_rows_become_sums() {
    with_ann(|world| {
        world.json(&["ledger", "adjust", "ann", "basic", "--requests", "2", "--reason", "today"]);
        // 2020-01-02T00:00:00Z less a microsecond.
        world.execute(&format!(
            "INSERT INTO postings (id, user_id, class_id, model_id, opened_at, settled_at, outcome, estimated, requests,
                 prompt_tokens, completion_tokens, cost_nanodollars)
             VALUES ('{DEAD}', 1, 1, 0, 1577923199999999, 1577923199999999, 0, false, 1, 2, 3, 4)"
        ));
        world.execute(
            "INSERT INTO usage_totals VALUES (1, 1, 0, 1577836800, 1, 2, 3, 4), (1, 1, 1, 1577836800, 1, 2, 3, 4)",
        );
        assert_eq!(world.json(&["ledger", "verify"])["drift"], 0);
        // Long silent, and left nothing.
        world.execute(&format!(
            "INSERT INTO instances VALUES ('{DEAD}', '{DEAD}', 1577836800000000, 1577836800000000, NULL)"
        ));
        let prune = |day: &str| world.json(&["ledger", "prune", "--before", day]);
        let dropped = |instances| json!({"revocations": 0, "journals": 0, "leases": 0, "instances": instances});
        let nothing = json!({"before": "2020-01-01T00:00:00Z", "pruned": 0, "dropped": dropped(0)});
        assert_eq!(prune("2020-01-01"), nothing);
        let pruned = prune("2020-01-02");
        assert_eq!((&pruned["pruned"], &pruned["dropped"]), (&json!(1), &dropped(1)));
        let proof = world.json(&["ledger", "verify"]);
        assert_eq!((&proof["postings"], &proof["checkpoints"], &proof["drift"]), (&json!(1), &json!(2), &json!(0)));
        world.execute("UPDATE usage_totals SET requests = requests + 1 WHERE window_start = 1577836800");
        let done = world.run(&["ledger", "verify", "--json"]);
        assert_eq!(done.code, 1, "{done:?}");
        assert_eq!(serde_json::from_str::<Value>(&done.stdout).unwrap()["drift"], 2);
        for bad in ["2999-01-01", "2020-02-30", "20200102", "2020-1-2", "yesterday"] {
            world.refused(&["ledger", "prune", "--before", bad], 64);
        }
        world.refused(&["ledger", "prune"], 64);
        assert!(world.run(&["ledger", "prune", "--before", "2020-01-02"]).stdout.starts_with("0 postings"));
    });
}
