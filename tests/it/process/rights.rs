//! A PostgreSQL role that owns nothing: what it needs, and what it is told.

use serde_json::json;

use super::world::World;
use crate::harness::{
    app::{Database, chat, complete, run},
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
