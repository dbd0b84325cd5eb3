//! How fast the ledger's batches are applied: totals, posting rows and cursor in one transaction.
//!
//! `cargo bench --bench flush`, on a private PostgreSQL and on SQLite; batches of 5,000 postings over 2,000 accounts, as a
//! flush has them at most. The target is 50,000 postings/s to PostgreSQL, with rows, on two cores.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actors::{
    domain::{Amounts, ClassId, ModelKey, Nanodollars, Outcome, Portion, Posting, Timestamp, UserKey, WindowKind},
    ports::{Batch, CursorMove, LedgerStore},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hasnot_engine::{
    io::IoThread,
    store::{Config, Store},
};
use uuid::Uuid;

#[path = "../it/harness/servers.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod servers;

/// Postings in a batch: `ledger.flush_postings`.
const POSTINGS: u32 = 5_000;
/// Accounts that they are spread over.
const ACCOUNTS: u32 = 2_000;
/// 2026-11-23T12:00:00Z.
const NOON: Timestamp = Timestamp(1_795_435_200_000_000);

fn posting(number: u32) -> Posting {
    Posting {
        id: Uuid::now_v7(),
        user: UserKey((number.wrapping_mul(7_919) % ACCOUNTS).into()),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: NOON,
        settled_at: NOON.plus(Duration::from_secs(3)),
        outcome: Outcome::Completed,
        estimated: false,
        amounts: Amounts { requests: 1, prompt_tokens: 10, completion_tokens: 20, cost: Nanodollars(300) },
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
}

fn batch(journal: Uuid, number: u64) -> Arc<Batch> {
    let size = u64::from(POSTINGS);
    let (from, to) = (number * size, (number + 1) * size);
    let cursors = vec![CursorMove { journal, from, to, closes: false }];
    Arc::new(Batch { instance: Uuid::nil(), cursors, postings: (0..POSTINGS).map(posting).collect() })
}

fn flush(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let urls = [
        ("postgres", servers::postgres().fresh_database()),
        ("sqlite", format!("sqlite://{}", folder.path().join("bench.db").display())),
    ];
    let io = IoThread::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("flush");
    group.sample_size(10).measurement_time(Duration::from_secs(10)).throughput(Throughput::Elements(POSTINGS.into()));
    for (kind, url) in urls {
        let config = Config {
            url: url.as_str().into(),
            replica_url: None,
            pool_max: 20,
            idle_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(10),
        };
        let store = runtime.block_on(async {
            let store = Store::connect(&config, &io.handle()).await.unwrap();
            store.migrate().await.unwrap();
            store
        });
        let (journal, mut next) = (Uuid::new_v4(), 0);
        group.bench_function(kind, |bench| {
            bench.iter_custom(|batches| {
                let batches: Vec<_> = (next..next + batches).map(|number| batch(journal, number)).collect();
                next += batches.len() as u64;
                runtime.block_on(async {
                    let began = Instant::now();
                    for batch in batches {
                        store.apply(batch).await.unwrap();
                    }
                    began.elapsed()
                })
            });
        });
        assert_eq!(runtime.block_on(store.verify_ledger()).unwrap().drift, 0);
    }
    group.finish();
}

criterion_group!(benches, flush);
criterion_main!(benches);
