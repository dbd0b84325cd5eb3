//! What the performance report costs: it is made of windows whose slots all have something in them.
//!
//! `cargo bench -p hasnot-actors --features testing --bench report`; 100,000 requests and as many calls to the store, spread
//! over the last hour. Asked on the actor's own thread, and without what it costs to read the vitals, which are others'.
//! There is no target: admins ask now and then. But whoever counts can't do anything else meanwhile, and at 30,000
//! requests/s the queue is full after 270 ms.
#![expect(clippy::unwrap_used, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_rt::{Arbiter, System, SystemRunner};
use actors::{
    domain::{ErrorCode, Finished, Outcome, Timestamp, Timings},
    metrics::Metrics,
    stats::{Config, Lag, Memory, Parts, Pool, Stats, StatsHandle, Vitals},
    testing::ManualClock,
};
use criterion::{Criterion, criterion_group, criterion_main};

/// Requests in the windows.
const REQUESTS: u64 = 100_000;
/// The slots of the shortest window, throughout the longest one.
const SLOTS: u64 = 720;
/// How long such a slot is.
const SLOT: Duration = Duration::from_secs(5);
/// What waits to be counted where something does: as much as does so without the actor being rung up.
const WAITING: u64 = 4_000;

/// Vitals that cost nothing.
struct Still;

impl Vitals for Still {
    fn memory(&self) -> Memory {
        Memory { allocated: 200 << 20, resident: 256 << 20 }
    }
    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }
    fn cores(&self) -> u32 {
        2
    }
    fn pool(&self) -> Pool {
        Pool { total: 5, active: 2, max: 20 }
    }
    fn open_streams(&self) -> u64 {
        7
    }
    fn ledger_lag(&self) -> Lag {
        Lag::default()
    }
}

/// Returns a time between 1 µs and 16 s, as likely short as long.
fn time(number: u64) -> Duration {
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_micros((1 << (noise % 24)) + noise % 1_000)
}

/// One request in ten failed, in one way after another.
fn finished(number: u64) -> Finished {
    let code = ErrorCode::ALL.iter().cycle().nth((number / 10) as usize % ErrorCode::ALL.len()).copied();
    let stage = |stage: u64| Some(time(number * 8 + stage));
    let timings = Timings {
        auth: stage(0),
        quota: stage(1),
        connect: stage(2),
        ttft: stage(3),
        overhead: stage(4),
        total: time(number * 8 + 5),
    };
    let code = code.filter(|_| number.is_multiple_of(10));
    let outcome = if code.is_some() { Outcome::ProviderError } else { Outcome::Completed };
    Finished { outcome: Some(outcome), code, joined: false, estimated: code.is_some(), timings }
}

/// Lets an hour pass in which all this happens.
async fn fill(stats: &StatsHandle, clock: &ManualClock) {
    for slot in 0..SLOTS {
        for number in slot * REQUESTS / SLOTS..(slot + 1) * REQUESTS / SLOTS {
            stats.post_request(finished(number));
            stats.post_database(time(number), true);
        }
        // Counts what waits, at this time.
        let report = stats.ask_report().await.unwrap();
        if slot + 1 < SLOTS {
            clock.advance(SLOT);
            continue;
        }
        let report = serde_json::to_value(report).unwrap();
        let of = |pointer: &str| report.pointer(pointer).and_then(serde_json::Value::as_u64);
        assert_eq!((of("/performance/totalRequests"), of("/droppedObservations")), (Some(REQUESTS), Some(0)));
    }
}

/// Runs it in a task on the thread of the actor: each wake of what `block_on` itself waits for is a write to the event
/// loop's own descriptor.
fn in_a_task(system: &SystemRunner, work: impl Future<Output = Duration> + 'static) -> Duration {
    system.block_on(async { actix_rt::spawn(work).await.unwrap() })
}

/// Asks so often, each time with so much to be counted first, and has each report written as JSON if `json`.
async fn ask(stats: StatsHandle, times: u64, waiting: u64, json: bool) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..times {
        (0..waiting).for_each(|number| stats.post_request(finished(number)));
        let began = Instant::now();
        let report = stats.ask_report().await.unwrap();
        if json {
            black_box(serde_json::to_string(&report).unwrap());
        }
        took += began.elapsed();
    }
    took
}

fn reports(criterion: &mut Criterion) {
    let system = System::new();
    let clock = Arc::new(ManualClock::new());
    let stats = system.block_on(async {
        let parts = Parts {
            clock: clock.clone(),
            vitals: Arc::new(Still),
            metrics: Metrics::new("bench", Timestamp(0)).unwrap(),
            memory_limit: 512 << 20,
        };
        let stats = Stats::start(&Arbiter::current(), &Config::default(), parts);
        fill(&stats, &clock).await;
        stats
    });
    let mut group = criterion.benchmark_group("report");
    group.sample_size(50).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    for (name, waiting, json) in [
        ("built", 0, false),
        ("built, and written as JSON", 0, true),
        ("4,000 requests counted, and built", WAITING, false),
    ] {
        group.bench_function(name, |bench| {
            bench.iter_custom(|times| in_a_task(&system, ask(stats.clone(), times, waiting, json)));
        });
    }
    group.finish();
}

criterion_group!(benches, reports);
criterion_main!(benches);
