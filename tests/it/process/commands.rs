//! Every command beside a running server: the shapes that scripts rely on, and text that people can read.

use hne_load::client::Client;
use serde_json::{Value, json};

use super::world::{Serving, World};
use crate::harness::app::{Database, chat, complete, run};

/// Both databases, each with a server on it.
pub(super) fn beside_a_server(test: fn(&World, &Serving)) {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        let service = world.serve();
        test(&world, &service);
        let (done, _) = service.stop("TERM");
        assert_eq!(done.code, 0, "{done:?}");
    }
}

async fn status(client: &Client) -> u16 {
    client.get("/v1/models").await.unwrap().status
}

/// Asks until the answer is this status: changes hold within a second.
async fn becomes(client: &Client, expected: u16) {
    let started = hne_load::clock::now();
    while status(client).await != expected {
        assert!(started.elapsed().as_secs() < 5, "{expected} never came");
    }
}

pub(super) fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn tokens_are_issued_and_revoked() {
    beside_a_server(|world, service| {
        let issued = world.json(&["token", "issue", "--user", "ann", "--plan", "unlimited", "--ttl", "2h"]);
        assert_eq!(keys(&issued), ["expires_at", "role", "token", "user"]);
        assert_eq!((&issued["user"], &issued["role"]), (&json!("ann"), &json!("user")));
        let users = world.json(&["user", "list"]);
        assert_eq!(
            users["users"].as_array().unwrap().iter().find(|user| user["user"] == "ann").unwrap()["plan"],
            "unlimited"
        );
        world.json(&["token", "issue", "--user", "ann", "--plan", "default"]);
        assert_eq!(world.json(&["usage", "show", "ann"])["plan"], "unlimited", "a plan is for a new user");

        let token = issued["token"].as_str().unwrap();
        let client = service.anonymous().bearer(token);
        assert_eq!(run(status(&client)), 200);
        let revoked = world.json(&["token", "revoke", token]);
        assert_eq!(revoked["revoked"], true);
        run(becomes(&client, 401));

        let admin = world.json(&["token", "issue", "--user", "root", "--role", "admin"]);
        let admin = service.anonymous().bearer(admin["token"].as_str().unwrap());
        assert_eq!(run(async { admin.get("/api/admin/performance").await.unwrap().status }), 200);

        let (signed, signature) = token.rsplit_once('.').unwrap();
        let odd =
            [format!("x{token}"), format!("Basic {token}"), format!("{token}.e30"), format!("{signed}.={signature}")];
        for none in
            ["garbage", "a.b.c", "e30.e30.", "Bearer ", signed].into_iter().chain(odd.iter().map(String::as_str))
        {
            world.refused(&["token", "revoke", none], 64);
        }
        let foreign = crate::harness::app::token(&json!({"sub": "ann", "exp": 4_000_000_000_u32}));
        let refusal = world.refused(&["token", "revoke", &foreign], 64);
        assert!(refusal.contains("isn't signed with the key"), "{refusal}");
        world.refused(&["token", "issue", "--user", "eve", "--plan", "no-such-plan"], 64);
        world.refused(&["token", "issue"], 64);
        let text = world.run(&["token", "issue", "--user", "ann"]);
        assert_eq!((text.code, text.stdout.lines().count()), (0, 1), "a person gets the token alone: {text:?}");
    });
}

/// Runs the command that a sentence names between backticks.
fn do_as_told(world: &World, sentence: &str) -> Value {
    let command = sentence.split('`').nth(1).unwrap_or_else(|| panic!("no command: {sentence}"));
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!(words[0], "hasnot-engine", "{sentence}");
    world.json(&words[1..])
}

#[test]
fn a_token_comes_with_what_it_opens_and_what_was_not_done() {
    beside_a_server(|world, service| {
        world.json(&["user", "add", "root", "--role", "admin"]);
        let issued = world.json(&["token", "issue", "--user", "root"]);
        assert_eq!(issued["role"], "admin", "as the store has it");
        let admin = service.anonymous().bearer(issued["token"].as_str().unwrap());
        assert_eq!(run(async { admin.get("/api/admin/performance").await.unwrap().status }), 200);

        let issue = || world.run(&["token", "issue", "--user", "root", "--plan", "unlimited"]);
        let told = issue();
        assert!(told.code == 0 && told.stderr.contains("root has the plan default already"), "{told:?}");
        let changed = do_as_told(world, &told.stderr);
        assert_eq!((&changed["plan"], &changed["role"]), (&json!("unlimited"), &json!("admin")));
        assert_eq!(issue().stderr, "");

        world.json(&["user", "disable", "root"]);
        run(becomes(&admin, 401));
        let told = world.run(&["token", "issue", "--user", "root"]);
        assert!(told.code == 0 && told.stderr.contains("root is disabled, so the token is refused"), "{told:?}");
        let told = world.run(&["key", "create", "root"]);
        assert!(told.code == 0 && told.stderr.contains("root is disabled, so the key is refused"), "{told:?}");
        assert_eq!(do_as_told(world, &told.stderr), changed, "as it was");
        run(becomes(&admin, 200));
    });
}

#[test]
fn an_end_that_no_token_can_have_is_refused() {
    let world = World::on(Database::Sqlite);
    world.json(&["user", "add", "ann"]);
    for command in [&["token", "issue", "--user", "ann"][..], &["key", "create", "ann"]] {
        let said = world.refused(&[command, &["--ttl", "9000y"]].concat(), 64);
        assert!(said.contains("9999"), "{said}");
        let issued = world.json(&[command, &["--ttl", "7000y"]].concat());
        assert!(issued["expires_at"].as_str().unwrap().starts_with("90"), "{issued}");
    }
}

#[test]
fn users_are_added_disabled_and_listed() {
    beside_a_server(|world, service| {
        let added = world.json(&["user", "add", "bob"]);
        assert_eq!(added, json!({"user": "bob", "plan": "default", "role": "user", "disabled": false}));
        let changed = world.json(&["user", "add", "bob", "--plan", "unlimited", "--role", "admin"]);
        assert_eq!((&changed["plan"], &changed["role"]), (&json!("unlimited"), &json!("admin")));
        let client = service.client(world, "bob");
        run(becomes(&client, 200));
        assert_eq!(world.json(&["user", "disable", "bob"]), json!({"user": "bob", "disabled": true}));
        run(becomes(&client, 401));
        let listed = world.json(&["user", "list"]);
        let bob = listed["users"].as_array().unwrap().iter().find(|user| user["user"] == "bob").unwrap();
        assert_eq!(keys(bob), ["created_at", "disabled", "plan", "role", "user"]);
        assert_eq!(bob["disabled"], true);
        world.json(&["user", "add", "bob"]);
        run(becomes(&client, 200));
        world.refused(&["user", "disable", "nobody"], 64);
        world.refused(&["user", "add", "bob", "--plan", "no-such-plan"], 64);
        let text = world.run(&["user", "list"]).stdout;
        assert!(text.starts_with("user ") && text.contains("bob"), "{text}");
    });
}

#[test]
fn plans_are_set_and_listed() {
    beside_a_server(|world, _| {
        let set =
            world.json(&["plan", "set", "gold", "basic", "--window", "month", "--requests", "9", "--cost-usd", "1.5"]);
        let limits = json!({"requests": 9, "tokens": null, "cost_nanodollars": 1_500_000_000});
        assert_eq!(set, json!({"plan": "gold", "class": "basic", "window": "month", "limits": limits}));
        world.json(&["plan", "set", "gold", "basic", "--tokens", "5"]);
        world.json(&["plan", "set", "gold", "premium", "--unlimited"]);
        let rate = world.json(&["plan", "rate", "gold", "--requests-per-minute", "60", "--concurrent-streams", "3"]);
        assert_eq!(rate, json!({"plan": "gold", "requests_per_minute": 60, "concurrent_streams": 3}));
        let listed = world.json(&["plan", "list"]);
        let gold = listed["plans"].as_array().unwrap().iter().find(|plan| plan["plan"] == "gold").unwrap();
        assert_eq!((&gold["requests_per_minute"], &gold["open"]), (&json!(60), &json!(false)));
        let none = json!({"requests": null, "tokens": null, "cost_nanodollars": null});
        let tokens = json!({"requests": null, "tokens": 5, "cost_nanodollars": null});
        let lines = gold["lines"].as_array().unwrap();
        assert!(
            lines.contains(&json!({"class": "basic", "window": "day", "limits": tokens})),
            "setting replaces: {gold}"
        );
        assert!(lines.contains(&json!({"class": "premium", "window": "day", "limits": none})), "{gold}");
        for bad in [
            &["plan", "set", "gold", "basic"][..],
            &["plan", "set", "gold", "basic", "--unlimited", "--requests", "1"],
            &["plan", "set", "gold", "basic", "--window", "week", "--requests", "1"],
            &["plan", "set", "gold", "basic", "--requests", "-1"],
            &["plan", "set", "gold", "basic", "--cost-usd", "much"],
            &["plan", "set", "no good", "basic", "--unlimited"],
            &["plan", "rate", "no-such-plan", "--requests-per-minute", "1"],
        ] {
            world.refused(bad, 64);
        }
        let listed = world.run(&["plan", "list"]).stdout;
        assert!(listed.contains("gold"), "{listed}");
        assert!(!world.json(&["plan", "list"]).to_string().contains("no-such-plan"), "a refusal makes none");
    });
}

#[test]
fn models_are_added_removed_and_listed() {
    beside_a_server(|world, service| {
        let client = service.client(world, "ann");
        let add = ["model", "add", "own/small", "--class", "basic", "--provider", "simulator"];
        assert_eq!(world.json(&add), json!({"model": "own/small"}));
        let full = [
            "--input-price",
            "0.15",
            "--output-price",
            "0.6",
            "--context",
            "1000",
            "--max-output",
            "100",
            "--fallback",
            "sim/basic",
        ];
        world.json(&[&add[..], &full[..], &["--upstream-model", "x"]].concat());
        let listed = world.json(&["model", "list"]);
        let own = listed["models"].as_array().unwrap().iter().find(|model| model["model"] == "own/small").unwrap();
        assert_eq!(
            (&own["upstream_model"], &own["context"], &own["fallbacks"]),
            (&json!("x"), &json!(1000), &json!(["sim/basic"]))
        );
        let mentions = async |expected: bool| {
            let started = hne_load::clock::now();
            while client.get("/v1/models").await.unwrap().text().await.unwrap().contains("own/small") != expected {
                assert!(started.elapsed().as_secs() < 5, "it never became {expected}");
            }
        };
        run(mentions(true));
        assert_eq!(world.json(&["model", "remove", "own/small"]), json!({"model": "own/small", "removed": true}));
        run(mentions(false));
        world.refused(&["model", "remove", "own/small"], 64);
        world.refused(&["model", "add", "own/x", "--class", "basic", "--provider", "nobody"], 64);
        assert!(world.run(&["model", "list"]).stdout.contains("sim/basic"));
    });
}

#[test]
fn a_model_is_sent_by_its_own_name_and_falls_back_to_others() {
    let world = World::on(Database::Sqlite);
    let add = |rest: &[&str]| {
        world.run(&[&["model", "add", "own/x", "--class", "basic", "--provider", "simulator"], rest].concat())
    };
    let done = add(&["--upstream-model", ""]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let own = || {
        let models = world.json(&["model", "list"])["models"].clone();
        models.as_array().unwrap().iter().find(|model| model["model"] == "own/x").unwrap().clone()
    };
    assert_eq!(own()["upstream_model"], "own/x");
    let itself = add(&["--fallback", "own/y", "--fallback", "own/x"]);
    assert!(itself.code == 64 && itself.stderr.contains("own/x"), "{itself:?}");
    assert_eq!(own()["fallbacks"], json!([]), "nothing was set");
    let later = add(&["--fallback", "own/y"]);
    assert!(later.code == 0 && later.stderr.contains("own/y"), "{later:?}");
    assert_eq!(own()["fallbacks"], json!(["own/y"]), "it may come later");
    world.json(&["model", "add", "own/y", "--class", "basic", "--provider", "simulator"]);
    assert_eq!(add(&["--fallback", "own/y"]).stderr, "");
}

#[test]
fn a_model_that_the_configuration_states_comes_back_and_that_is_said() {
    let world = World::on(Database::Sqlite);
    let is_listed = || world.run(&["model", "list"]).stdout.contains("sim/basic");
    let service = world.serve();
    world.json(&["model", "add", "own/x", "--class", "basic", "--provider", "simulator"]);
    assert_eq!(world.run(&["model", "remove", "own/x"]).stderr, "");
    let removed = world.run(&["model", "remove", "sim/basic"]);
    assert!(removed.code == 0 && removed.stderr.contains("The configuration states sim/basic"), "{removed:?}");
    assert!(!is_listed());
    service.stop("TERM");
    let service = world.serve();
    assert!(is_listed());
    service.stop("TERM");
}

#[test]
fn keys_are_created_revoked_and_listed() {
    beside_a_server(|world, service| {
        world.json(&["user", "add", "ann"]);
        let key = world.json(&["key", "create", "ann", "--ttl", "90d"]);
        assert_eq!(keys(&key), ["expires_at", "id", "key", "user"]);
        let text = key["key"].as_str().unwrap();
        assert!(text.starts_with("hne_") && key["expires_at"].is_string());
        let client = service.anonymous().bearer(text);
        assert_eq!(run(status(&client)), 200);
        let id = key["id"].as_str().unwrap();
        assert_eq!(world.json(&["key", "revoke", id]), json!({"id": id, "revoked": true}));
        run(becomes(&client, 401));
        let listed = world.json(&["key", "list", "ann"]);
        assert_eq!(listed["user"], "ann");
        assert!(listed["keys"][0]["revoked_at"].is_string() && !listed.to_string().contains(text), "{listed}");
        let made = world.run(&["key", "create", "ann", "--json"]);
        assert_eq!(serde_json::from_str::<Value>(&made.stdout).unwrap()["expires_at"], Value::Null);
        assert_eq!(made.stderr, "", "there is nothing to remark");
        world.refused(&["key", "revoke", id], 64);
        world.refused(&["key", "revoke", "garbage"], 64);
        world.refused(&["key", "create", "nobody"], 64);
        assert!(world.run(&["key", "list", "ann"]).stdout.contains(id));
    });
}

#[test]
fn usage_is_shown_and_the_ledger_proved() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        let service = world.serve();
        world.json(&["plan", "set", "gold", "basic", "--requests", "5"]);
        world.json(&["user", "add", "ann", "--plan", "gold"]);
        let client = service.client(&world, "ann");
        assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
        service.stop("TERM");

        let usage = world.json(&["usage", "show", "ann"]);
        assert_eq!((keys(&usage), &usage["plan"]), (vec!["classes", "plan", "user"], &json!("gold")));
        let class = &usage["classes"][0];
        assert_eq!(keys(class), ["class", "cost_nanodollars", "requests", "resets_at", "tokens", "window"]);
        assert_eq!(class["requests"], json!({"limit": 5, "used": 1, "reserved": 0, "remaining": 4}));
        let tokens = &class["tokens"];
        let sum = tokens["prompt_tokens"].as_i64().unwrap() + tokens["completion_tokens"].as_i64().unwrap();
        assert_eq!((&tokens["used"], &tokens["limit"]), (&json!(sum), &Value::Null));
        world.refused(&["usage", "show", "nobody"], 64);
        assert!(world.run(&["usage", "show", "ann"]).stdout.contains("1 of 5"));

        let proof = world.json(&["ledger", "verify"]);
        assert_eq!((&proof["accounts"], &proof["postings"], &proof["drift"]), (&json!(1), &json!(1), &json!(0)));
        world.execute("UPDATE usage_totals SET requests = requests + 1");
        let done = world.run(&["ledger", "verify", "--json"]);
        let proof: Value = serde_json::from_str(&done.stdout).unwrap();
        assert_eq!(done.code, 1, "{done:?}");
        assert!(proof["drift"].as_i64().unwrap() > 0 && proof["drifting"][0]["user"] == "ann", "{proof}");
        let one = json!({"requests": 1, "prompt_tokens": 0, "completion_tokens": 0, "cost_nanodollars": 0});
        assert_eq!(proof["drifting"][0]["difference"], one);
        assert!(world.run(&["ledger", "verify"]).stdout.contains("ann"));
    }
}

#[test]
fn a_schema_is_brought_up_to_date_once_however_many_come() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        let both = [(); 2].map(|()| world.spawn(&["migrate", "--json"])).map(|process| {
            let done = process.finish();
            assert_eq!(done.code, 0, "{done:?}");
            serde_json::from_str::<Value>(&done.stdout).unwrap()["applied"].as_array().unwrap().len()
        });
        assert!(both.contains(&0) && both.iter().any(|applied| *applied > 0), "{both:?}");
        assert_eq!(world.json(&["migrate"]), json!({"applied": []}));
        assert_eq!(world.run(&["migrate"]).stdout, "nothing to do\n");
    }
}

#[test]
fn two_instances_start_at_once_on_a_fresh_postgres() {
    let one = World::on(Database::Postgres);
    let other = World::on(Database::Sqlite).env("DATABASE_URL", one.database_url());
    let mut processes = [one.spawn(&["serve"]), other.spawn(&["serve"])];
    for process in &mut processes {
        process.stderr.wait_for("serving address=");
    }
    for process in processes {
        process.signal("TERM");
        assert_eq!(process.finish().code, 0);
    }
}

#[test]
fn help_and_version_are_results() {
    let world = World::on(Database::Sqlite);
    let version = world.run(&["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("hasnot-engine {}\n", env!("CARGO_PKG_VERSION"))));
    for command in ["", "serve", "migrate", "doctor", "user", "plan", "model", "key", "token", "usage", "ledger"] {
        let arguments: Vec<_> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = world.run(&arguments);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{help:?}");
        for option in ["--config <FILE>", "--json", "Usage: hasnot-engine"] {
            assert!(help.stdout.contains(option), "{}", help.stdout);
        }
    }
    assert!(!world.path("data").exists(), "help leaves nothing behind");
}

#[test]
fn a_file_of_configuration_is_read() {
    let world = World::on(Database::Sqlite);
    let file = world.path("own.toml");
    std::fs::write(&file, "data_dir = \"elsewhere\"\n[alerts]\nmean_response = \"123ms\"\n").unwrap();
    world.json(&["user", "add", "ann", "--config", file.to_str().unwrap()]);
    assert!(world.path("elsewhere/hasnot-engine.db").exists() && !world.path("data").exists());
    std::fs::rename(&file, world.path("hasnot-engine.toml")).unwrap();
    let service = world.serve();
    let admin = world.json(&["token", "issue", "--user", "root", "--role", "admin"]);
    let admin = service.anonymous().bearer(admin["token"].as_str().unwrap());
    let report: Value = run(async { admin.get("/api/admin/performance").await.unwrap().json().await.unwrap() });
    assert_eq!(report["alerts"][0]["threshold"], 123.0, "{}", report["alerts"]);
    world.refused(&["--config", "nowhere.toml"], 78);
}
