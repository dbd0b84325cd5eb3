//! The same request while something grows: connections, users, models. Its cost must not.
//!
//! Who is asked for, and in which order, is decided before anything is measured, from a seed: the same each time.

use super::{
    closed,
    figures::real,
    job::{Job, Shape},
    progress::Progress,
    record::{Meter, Record, Tally},
    scenario::{self, Stepped},
    target::Target,
};
use crate::client::{Client, Connection};
use fastrand::Rng;
use std::{io, ops::Range};
use tokio::{sync::mpsc, task::JoinSet};

const SHAPE: Shape = Shape::Whole(5);
/// Connections where something else grows, and users where nobody counts them.
const LANES: u32 = 64;
/// One in so many requests is sent before anything is measured.
const WARM_UP: u32 = 20;
/// CPU time has ticks of 10 ms: fewer cold requests than this say nothing about it.
const LEAST_COLD: u32 = 1_000;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    /// Connections, each with one request after the other.
    Connections,
    /// Users in the store, `user-0` and so on.
    Users {
        /// How many were there at the step before: the others were never seen.
        before: u32,
        /// So many of them are seen for the first time, at most.
        cold: u32,
        /// So many of these are asked for again, at most.
        warm: u32,
    },
    /// Models in the catalog, `growth/model-0` and so on.
    Models,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What grows.
    pub grows: Grows,
    /// How far.
    pub step: u32,
    /// Requests; each connection sends one at least.
    pub requests: u32,
    /// Counts rounds from 1, and is the seed.
    pub round: u32,
}

/// Draws so many different ones out of a range, in random order; all of them where there are no more.
#[must_use]
pub fn each_once(seed: u64, range: Range<u32>, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = range.collect();
    Rng::with_seed(seed).shuffle(&mut all);
    all.truncate(size(count));
    all
}

/// Draws from these so many times, each time from all of them.
#[must_use]
pub fn drawn(seed: u64, among: &[u32], count: u32) -> Vec<u32> {
    let mut random = Rng::with_seed(seed);
    (0..count).filter_map(|_| random.choice(among).copied()).collect()
}

/// Measures a target at one step.
///
/// # Errors
/// The target has ended, or refuses connections; flaws of answers are part of the records.
pub async fn measure(target: &Target, plan: Plan) -> io::Result<Vec<Record>> {
    let seed = plan.round.into();
    match plan.grows {
        Grows::Connections => {
            let users = |count: u32| (0..count).map(|index| index % LANES).collect::<Vec<_>>();
            let mut work = Work::open(target, plan, plan.step).await?;
            work.pass(&users(plan.step.max(plan.requests / WARM_UP)), None).await?;
            let mut record = work.measure(&scenario::CONNECTIONS, &users(plan.step.max(plan.requests))).await?;
            let open = work.lanes.iter().flatten().count();
            record.extra.insert("open at the end".to_owned(), real(open as u64));
            Ok(vec![record])
        }
        Grows::Models => {
            let models: Vec<u32> = (0..plan.step).collect();
            let mut work = Work::open(target, plan, LANES).await?;
            work.pass(&drawn(seed + 1, &models, plan.requests / WARM_UP), None).await?;
            work.pass(&models, None).await?;
            Ok(vec![work.measure(&scenario::MODELS, &drawn(seed, &models, plan.requests)).await?])
        }
        Grows::Users { before, cold, warm } => {
            let users = each_once(seed, before..plan.step, cold);
            let mut work = Work::open(target, plan, LANES).await?;
            let mut records = Vec::new();
            if plan.step < LEAST_COLD {
                work.pass(&users, None).await?;
            } else {
                records.push(among(work.measure(&scenario::COLD, &users).await?, &users));
            }
            // The last ones that were seen.
            let seen = users.get(users.len().saturating_sub(size(warm))..).unwrap_or_default();
            work.pass(&drawn(seed + 1, seen, plan.requests / WARM_UP), None).await?;
            records.push(among(work.measure(&scenario::WARM, &drawn(seed, seen, plan.requests)).await?, seen));
            Ok(records)
        }
    }
}

/// Adds how many users the requests were spread over.
fn among(mut record: Record, users: &[u32]) -> Record {
    record.extra.insert("different users".to_owned(), real(users.len() as u64));
    record
}

/// Connections that are open, and what is asked over them.
struct Work<'a> {
    target: &'a Target,
    plan: Plan,
    lanes: Vec<Option<Connection>>,
}

impl<'a> Work<'a> {
    /// Opens so many connections.
    async fn open(target: &'a Target, plan: Plan, lanes: u32) -> io::Result<Self> {
        let client = Client::new(target.addr);
        let mut open = Vec::new();
        for _ in 0..lanes {
            open.push(Some(client.connect().await?));
        }
        Ok(Self { target, plan, lanes: open })
    }

    async fn measure(&mut self, scenario: &Stepped, picks: &[u32]) -> io::Result<Record> {
        let label = format!("{} {} {}", scenario.letter, self.target.name, self.plan.step);
        let progress = Progress::new(label, picks.len() as u64);
        let meter = Meter::start(self.target)?;
        let tally = self.pass(picks, Some(&progress)).await?;
        let mut record = meter.stop(scenario.letter, self.plan.round, &tally).await?;
        record.step = self.plan.step.into();
        Ok(record)
    }

    /// Sends a request for each pick, spread evenly over the connections, which are open again afterwards.
    async fn pass(&mut self, picks: &[u32], progress: Option<&Progress>) -> io::Result<Tally> {
        let (steps, mut stepped) = mpsc::channel(1024);
        let mut running = JoinSet::new();
        let lanes = self.lanes.len();
        for (lane, kept) in self.lanes.drain(..).enumerate() {
            let picks = picks.iter().copied().skip(lane).step_by(lanes).collect();
            running.spawn(work(self.target.clone(), self.plan.grows, picks, kept, steps.clone()));
        }
        drop(steps);
        while stepped.recv().await.is_some() {
            progress.inspect(|progress| progress.step());
        }
        let mut all = Tally::default();
        for ended in running.join_all().await {
            let (tally, kept) = ended?;
            all.join(&tally);
            self.lanes.push(kept);
        }
        Ok(all)
    }
}

async fn work(
    target: Target,
    grows: Grows,
    picks: Vec<u32>,
    mut kept: Option<Connection>,
    steps: mpsc::Sender<()>,
) -> io::Result<(Tally, Option<Connection>)> {
    let mut tally = Tally::default();
    for pick in picks {
        let job = job(&target, grows, pick)?;
        kept = closed::ask(&Client::new(target.addr), &job, kept, &mut tally).await;
        // The bar may miss a step; the work doesn't wait for it.
        steps.try_send(()).ok();
    }
    Ok((tally, kept))
}

fn job(target: &Target, grows: Grows, pick: u32) -> io::Result<Job> {
    let user = match grows {
        Grows::Users { .. } => format!("user-{pick}"),
        Grows::Connections | Grows::Models => format!("load-{}", pick % LANES),
    };
    match grows {
        Grows::Models => Job::of_model(target, &user, "hello", &SHAPE, &format!("growth/model-{pick}")),
        Grows::Connections | Grows::Users { .. } => Job::new(target, &user, "hello", &SHAPE, ""),
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
