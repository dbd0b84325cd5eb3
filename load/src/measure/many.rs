//! Thousands of slow streams at once: each begins when its turn comes, whatever became of the others.

use super::{
    check::Flaw,
    figures::real,
    job::{Job, Shape},
    progress::Progress,
    record::{Meter, Record, Tally},
    target::Target,
};
use crate::{client::Client, clock};
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A stream is given so much more time than its frames take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Streams at once.
    pub streams: u32,
    /// Frames of each, one a second.
    pub frames: usize,
    /// Over how long the beginnings are spread.
    pub ramp: Duration,
    /// After which time memory has to be given back.
    pub later: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { streams: 9_500, frames: 30, ramp: Duration::from_secs(10), later: Duration::from_secs(60) }
    }
}

/// Measures a target, and looks at its memory again later.
///
/// # Errors
/// The target has ended; flaws of streams are part of the record.
pub async fn measure(target: &Target, plan: Plan, round: u32) -> io::Result<Record> {
    let ticks = u64::from(plan.streams) * plan.frames as u64;
    let progress = Progress::new(format!("F {} round {round}", target.name), ticks);
    let meter = Meter::start(target)?;
    let tally = drive(target, plan, &progress).await?;
    let mut record = meter.stop("F", round, &tally).await?;
    tokio::time::sleep(plan.later).await;
    record.resident_later = Some(target.family.resident()?);
    let descriptors = real(target.family.descriptors()? as u64);
    record.extra.insert("descriptors later".to_owned(), descriptors);
    Ok(record)
}

async fn drive(target: &Target, plan: Plan, progress: &Progress) -> io::Result<Tally> {
    let begun = clock::now();
    let (steps, mut stepped) = tokio::sync::mpsc::channel(1024);
    let mut running = JoinSet::new();
    for index in 0..plan.streams {
        let shape = Shape::Echo(plan.frames);
        let job = Job::new(target, &format!("load-{}", index % 1_000), &format!("many-{index}"), &shape, "+gap-1s")?;
        let (client, steps) = (Client::new(target.addr), steps.clone());
        let due = begun + plan.ramp * index / plan.streams;
        let patience = plan.ramp + Duration::from_secs(plan.frames as u64) + PATIENCE;
        running.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            let mut tally = Tally::default();
            match tokio::time::timeout(patience, stream(&client, &job, due, &steps, &mut tally)).await {
                Ok(Ok(())) => {}
                Ok(Err(flaw)) => tally.bad(&flaw),
                Err(_elapsed) => tally.bad(&Flaw::Late),
            }
            tally
        });
    }
    drop(steps);
    while stepped.recv().await.is_some() {
        progress.step();
    }
    let mut all = Tally::default();
    running.join_all().await.iter().for_each(|tally| all.join(tally));
    Ok(all)
}

async fn stream(
    client: &Client,
    job: &Job,
    due: Instant,
    steps: &tokio::sync::mpsc::Sender<()>,
    tally: &mut Tally,
) -> Result<(), Flaw> {
    let connection = client.connect().await?;
    let (mut first, mut count) = (None, 0_u32);
    let late = &mut tally.late;
    let (sample, _connection) = job
        .perform(connection, due, |at| {
            let first = *first.get_or_insert(at);
            late.add(at.saturating_duration_since(first + Duration::from_secs(1) * count));
            count += 1;
            // The bar may miss a step; the stream doesn't wait for it.
            steps.try_send(()).ok();
        })
        .await?;
    tally.good(sample);
    Ok(())
}
