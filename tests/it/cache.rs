//! The shared cache against a real Redis, and against one that is dead, frozen or emptied.

mod server;

use std::{sync::Arc, time::Duration};

use actors::{
    domain::{Amounts, CallerRecord, Nanodollars, Portion, Position, Timestamp, TokenHash, UserId, WindowKind},
    metrics::Metrics,
    ports::{ClassSnapshot, Clock, KeyRecord, SharedCache, UsageSnapshot},
    testing::{ManualClock, caller},
};
use futures_util::future::join_all;
use hasnot_engine::cache::{Config, RedisCache, open};
use serde_json::{Value, json};
use server::Server;
use tokio::{runtime::Runtime, time::Instant};

/// A cache, its server, and the runtime on which their connection lives.
struct World {
    server: Server,
    cache: RedisCache,
    clock: Arc<ManualClock>,
    metrics: Metrics,
    io: Option<Runtime>,
}

impl World {
    async fn start() -> Self {
        let world = Self::with(Server::start(), "store-1");
        world.is_up(true).await;
        world
    }

    fn with(server: Server, store: &str) -> Self {
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (config, clock) = (config(&server.url()), Arc::new(ManualClock::new()));
        let (metrics, url) = (metrics(), server.url().into());
        let cache = RedisCache::open(&config, &url, store, io.handle(), clock.clone(), &metrics).unwrap();
        Self { server, cache, clock, metrics, io: Some(io) }
    }

    /// Waits until the cache says that the server is there, or gone.
    async fn is_up(&self, up: bool) {
        until(async || self.cache.healthy() == Some(up)).await;
    }

    /// Waits until a caller that was posted has arrived.
    async fn arrived(&self, user: &UserId) {
        until(async || self.cache.caller(user).await.is_some()).await;
    }

    /// Returns how many calls went like that.
    fn calls(&self, result: &str) -> u64 {
        let start = format!("hne_cache_calls_total{{result=\"{result}\"}} ");
        let text = self.metrics.encode().unwrap();
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }

    async fn timed<T>(&self, call: impl Future<Output = T>) -> (T, Duration) {
        let start = Instant::now();
        (call.await, start.elapsed())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            io.shutdown_background();
        }
    }
}

fn metrics() -> Metrics {
    Metrics::new("test", Timestamp(0)).unwrap()
}

fn config(url: &str) -> Config {
    Config {
        url: Some(url.into()),
        ca_file: None,
        timeout: Duration::from_millis(50),
        queue: 1_024,
        key_prefix: String::new(),
    }
}

/// Looks again and again until something is so: for what other threads and processes do. Fails after 20 s.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    for _ in 0..10_000 {
        if so().await {
            return;
        }
        tick.tick().await;
    }
    panic!("it never came to be");
}

const AS_OF: Position = Position { seq: 3, at: 1_764_000_000_000_000 };

fn alice() -> CallerRecord {
    CallerRecord { as_of: AS_OF, ..caller(7, "alice") }
}

#[actix_rt::test]
async fn a_caller_is_kept_as_json_for_600_seconds() {
    let world = World::start().await;
    let user = "alice".parse().unwrap();
    assert_eq!(world.cache.caller(&user).await, None);
    world.cache.post_caller(&alice());
    world.arrived(&user).await;
    assert_eq!(world.cache.caller(&user).await, Some(alice()));
    let json: Value = serde_json::from_str(&world.server.command(&["GET", "user:auth:alice"])).unwrap();
    assert!(world.calls("miss") >= 1 && world.calls("ok") >= 3, "it was looked for, written and found");
    assert_eq!((&json["id"], &json["role"], &json["key"]), (&json!("alice"), &json!("user"), &json!(7)));
    assert_eq!(json["as_of"], json!({"seq": 3, "at": 1_764_000_000_000_000_i64}));
    let rest: u64 = world.server.command(&["TTL", "user:auth:alice"]).parse().unwrap();
    assert!((590..=600).contains(&rest), "{rest}");
}

#[actix_rt::test]
async fn a_key_is_kept_to_its_end_and_600_seconds_at_most() {
    let world = World::start().await;
    let now = world.clock.wall();
    let (long, short, over) = (TokenHash::of("long"), TokenHash::of("short"), TokenHash::of("over"));
    let ends = |expires_at| KeyRecord { user: "alice".parse().unwrap(), expires_at, revoked: false, as_of: AS_OF };
    let soon = ends(Some(now.plus(Duration::from_secs(60))));
    world.cache.post_key(&over, &ends(Some(now)));
    world.cache.post_key(&short, &soon);
    world.cache.post_key(&long, &ends(None));
    until(async || world.cache.key(&long).await.is_some()).await;
    assert_eq!(world.cache.key(&long).await, Some(ends(None)));
    assert_eq!(world.cache.key(&short).await, Some(soon));
    assert_eq!(world.cache.key(&over).await, None);
    // As a former version wrote it.
    let name = format!("key:auth:{}", long.to_hex());
    world.server.command(&["SET", &name, r#"{"store":"store-1","user":"alice"}"#, "KEEPTTL"]);
    assert_eq!(world.cache.key(&long).await, None);
    let life = |key: &TokenHash| world.server.command(&["TTL", &format!("key:auth:{}", key.to_hex())]);
    assert!((590..=600).contains(&life(&long).parse::<i64>().unwrap()));
    assert!((50..=60).contains(&life(&short).parse::<i64>().unwrap()));
}

#[actix_rt::test]
async fn usage_is_kept_for_300_seconds() {
    let world = World::start().await;
    let basic = ClassSnapshot {
        class: "basic",
        window: WindowKind::Day,
        resets_at: "2026-12-01T00:00:00Z".to_owned(),
        used: Amounts { requests: 3, prompt_tokens: 5, completion_tokens: 7, cost: Nanodollars(9) },
        used_elsewhere: Portion { requests: 2, tokens: 4, cost: Nanodollars(6) },
        reserved: Amounts::ZERO,
    };
    let snapshot = UsageSnapshot { classes: vec![basic] };
    world.cache.post_usage(&"alice".parse().unwrap(), &snapshot);
    let written = json!({"classes": [{
        "class": "basic", "window": "day", "resets_at": "2026-12-01T00:00:00Z",
        "used": {"requests": 3, "prompt_tokens": 5, "completion_tokens": 7, "cost": 9},
        "used_elsewhere": {"requests": 2, "tokens": 4, "cost": 6},
        "reserved": {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0},
    }]});
    let read = || serde_json::from_str::<Value>(&world.server.command(&["GET", "user:usage:alice"])).ok();
    until(async || read().is_some()).await;
    assert_eq!(read(), Some(written));
    let rest: u64 = world.server.command(&["TTL", "user:usage:alice"]).parse().unwrap();
    assert!((290..=300).contains(&rest), "{rest}");
}

#[actix_rt::test]
async fn what_cannot_be_read_is_a_miss() {
    let world = World::start().await;
    let user: UserId = "alice".parse().unwrap();
    world.cache.post_caller(&alice());
    world.arrived(&user).await;
    let good = world.server.command(&["GET", "user:auth:alice"]);
    let former = &good.replace("as_of", "so_far");
    for bad in
        ["", "{", "7", "{}", "\u{fffd}", former, &good.replace("alice", "bob"), &good.replace("store-1", "store-0")]
    {
        world.server.command(&["SET", "user:auth:alice", bad]);
        assert_eq!(world.cache.caller(&user).await, None, "{bad}");
    }
    world.server.command(&["DEL", "user:auth:alice"]);
    world.server.command(&["LPUSH", "user:auth:alice", "a"]);
    assert_eq!(world.cache.caller(&user).await, None, "an error of the server's");
    world.server.command(&["SET", "user:auth:alice", &good]);
    assert_eq!(world.cache.caller(&user).await, Some(alice()));
}

#[actix_rt::test]
async fn an_emptied_server_is_full_of_misses() {
    let world = World::start().await;
    let user = "alice".parse().unwrap();
    world.cache.post_caller(&alice());
    world.arrived(&user).await;
    world.server.command(&["FLUSHALL"]);
    assert_eq!(world.cache.caller(&user).await, None);
    assert_eq!(world.cache.healthy(), Some(true));
}

#[actix_rt::test]
async fn a_frozen_server_costs_50_ms_three_times_and_then_nothing() {
    let world = World::start().await;
    let user = "alice".parse().unwrap();
    world.cache.post_caller(&alice());
    world.arrived(&user).await;
    world.server.freeze();
    let (all, took) = world.timed(join_all((0..1_000).map(|_| world.cache.caller(&user)))).await;
    assert!(all.iter().all(Option::is_none));
    assert!((Duration::from_millis(45)..Duration::from_millis(500)).contains(&took), "{took:?}");
    assert_eq!(world.cache.healthy(), Some(false));
    let (all, took) = world
        .timed(async {
            let mut all = Vec::new();
            for _ in 0..1_000 {
                all.push(world.cache.caller(&user).await);
            }
            all
        })
        .await;
    assert!(all.iter().all(Option::is_none));
    assert!(took < Duration::from_millis(100), "a thousand calls took {took:?}");
    world.server.thaw();
    world.is_up(true).await;
    world.arrived(&user).await;
}

#[actix_rt::test]
async fn each_call_to_a_frozen_server_ends_by_its_deadline() {
    let world = World::start().await;
    let user = "alice".parse().unwrap();
    world.server.freeze();
    for _ in 0..2 {
        let (found, took) = world.timed(world.cache.caller(&user)).await;
        assert_eq!(found, None);
        // 50 ms, and what a busy machine needs to wake this thread.
        assert!((Duration::from_millis(45)..Duration::from_millis(150)).contains(&took), "{took:?}");
    }
}

#[actix_rt::test]
async fn a_server_that_dies_and_comes_back_is_found_again() {
    let mut world = World::start().await;
    let user = "alice".parse().unwrap();
    world.server.kill();
    world.is_up(false).await;
    let (found, took) = world.timed(world.cache.caller(&user)).await;
    assert!(found.is_none() && took < Duration::from_millis(60));
    world.server.restart();
    world.is_up(true).await;
    world.cache.post_caller(&alice());
    world.arrived(&user).await;
}

#[actix_rt::test]
async fn a_server_that_was_never_there_stops_nobody() {
    let mut server = Server::start();
    server.kill();
    let start = Instant::now();
    let world = World::with(server, "store-1");
    assert_eq!(world.cache.caller(&"alice".parse().unwrap()).await, None);
    assert_eq!(world.cache.healthy(), Some(false));
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[actix_rt::test]
async fn writes_that_do_not_fit_are_dropped_and_counted() {
    let world = World::start().await;
    world.server.freeze();
    for _ in 0..5_000 {
        world.cache.post_caller(&alice());
    }
    let (most, full) = (5_000 - 1_024 - 64, world.calls("full"));
    assert!(full >= most, "{full}");
    // What did fit is tried, in vain, and then not even tried.
    until(async || world.calls("failed") >= 1 && world.calls("open") >= 1).await;
    assert_eq!(world.calls("ok"), 0);
}

#[actix_rt::test]
async fn the_connection_outlives_the_thread_that_used_it_first() {
    let world = Arc::new(World::start().await);
    let worker = actix_rt::Arbiter::new();
    let (done, first) = tokio::sync::oneshot::channel();
    let theirs = Arc::clone(&world);
    worker.spawn_fn(move || {
        actix_rt::spawn(async move {
            theirs.cache.post_caller(&alice());
            theirs.arrived(&"alice".parse().unwrap()).await;
            done.send(()).unwrap();
        });
    });
    first.await.unwrap();
    worker.stop();
    worker.join().unwrap();
    assert!(world.cache.caller(&"alice".parse().unwrap()).await.is_some());
}

#[actix_rt::test]
async fn without_a_url_there_is_no_cache_and_a_bad_one_is_refused() {
    let io = tokio::runtime::Handle::current();
    let clock = Arc::new(ManualClock::new());
    let none = open(&Config { url: None, ..config("") }, "store-1", &io, clock.clone(), &metrics()).unwrap();
    none.post_caller(&alice());
    assert_eq!((none.caller(&"alice".parse().unwrap()).await, none.healthy()), (None, None));
    for bad in ["http://user:geheim@host", "redis:geheim", "", "/geheim"] {
        let error = open(&config(bad), "store-1", &io, clock.clone(), &metrics()).err().unwrap().to_string();
        assert!(error.contains("rediss://") && !error.contains("geheim"), "{error}");
    }
    assert!(!format!("{:?}", config("redis://:geheim@host")).contains("geheim"));
}

#[actix_rt::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    // Another test may have been first.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rediss://:geheim@{}", listener.local_addr().unwrap());
    let clock = Arc::new(ManualClock::new());
    let cache = open(&config(&url), "store-1", &tokio::runtime::Handle::current(), clock, &metrics()).unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut hello = [0; 3];
    tokio::io::AsyncReadExt::read_exact(&mut socket, &mut hello).await.unwrap();
    assert_eq!(hello[..2], [22, 3], "a TLS handshake, and no password");
    assert_eq!(cache.healthy(), Some(false));
}
