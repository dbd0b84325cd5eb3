//! `doctor`: what is wrong, and what to do.

use serde_json::Value;

use super::world::{World, free_port};
use crate::harness::{app::Database, servers};

/// Runs it; returns its exit code and its checks.
fn examine(world: &World) -> (i32, Value) {
    let done = world.run(&["doctor", "--json"]);
    let found: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    assert_eq!(found["ok"] == true, done.code == 0, "{done:?}");
    (done.code, found["checks"].clone())
}

fn check<'a>(checks: &'a Value, name: &str) -> (&'a Value, &'a str) {
    let check = checks.as_array().unwrap().iter().find(|check| check["name"] == name);
    let check = check.unwrap_or_else(|| panic!("no {name} in {checks}"));
    (&check["ok"], check["message"].as_str().unwrap())
}

#[test]
fn a_sound_installation_is_said_to_be_sound() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database).env("REDIS_URL", servers::redis().url());
        for round in ["before the first start", "beside a server"] {
            let service = (round == "beside a server").then(|| world.serve());
            let (code, checks) = examine(&world);
            assert_eq!(code, 0, "{round}: {checks}");
            for name in ["configuration", "data folder", "database", "redis", "provider simulator"] {
                assert_eq!(check(&checks, name).0, true, "{checks}");
            }
            assert!(world.run(&["doctor"]).stdout.contains("ok   database: answers"));
            drop(service);
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let port = free_port();
    let world = World::on(Database::Sqlite)
        .env("DATABASE_URL", format!("postgres://postgres:hunter2@127.0.0.1:{port}/x"))
        .env("REDIS_URL", format!("redis://:hunter2@127.0.0.1:{port}"))
        .env("OPENROUTER_API_KEY", "hunter2")
        .env("OPENROUTER_BASE_URL", format!("http://127.0.0.1:{port}/v1"))
        .env("HNE_DATA_DIR", "/dev/null/data");
    let (code, checks) = examine(&world);
    assert_eq!(code, 69);
    for (name, hint) in [
        ("data folder", "HNE_DATA_DIR"),
        ("database", "DATABASE_URL"),
        ("redis", "REDIS_URL"),
        ("provider openrouter", "base_url"),
    ] {
        let (ok, message) = check(&checks, name);
        assert!(ok == false && message.contains(hint), "{name}: {message}");
    }
    assert_eq!(check(&checks, "configuration").0, true);
    assert!(!checks.to_string().contains("hunter2"), "{checks}");
    let text = world.run(&["doctor"]);
    assert!(text.code == 69 && text.stdout.contains("FAIL database: "), "{text:?}");
}

#[test]
fn a_bad_configuration_is_a_finding_too() {
    let world = World::on(Database::Sqlite).env("HNE__SERVER__WORKERS", "many").env("DATABASE_URL", "mysql://h/d");
    let (code, checks) = examine(&world);
    assert_eq!(code, 69);
    let (ok, message) = check(&checks, "configuration");
    assert!(ok == false && message.contains("server.workers") && message.contains("database.url"), "{message}");
}
