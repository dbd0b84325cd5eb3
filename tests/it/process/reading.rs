//! Commands that only read: where there is nothing to be read they say so, and leave things as they are.

use super::world::World;
use crate::harness::{app::Database, servers::psql};

/// Each of them.
const COMMANDS: [&[&str]; 7] = [
    &["user", "list"],
    &["plan", "list"],
    &["model", "list"],
    &["key", "list", "ann"],
    &["usage", "show", "ann"],
    &["ledger", "verify"],
    &["ledger", "inspect"],
];

/// The schema as the first version had it.
const BOOKS: [&str; 2] = [
    include_str!("../../../migrations/sqlite/2026-11-23-000000_books/up.sql"),
    include_str!("../../../migrations/postgres/2026-11-23-000000_books/up.sql"),
];

/// Makes a world whose database has the schema of the first version.
pub(super) fn older(database: Database) -> World {
    let world = World::on(database);
    let books = match database {
        Database::Sqlite => BOOKS[0],
        Database::Postgres => BOOKS[1],
    };
    std::fs::create_dir_all(world.path("data")).unwrap();
    let list = "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL,
                    run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
                INSERT INTO __diesel_schema_migrations (version) VALUES ('20261123000000');";
    world.execute(&format!("{books}; {list}"));
    world
}

#[test]
fn a_database_without_tables_gets_none() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        for arguments in COMMANDS {
            let said = world.refused(arguments, 69);
            for part in ["has no tables", "DATABASE_URL", "`hasnot-engine migrate`"] {
                assert!(said.contains(part), "{arguments:?}: {said}");
            }
        }
        match database {
            Database::Sqlite => assert!(!world.path("data").exists(), "nothing is left behind"),
            Database::Postgres => {
                let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
                assert_eq!(psql(&world.database_url(), tables), "0");
            }
        }
        world.json(&["user", "add", "ann"]);
        for arguments in COMMANDS {
            world.json(arguments);
        }
    }
}

#[test]
fn a_file_of_somebody_elses_stays_as_it_is() {
    for made in ["", "CREATE TABLE notes (text TEXT)"] {
        let world = World::on(Database::Sqlite);
        let file = world.path("notes.db");
        let world = world.env("DATABASE_URL", format!("sqlite://{}", file.display()));
        std::fs::File::create(&file).unwrap();
        world.execute(made);
        let before = std::fs::read(&file).unwrap();
        for arguments in COMMANDS {
            let said = world.refused(arguments, 69);
            assert!(said.contains("has no tables"), "{arguments:?}: {said}");
        }
        assert!(before == std::fs::read(&file).unwrap(), "{made}");
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing beside it either");
    }
}

#[test]
fn a_replica_that_isn_t_there_isn_t_made() {
    let world = World::on(Database::Sqlite);
    world.json(&["user", "add", "ann"]);
    let file = world.path("replica.db");
    let world = world.env("DATABASE_REPLICA_URL", format!("sqlite://{}", file.display()));
    let said = world.refused(&["usage", "show", "ann"], 69);
    assert!(said.contains("replica.db") && !file.exists(), "{said}");
}

#[test]
fn a_schema_that_is_older_is_to_be_migrated_first() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = older(database);
        for arguments in COMMANDS {
            let said = world.refused(arguments, 69);
            assert!(said.contains("`hasnot-engine migrate`"), "{arguments:?}: {said}");
            assert!(said.contains("2026-11-26-000000_leases"), "{arguments:?}: {said}");
        }
        world.json(&["user", "add", "ann"]);
        for arguments in COMMANDS {
            world.json(arguments);
        }
    }
}
