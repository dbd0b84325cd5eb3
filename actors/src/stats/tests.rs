//! The actor, from its handle.

use std::sync::Mutex;

use actix_rt::{Arbiter, System};

use super::*;
use crate::domain::{ErrorCode, Outcome, Timestamp, Timings};

/// A clock that stands still until it is moved.
struct TestClock {
    origin: Instant,
    passed: Mutex<Duration>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { origin: tokio::time::Instant::now().into_std(), passed: Mutex::default() })
    }

    fn advance(&self, by: Duration) {
        *self.passed.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.origin + *self.passed.lock().unwrap()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(*self.passed.lock().unwrap())
    }
}

/// Half the memory and a tenth of the pool are used; one of two cores is busy.
struct TestVitals(Arc<TestClock>);

impl Vitals for TestVitals {
    fn memory(&self) -> Memory {
        Memory { allocated: 200 << 20, resident: 256 << 20 }
    }
    fn cpu_time(&self) -> Duration {
        *self.0.passed.lock().unwrap()
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
        Lag { rows: 3, age: Duration::from_millis(150) }
    }
}

fn parts(clock: &Arc<TestClock>) -> Parts {
    Parts {
        clock: clock.clone(),
        vitals: Arc::new(TestVitals(clock.clone())),
        metrics: Metrics::new("0", Timestamp::from_seconds(0)).unwrap(),
        memory_limit: 512 << 20,
    }
}

fn stats(clock: &Arc<TestClock>) -> (Stats, mpsc::Sender<Observation>) {
    let (queue, inbox) = mpsc::channel(QUEUE);
    (Stats::new(&Config::default(), parts(clock), inbox, Arc::default()), queue)
}

fn json(report: &Report) -> serde_json::Value {
    serde_json::to_value(report).unwrap()
}

fn finished(ttft: u64, code: Option<ErrorCode>) -> Finished {
    let ttft = Some(Duration::from_millis(ttft));
    let timings = Timings { auth: Some(Duration::from_micros(2)), ttft, ..Timings::default() };
    let outcome = if code.is_some() { Outcome::ProviderError } else { Outcome::Completed };
    Finished { outcome: Some(outcome), code, joined: false, estimated: code.is_some(), timings }
}

#[test]
fn alerts_change_on_ticks_though_nobody_asks() {
    let clock = TestClock::new();
    let (mut stats, queue) = stats(&clock);
    for second in 0..60 {
        let slow = (20..30).contains(&second);
        for _ in 0..10 {
            queue.try_send(Observation::Request(finished(if slow { 5000 } else { 20 }, None))).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        stats.empty_queue();
        if second % 5 == 4 {
            stats.sample();
        }
    }
    clock.advance(Duration::from_secs(60));
    stats.sample();
    clock.advance(Duration::from_secs(600));
    let alert = &json(&stats.report())["alerts"][0];
    // It fired from 25 s to 120 s after the start; `since` is when that ended.
    assert_eq!(alert["state"], "ok");
    assert_eq!(alert["since"], Timestamp::from_seconds(1_800_000_120).to_rfc3339());
    assert_eq!(alert["value"], serde_json::Value::Null);
}

#[test]
fn a_sample_sets_the_gauges() {
    let clock = TestClock::new();
    let (mut stats, _queue) = stats(&clock);
    clock.advance(Duration::from_secs(5));
    stats.sample();
    let text = stats.parts.metrics.encode().unwrap();
    for line in ["hne_cpu_seconds 5", "hne_pool_max_connections 20", "hne_ledger_lag_seconds 0.15"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    assert!((stats.cpu.share - 0.5).abs() < 1e-9);
}

#[test]
fn a_full_queue_refuses_and_the_report_says_so() {
    System::new().block_on(async {
        // The actor's thread is this one, so that it can't empty the queue in between.
        let handle = Stats::start(&Arbiter::current(), &Config::default(), parts(&TestClock::new()));
        for _ in 0..QUEUE + 5 {
            handle.post_request(finished(20, None));
        }
        let report = json(&handle.ask_report().await.unwrap());
        assert_eq!(report["droppedObservations"], 5);
        assert_eq!(report["performance"]["totalRequests"], QUEUE);
        handle.post_database(Duration::from_millis(1), true);
        assert_eq!(json(&handle.ask_report().await.unwrap())["windows"]["1m"]["database"]["count"], 1);
    });
}

#[test]
fn a_queue_that_is_half_full_rings_the_actor_once() {
    System::new().block_on(async {
        let handle = Stats::start(&Arbiter::current(), &Config::default(), parts(&TestClock::new()));
        for _ in 0..QUEUE {
            handle.post_request(finished(20, None));
        }
        assert!(handle.shared.rung.load(Ordering::Relaxed));
        while handle.queue.capacity() < QUEUE {
            tokio::task::yield_now().await;
        }
        assert!(!handle.shared.rung.load(Ordering::Relaxed));
        assert_eq!(handle.shared.dropped.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn stats_answers_from_its_own_thread_and_is_unavailable_when_gone() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let handle = Stats::start(&arbiter.handle(), &Config::default(), parts(&TestClock::new()));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let handle = handle.clone();
                std::thread::spawn(move || (0..500).for_each(|_| handle.post_request(finished(20, None))))
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let report = json(&handle.ask_report().await.unwrap());
        assert_eq!(report["performance"]["totalRequests"], 2000);
        assert_eq!(report["resources"]["openStreams"], 7);
        arbiter.stop();
        arbiter.join().unwrap();
        assert_eq!(handle.ask_report().await.map(drop), Err(ReportUnavailable));
    });
}

#[test]
fn the_report_has_the_shape_that_admins_read() {
    let clock = TestClock::new();
    let (mut stats, queue) = stats(&clock);
    let post = |observation| queue.try_send(observation).unwrap();
    for _ in 0..98 {
        post(Observation::Request(finished(20, None)));
    }
    post(Observation::Request(finished(900, Some(ErrorCode::ProviderTimeout))));
    post(Observation::Request(finished(20, Some(ErrorCode::ProviderError))));
    let code = Some(ErrorCode::InvalidApiKey);
    post(Observation::Request(Finished {
        outcome: None,
        code,
        joined: false,
        estimated: false,
        timings: Timings::default(),
    }));
    post(Observation::Database { took: Duration::from_millis(3), ok: false });
    clock.advance(Duration::from_secs(10));
    let mut report = json(&stats.report());
    // The other windows have the same fields.
    let windows = report["windows"].as_object_mut().unwrap();
    assert_eq!(windows.keys().collect::<Vec<_>>(), ["1h", "1m", "5m", "start"]);
    assert_eq!(windows["1h"], windows["1m"]);
    windows.retain(|name, _| name == "1m");
    let found = serde_json::to_string_pretty(&report).unwrap();
    assert_eq!(found, include_str!("tests/report.json").trim_end(), "{found}");
}
