//! The first minute: it serves, prints a line, and the line works.

use std::{os::unix::fs::PermissionsExt, process::Command, time::Duration};

use hne_load::mock::{MockProvider, Options};
use serde_json::Value;

use super::world::World;
use crate::harness::app::{Database, SECRET, run};

/// Starts the binary without a subcommand; returns the printed line and how long readiness took.
fn first_start(world: &World) -> (String, Duration) {
    let mut process = world.spawn(&[]);
    let (line, at) = process.stdout.wait_for("\n");
    let took = at.duration_since(process.started);
    assert_eq!(process.stdout.text, line, "it is the first thing on standard output");
    assert!(line.starts_with("curl ") && !line.contains('\x1b'), "{line}");
    assert!(!process.stderr.text.contains("curl"));

    let pasted = Command::new("sh").args(["-c", &line]).output().unwrap();
    let answer = String::from_utf8(pasted.stdout).unwrap();
    assert!(answer.starts_with(':') || answer.starts_with("data: "), "{answer}");
    assert!(answer.trim_end().ends_with("data: [DONE]"), "{answer}");

    let users = world.json(&["user", "list"]);
    assert_eq!(users["users"][0]["plan"], "unlimited", "{users}");
    process.signal("TERM");
    let done = process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout, line, "and the only one");
    (line, took)
}

fn a_newcomer_is_served(database: Database) {
    let world = World::on(database);
    let (first, took) = first_start(&world);
    let (second, again) = first_start(&world);
    assert_ne!(first, second, "each start has a token of its own");
    println!("{database:?}: ready {took:?} after the first start, {again:?} after the second");
    assert!(took.min(again) < Duration::from_secs(1), "{took:?}, {again:?}");
    let secret = world.path("data/jwt-secret").metadata().unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_newcomer_is_served_on_sqlite() {
    a_newcomer_is_served(Database::Sqlite);
}

#[test]
fn a_newcomer_is_served_on_postgres() {
    a_newcomer_is_served(Database::Postgres);
}

#[test]
fn no_log_gets_between_the_line_and_its_reader() {
    for (filter, format) in [("trace", "pretty"), ("trace", "json"), ("off", "pretty")] {
        first_start(&World::on(Database::Sqlite).env("RUST_LOG", filter).env("HNE__LOG__FORMAT", format));
    }
}

#[test]
fn the_line_names_a_model_that_is_passed_on() {
    let provider = MockProvider::start(Options::default()).unwrap();
    let (line, _) = first_start(&World::on(Database::Sqlite).asking(&provider));
    assert!(line.contains("openai/gpt-4o-mini"), "{line}");
}

#[test]
fn without_a_model_it_says_how_one_is_added() {
    let provider = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Sqlite)
        .env("HNE__PROVIDERS__LOCAL__KIND", "openai")
        .env("HNE__PROVIDERS__LOCAL__BASE_URL", provider.base_url())
        .env("HNE__PROVIDERS__LOCAL__API_KEY", "k");
    // By its name it would be the first; but the provider that has it is asked for nothing.
    world.json(&["model", "add", "a/model", "--class", "basic", "--provider", "openrouter"]);
    let mut process = world.spawn(&[]);
    let (said, _) = process.stderr.wait_for("model add");
    process.signal("TERM");
    let done = process.finish();
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
    assert!(!done.stderr.contains("curl"), "{done:?}");

    let command = said.split('`').nth(1).unwrap_or_else(|| panic!("no command: {said}"));
    let words = command.split(' ').map(|word| if word == "MODEL" { "mock/chat" } else { word });
    world.json(&words.skip(1).collect::<Vec<_>>());
    let (line, _) = first_start(&world);
    assert!(line.contains("mock/chat"), "{line}");
}

#[test]
fn no_token_is_printed_where_the_secret_was_given() {
    let world = World::on(Database::Sqlite).env("JWT_SECRET", SECRET);
    let service = world.serve();
    println!("SQLite, secret given: ready after {:?}", service.took);
    let ready: Value = run(async { service.anonymous().get("/readyz").await.unwrap().json().await.unwrap() });
    assert_eq!(ready["status"], "ready");
    let (done, _) = service.stop("INT");
    assert_eq!((done.code, done.stdout.as_str()), (0, ""));
    assert!(!world.path("data/jwt-secret").exists());
}
