//! Databases that are away, slow, or not to be trusted.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actors::ports::{ApplyError, Directory, LedgerStore, StoreError};
use futures_util::future::join_all;
use hasnot_engine::{
    io::IoThread,
    store::{Config, Store},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::world::{NOON, World, account, amounts, applied, batch, block_on, config, day, posting, used};
use crate::harness::servers::{Postgres, postgres};

fn connect(config: &Config) -> Result<Store, StoreError> {
    let io = IoThread::start().unwrap();
    block_on(Store::connect(config, &io.handle()))
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_is_down_is_known_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Instant::now();
    let why = unavailable(connect(&config(&format!("postgres://u:hunter2@127.0.0.1:{port}/d"))));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(why.contains("refused") && !why.contains("hunter2"), "{why}");
}

#[test]
fn a_server_that_is_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u:hunter2@{}/d", listener.local_addr().unwrap());
    let started = Instant::now();
    let why = unavailable(connect(&Config { connect_timeout: Duration::from_millis(300), ..config(&url) }));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(why.contains("300ms") && !why.contains("hunter2"), "{why}");
}

#[test]
fn a_url_is_refused_with_a_sentence() {
    let good = config("postgres://u:hunter2@127.0.0.1:1/d");
    assert!(!format!("{good:?}").contains("hunter2"));
    for (config, key) in [
        (Config { url: "mysql://u:hunter2@h/d".into(), ..good.clone() }, "postgres://"),
        (Config { url: "postgres://h/d?schema=x".into(), ..good.clone() }, "`schema`"),
        (Config { replica_url: Some("u:hunter2@h".into()), ..good.clone() }, "postgres://"),
    ] {
        let why = connect(&config).unwrap_err().to_string();
        assert!(why.contains(key) && !why.contains("hunter2"), "{why}");
    }
}

#[test]
fn a_sqlite_file_that_cannot_be_is_a_sentence() {
    let why = unavailable(connect(&config("sqlite:///proc/none/x.db")).map_err(|error| match error {
        StoreError::Refused(why) => StoreError::Unavailable(why),
        other => other,
    }));
    assert!(why.contains("/proc/none"), "{why}");
}

#[test]
fn the_url_says_how_many_connections() {
    let mut world = World::postgres();
    world.url.push_str("&pool_max=3&pgbouncer=true");
    world.run(async |world: &World| {
        let store = world.store().await;
        assert_eq!(store.pool_state().max, 3);
        join_all((0..50).map(|_| store.ping())).await.into_iter().for_each(Result::unwrap);
        assert!(store.pool_state().connections <= 3);
    });
}

#[test]
fn tls_is_what_sslmode_says() {
    let world = World::postgres();
    let base = world.url.split('?').next().unwrap().to_owned();
    let by_name = base.replace("127.0.0.1", "localhost");
    let root = postgres().certificate().display().to_string().replace('/', "%2F");
    let mode = |url: &str, query: &str| connect(&config(&format!("{url}?{query}")));
    for query in ["sslmode=disable", "sslmode=prefer", "sslmode=require", "sslmode=require&sslrootcert={}"] {
        mode(&base, &query.replace("{}", &root)).unwrap();
    }
    mode(&base, &format!("sslmode=verify-ca&sslrootcert={root}")).unwrap();
    mode(&by_name, &format!("sslmode=verify-full&sslrootcert={root}")).unwrap();
    // The certificate is for another name, or by nobody we know.
    unavailable(mode(&base, &format!("sslmode=verify-full&sslrootcert={root}")));
    unavailable(mode(&base, "sslmode=verify-ca"));
    unavailable(mode(&by_name, "sslmode=verify-full"));
    let missing = mode(&base, "sslmode=verify-ca&sslrootcert=%2Fnone.pem").unwrap_err().to_string();
    assert!(missing.contains("/none.pem"), "{missing}");
}

#[test]
fn broken_connections_are_replaced() {
    let server = Postgres::start();
    World::at(server.fresh_database()).run(async |world: &World| {
        let store = world.store().await;
        join_all((0..10).map(|_| store.ping())).await.into_iter().for_each(Result::unwrap);
        for crash in [false, true] {
            if crash {
                server.kill()
            } else {
                server.stop()
            }
            let started = Instant::now();
            unavailable(store.caller(&"a".parse().unwrap()).await);
            assert!(started.elapsed() < Duration::from_secs(2));
            server.restart();
            // No call has to fail first: what is known to be broken isn't handed out.
            join_all((0..10).map(|_| store.ping())).await.into_iter().for_each(Result::unwrap);
        }
    });
}

#[test]
fn a_frozen_server_is_given_up_and_the_books_stay_right() {
    let server = Postgres::start();
    let world = World::at(server.fresh_database());
    let short = Duration::from_millis(500);
    let config = Config { connect_timeout: short, statement_timeout: short, ..config(&world.url) };
    world.run(async |world: &World| {
        let full = world.store().await;
        let store = Store::connect(&config, &world.io.handle()).await.unwrap();
        let journal = Uuid::new_v4();
        let first = Arc::new(batch(journal, 0, vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))]));
        server.freeze();
        let tried = store.apply(first.clone()).await;
        assert!(matches!(tried, Err(ApplyError::Store(StoreError::Unavailable(_)))), "{tried:?}");
        server.thaw();
        // Unknown is unknown: the cursor tells, and a second try is harmless.
        match full.apply(first).await {
            Ok(()) => {}
            Err(ApplyError::CursorElsewhere { found, .. }) => assert_eq!(found, 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(used(&full, &[(account(1, 1), day(NOON))]).await, [amounts(1, 1, 1, 1)]);
        assert_eq!(full.verify_ledger().await.unwrap().postings, 1);
        store.ping().await.unwrap();
    });
}

#[test]
fn usage_is_read_from_the_replica() {
    let (world, replica) = (World::postgres(), World::postgres());
    let config = Config { replica_url: Some(replica.url.as_str().into()), ..config(&world.url) };
    world.run(async |world: &World| {
        replica.store().await.provision(&"far".parse().unwrap(), None).await.unwrap();
        world.store().await.provision(&"near".parse().unwrap(), None).await.unwrap();
        let store = Store::connect(&config, &world.io.handle()).await.unwrap();
        assert!(store.usage(&"far".parse().unwrap()).await.unwrap().is_some());
        assert!(store.caller(&"far".parse().unwrap()).await.unwrap().is_none());
        assert_eq!(store.users(None, 9).await.unwrap()[0].id.as_str(), "near");
    });
}

#[test]
fn a_commit_that_fails_is_unknown_and_leaves_a_good_store() {
    World::postgres().run(async |world: &World| {
        let store = world.store().await;
        world.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON postings DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION fail()",
        );
        let journal = Uuid::new_v4();
        let first = Arc::new(batch(journal, 0, vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))]));
        let tried = store.apply(first.clone()).await;
        assert!(matches!(tried, Err(ApplyError::Store(StoreError::Unavailable(_)))), "{tried:?}");
        assert_eq!(applied(&store, &[journal]).await, [0]);
        world.execute("DROP TRIGGER late ON postings");
        store.apply(first).await.unwrap();
        assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, [amounts(1, 1, 1, 1)]);
    });
}
