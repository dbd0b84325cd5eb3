//! `DATABASE_REPLICA_URL`: what is read from it, and what isn't.

use super::world::World;
use crate::harness::app::{Database, chat, complete, run};

/// Makes a database in which ann has sent so many chats.
fn with_chats(database: Database, count: usize) -> World {
    let world = World::on(database);
    let service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        for _ in 0..count {
            let mut response = complete(&client, &chat("sim/basic", "hello")).await;
            assert_eq!((response.status, response.text().await.unwrap().is_empty()), (200, false));
        }
    });
    assert_eq!(service.stop("TERM").0.code, 0);
    world
}

#[test]
fn usage_is_shown_from_the_replica_and_the_books_are_checked_in_the_primary() {
    for database in [Database::Postgres, Database::Sqlite] {
        let replica = with_chats(database, 2);
        let primary = with_chats(database, 1);
        let used = |world: &World| world.json(&["usage", "show", "ann"])["classes"][0]["requests"]["used"].clone();
        assert_eq!(used(&primary), 1, "{database:?}");
        let both = primary.env("DATABASE_REPLICA_URL", replica.database_url());
        assert_eq!(used(&both), 2, "{database:?}");
        assert_eq!(both.json(&["ledger", "verify"])["postings"], 1, "{database:?}");
        both.json(&["user", "add", "bob"]);
        let users = both.json(&["user", "list"])["users"].clone();
        assert!(users.as_array().unwrap().iter().any(|user| user["id"] == "bob" || user["user"] == "bob"), "{users}");
        replica.refused(&["usage", "show", "bob"], 64);
    }
}
