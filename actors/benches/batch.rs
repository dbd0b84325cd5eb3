//! How fast the ledger makes batches: from the records in a journal's file to what the store is handed.
//!
//! `cargo bench -p hasnot-actors --features testing --bench batch`; batches of 5,000 postings, as a flush has them at most,
//! each from the acknowledgement of the one before until it is handed over. That is: reading both records of each request
//! from the page cache, checking and decoding them, and counting what was acknowledged. Sums by account are made by the
//! store and measured there (`flush`), against a target of 50,000 postings/s: beside that, batches should cost next to
//! nothing.
#![expect(clippy::unwrap_used, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_rt::{Arbiter, System};
use actors::{
    domain::{Amounts, ClassId, ModelKey, Nanodollars, Outcome, Portion, Posting, Timestamp, UserKey, WindowKind},
    ledger::{self, Fsync, JournalConfig, LedgerHandle, Owner, Place, Shelf, UsageLedger},
    metrics::Metrics,
    ports::{
        ApplyError, Batch, Heartbeat, JournalCursor, LeaseAnswer, LeaseAsk, LeaseKey, LedgerStore, SharedCache,
        StoreError,
    },
    quota::Accounts,
    registry::{self, CatalogHandle},
    testing::{FakeCache, FakeCatalog, FakeDirectory, ManualClock},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::BoxFuture;
use uuid::Uuid;

/// Postings in a batch: `ledger.flush_postings`.
const POSTINGS: u32 = 5_000;
/// Accounts that they are spread over.
const ACCOUNTS: u32 = 2_000;

const OWNER: Owner = Owner { store: Uuid::from_u128(1), instance: Uuid::from_u128(2) };

/// As the service has it by default, but that nothing is ever too much.
fn journal() -> JournalConfig {
    JournalConfig {
        fsync: Fsync::Interval,
        fsync_interval: Duration::from_millis(50),
        segment_bytes: 8 << 20,
        retain: Duration::ZERO,
        retain_bytes: 0,
        max_bytes: 64 << 30,
    }
}

fn posting(number: u32) -> Posting {
    Posting {
        id: Uuid::from_u128(number.into()),
        user: UserKey((number.wrapping_mul(7_919) % ACCOUNTS).into()),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: ManualClock::START,
        settled_at: ManualClock::START.plus(Duration::from_secs(3)),
        outcome: Outcome::Completed,
        estimated: false,
        amounts: Amounts { requests: 1, prompt_tokens: 10, completion_tokens: 20, cost: Nanodollars(300) },
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
}

/// Writes a journal of so many requests, one after another, and leaves it as a process does that has died.
fn leave(folder: &Path, requests: u32) {
    let shelf = Shelf::new(journal(), folder, OWNER, usize::MAX, Arc::new(ManualClock::new())).unwrap();
    let books = shelf.open_books();
    for number in 0..requests {
        let entry = loop {
            match books.open(posting(number)) {
                Some(entry) => break entry,
                // The next segment isn't ready yet.
                None => std::thread::yield_now(),
            }
        };
        drop(entry.settle(posting(number)).unwrap());
    }
}

/// A store that applies nothing and notes how long it waits for full batches.
#[derive(Default)]
struct Sink(Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// When the last batch was acknowledged.
    since: Option<Instant>,
    batches: u64,
    took: Duration,
}

impl LedgerStore for Sink {
    fn apply(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), ApplyError>> {
        let handed = Instant::now();
        Box::pin(async move {
            let mut waits = self.0.lock().unwrap();
            // Before the first one, the end of the journal was looked for.
            if let Some(since) = waits.since
                && batch.postings.len() == POSTINGS as usize
            {
                waits.batches += 1;
                waits.took += handed - since;
            }
            waits.since = Some(Instant::now());
            Ok(())
        })
    }

    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<JournalCursor>, StoreError>> {
        Box::pin(async { Ok(vec![JournalCursor::default(); journals.len()]) })
    }

    fn exchange<'a>(&'a self, _: Uuid, _: &'a [LeaseAsk]) -> BoxFuture<'a, Result<Vec<LeaseAnswer>, StoreError>> {
        Box::pin(async { Err(nothing_here()) })
    }

    fn recall<'a>(&'a self, _: Uuid, _: &'a [LeaseKey]) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async { Err(nothing_here()) })
    }

    fn enroll(&self, _: Uuid, _: Uuid) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        Box::pin(async { Err(nothing_here()) })
    }

    fn heartbeat(&self, _: Uuid, _: Uuid) -> BoxFuture<'_, Result<Heartbeat, StoreError>> {
        Box::pin(async { Err(nothing_here()) })
    }
}

fn nothing_here() -> StoreError {
    StoreError::Unavailable("it only waits for batches".into())
}

fn ledger(folder: &Path, store: Arc<Sink>, arbiter: &Arbiter) -> LedgerHandle {
    let (clock, metrics) = (Arc::new(ManualClock::new()), Metrics::new("bench", Timestamp(0)).unwrap());
    let catalog = registry::Ports {
        catalog: Arc::new(FakeCatalog::default()),
        directory: Arc::new(FakeDirectory::default()),
        metrics: metrics.clone(),
        clock: clock.clone(),
    };
    let offered = registry::Config { keep: Arc::new(|_| true), pass_through: None };
    let ports = ledger::Ports {
        accounts: Arc::new(Accounts::new(store.clone(), OWNER.instance, 1_000, clock.clone())),
        store,
        cache: Arc::new(FakeCache::default()) as Arc<dyn SharedCache>,
        catalog: CatalogHandle::start(&arbiter.handle(), offered, catalog),
        metrics,
        clock,
        set_clock: Arc::new(|_, _| {}),
    };
    let config = ledger::Config { flush_interval: Duration::from_millis(200), flush_postings: POSTINGS as usize };
    let place = Place { journal: journal(), folder: folder.to_owned(), owner: OWNER, process: Uuid::from_u128(3) };
    UsageLedger::start(config, place, ports, &arbiter.handle()).unwrap()
}

/// Has the ledger bring one batch more than these, and returns how long it took for these.
async fn drain(batches: u32) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let requests = (batches + 1) * POSTINGS;
    leave(folder.path(), requests);
    let (sink, arbiter) = (Arc::new(Sink::default()), Arbiter::new());
    let recovered = ledger(folder.path(), sink.clone(), &arbiter).ask_recover().await.unwrap();
    arbiter.stop();
    arbiter.join().unwrap();
    let waits = sink.0.lock().unwrap();
    assert_eq!((recovered.postings, waits.batches), (requests as usize, batches.into()));
    waits.took
}

fn batches(criterion: &mut Criterion) {
    let system = System::new();
    let mut group = criterion.benchmark_group("batch");
    // Most of it goes into writing the journals first.
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(6));
    group.throughput(Throughput::Elements(POSTINGS.into()));
    group.bench_function("5,000 postings, from the journal to the store's door", |bench| {
        bench.iter_custom(|batches| system.block_on(drain(batches.try_into().unwrap())));
    });
    group.finish();
}

criterion_group!(benches, batches);
criterion_main!(benches);
