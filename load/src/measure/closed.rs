//! So many connections, each of which sends its next request when the last one's answer is whole (a closed loop).

use super::{
    check::Flaw,
    job::{Job, Sample, Shape},
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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet};

/// One in so many requests is sent before anything is measured, over all connections.
const WARM_UP: u64 = 20;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario's letter.
    pub scenario: &'static str,
    /// Connections, and so requests at once.
    pub connections: u64,
    /// Requests in all.
    pub requests: u64,
    /// What each of them asks for.
    pub shape: Shape,
    /// Further options of the mock's.
    pub options: &'static str,
    /// Over how long the first requests are spread.
    pub spread: Duration,
    /// Whether some requests are sent before anything is measured.
    pub warm_up: bool,
}

/// Measures a target.
///
/// # Errors
/// The target has ended; flaws of answers are part of the record.
pub async fn measure(target: &Target, plan: &Plan, round: u32) -> io::Result<Record> {
    if plan.warm_up {
        let warm = Plan { requests: plan.requests.div_ceil(WARM_UP), ..plan.clone() };
        drive(target, &warm, None).await?;
    }
    let progress = Progress::new(format!("{} {} round {round}", plan.scenario, target.name), plan.requests);
    let meter = Meter::start(target)?;
    let tally = drive(target, plan, Some(&progress)).await?;
    meter.stop(plan.scenario, round, &tally).await
}

async fn drive(target: &Target, plan: &Plan, progress: Option<&Progress>) -> io::Result<Tally> {
    let left = Arc::new(AtomicU64::new(plan.requests));
    let lanes = plan.connections.min(plan.requests).max(1);
    let pause = plan.spread / u32::try_from(lanes).unwrap_or(u32::MAX);
    let (steps, mut stepped) = mpsc::channel(1024);
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let job = Job::new(target, &format!("load-{}", lane % 64), "hello", &plan.shape, plan.options)?;
        let (left, steps) = (Arc::clone(&left), steps.clone());
        let client = Client::new(target.addr);
        let delay = pause * u32::try_from(lane).unwrap_or(u32::MAX);
        running.spawn(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            work(&client, &job, &left, &steps).await
        });
    }
    drop(steps);
    while stepped.recv().await.is_some() {
        if let Some(progress) = progress {
            progress.step();
        }
    }
    let mut all = Tally::default();
    running.join_all().await.iter().for_each(|tally| all.join(tally));
    Ok(all)
}

async fn work(client: &Client, job: &Job, left: &AtomicU64, steps: &mpsc::Sender<()>) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        kept = ask(client, job, kept, &mut tally).await;
        // The bar may miss a step; the work doesn't wait for it.
        steps.try_send(()).ok();
    }
    tally
}

/// Asks once, on the connection that is there or another one, and counts what came of it. Returns the connection that can be
/// used again.
pub(super) async fn ask(client: &Client, job: &Job, kept: Option<Connection>, tally: &mut Tally) -> Option<Connection> {
    match tokio::time::timeout(PATIENCE, once(client, job, kept)).await {
        Ok(Ok((sample, connection))) => {
            tally.good(sample);
            return connection;
        }
        Ok(Err(flaw)) => tally.bad(&flaw),
        Err(_elapsed) => tally.bad(&Flaw::Late),
    }
    None
}

async fn once(client: &Client, job: &Job, kept: Option<Connection>) -> Result<(Sample, Option<Connection>), Flaw> {
    let connection = match kept {
        Some(connection) => connection,
        None => client.connect().await?,
    };
    job.perform(connection, clock::now(), |_at| {}).await
}
