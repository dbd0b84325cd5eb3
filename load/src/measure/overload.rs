//! Five times as many streams as a target admits: what it still serves, how soon it refuses, when it is well again.
//!
//! Requests leave on a schedule, whatever becomes of the others, and are timed from the moment at which they were due.

use super::{
    check::Flaw,
    closed,
    figures::{Times, real},
    job::{Job, Outcome, Shape},
    progress::Progress,
    record::{Meter, Record, Tally},
    target::Target,
};
use crate::{
    client::{Client, Connection},
    clock,
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A stream takes 400 ms, so that capacity is a matter of admission, and the generator can send five times as much.
const SHAPE: Shape = Shape::Stream(20);
const OPTIONS: &str = "+gap-20ms";
/// Times the capacity.
const FACTOR: f64 = 5.0;
/// Of the capacity, when it is over.
const AFTERWARDS: f64 = 0.5;
/// How long it is watched then.
const WATCHED: Duration = Duration::from_secs(10);
/// Normal is whatever takes no more than this many times the median without overload.
const NORMAL: f64 = 1.5;
/// Requests that run at once, at most: the generator's own limit, counted as a flaw where it is reached.
const AT_ONCE: usize = 6_000;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many streams the target admits at once.
    pub admitted: u32,
    /// How long the overload lasts.
    pub lasts: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { admitted: 200, lasts: Duration::from_secs(60) }
    }
}

/// What came back, with refusals apart.
#[derive(Debug, Default)]
struct Harvest {
    tally: Tally,
    refused: Times,
    /// When the last request was due that was not answered as usual.
    last_unusual: Option<Instant>,
}

/// Measures a target that admits `plan.admitted` streams.
///
/// # Errors
/// The target has ended; flaws of answers are part of the record.
pub async fn measure(target: &Target, plan: Plan, round: u32) -> io::Result<Record> {
    let usual = closed::measure(
        target,
        &closed::Plan {
            scenario: "H",
            connections: plan.admitted.into(),
            requests: u64::from(plan.admitted) * 15,
            shape: SHAPE,
            options: OPTIONS,
            spread: Duration::from_millis(400),
            warm_up: true,
        },
        round,
    )
    .await?;
    let usual_time = Duration::from_secs_f64(usual.total_ms.p50 * NORMAL / 1e3);
    let meter = Meter::start(target)?;
    let storm = send(target, usual.per_second * FACTOR, plan.lasts, usual_time).await?;
    let mut record = meter.stop("H", round, &storm.tally).await?;
    let over = clock::now();
    let calm = send(target, usual.per_second * AFTERWARDS, WATCHED, usual_time).await?;
    let refused = storm.refused.quantiles();
    let normal_after = calm.last_unusual.map_or(0.0, |last| last.saturating_duration_since(over).as_secs_f64());
    record.extra = [
        ("capacity/s", usual.per_second),
        ("offered/s", usual.per_second * FACTOR),
        ("goodput %", 100.0 * real(storm.tally.requests) / plan.lasts.as_secs_f64() / usual.per_second),
        ("refused p50 ms", refused.p50),
        ("refused p99 ms", refused.p99),
        ("normal after s", normal_after),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    Ok(record)
}

async fn send(target: &Target, rate: f64, lasts: Duration, usual: Duration) -> io::Result<Harvest> {
    let job = Arc::new(Job::new(target, "overload", "hello", &SHAPE, OPTIONS)?);
    let (client, pool) = (Client::new(target.addr), Arc::new(Mutex::new(Vec::new())));
    let harvest = Arc::new(Mutex::new(Harvest::default()));
    let every = Duration::from_secs_f64(1.0 / rate);
    let progress = Progress::new(format!("H {} {rate:.0}/s", target.name), lasts.as_secs());
    let (begun, mut running) = (clock::now(), JoinSet::new());
    let mut due = begun;
    let mut second = begun;
    while due < begun + lasts {
        tokio::time::sleep_until(due.into()).await;
        while running.try_join_next().is_some() {}
        if due >= second {
            progress.step();
            second += Duration::from_secs(1);
        }
        if running.len() < AT_ONCE {
            let (job, client, pool, harvest) =
                (Arc::clone(&job), client.clone(), Arc::clone(&pool), Arc::clone(&harvest));
            running.spawn(async move {
                let answer = once(&job, &client, &pool, due);
                let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(Flaw::Late));
                lock(&harvest).add(answer, due, usual);
            });
        } else {
            lock(&harvest)
                .tally
                .flaws
                .entry("the generator's limit".to_owned())
                .and_modify(|count| *count += 1)
                .or_insert(1);
        }
        due += every;
    }
    running.join_all().await;
    Ok(std::mem::take(&mut *lock(&harvest)))
}

async fn once(job: &Job, client: &Client, pool: &Mutex<Vec<Connection>>, due: Instant) -> Result<Outcome, Flaw> {
    let kept = lock(pool).pop();
    let connection = match kept {
        Some(connection) => connection,
        None => client.connect().await?,
    };
    let (outcome, connection) = job.attempt(connection, due, |_at| {}).await?;
    lock(pool).extend(connection);
    Ok(outcome)
}

impl Harvest {
    fn add(&mut self, answer: Result<Outcome, Flaw>, due: Instant, usual: Duration) {
        let is_usual = matches!(answer, Ok(Outcome::Good(sample)) if sample.total <= usual);
        if !is_usual {
            self.last_unusual = self.last_unusual.max(Some(due));
        }
        match answer {
            Ok(Outcome::Good(sample)) => self.tally.good(sample),
            Ok(Outcome::Refused { after, .. }) => self.refused.add(after),
            Err(flaw) => self.tally.bad(&flaw),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::job::Sample;

    #[test]
    fn what_is_not_as_usual_is_remembered() {
        let (begun, second) = (clock::now(), Duration::from_secs(1));
        let good = |total| Ok(Outcome::Good(Sample { ttft: total, total, frames: 20 }));
        let mut harvest = Harvest::default();
        harvest.add(good(second), begun, second);
        assert_eq!(harvest.last_unusual, None);
        harvest.add(good(second * 2), begun + second, second);
        harvest.add(Ok(Outcome::Refused { status: 503, after: second }), begun + second * 3, second);
        harvest.add(Err(Flaw::Open), begun + second * 2, second);
        harvest.add(good(second), begun + second * 4, second);
        assert_eq!(harvest.last_unusual, Some(begun + second * 3), "by the time at which it was due");
        assert_eq!((harvest.tally.requests, harvest.tally.flaws.len()), (3, 1), "a refusal is no flaw");
    }
}
