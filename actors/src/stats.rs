//! Stats: what happened lately, for the performance report and its alerts.
//!
//! Owns: sliding windows over requests and store calls, the alerts. In: observations from every thread, through a bounded
//! queue. Out: a [`Report`] when an admin asks, and the sampled gauges of [`Metrics`].
//!
//! Observations don't go through the mailbox: each message to another thread wakes that thread, and the wake-up costs the
//! process more than all the counting (0.13 µs to post in bursts, 1 µs and a context switch to an idle actor). They
//! wait in the queue until the next tick, or until half of it is full and the actor is rung up; so they are counted up
//! to half a second late, which slots of 5 s don't notice. A queue that is full refuses, and the report says how often.

mod alert;
mod histogram;
mod report;
mod window;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult};
use actix_rt::ArbiterHandle;
use serde::Deserialize;
use tokio::sync::mpsc;

use self::{
    alert::Alerts,
    report::Ingredients,
    window::{Observation, Tally, Windows},
};
pub use self::{report::Report, window::Stage};
use crate::{
    domain::{ErrorCode, Finished},
    metrics::Metrics,
    ports::Clock,
};

/// The most observations that wait. At 30,000 requests/s, a thread that isn't scheduled for a quarter of a second.
const QUEUE: usize = 8192;

/// The most messages that wait: reports asked for, and one ring.
const MAILBOX: usize = 16;

/// How often the queue is emptied.
const TICK: Duration = Duration::from_millis(500);

/// How often vitals are sampled and alerts evaluated.
const SAMPLE: Duration = Duration::from_secs(5);

/// When operators are alerted: `[alerts]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The mean response time above which there is an alert: 1 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub mean_response: Duration,
    /// The share of requests that fail above which there is one: 0 to 100 %.
    pub error_rate_percent: f64,
    /// The share of the memory limit in use above which there is one: 0 to 100 %.
    pub memory_percent: f64,
    /// The share of the database's pool in use above which there is one: 0 to 100 %.
    pub connections_percent: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mean_response: Duration::from_millis(500),
            error_rate_percent: 5.0,
            memory_percent: 80.0,
            connections_percent: 90.0,
        }
    }
}

/// Memory of the process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Handed out by the allocator.
    pub allocated: u64,
    /// Pages that the process holds.
    pub resident: u64,
}

/// The database's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Those that are open.
    pub total: u32,
    /// Of these, those in use.
    pub active: u32,
    /// The most that there may be.
    pub max: u32,
}

/// How far the store is behind the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Postings that it doesn't have yet.
    pub rows: u64,
    /// Age of the oldest of them.
    pub age: Duration,
}

/// Gauges that others own. Asked on Stats' own thread, every 5 s and for each report.
pub trait Vitals: Send + Sync {
    /// Returns the memory of the process.
    fn memory(&self) -> Memory;
    /// Returns the CPU time that the process has used so far, user and system.
    fn cpu_time(&self) -> Duration;
    /// Returns how many cores it may use; at least 1.
    fn cores(&self) -> u32;
    /// Returns the state of the database's pool.
    fn pool(&self) -> Pool;
    /// Returns how many streams run.
    fn open_streams(&self) -> u64;
    /// Returns how far the store is behind.
    fn ledger_lag(&self) -> Lag;
}

/// What Stats works with.
pub struct Parts {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The gauges that others own.
    pub vitals: Arc<dyn Vitals>,
    /// Where sampled gauges go.
    pub metrics: Metrics,
    /// `server.memory_limit`, in bytes; 0 where there is none.
    pub memory_limit: u64,
}

/// The actor. Lives on a thread of its own.
pub struct Stats {
    parts: Parts,
    inbox: mpsc::Receiver<Observation>,
    shared: Arc<Shared>,
    started: Instant,
    windows: Windows,
    alerts: Alerts,
    cpu: CpuMeter,
}

/// What the handles and the actor both look at.
#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    rung: AtomicBool,
}

/// Tells Stats what happened, and asks it for the report.
#[derive(Clone)]
pub struct StatsHandle {
    addr: Addr<Stats>,
    queue: mpsc::Sender<Observation>,
    shared: Arc<Shared>,
}

impl fmt::Debug for StatsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatsHandle").field("free", &self.queue.capacity()).finish_non_exhaustive()
    }
}

/// Stats is gone: the process is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the performance report is unavailable")]
pub struct ReportUnavailable;

impl StatsHandle {
    /// Takes a finished request down. Never waits; refused and counted when the queue is full.
    pub fn post_request(&self, finished: Finished) {
        self.post(Observation::Request(finished));
    }

    /// Takes down that something other than a chat was refused. Never waits.
    pub fn post_refusal(&self, code: ErrorCode) {
        self.post(Observation::Refusal(code));
    }

    /// Takes a call to the store down: how long it took, and whether it had an answer. Never waits.
    pub fn post_database(&self, took: Duration, ok: bool) {
        self.post(Observation::Database { took, ok });
    }

    /// Asks for the report.
    ///
    /// # Errors
    /// [`ReportUnavailable`].
    ///
    /// # Cancel safety
    /// Dropping the future forgets the question.
    pub async fn ask_report(&self) -> Result<Box<Report>, ReportUnavailable> {
        self.addr.send(BuildReport).await.map_err(|_gone| ReportUnavailable)
    }

    fn post(&self, observation: Observation) {
        if self.queue.try_send(observation).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.queue.capacity() < QUEUE / 2 && !self.shared.rung.swap(true, Ordering::Relaxed) {
            // Refused only if the mailbox is full of reports, and each of them empties the queue too.
            self.addr.try_send(EmptyQueue).ok();
        }
    }
}

impl Stats {
    /// Starts the actor on the thread of `arbiter`.
    #[must_use]
    pub fn start(arbiter: &ArbiterHandle, config: &Config, parts: Parts) -> StatsHandle {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let stats = Self::new(config, parts, inbox, shared.clone());
        let addr = Self::start_in_arbiter(arbiter, |_| stats);
        StatsHandle { addr, queue, shared }
    }

    fn new(config: &Config, parts: Parts, inbox: mpsc::Receiver<Observation>, shared: Arc<Shared>) -> Self {
        let started = parts.clock.now();
        let alerts = Alerts::new(config, parts.clock.wall());
        let cpu = CpuMeter { at: started, used: parts.vitals.cpu_time(), share: 0.0 };
        Self { parts, inbox, shared, started, windows: Windows::new(), alerts, cpu }
    }

    fn now(&self) -> Duration {
        self.parts.clock.now().saturating_duration_since(self.started)
    }

    /// Counts what waits: at most a queue full, so that busy posters can't keep the actor here.
    fn empty_queue(&mut self) {
        self.shared.rung.store(false, Ordering::Relaxed);
        let now = self.now();
        let Ok(first) = self.inbox.try_recv() else { return };
        let mut lately = Tally::default();
        lately.record(&first);
        for _ in 1..QUEUE {
            let Ok(observation) = self.inbox.try_recv() else { break };
            lately.record(&observation);
        }
        self.windows.add(now, &lately);
    }

    /// Looks at the vitals: updates the gauges and evaluates the alerts.
    fn sample(&mut self) {
        let vitals = &*self.parts.vitals;
        self.cpu.sample(self.parts.clock.now(), vitals);
        let (memory, pool, lag) = (vitals.memory(), vitals.pool(), vitals.ledger_lag());
        let metrics = &self.parts.metrics;
        metrics.cpu_sampled(vitals.cpu_time());
        metrics.memory_sampled(memory.allocated, memory.resident);
        metrics.pool_sampled(pool.total, pool.active, pool.max);
        metrics.ledger_lag_sampled(lag.rows, lag.age);
        metrics.observations_dropped(self.shared.dropped.load(Ordering::Relaxed));
        let now = self.now();
        let readings = report::readings(vitals, &self.windows.last_minute(now), self.parts.memory_limit);
        self.alerts.evaluate(&readings, self.parts.clock.wall());
    }

    fn report(&mut self) -> Report {
        self.empty_queue();
        self.sample();
        let views = self.windows.views(self.now());
        let ingredients = Ingredients {
            views: &views,
            alerts: self.alerts.all(),
            cpu: self.cpu.share,
            memory_limit: self.parts.memory_limit,
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        };
        Report::new(&*self.parts.vitals, &ingredients)
    }
}

impl Actor for Stats {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(TICK, |stats, _| stats.empty_queue());
        ctx.run_interval(SAMPLE, |stats, _| stats.sample());
    }
}

/// Counts what waits in the queue.
struct EmptyQueue;

impl Message for EmptyQueue {
    type Result = ();
}

impl Handler<EmptyQueue> for Stats {
    type Result = ();

    fn handle(&mut self, _: EmptyQueue, _: &mut Self::Context) {
        self.empty_queue();
    }
}

/// Builds the report.
struct BuildReport;

impl Message for BuildReport {
    type Result = Box<Report>;
}

impl Handler<BuildReport> for Stats {
    type Result = MessageResult<BuildReport>;

    fn handle(&mut self, _: BuildReport, _: &mut Self::Context) -> Self::Result {
        MessageResult(Box::new(self.report()))
    }
}

/// The busy share of the cores between two samples.
struct CpuMeter {
    at: Instant,
    used: Duration,
    share: f64,
}

impl CpuMeter {
    /// Samples that follow sooner than a second keep the last share: clocks of CPU time tick in 10 ms.
    fn sample(&mut self, now: Instant, vitals: &dyn Vitals) {
        let wall = now.saturating_duration_since(self.at);
        if wall < Duration::from_secs(1) {
            return;
        }
        let used = vitals.cpu_time();
        let busy = used.saturating_sub(self.used).as_secs_f64();
        self.share = busy / (wall.as_secs_f64() * f64::from(vitals.cores().max(1)));
        (self.at, self.used) = (now, used);
    }
}

#[cfg(test)]
mod tests;
