//! A pooler before PostgreSQL: one that keeps sessions serves, one that shares connections by transaction is refused.

use super::{
    doctor::{check, examine},
    world::World,
};
use crate::harness::{
    app::{Database, SECRET, chat, complete, run},
    servers::{self, PgBouncer},
};

/// Makes a world whose database is reached through a PgBouncer of this `pool_mode`.
fn behind(mode: &str) -> (World, PgBouncer) {
    let pooler = PgBouncer::start(mode);
    let url = pooler.url(&servers::postgres().fresh_database());
    (World::on(Database::Sqlite).env("DATABASE_URL", url), pooler)
}

#[test]
fn a_pooler_that_does_not_keep_sessions_is_refused() {
    for mode in ["transaction", "statement"] {
        let (world, _pooler) = behind(mode);
        // Once with nothing behind it, and then with connections that wait for whoever comes.
        for round in 0..3 {
            let why = world.refused(&["serve"], 69);
            assert!(why.contains("pool_mode = session"), "{mode}, {round}: {why}");
            let (code, checks) = examine(&world);
            let (ok, message) = check(&checks, "database");
            assert!(code == 69 && ok == false && message.contains("pool_mode = session"), "{mode}: {checks}");
        }
    }
}

#[test]
fn a_pooler_that_keeps_sessions_serves() {
    let (world, _pooler) = behind("session");
    assert_eq!(examine(&world).0, 0);
    let service = world.serve();
    let client = service.client(&world, "ann");
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    assert_eq!(examine(&world).0, 0);
    assert_eq!(service.stop("TERM").0.code, 0);
    assert_eq!(world.json(&["ledger", "verify"])["drift"], 0);
}

#[test]
fn a_role_with_one_connection_serves() {
    let owner = World::on(Database::Postgres).env("JWT_SECRET", SECRET);
    let issued = owner.json(&["token", "issue", "--user", "ann", "--plan", "unlimited"]);
    let (role, url) = servers::postgres().fresh_role(&owner.database_url());
    owner.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 1"));
    owner.execute(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"));
    let world = World::on(Database::Sqlite).env("JWT_SECRET", SECRET).env("DATABASE_URL", format!("{url}&pool_max=1"));
    let service = world.serve();
    let client = service.anonymous().bearer(issued["token"].as_str().unwrap());
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    assert_eq!(service.stop("TERM").0.code, 0);
}
