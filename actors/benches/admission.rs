//! What it costs to admit a request and to settle it, on a warm account with a lease: both records are in the file.
//!
//! `cargo bench -p hasnot-actors --features testing --bench admission`; the target is 5 µs at the median.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{sync::Arc, time::Duration};

use actix_rt::{System, SystemRunner};
use actors::{
    domain::{
        Amounts, Caller, ClassId, Limits, ModelKey, Nanodollars, Outcome, Plan, PlanId, PlanLimit, Portion, Posting,
        Price, Role, Timestamp, UserKey, WindowKind,
    },
    ledger::{Books, Entry, Fsync, JournalConfig, Owner, Shelf},
    quota::{Accounts, Ask, Config, QuotaError, QuotaGate, QuotaHandle, Settlement, Wish},
    testing::{FakeLedger, ManualClock},
};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::future::join_all;
use uuid::Uuid;

/// As many as a busy worker finds ready in one turn of its loop.
const AT_ONCE: usize = 16;

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

fn plan() -> Plan {
    Plan {
        id: PlanId(1),
        name: "bench".into(),
        requests_per_minute: None,
        concurrent_streams: None,
        open: false,
        lines: Vec::new(),
    }
}

fn wish() -> Wish {
    let caller = Arc::new(Caller { key: UserKey(1), id: "ann".parse().unwrap(), role: Role::User, plan: PlanId(1) });
    let limits = Limits { requests: Some(1 << 40), ..Limits::default() };
    let line = PlanLimit { class: ClassId(1), window: WindowKind::Day, limits };
    Wish {
        caller,
        model: ModelKey(1),
        line,
        ask: Ask { prompt_tokens: 3, completion_tokens: 5, price: Price::default() },
    }
}

const TRUTH: Settlement = Settlement {
    outcome: Outcome::Completed,
    estimated: false,
    amounts: Amounts { requests: 1, prompt_tokens: 3, completion_tokens: 4, cost: Nanodollars(0) },
    at: ManualClock::START,
};

/// Admits and settles one request. Where the next segment isn't ready yet, it waits for it.
async fn serve(gate: &QuotaHandle, plan: &Plan, wish: &Wish) {
    loop {
        match gate.ask_admit(plan, wish.clone()).await {
            Ok((_permit, reservation)) => return drop(reservation.settle(TRUTH).unwrap()),
            Err(QuotaError::BooksFull | QuotaError::Unavailable) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn posting() -> Posting {
    Posting {
        id: Uuid::from_u128(3),
        user: UserKey(1),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: ManualClock::START,
        settled_at: Timestamp(ManualClock::START.0 + 1),
        outcome: Outcome::Completed,
        estimated: false,
        amounts: TRUTH.amounts,
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
}

fn open(books: &Books) -> Entry {
    loop {
        match books.open(posting()) {
            Some(entry) => return entry,
            None => std::thread::yield_now(),
        }
    }
}

/// Runs it as handlers run, in a task on the thread of the gate: each wake of what `block_on` itself waits for is a write
/// to the event loop's own descriptor, which no request costs.
fn in_a_task(system: &SystemRunner, work: impl Future<Output = Duration> + 'static) -> Duration {
    system.block_on(async { actix_rt::spawn(work).await.unwrap() })
}

fn admission(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new());
    let shelf = Shelf::new(journal(), folder.path(), OWNER, 5_000, clock.clone()).unwrap();
    let mut group = criterion.benchmark_group("admission");
    group.measurement_time(Duration::from_secs(3));
    let books = shelf.open_books();
    group.bench_function("journal alone: reserved and settled", |bench| {
        bench.iter(|| drop(open(&books).settle(posting()).unwrap()));
    });
    let system = System::new();
    let (gate, plan, wish) = system.block_on(async {
        let store = Arc::new(FakeLedger::default());
        let accounts = Arc::new(Accounts::new(store, OWNER.instance, 1_000, clock.clone()));
        let config = Config {
            max_accounts: 1_000,
            idle_timeout: Duration::from_secs(3_600),
            load_timeout: Duration::from_secs(5),
            lease_wait: Duration::from_secs(1),
        };
        (QuotaGate::start(config, accounts, shelf.open_books(), clock), plan(), wish())
    });
    group.bench_function("reserve, settle, both records", |bench| {
        bench.iter_custom(|requests| {
            let (gate, plan, wish) = (gate.clone(), plan.clone(), wish.clone());
            in_a_task(&system, async move {
                serve(&gate, &plan, &wish).await;
                let began = std::time::Instant::now();
                for _ in 0..requests {
                    serve(&gate, &plan, &wish).await;
                }
                began.elapsed()
            })
        });
    });
    group.throughput(criterion::Throughput::Elements(AT_ONCE as u64));
    group.bench_function("the same, 16 requests at once", |bench| {
        bench.iter_custom(|rounds| {
            let (gate, plan, wish) = (gate.clone(), plan.clone(), wish.clone());
            in_a_task(&system, async move {
                let began = std::time::Instant::now();
                for _ in 0..rounds {
                    join_all((0..AT_ONCE).map(|_| serve(&gate, &plan, &wish))).await;
                }
                began.elapsed()
            })
        });
    });
    group.finish();
}

criterion_group!(benches, admission);
criterion_main!(benches);
