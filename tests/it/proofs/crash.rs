//! `kill -9` under load, again and again: what a client has seen finished is charged exactly once.

use std::time::Duration;

use hne_load::mock::MockProvider;

use super::{
    Chance,
    books::{add_users, prove},
    instance::Instance,
    load::Crowd,
    machine_shared, pass, provider, scale,
};
use crate::harness::app::{DEADLINE, Database};

/// Clients that always have a request running.
pub(super) const CLIENTS: usize = 200;
/// The smallest segment of a journal: so each life fills some.
const SMALL_SEGMENT: &str = "65536";
/// In some lives commits run into the kill, in others postings wait for one.
const FLUSH_INTERVALS: [&str; 2] = ["10ms", "200ms"];

/// Makes users: every second one without limits, the others with limits that are far away.
pub(super) fn users(instance: &Instance) -> Vec<String> {
    instance.json(&["plan", "set", "wide", "basic", "--window", "day", "--requests", "1000000"]);
    let users: Vec<_> = (0..CLIENTS).map(|slot| format!("slot-{slot:03}")).collect();
    let (unlimited, wide) = users.split_at(CLIENTS / 2);
    add_users(&instance.database_url(), unlimited, "unlimited");
    add_users(&instance.database_url(), wide, "wide");
    users
}

/// Starts the instance and waits until the load has reached the provider through it.
pub(super) fn start_under_load(instance: &mut Instance, provider: &MockProvider) {
    let before = provider.totals().requests;
    instance.start();
    let reached = provider.wait_for_totals(|totals| totals.requests > before, DEADLINE);
    assert!(hne_load::block_on(reached).unwrap().is_ok(), "the load does not reach the provider");
}

fn kills_lose_nothing(name: &str, database: Database) {
    let _busy = machine_shared();
    let kills = scale(50, 500);
    let mut chance = Chance::new(name);
    let provider = provider();
    let mut instance = Instance::on(database, &provider);
    instance.set_journal("SEGMENT_BYTES", SMALL_SEGMENT);
    let users = users(&instance);
    let crowd = Crowd::busy(instance.address(), users);
    let mut lived = Duration::ZERO;
    for kill in 0..kills {
        instance.set("HNE__SERVER__WORKERS", chance.between(1, 3).to_string());
        instance.set("HNE__LEDGER__FLUSH_INTERVAL", FLUSH_INTERVALS[usize::from(chance.between(0, 1) == 1)]);
        if kill % 5 == 4 {
            // Killed again while it recovers.
            instance.begin();
            pass(chance.millis(5, 150));
            instance.kill();
        }
        start_under_load(&mut instance, &provider);
        let life = chance.millis(20, 250);
        pass(life);
        lived += life;
        instance.kill();
    }
    let answers = crowd.finish();
    instance.start();
    instance.stop();
    println!("{name}: kills {kills}, others while it started {}, under load {lived:.1?} in all", kills / 5);
    prove(name, &instance.database_url(), &provider, &answers);
    instance.verify();
}

#[test]
fn kills_lose_nothing_on_sqlite() {
    kills_lose_nothing("crash on SQLite", Database::Sqlite);
}

#[test]
fn kills_lose_nothing_on_postgres() {
    kills_lose_nothing("crash on PostgreSQL", Database::Postgres);
}
