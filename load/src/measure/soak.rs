//! The same load for a long time: what the service holds must not grow.
//!
//! Requests leave on a schedule, whatever becomes of the others, and are timed from the moment at which they were due.

use super::{
    check::Flaw,
    figures::{median, real},
    job::{Job, Sample, Shape},
    progress::Progress,
    record::{Level, Meter, Record, Tally, mib},
    scenario::SOAK,
    target::Target,
};
use crate::{
    client::{Client, Connection},
    clock,
};
use fastrand::Rng;
use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Users.
const USERS: usize = 200;
/// Which user asks next is drawn from this seed.
const SEED: u64 = 1;
/// Requests that run at once, at most: the generator's own limit, counted as a flaw where it is reached.
const AT_ONCE: usize = 6_000;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that was idle for longer is not used again: the service closes it after `server.keep_alive`.
const FRESH: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
/// How often the service is looked at; a part of a minute.
const SAMPLED_EVERY: Duration = Duration::from_secs(10);
/// What is held grows at first, in seconds; in a short run, its first third is taken for that.
const WARM_UP: f64 = 120.0;
/// What is held may differ by this factor.
const MARGIN: f64 = 1.1;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long.
    pub minutes: u32,
    /// Requests in a second.
    pub rate: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { minutes: 30, rate: 200 }
    }
}

/// Whether anything grew, and whether all answers were right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// MiB of resident memory.
    pub resident: Change,
    /// Open descriptors.
    pub descriptors: Change,
    /// Good answers.
    pub good: u64,
    /// The other ones.
    pub wrong: u64,
}

/// Medians of what is left when the warm-up is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Of its first third.
    pub first: f64,
    /// Of its last third.
    pub last: f64,
}

impl Change {
    fn of(values: &[f64]) -> Option<Self> {
        let third = values.len() / 3;
        let (first, last) = (values.get(..third)?, values.get(values.len() - third..)?);
        Some(Self { first: median(first)?, last: median(last)? })
    }

    /// Whether it is more than differs by chance.
    #[must_use]
    pub fn has_grown(self) -> bool {
        self.last > self.first * MARGIN
    }
}

impl Verdict {
    /// Judges the records of a run; `None` where it was too short for that.
    #[must_use]
    pub fn of(records: &[Record]) -> Option<Self> {
        let levels: Vec<&Level> = records.iter().flat_map(|record| &record.levels).collect();
        let warm_up = WARM_UP.min(levels.last()?.seconds / 3.0);
        let kept = || levels.iter().filter(|level| level.seconds > warm_up);
        Some(Self {
            resident: Change::of(&kept().map(|level| mib(level.resident)).collect::<Vec<_>>())?,
            descriptors: Change::of(&kept().map(|level| real(level.descriptors)).collect::<Vec<_>>())?,
            good: records.iter().map(|record| record.requests).sum(),
            wrong: records.iter().map(Record::errors).sum(),
        })
    }

    /// Whether nothing grew and nothing was wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !self.resident.has_grown() && !self.descriptors.has_grown() && self.wrong == 0 && self.good > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resident, descriptors) = (self.resident, self.descriptors);
        write!(
            f,
            "{}: {} answers, {} wrong; medians of the first and the last third after the warm-up: {:.1} and {:.1} MiB \
             resident, {:.0} and {:.0} descriptors",
            if self.is_well() { "Nothing grew" } else { "Not well" },
            self.good,
            self.wrong,
            resident.first,
            resident.last,
            descriptors.first,
            descriptors.last,
        )
    }
}

/// What requests share.
struct Shared {
    client: Client,
    jobs: Vec<Job>,
    idle: Mutex<Vec<(Connection, Instant)>>,
    tally: Mutex<Tally>,
}

/// Measures a target; hands out a record each minute.
///
/// # Errors
/// The target has ended, or a record can't be kept; flaws of answers are part of the records.
pub async fn run(target: &Target, plan: Plan, mut keep: impl FnMut(&Record) -> io::Result<()>) -> io::Result<()> {
    let mut jobs = Vec::new();
    for user in 0..USERS {
        let user = format!("soak-{user}");
        jobs.push(Job::new(target, &user, "hello", &Shape::Stream(20), "+gap-20ms")?);
        jobs.push(Job::new(target, &user, "hello", &Shape::Whole(20), "")?);
    }
    let client = Client::new(target.addr);
    let shared = Arc::new(Shared { client, jobs, idle: Mutex::default(), tally: Mutex::default() });
    let begun = clock::now();
    let mut sender = JoinSet::new();
    sender.spawn(send(Arc::clone(&shared), plan, begun));
    let progress =
        Progress::new(format!("K {}", target.name), (MINUTE * plan.minutes).as_secs() / SAMPLED_EVERY.as_secs());
    let mut at = Duration::ZERO;
    for minute in 1..=plan.minutes {
        let meter = Meter::start(target)?;
        let mut levels = Vec::new();
        while at < MINUTE * minute {
            at += SAMPLED_EVERY;
            tokio::time::sleep_until((begun + at).into()).await;
            let (resident, descriptors) = (target.family.resident()?, target.family.descriptors()? as u64);
            levels.push(Level { seconds: at.as_secs_f64(), resident, descriptors });
            progress.step();
        }
        if minute == plan.minutes {
            sender.join_next().await;
        }
        let tally = std::mem::take(&mut *lock(&shared.tally));
        let mut record = meter.cut(SOAK.letter, 1, &tally)?;
        record.step = minute.into();
        record.extra = [("descriptors".to_owned(), levels.last().map_or(0.0, |level| real(level.descriptors)))].into();
        record.levels = levels;
        keep(&record)?;
    }
    Ok(())
}

/// Sends on schedule, a stream and a whole answer in turn, each for a user drawn at random; ends with the last answer.
async fn send(shared: Arc<Shared>, plan: Plan, begun: Instant) {
    let mut random = Rng::with_seed(SEED);
    let mut running = JoinSet::new();
    for index in 0..plan.minutes * 60 * plan.rate {
        let due = begun + Duration::from_secs(1) * index / plan.rate;
        tokio::time::sleep_until(due.into()).await;
        while running.try_join_next().is_some() {}
        let chosen = random.usize(0..USERS) * 2 + usize::from(index % 2 == 1);
        if running.len() < AT_ONCE {
            let shared = Arc::clone(&shared);
            running.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, once(&shared, chosen, due)).await;
                match answer.unwrap_or(Err(Flaw::Late)) {
                    Ok(sample) => lock(&shared.tally).good(sample),
                    Err(flaw) => lock(&shared.tally).bad(&flaw),
                }
            });
        } else {
            *lock(&shared.tally).flaws.entry("the generator's limit".to_owned()).or_default() += 1;
        }
    }
    running.join_all().await;
}

async fn once(shared: &Shared, chosen: usize, due: Instant) -> Result<Sample, Flaw> {
    let connection = match fresh(&shared.idle) {
        Some(connection) => connection,
        None => shared.client.connect().await?,
    };
    let job = shared.jobs.get(chosen).ok_or(Flaw::Text)?;
    let (sample, connection) = job.perform(connection, due, |_at| {}).await?;
    lock(&shared.idle).extend(connection.map(|connection| (connection, clock::now())));
    Ok(sample)
}

/// The connection that was used last. Where that was too long ago, all the others are older still.
fn fresh(idle: &Mutex<Vec<(Connection, Instant)>>) -> Option<Connection> {
    let mut idle = lock(idle);
    let (connection, since) = idle.pop()?;
    if since.elapsed() <= FRESH {
        return Some(connection);
    }
    idle.clear();
    None
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
