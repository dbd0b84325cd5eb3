//! Migrations, identity, and who may serve.

use std::collections::HashSet;

use actors::ports::StoreError;
use futures_util::future::join_all;
use hasnot_engine::store::Store;

use super::world::{World, config, on_both};

on_both!(
    migrations_run_once_and_keep_the_identity,
    eight_migrate_at_once,
    a_new_database_is_opened_by_many_at_once,
    a_newer_schema_is_refused,
    one_server_for_a_file
);

async fn migrations_run_once_and_keep_the_identity(world: &World) {
    let store = world.connect().await.unwrap();
    assert!(matches!(store.identity().await, Err(StoreError::Refused(_))));
    assert_eq!(store.migrate().await.unwrap(), ["2026-11-23-000000_books", "2026-11-26-000000_leases"]);
    let identity = store.identity().await.unwrap();
    assert_eq!(identity.get_version_num(), 4);
    assert_eq!(store.migrate().await.unwrap(), [""; 0]);
    assert_eq!(world.store().await.identity().await.unwrap(), identity);
}

async fn eight_migrate_at_once(world: &World) {
    let stores = join_all((0..8).map(|_| world.connect())).await;
    let runs = join_all(stores.iter().map(|store| store.as_ref().unwrap().migrate())).await;
    let mut applied: Vec<usize> = runs.into_iter().map(|run| run.unwrap().len()).collect();
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, 0, 0, 0, 0, 2]);
    let identities = join_all(stores.iter().map(|store| store.as_ref().unwrap().identity())).await;
    assert_eq!(identities.into_iter().map(Result::unwrap).collect::<HashSet<_>>().len(), 1);
}

/// Of two connections that make a new file's journal a write-ahead log at once, SQLite refuses one without waiting.
async fn a_new_database_is_opened_by_many_at_once(world: &World) {
    for round in 0..40 {
        let url = if world.is_sqlite() { format!("{}-{round}", world.url) } else { world.url.clone() };
        let opened = join_all((0..32).map(|_| async { Store::connect(&config(&url), &world.io.handle()).await }));
        for store in opened.await {
            store.unwrap();
        }
    }
}

async fn a_newer_schema_is_refused(world: &World) {
    let store = world.store().await;
    world.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')");
    let Err(StoreError::Unfit(why)) = store.migrate().await else { panic!() };
    assert!(why.contains("99990101000000") && why.contains("newer"), "{why}");
}

async fn one_server_for_a_file(world: &World) {
    let (first, second) = (world.store().await, world.store().await);
    let lock = first.claim_single_instance().unwrap();
    let again = second.claim_single_instance();
    match world.is_sqlite() {
        true => assert!(again.unwrap_err().to_string().contains("another server")),
        false => drop(again.unwrap()),
    }
    // Commands go on beside a server.
    second.ping().await.unwrap();
    drop(lock);
    second.claim_single_instance().unwrap();
}
