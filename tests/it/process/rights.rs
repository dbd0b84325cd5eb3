//! A PostgreSQL role that owns nothing: what it needs, and what it is told.

use futures_util::future::join_all;
use serde_json::json;

use super::{
    doctor::{check, examine},
    reading::older,
    world::World,
};
use crate::harness::{
    app::{Database, SECRET, chat, complete, now, run, token},
    servers,
};

/// Makes the tables as their owner, and a world whose processes are nobody there; returns it and the name of that role.
fn world() -> (World, String) {
    let owner = World::on(Database::Postgres);
    owner.json(&["migrate"]);
    let (role, url) = servers::postgres().fresh_role(&owner.database_url());
    (World::on(Database::Sqlite).env("DATABASE_URL", url), role)
}

/// Does something as the owner of the database.
fn as_owner(world: &World, role: &str, sql: &str) -> String {
    servers::psql(&world.database_url().replace(&format!("{role}@"), "postgres@"), sql)
}

#[test]
fn a_role_that_may_only_read_and_write_serves_and_administers() {
    let (world, role) = world();
    as_owner(&world, &role, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"));
    assert_eq!(world.json(&["migrate"]), json!({"applied": []}));
    let service = world.serve();
    let client = service.client(&world, "ann");
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    for arguments in [
        &["user", "list"][..],
        &["plan", "set", "gold", "own", "--requests", "5"],
        &["model", "add", "own/small", "--class", "own", "--provider", "simulator"],
        &["model", "remove", "own/small"],
        &["key", "create", "ann"],
        &["usage", "show", "ann"],
        &["ledger", "adjust", "ann", "basic", "--requests", "1", "--reason", "r"],
        &["ledger", "inspect"],
        &["ledger", "prune", "--before", "2020-01-01"],
    ] {
        world.json(arguments);
    }
    assert_eq!(service.stop("TERM").0.code, 0);
    assert_eq!(world.json(&["ledger", "verify"])["drift"], 0);
}

/// Examines the database; returns what is wrong, which `serve` must refuse, too.
fn complaint(world: &World) -> String {
    world.refused(&["serve"], 69);
    let (code, checks) = examine(world);
    let (ok, message) = check(&checks, "database");
    assert!(code == 69 && ok == false, "{checks}");
    message.to_owned()
}

/// Does what a sentence says between backticks.
fn do_as_told(world: &World, role: &str, sentence: &str) {
    let statement = sentence.split('`').nth(1).unwrap_or_else(|| panic!("no statement: {sentence}"));
    assert!(statement.starts_with("GRANT "), "{sentence}");
    as_owner(world, role, statement);
}

#[test]
fn what_is_to_be_granted_is_said_and_does() {
    let (world, role) = world();
    // What may be connected to.
    let said = complaint(&world);
    for table in as_owner(
        &world,
        &role,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
                                           AND relkind IN ('r', 'v')",
    )
    .lines()
    {
        assert!(said.contains(table), "{table} is missing: {said}");
    }
    do_as_told(&world, &role, &said);
    assert_eq!(examine(&world).0, 0);
    assert_eq!(world.serve().stop("TERM").0.code, 0);
    // What may be read, and not written.
    as_owner(&world, &role, &format!("REVOKE UPDATE ON change_counter FROM {role}"));
    let said = complaint(&world);
    assert!(said.contains("change_counter") && !said.contains("users"), "{said}");
    do_as_told(&world, &role, &said);
    assert_eq!(examine(&world).0, 0);
    // What may not even be looked into.
    as_owner(&world, &role, "REVOKE USAGE ON SCHEMA public FROM PUBLIC");
    let said = complaint(&world);
    do_as_told(&world, &role, &said);
    assert_eq!(examine(&world).0, 0);
}

#[test]
fn whoever_may_not_make_what_is_missing_is_told_so() {
    for owner in [World::on(Database::Postgres), older(Database::Postgres)] {
        let (role, url) = servers::postgres().fresh_role(&owner.database_url());
        owner.execute(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"));
        let world = World::on(Database::Sqlite).env("DATABASE_URL", url);
        let said = complaint(&world);
        assert!(said.contains("hasnot-engine migrate"), "{said}");
        owner.json(&["migrate"]);
        do_as_told(&world, &role, &complaint(&world));
        assert_eq!(examine(&world).0, 0);
    }
}

#[test]
fn look_ups_that_fail_for_one_reason_are_said_once() {
    let (world, role) = world();
    as_owner(&world, &role, &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"));
    let world = world.env("JWT_SECRET", SECRET);
    let service = world.serve();
    as_owner(&world, &role, &format!("REVOKE SELECT ON users FROM {role}"));
    let ask = async |number: i32| {
        let token = token(&json!({"sub": format!("user-{number}"), "exp": now() + 3_600}));
        complete(&service.anonymous().bearer(&token), &chat("sim/basic", "hello")).await.status
    };
    assert_eq!(run(join_all((0..50).map(ask))), [503; 50]);
    let said = service.stop("TERM").0.stderr;
    let said: Vec<_> = said.lines().filter(|line| line.contains("a caller can't be looked up")).collect();
    assert!(said.len() == 1 && said[0].contains("permission denied") && said[0].contains("unsaid=0"), "{said:#?}");
}
