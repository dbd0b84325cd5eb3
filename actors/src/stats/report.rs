//! The performance report: the shape that the original plan fixed, and beside it every figure next to its target.
//!
//! In: windows, vitals, alerts. Out: what `GET /api/admin/performance` answers. Pure. Times are milliseconds, memory is MB
//! of 2^20 bytes, rates and shares are fractions of 1; the only floats of the engine are here.
//!
//! `performance` and `errors` are since the start; each window has figures of its own. A stage is `ok` while it keeps its
//! target, and `null` where it has none or nothing was measured. What counts as an error, `Tally` says.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{
    Vitals,
    alert::{Alert, MIN_REQUESTS, Readings},
    histogram::Summary,
    window::{Stage, Tally, View},
};

/// Requests in a second that one process is meant to carry. Fewer are no fault: it may be that nobody asks for more.
const THROUGHPUT: f64 = 500.0;
/// Below this share of requests may fail.
const ERRORS: f64 = 0.01;
/// Below this share of requests may run into a deadline.
const TIMEOUTS: f64 = 0.005;
/// Below this share of calls to the store may fail.
const DATABASE_ERRORS: f64 = 0.001;
/// Below this share of the cores may be busy.
const CPU: f64 = 0.70;
/// Below this share of the pool may be in use.
const POOL: f64 = 0.80;

/// What a stage must stay below, in milliseconds. A budget without a statistic is held against the 95th percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    p95: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
}

impl Target {
    fn of(stage: Stage) -> Option<Self> {
        let budget = |p95| Some(Self { mean: None, p95, p99: None });
        match stage {
            Stage::Auth | Stage::Quota => budget(50.0),
            Stage::Database => budget(100.0),
            Stage::Connect => budget(200.0),
            Stage::Ttft => Some(Self { mean: Some(150.0), p95: 300.0, p99: Some(500.0) }),
            Stage::Overhead | Stage::Total => None,
        }
    }

    fn met(self, times: &Times) -> bool {
        let below = |value: f64, target: Option<f64>| target.is_none_or(|target| value < target);
        below(times.mean, self.mean) && below(times.p95, Some(self.p95)) && below(times.p99, self.p99)
    }
}

/// What an admin reads. Serializes to the report's JSON.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    performance: Performance,
    database: Database,
    memory: Memory,
    uptime_seconds: u64,
    windows: Ordered<Window>,
    errors: Errors,
    resources: Resources,
    alerts: Vec<AlertLine>,
    dropped_observations: u64,
}

/// What a report is made of, beside the vitals.
#[derive(Debug)]
pub(super) struct Ingredients<'a> {
    /// The windows, the shortest first, the one since the start last.
    pub(super) views: &'a [View],
    /// The alerts, just evaluated.
    pub(super) alerts: &'a [Alert],
    /// The busy share of each core.
    pub(super) cpu: f64,
    /// The ceiling of resident memory, in bytes.
    pub(super) memory_limit: u64,
    /// Observations that were refused because the queue was full.
    pub(super) dropped: u64,
}

impl Report {
    /// Builds the report.
    pub(super) fn new(vitals: &dyn Vitals, from: &Ingredients<'_>) -> Self {
        let nothing = Tally::default();
        let start = from.views.last().map_or(&nothing, |view| &view.tally);
        let (pool, memory) = (vitals.pool(), vitals.memory());
        Self {
            performance: Performance {
                total_requests: start.requests,
                average_response_time: millis(start.stage(Stage::Ttft).summary().mean),
                slow_requests: start.slow,
            },
            database: Database { total_connections: pool.total, active_connections: pool.active },
            memory: Memory { heap_used: megabytes(memory.allocated), heap_total: megabytes(memory.resident) },
            uptime_seconds: from.views.last().map_or(0, |view| view.covered.as_secs()),
            windows: Ordered(from.views.iter().map(|view| (view.name, Window::new(view))).collect()),
            errors: Errors::new(start),
            resources: Resources::new(vitals, from, start),
            alerts: from.alerts.iter().map(AlertLine::new).collect(),
            dropped_observations: from.dropped,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Performance {
    total_requests: u64,
    average_response_time: f64,
    slow_requests: u64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Database {
    total_connections: u32,
    active_connections: u32,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    heap_used: f64,
    heap_total: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Window {
    requests: Throughput,
    errors: Errors,
    #[serde(flatten)]
    stages: Ordered<Times>,
}

impl Window {
    fn new(view: &View) -> Self {
        let stage = |(stage, histogram): (Stage, &super::histogram::Histogram)| {
            (stage.as_str(), Times::new(stage, &histogram.summary()))
        };
        Self {
            requests: Throughput::new(view),
            errors: Errors::new(&view.tally),
            stages: Ordered(view.tally.stages().map(stage).collect()),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throughput {
    count: u64,
    per_second: f64,
    target: f64,
}

impl Throughput {
    fn new(view: &View) -> Self {
        let seconds = view.covered.as_secs_f64();
        let per_second = if seconds > 0.0 { round(to_float(view.tally.requests) / seconds) } else { 0.0 };
        Self { count: view.tally.requests, per_second, target: THROUGHPUT }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Times {
    count: u64,
    mean: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
    target: Option<Target>,
    ok: Option<bool>,
}

impl Times {
    fn new(stage: Stage, summary: &Summary) -> Self {
        let times = Self {
            count: summary.count,
            mean: millis(summary.mean),
            p50: millis(summary.p50),
            p95: millis(summary.p95),
            p99: millis(summary.p99),
            max: millis(summary.max),
            target: Target::of(stage),
            ok: None,
        };
        Self { ok: times.target.filter(|_| summary.count > 0).map(|target| target.met(&times)), ..times }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Errors {
    total: Rate,
    timeouts: Rate,
    database: Rate,
    by_code: Ordered<u64>,
}

impl Errors {
    fn new(tally: &Tally) -> Self {
        let served = tally.requests - tally.refused;
        let calls = tally.stage(Stage::Database).summary().count;
        Self {
            total: Rate::new(tally.failed, served, ERRORS),
            timeouts: Rate::new(tally.timeouts, served, TIMEOUTS),
            database: Rate::new(tally.database_failed, calls, DATABASE_ERRORS),
            by_code: Ordered(tally.by_code().map(|(code, count)| (code.as_str(), count)).collect()),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Rate {
    count: u64,
    rate: f64,
    target: f64,
    ok: bool,
}

impl Rate {
    fn new(count: u64, of: u64, target: f64) -> Self {
        let rate = share(count, of).unwrap_or(0.0);
        Self { count, rate: round(rate), target, ok: rate < target }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    cpu: Level,
    cores: u32,
    memory: MemoryLevel,
    pool: PoolLevel,
    open_streams: u64,
    ledger: LedgerLag,
    estimated_share: f64,
}

impl Resources {
    fn new(vitals: &dyn Vitals, from: &Ingredients<'_>, start: &Tally) -> Self {
        let (memory, pool, lag) = (vitals.memory(), vitals.pool(), vitals.ledger_lag());
        Self {
            cpu: Level::new(from.cpu, CPU),
            cores: vitals.cores(),
            memory: MemoryLevel {
                resident: megabytes(memory.resident),
                allocated: megabytes(memory.allocated),
                limit: megabytes(from.memory_limit),
                level: Level::new(share(memory.resident, from.memory_limit).unwrap_or(0.0), 1.0),
            },
            pool: PoolLevel {
                total: pool.total,
                active: pool.active,
                max: pool.max,
                level: Level::new(share(pool.active.into(), pool.max.into()).unwrap_or(0.0), POOL),
            },
            open_streams: vitals.open_streams(),
            ledger: LedgerLag { rows: lag.rows, seconds: round(lag.age.as_secs_f64()) },
            estimated_share: round(share(start.estimated, start.posted).unwrap_or(0.0)),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Level {
    share: f64,
    target: f64,
    ok: bool,
}

impl Level {
    fn new(share: f64, target: f64) -> Self {
        Self { share: round(share), target, ok: share < target }
    }
}

#[derive(Debug, Clone, Serialize)]
struct MemoryLevel {
    resident: f64,
    allocated: f64,
    limit: f64,
    #[serde(flatten)]
    level: Level,
}

#[derive(Debug, Clone, Serialize)]
struct PoolLevel {
    total: u32,
    active: u32,
    max: u32,
    #[serde(flatten)]
    level: Level,
}

#[derive(Debug, Clone, Serialize)]
struct LedgerLag {
    rows: u64,
    seconds: f64,
}

#[derive(Debug, Clone, Serialize)]
struct AlertLine {
    name: &'static str,
    state: &'static str,
    since: String,
    value: Option<f64>,
    threshold: f64,
}

impl AlertLine {
    fn new(alert: &Alert) -> Self {
        Self {
            name: alert.name,
            state: if alert.firing { "firing" } else { "ok" },
            since: alert.since.to_rfc3339(),
            value: alert.value.map(round),
            threshold: alert.threshold,
        }
    }
}

/// Takes the readings that alerts go by.
pub(super) fn readings(vitals: &dyn Vitals, minute: &Tally, memory_limit: u64) -> Readings {
    let served = minute.requests - minute.refused;
    let answers = minute.stage(Stage::Ttft).summary();
    let pool = vitals.pool();
    Readings {
        mean_response: (answers.count >= MIN_REQUESTS).then(|| millis(answers.mean)),
        error_rate: share(minute.failed, served).filter(|_| served >= MIN_REQUESTS),
        memory: share(vitals.memory().resident, memory_limit),
        connections: share(pool.active.into(), pool.max.into()),
    }
}

/// A JSON object whose keys stay in the order that they were given in.
#[derive(Debug, Clone)]
struct Ordered<V>(Vec<(&'static str, V)>);

impl<V: Serialize> Serialize for Ordered<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Exact up to 2^53, which is 285 years in microseconds.
fn to_float(count: u64) -> f64 {
    count as f64
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| to_float(part) / to_float(whole))
}

fn millis(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}

fn megabytes(bytes: u64) -> f64 {
    round(to_float(bytes) / 1_048_576.0)
}

/// Cuts a figure to four decimals.
fn round(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}
