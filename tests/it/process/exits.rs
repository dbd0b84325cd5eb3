//! Exit codes, as scripts and supervisors rely on them.

use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use super::world::{World, free_port};
use crate::harness::{
    app::{Database, SECRET},
    servers::{self, Postgres, Redis},
};

/// A command of each kind that needs the database.
const COMMANDS: [&[&str]; 13] = [
    &["serve"],
    &["migrate"],
    &["user", "add", "ann"],
    &["user", "list"],
    &["plan", "set", "gold", "basic", "--unlimited"],
    &["plan", "list"],
    &["model", "list"],
    &["key", "create", "ann"],
    &["key", "list", "ann"],
    &["token", "issue", "--user", "ann"],
    &["usage", "show", "ann"],
    &["ledger", "verify"],
    &["ledger", "inspect"],
];

/// Says whether a text is a sentence as people write them, and no chain of causes.
fn is_sentence(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(char::is_uppercase) && text.ends_with('.') && !text.contains("refused")
}

#[test]
fn a_bad_command_line_exits_64() {
    let world = World::on(Database::Sqlite);
    for arguments in [
        &["sevre"][..],
        &["serve", "--port", "1"],
        &["user"],
        &["user", "add", "no spaces allowed"],
        &["key", "create", "ann", "--ttl", "soon"],
        &["--config"],
    ] {
        world.refused(arguments, 64);
    }
}

#[test]
fn a_number_out_of_range_exits_64_and_says_the_range() {
    let world = World::on(Database::Sqlite);
    let set = ["plan", "set", "gold", "basic"];
    let add = ["model", "add", "own/x", "--class", "basic", "--provider", "simulator"];
    for (command, option, value, range) in [
        (&set[..], "--requests", "-1", "0 or more"),
        (&set, "--tokens", "-1", "0 or more"),
        (&set, "--tokens", "9223372036854775808", "too large"),
        (&set, "--cost-usd", "-0.5", "0 or more"),
        (&set, "--requests", "many", "a whole number"),
        (&["plan", "rate", "gold"], "--requests-per-minute", "-1", "0 or more"),
        (&["plan", "rate", "gold"], "--concurrent-streams", "-1", "0 or more"),
        (&["plan", "rate", "gold"], "--concurrent-streams", "4294967296", "too large"),
        (&add, "--input-price", "-1", "0 or more"),
        (&add, "--output-price", "-1", "0 or more"),
        (&add, "--context", "-1", "1 or more"),
        (&add, "--context", "0", "1 or more"),
        (&add, "--max-output", "-1", "1 or more"),
        (&["user", "list"], "--limit", "-1", "0 or more"),
        (&["key", "create", "ann"], "--ttl", "-1h", "a second or more"),
        (&["key", "create", "ann"], "--ttl", "0s", "a second or more"),
        (&["key", "create", "ann"], "--ttl", "soon", "such as"),
        (&["token", "issue", "--user", "ann"], "--ttl", "-1h", "a second or more"),
        (&["token", "issue", "--user", "ann"], "--ttl", "999ms", "a second or more"),
    ] {
        let said = world.refused(&[command, &[option, value]].concat(), 64);
        assert!(said.contains(option) && said.contains(range), "{option} {value}: {said}");
        assert!(!said.contains("unexpected"), "{option} {value}: {said}");
    }
    assert!(!world.path("data").exists());
}

#[test]
fn what_nobody_is_called_exits_64_with_a_sentence() {
    let dead = "0192d1a6-7f7e-4a3c-9d57-000000000001";
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        world.json(&["user", "add", "ann"]);
        for (arguments, part) in [
            (&["user", "add", "ann", "--plan", "gold"][..], "There is no plan `gold`"),
            (&["user", "disable", "bob"], "There is no user bob"),
            (&["plan", "rate", "gold"], "There is no plan `gold`"),
            (&["plan", "set", "no good", "basic", "--unlimited"], "128"),
            (&["model", "remove", "x"], "There is no model x"),
            (&["key", "create", "bob"], "There is no user bob"),
            (&["key", "revoke", "x"], "There is no key x"),
            (&["usage", "show", "bob"], "There is no user bob"),
            (&["ledger", "adjust", "bob", "basic", "--requests", "1", "--reason", "r"], "There is no user bob"),
            (&["ledger", "adjust", "ann", "gold", "--requests", "1", "--reason", "r"], "There is no class `gold`"),
            (&["ledger", "adjust", "ann", "basic", "--reason", "r"], "A correction"),
            (&["ledger", "write-off", dead], "There is no instance"),
            (&["ledger", "prune", "--before", "2999-01-01"], "2999-01-01T00:00:00Z is not in the past"),
        ] {
            let said = world.refused(arguments, 64);
            assert!(said.contains(part) && is_sentence(&said), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_schema_that_is_newer_exits_69_with_a_sentence() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        world.json(&["user", "add", "ann"]);
        world.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
        for arguments in COMMANDS {
            let said = world.refused(arguments, 69);
            assert!(said.contains("99990101000000") && said.contains("newer"), "{arguments:?}: {said}");
            assert!(is_sentence(&said), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_role_without_rights_exits_69_with_a_sentence() {
    let world = World::on(Database::Postgres);
    world.json(&["user", "add", "ann"]);
    let (name, url) = servers::postgres().fresh_role(&world.database_url());
    world.execute(&format!("GRANT SELECT ON __diesel_schema_migrations TO {name}"));
    let world = World::on(Database::Sqlite).env("DATABASE_URL", url);
    for arguments in COMMANDS.iter().filter(|arguments| arguments[0] != "migrate") {
        let said = world.refused(arguments, 69);
        assert!(said.contains("permission denied for") && said.contains("doctor"), "{arguments:?}: {said}");
        assert!(is_sentence(&said), "{arguments:?}: {said}");
    }
}

#[test]
fn a_bad_configuration_exits_78_and_binds_no_port() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    for (name, value) in [
        ("HNE__SERVER__WORKERS", "many"),
        ("HNE__SERVER__WROKERS", "2"),
        ("HNE_PROFIL", "production"),
        ("HNE_SERVER__PORT", "3"),
        ("LISTEN", "0.0.0.0:3000"),
        ("HNE_PROFILE", "production"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "postgres://h/d?schema=app"),
        ("DATABASE_URL", "postgres://h/d?sslmode=maybe"),
        ("DATABASE_URL", "postgres://h:port/d"),
        ("DATABASE_URL", "postgres://a:p@ssw/rd@h/d"),
        ("DATABASE_URL", "postgres://h/d?sslmode=verify-ca&sslrootcert=%2Fnowhere.pem"),
        ("DATABASE_URL", "sqlite://:memory:"),
        ("DATABASE_URL", "sqlite://x.db?pool_max=0"),
        ("DATABASE_REPLICA_URL", "sqlite://:memory:"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:port"),
        ("RUST_LOG", "a=b=c"),
        ("JWT_SECRET_FILE", "/nowhere"),
        ("HNE__PROVIDERS__OPENROUTER__CA_FILE", "/nowhere.pem"),
    ] {
        let world = World::on(Database::Sqlite).env("LISTEN", &listen).env("OPENROUTER_API_KEY", "k").env(name, value);
        let said = world.refused(&[], 78);
        assert!(said.trim_end().ends_with(['.', '?']), "{name}={value}: no sentence: {said}");
        assert!(!said.contains("store."), "{said}");
        assert!(TcpStream::connect(&listen).is_err(), "{name}={value} has bound a port");
    }
}

#[test]
fn a_dependency_that_is_away_exits_69() {
    let away = free_port();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (name, value, hint) in [
        ("DATABASE_URL", format!("postgres://postgres@127.0.0.1:{away}/x"), "refused"),
        ("REDIS_URL", format!("redis://127.0.0.1:{away}"), "REDIS_URL"),
        ("LISTEN", taken.clone(), taken.as_str()),
    ] {
        let said = World::on(Database::Sqlite).env(name, value).refused(&["serve"], 69);
        assert!(said.contains(hint), "{name}: {said}");
    }
}

/// Who collects JSON keeps no other line.
#[test]
fn why_it_ends_is_a_line_of_the_log_too_where_that_is_json() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let said = |format| {
        let world = World::on(Database::Sqlite).env("LISTEN", &taken).env("HNE__LOG__FORMAT", format);
        world.refused(&["serve"], 69)
    };
    let json = said("json");
    let plain = json.lines().last().unwrap();
    assert!(plain.contains(&taken), "{json}");
    let lines = json.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let errors: Vec<Value> = lines.filter(|line| line["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{json}");
    assert_eq!((&errors[0]["message"], &errors[0]["exit_code"]), (&plain.into(), &69.into()), "{json}");
    assert_eq!(said("pretty").matches(&taken).count(), 1, "people read it once");
}

#[test]
fn a_database_or_redis_that_stopped_exits_69() {
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let world =
        World::on(Database::Sqlite).env("DATABASE_URL", postgres.fresh_database()).env("REDIS_URL", redis.url());
    assert_eq!(world.serve().stop("TERM").0.code, 0);
    redis.stop();
    world.refused(&["serve"], 69);
    redis.restart();
    postgres.stop();
    world.refused(&["serve"], 69);
    world.refused(&["user", "list"], 69);
}

#[test]
fn a_folder_or_sqlite_file_in_use_exits_69_and_commands_run_beside_it() {
    let mut world = World::on(Database::Sqlite);
    let service = world.serve();
    let said = world.refused(&["serve"], 69);
    assert!(said.contains("Another process serves from the data folder"), "{said}");
    world.set("DATABASE_URL", world.database_url());
    world.set("HNE_DATA_DIR", "elsewhere");
    let said = world.refused(&["serve"], 69);
    assert!(said.contains("another server uses this SQLite file"), "{said}");
    assert_eq!(world.json(&["user", "add", "ann"])["user"], "ann");
    assert_eq!(service.stop("TERM").0.code, 0);
    assert_eq!(world.serve().stop("TERM").0.code, 0, "the next one may have it");
}

#[test]
fn a_data_folder_that_cant_be_written_exits_69() {
    for folder in ["/proc/hasnot-engine", "/dev/null/data"] {
        for database in [Database::Sqlite, Database::Postgres] {
            let world = World::on(database).env("HNE_DATA_DIR", folder);
            let said = world.refused(&["serve"], 69);
            assert!(said.contains(folder) && said.contains("HNE_DATA_DIR"), "{said}");
            let said = world.env("JWT_SECRET", SECRET).refused(&["serve"], 69);
            assert!(said.contains(folder), "{said}");
        }
    }
}

#[test]
fn a_signal_ends_it_with_0_also_while_it_starts() {
    // A database that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://postgres@{}/x", silent.local_addr().unwrap());
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let world = World::on(Database::Sqlite).env("DATABASE_URL", &url).hung_up();
        let process = world.spawn(&["serve"]);
        let connection = silent.accept().unwrap();
        process.signal(signal);
        let done = process.finish();
        assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{done:?}");
        drop(connection);
        let world = World::on(Database::Sqlite).hung_up();
        assert_eq!(world.serve().stop(signal).0.code, 0);
    }
}

/// As `nohup` starts it.
#[test]
fn it_outlives_its_terminal_where_it_was_told_to() {
    let mut world = World::on(Database::Sqlite);
    world.run_by("/bin/sh".into());
    let mut process = world.spawn(&["-c", "trap '' HUP; exec \"$0\" serve", env!("CARGO_BIN_EXE_hasnot-engine")]);
    process.stderr.wait_for("serving address=");
    process.signal("HUP");
    process.signal("USR1");
    process.stderr.wait_for("means nothing here");
    process.signal("TERM");
    let done = process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stderr.find("SIGUSR1") < done.stderr.find("draining"), "{done:?}");
}
