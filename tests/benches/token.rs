//! What it costs to know who is calling: where the token comes for the first time, and where it is remembered.
//!
//! `cargo bench --bench token`. Token check, reservation and the journal's records should take at most 5 µs together; that
//! is for remembered tokens, and `admission` measures the others. Signatures alone are checked in 1.6 µs (HS256), 27 µs
//! (RS256, EdDSA) or 40 µs (ES256). To look up a remembered token takes a hundredth of a microsecond beside its hash, to
//! ask an actor on the same thread 0.6 µs. Tokens have 250 bytes with HS256, 550 with RS256, whose signature is longer.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_rt::{System, SystemRunner};
use actors::{
    auth::{AuthHandle, Complaints, Config, Ports, Provision, Roll},
    domain::{Timestamp, TokenHash},
    metrics::Metrics,
    ports::{Clock, TokenVerifier},
    registry::Feed,
    testing::{FakeCache, FakeDirectory, caller},
};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use futures_util::FutureExt;
use hasnot_engine::{
    clock::StoreClock,
    token::{Algorithm, Verifier},
};
use serde_json::json;
use signer::{FakeFetch, Signer};

#[path = "../it/token/signer.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod signer;

/// As in the service.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The most tokens that a worker remembers: `auth.cache_entries`.
const CACHE_ENTRIES: usize = 100_000;

/// Returns a token as this service issues them, valid for longer than it is remembered.
fn token(signer: &Signer, clock: &StoreClock, number: usize) -> String {
    let now = clock.wall().seconds();
    let id = format!("0190e6b2-7c1d-7e3f-8a4b-{number:012}");
    signer.sign(&json!({ "sub": "alice@example.com", "exp": now + 3_600, "iat": now, "jti": id, "plan": "enterprise" }))
}

fn verifier(signer: &Signer, clock: &Arc<StoreClock>) -> Verifier {
    Verifier::new(&signer.config(), Arc::new(FakeFetch::default()), clock.clone(), &metrics()).unwrap()
}

fn metrics() -> Metrics {
    Metrics::new("bench", Timestamp(0)).unwrap()
}

/// The signature and the claims, without the actor.
fn cold(group: &mut BenchmarkGroup<'_, WallTime>, clock: &Arc<StoreClock>) {
    for algorithm in [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let signer = Signer::new(algorithm);
        let (verifier, token) = (verifier(&signer, clock), token(&signer, clock, 0));
        assert!(algorithm != Algorithm::Hs256 || (245..=255).contains(&token.len()), "{} bytes", token.len());
        group.bench_function(format!("cold, {}", algorithm.as_str()), |bench| {
            bench.iter(|| verifier.verify(black_box(&token)).now_or_never().unwrap().unwrap());
        });
    }
}

fn auth(signer: &Signer, clock: &Arc<StoreClock>) -> AuthHandle {
    let directory = FakeDirectory::default();
    directory.set_user(caller(7, "alice@example.com"));
    let ports = Ports {
        verifier: Arc::new(verifier(signer, clock)),
        cache: Arc::new(FakeCache::default()),
        directory: Arc::new(directory),
        clock: clock.clone(),
        feed: Feed::new(clock.now()),
        metrics: metrics(),
        roll: Roll::default(),
        complaints: Complaints::default(),
    };
    AuthHandle::start(Config { provision: Provision::Reject, cache_entries: CACHE_ENTRIES }, ports)
}

/// Asks for so many callers, going round these tokens, in a task on the thread of the actor as handlers do: each wake of
/// what `block_on` itself waits for is a write to the event loop's own descriptor, which no request costs.
fn ask(system: &SystemRunner, auth: &AuthHandle, tokens: &Arc<[String]>, times: u64) -> Duration {
    let (auth, tokens) = (auth.clone(), Arc::clone(tokens));
    let asking = async move {
        let began = Instant::now();
        for (token, _) in tokens.iter().cycle().zip(0..times) {
            black_box(auth.ask_caller(token).await.unwrap());
        }
        began.elapsed()
    };
    system.block_on(async { actix_rt::spawn(asking).await.unwrap() })
}

fn tokens(criterion: &mut Criterion) {
    let clock = Arc::new(StoreClock::new());
    let mut group = criterion.benchmark_group("token");
    group.sample_size(50).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(700));
    cold(&mut group, &clock);
    let (system, signer) = (System::new(), Signer::new(Algorithm::Hs256));
    let start = || system.block_on(async { auth(&signer, &clock) });
    let mut next = 0;
    let mut fresh = |count: usize| -> Arc<[String]> {
        next += count;
        (next - count..next).map(|number| token(&signer, &clock, number)).collect()
    };
    let auth = start();
    group.bench_function("cold, HS256, asked for through the actor", |bench| {
        bench.iter_custom(|times| ask(&system, &auth, &fresh(times.try_into().unwrap()), times));
    });
    let token = token(&signer, &clock, 0);
    group.bench_function("the hash alone", |bench| bench.iter(|| TokenHash::of(black_box(&token))));
    for (name, count) in [("warm, always the same", 1), ("warm, 10,000 in turn", 10_000)] {
        let (auth, remembered) = (start(), fresh(count));
        ask(&system, &auth, &remembered, count as u64);
        group.bench_function(name, |bench| {
            bench.iter_custom(|times| ask(&system, &auth, &remembered, times));
        });
    }
    group.finish();
}

criterion_group!(benches, tokens);
criterion_main!(benches);
