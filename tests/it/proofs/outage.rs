//! The database or Redis is away while a thousand accounts are served.

use std::{
    ops::Range,
    sync::mpsc,
    time::{Duration, Instant},
};

use hne_load::clock;

use super::{
    books::{add_users, prove},
    instance::Instance,
    load::Answer,
    machine_alone, machine_shared, pass, provider, scale,
    traffic::{Traffic, none_failed},
};
use crate::harness::{
    app::Database,
    servers::{Postgres, Redis},
};

const ACCOUNTS: usize = 1_000;
/// Requests a second.
const RATE: u32 = 300;
/// What deciding may take at p99. A build without optimization shows no more than that nobody waits for the database,
/// whose answer takes seconds. On a machine without a processor to spare it may take [`SLOWER`] times what a mere timer is
/// late by at p99, meanwhile and in this process.
const QUOTA_P99: Duration = if cfg!(debug_assertions) { Duration::from_millis(100) } else { Duration::from_millis(1) };
const SLOWER: u32 = 5;
/// How much memory may grow during an outage, in bytes.
const GROWTH: u64 = 20 << 20;

/// Makes accounts whose limit is far away.
fn accounts(instance: &Instance) -> Vec<String> {
    instance.json(&["plan", "set", "warm", "basic", "--window", "day", "--requests", "100000"]);
    let users: Vec<_> = (0..ACCOUNTS).map(|account| format!("warm-{account:04}")).collect();
    add_users(&instance.database_url(), &users, "warm");
    users
}

/// Lets time pass, and returns by how much timers of a millisecond were late meanwhile, at p99.
fn pass_and_watch(time: Duration) -> Duration {
    let step = Duration::from_millis(1);
    let (_sender, nothing) = mpsc::channel::<()>();
    let began = clock::now();
    let mut late = Vec::new();
    while began.elapsed() < time {
        let before = clock::now();
        // Nobody sends: it is a timer finer than the runtime's.
        assert!(nothing.recv_timeout(step).is_err());
        late.push(before.elapsed().saturating_sub(step));
    }
    late.sort_unstable();
    late[late.len() * 99 / 100]
}

/// Returns the p50, the p99 and the longest of what the quota took for requests that were sent in this time.
fn quota_times(answers: &[Answer], time: Range<Instant>) -> [Duration; 3] {
    let sent = answers.iter().filter(|answer| time.contains(&answer.sent));
    let mut times: Vec<_> = sent.map(|answer| answer.quota.expect("each answer says what the quota took")).collect();
    times.sort_unstable();
    println!("requests sent in {:.1?}: {}", time.end - time.start, times.len());
    [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
}

#[test]
fn a_frozen_database_fails_no_request_and_loses_none() {
    let _quiet = machine_alone();
    let frozen = Duration::from_secs(scale(8, 60));
    let provider = provider();
    let server = Postgres::start();
    let mut instance = Instance::at(&server.fresh_database(), &provider);
    let users = accounts(&instance);
    instance.start();
    let traffic = Traffic::start(instance.address(), &users, RATE);
    pass(Duration::from_secs(1));
    let memory = instance.resident_bytes();
    server.freeze();
    let frozen_at = clock::now();
    let late = pass_and_watch(frozen);
    let grown = instance.resident_bytes().saturating_sub(memory);
    let thawed_at = clock::now();
    server.thaw();
    pass(Duration::from_secs(1));
    let answers = traffic.finish();
    instance.stop();
    none_failed(&answers);
    let [p50, p99, longest] = quota_times(&answers, frozen_at..thawed_at);
    println!(
        "outage: frozen {frozen:?}, quota p50 {p50:?} p99 {p99:?} max {longest:?}, a timer late by {late:?} at p99, memory {} MB, \
         grown by {} KB",
        memory >> 20,
        grown >> 10
    );
    prove("outage", &instance.database_url(), &provider, &answers);
    instance.verify();
    assert!(p99 < QUOTA_P99.max(late * SLOWER), "deciding took {p99:?} at p99, while a timer was late by {late:?}");
    assert!(grown < GROWTH, "memory grew by {grown} bytes");
}

/// What happens to Redis, and how.
type Fault = (&'static str, fn(&Redis));

/// One after the other.
const FAULTS: [Fault; 6] = [
    ("frozen", |redis| redis.freeze()),
    ("thawed", |redis| redis.thaw()),
    ("flushed", Redis::flush),
    ("killed", |redis| redis.kill()),
    ("started", |redis| redis.restart()),
    ("flushed again", Redis::flush),
];

#[test]
fn a_redis_that_freezes_dies_and_forgets_fails_no_request() {
    let _busy = machine_shared();
    let phase = Duration::from_millis(scale(1_500, 10_000));
    let provider = provider();
    let redis = Redis::start();
    let mut instance = Instance::on(Database::Postgres, &provider);
    instance.set("REDIS_URL", redis.url());
    let users = accounts(&instance);
    instance.start();
    let traffic = Traffic::start(instance.address(), &users, RATE);
    let warm_at = clock::now();
    for (name, fault) in FAULTS {
        fault(&redis);
        let before = traffic.ended();
        pass(phase);
        println!("redis {name}: served in {phase:?} {}", traffic.ended() - before);
    }
    let answers = traffic.finish();
    instance.stop();
    none_failed(&answers);
    let [p50, p99, longest] = quota_times(&answers, warm_at..clock::now());
    println!("redis: quota p50 {p50:?} p99 {p99:?} max {longest:?}");
    prove("redis", &instance.database_url(), &provider, &answers);
    instance.verify();
}
