//! `doctor`: what is wrong, and what to do.

use futures_util::future::join_all;
use hasnot_engine::token::Algorithm;
use serde_json::{Value, json};

use super::{
    reading::older,
    world::{World, free_port},
};
use crate::{
    harness::{
        app::{Database, SECRET, chat, complete, now, run, token},
        disk::SmallDisk,
        servers::{self, Redis, TlsRedis},
    },
    token::signer::Signer,
};

/// Runs it; returns its exit code and its checks.
pub(super) fn examine(world: &World) -> (i32, Value) {
    let done = world.run(&["doctor", "--json"]);
    let found: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    assert_eq!(found["ok"] == true, done.code == 0, "{done:?}");
    (done.code, found["checks"].clone())
}

pub(super) fn check<'a>(checks: &'a Value, name: &str) -> (&'a Value, &'a str) {
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
            for name in ["configuration", "data folder", "database", "redis", "tokens", "provider simulator"] {
                assert_eq!(check(&checks, name).0, true, "{checks}");
            }
            assert!(world.run(&["doctor"]).stdout.contains("ok   database: "));
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

#[test]
fn keys_by_which_nobody_can_be_let_in_are_a_finding() {
    let away = format!("http://127.0.0.1:{}/keys", free_port());
    let jwk = Signer::new(Algorithm::Es256).jwk("one");
    let strange = servers::publish(0, json!({"keys": [jwk]}).to_string());
    for (name, value, serve) in [
        ("JWT_PUBLIC_KEY_FILE", "/etc/hostname", Some(78)),
        ("JWT_JWKS_URL", "http://signer.example/keys", Some(78)),
        ("JWT_JWKS_URL", &away, None),
        ("JWT_JWKS_URL", &strange, None),
    ] {
        let world = World::on(Database::Sqlite).env("JWT_ALGORITHM", "RS256").env(name, value);
        let (code, checks) = examine(&world);
        let (ok, message) = check(&checks, "tokens");
        assert!(code == 69 && ok == false && message.contains(name), "{name}={value}: {checks}");
        if let Some(code) = serve {
            world.refused(&["serve"], code);
        }
    }
    let world = World::on(Database::Sqlite).env("JWT_ALGORITHM", "ES256").env("JWT_JWKS_URL", strange);
    let (code, checks) = examine(&world);
    assert_eq!((code, check(&checks, "tokens").0), (0, &json!(true)), "{checks}");
}

#[test]
fn a_secret_that_is_kept_is_read_and_none_is_made() {
    let world = World::on(Database::Sqlite);
    assert_eq!(examine(&world).0, 0);
    assert!(!world.path("data/jwt-secret").exists());
    world.json(&["token", "issue", "--user", "ann"]);
    let (_, checks) = examine(&world);
    let message = check(&checks, "tokens").1;
    assert!(message.contains("made here") && message.contains("./data"), "{message}");
    let (_, checks) = examine(&World::on(Database::Sqlite).env("JWT_SECRET", SECRET));
    assert!(check(&checks, "tokens").1.contains("configured"), "{checks}");
    std::fs::write(world.path("data/jwt-secret"), "short").unwrap();
    world.refused(&["serve"], 78);
    let (code, checks) = examine(&world);
    let (ok, message) = check(&checks, "tokens");
    assert!(code == 69 && ok == false && message.contains("jwt-secret"), "{checks}");
}

#[test]
fn what_was_not_there_is_not_made() {
    let world = World::on(Database::Sqlite).env("DATABASE_URL", "sqlite://books/store.db");
    assert_eq!(examine(&world).0, 0);
    assert!(!world.path("books/store.db").exists());
    assert!(std::fs::read_dir(world.path("data")).unwrap().next().is_none());
    let world = world.env("DATABASE_URL", "sqlite:///proc/books/store.db");
    world.refused(&["serve"], 69);
    let (code, checks) = examine(&world);
    let (ok, message) = check(&checks, "database");
    assert!(code == 69 && ok == false && message.contains("/proc/books"), "{checks}");
}

#[test]
fn a_schema_is_compared_with_what_this_version_needs() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = older(database);
        let (code, checks) = examine(&world);
        let (ok, message) = check(&checks, "database");
        assert!(code == 0 && ok == true && message.contains("`hasnot-engine migrate`"), "{checks}");
        assert!(message.contains("2026-11-26-000000_leases") && !message.contains("books"), "{message}");
        assert_eq!(world.json(&["migrate"])["applied"], json!(["2026-11-26-000000_leases"]));
        let (_, checks) = examine(&world);
        assert!(!check(&checks, "database").1.contains("migrate"), "{checks}");

        world.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
        let (code, checks) = examine(&world);
        let (ok, message) = check(&checks, "database");
        assert!(code == 69 && ok == false && message.contains("99990101000000"), "{checks}");
    }
}

#[test]
fn a_database_that_can_t_be_written_is_a_finding() {
    let world = World::on(Database::Postgres);
    world.json(&["migrate"]);
    let url = world.database_url();
    let database = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    world.execute(&format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    world.refused(&["serve"], 69);
    let (code, checks) = examine(&world);
    let (ok, message) = check(&checks, "database");
    assert!(code == 69 && ok == false && message.contains("read-only"), "{checks}");
}

#[test]
fn a_replica_that_is_away_is_a_finding() {
    let away = format!("postgres://postgres:hunter2@127.0.0.1:{}/x", free_port());
    let world = World::on(Database::Postgres).env("DATABASE_REPLICA_URL", away);
    let (code, checks) = examine(&world);
    let (ok, message) = check(&checks, "replica");
    assert!(code == 69 && ok == false && message.contains("DATABASE_REPLICA_URL"), "{checks}");
    assert_eq!(check(&checks, "database").0, true, "{checks}");
    assert!(!checks.to_string().contains("hunter2"), "{checks}");
    let world = world.env("DATABASE_REPLICA_URL", servers::postgres().fresh_database());
    let (code, checks) = examine(&world);
    assert_eq!((code, check(&checks, "replica").0), (0, &json!(true)), "{checks}");
}

#[test]
fn a_password_that_is_not_encoded_is_told_and_not_shown() {
    let world = World::on(Database::Sqlite).env("DATABASE_URL", "postgres://a:p@s3ntinel/rd@127.0.0.1:1/x");
    let done = world.run(&["doctor"]);
    assert!(done.code != 0 && done.stdout.contains("percent-encoded"), "{done:?}");
    assert!(!format!("{done:?}").contains("s3ntinel"), "{done:?}");
}

#[test]
fn a_folder_without_room_for_journals_is_a_finding() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: a disk of 8 MB can't be mounted: {why}"),
    };
    let world = World::on(Database::Postgres).env("HNE_DATA_DIR", disk.path().to_str().unwrap());
    let world = world.env("HNE__SERVER__WORKERS", "2").env("HNE__JOURNAL__SEGMENT_BYTES", "262144");
    let left = || std::fs::read_dir(disk.path()).unwrap().count();
    let is_found = |checks: &Value| {
        let (ok, message) = check(checks, "data folder");
        assert!(ok == false && message.contains("HNE_DATA_DIR") && message.contains("524288 bytes"), "{message}");
    };
    assert_eq!((examine(&world).0, left()), (0, 0));
    let ballast = disk.fill();
    let (code, checks) = examine(&world);
    is_found(&checks);
    assert_eq!((code, left()), (69, 1));

    std::fs::remove_file(ballast).unwrap();
    let service = world.serve();
    let client = service.client(&world, "ann");
    let ballast = disk.fill();
    is_found(&examine(&world).1);
    // Who serves already has its files.
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    std::fs::remove_file(ballast).unwrap();
    assert_eq!(examine(&world).0, 0);
    assert_eq!(service.stop("TERM").0.code, 0);
}

#[test]
fn a_redis_that_refuses_what_the_service_does_is_a_finding() {
    let redis = Redis::start();
    let examine = |url: String, prefix: &str| {
        let world = World::on(Database::Sqlite).env("REDIS_URL", url).env("HNE__REDIS__KEY_PREFIX", prefix);
        let (_, checks) = examine(&world);
        assert!(!checks.to_string().contains("hunter2"), "{checks}");
        let (ok, message) = check(&checks, "redis");
        (ok == true, message.to_owned())
    };
    // No more than the service needs, and beside it each thing that is missing.
    for (user, rights) in [
        ("fit", "~app:user:* ~app:key:* +ping +get +set"),
        ("elsewhere", "~other:* +@all"),
        ("mute", "~app:* +ping +get"),
        ("blind", "~app:* +ping +set"),
    ] {
        let rights = [&["ACL", "SETUSER", user, "on", ">hunter2"][..], &rights.split(' ').collect::<Vec<_>>()].concat();
        assert_eq!(redis.command(&rights), "OK");
        let (ok, message) = examine(redis.url().replace("//", &format!("//{user}:hunter2@")), "app:");
        assert!(ok == (user == "fit") && (ok || message.contains("NOPERM")), "{user}: {message}");
    }
    let (ok, message) = examine(format!("{}/99", redis.url()), "");
    assert!(!ok && message.contains("DB index is out of range"), "{message}");
    assert_eq!(examine(redis.url(), "own:"), (true, "answers, and keeps what is written".to_owned()));
    assert_eq!(redis.command(&["KEYS", "own:*"]), "");
    redis.command(&["CONFIG", "SET", "requirepass", "hunter3"]);
    let (ok, message) = examine(redis.url(), "");
    assert!(!ok && message.contains("NOAUTH"), "{message}");
    let (ok, message) = examine(redis.url().replace("//", "//:hunter2@"), "");
    assert!(!ok && message.contains("Password authentication failed"), "{message}");

    let redis = Redis::start();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let (ok, message) = examine(redis.url(), "");
    assert!(!ok && message.contains("READONLY"), "{message}");
}

#[test]
fn a_redis_whose_certificate_is_not_trusted_is_a_finding() {
    let redis = TlsRedis::start();
    let (_, checks) = examine(&World::on(Database::Sqlite).env("REDIS_URL", redis.url()));
    let (ok, message) = check(&checks, "redis");
    assert!(ok == false && message.contains("redis.ca_file") && message.contains("certificate"), "{message}");
}

#[test]
fn what_redis_refuses_is_said_in_the_log() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "mute", "on", ">hunter2", "~*", "+ping"]);
    let url = redis.url().replace("//", "//mute:hunter2@");
    let world = World::on(Database::Sqlite).env("REDIS_URL", url).env("JWT_SECRET", SECRET);
    let mut service = world.serve();
    // Three calls that fail are enough where no ping that is answered comes between them.
    let ask = async |number: i32| {
        let token = token(&json!({"sub": format!("user-{number}"), "exp": now() + 3_600}));
        let client = service.anonymous().bearer(&token);
        assert_eq!(complete(&client, &chat("sim/basic", "hello")).await.status, 200);
    };
    run(join_all((0..20).map(ask)));
    let (line, _) = service.process.stderr.wait_for("Redis fails or is too slow");
    assert!(line.contains("NOPERM") && !line.contains("hunter2"), "{line}");
}
