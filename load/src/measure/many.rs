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
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What passes between the last beginning and what is measured, and between that and the first end.
const MARGIN: Duration = Duration::from_secs(1);
/// A stream is given so much more time than its frames take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Streams at once.
    pub streams: u32,
    /// Frames of each.
    pub frames: usize,
    /// How far they are apart, in whole milliseconds.
    pub gap: Duration,
    /// Whether they say when they were sent: then a frame is due at that moment, else when its stream's pace says so.
    pub stamped: bool,
    /// Over how long the beginnings are spread.
    pub ramp: Duration,
    /// After which time memory has to be given back.
    pub later: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            streams: 9_500,
            frames: 30,
            gap: Duration::from_secs(1),
            stamped: false,
            ramp: Duration::from_secs(10),
            later: Duration::from_secs(60),
        }
    }
}

impl Plan {
    /// Fewer streams with frames that say when they were sent; nobody looks at the memory again.
    #[must_use]
    pub const fn alone() -> Self {
        Self {
            streams: 4_000,
            frames: 40,
            gap: Duration::from_millis(500),
            stamped: true,
            ramp: Duration::from_secs(5),
            later: Duration::ZERO,
        }
    }

    /// From when to when all streams run and none begins or ends, counted from the first one's beginning. `None`: what is
    /// measured is all of it.
    #[must_use]
    pub fn steady(&self) -> Option<Range<Duration>> {
        self.stamped.then(|| self.ramp + MARGIN..self.lasts().saturating_sub(MARGIN))
    }

    /// How long each stream takes.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        self.gap * u32::try_from(self.frames).unwrap_or(u32::MAX)
    }

    /// Frames in all.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        u64::from(self.streams) * self.frames as u64
    }
}

/// Measures a target, and looks at its memory again later.
///
/// # Errors
/// The target has ended; flaws of streams are part of the record.
pub async fn measure(target: &Target, plan: Plan, round: u32) -> io::Result<Record> {
    let progress = Progress::new(format!("F {} round {round}", target.name), plan.ticks());
    let meter = Meter::start(target)?;
    let tally = drive(target, plan, &Arc::default(), &progress).await?;
    let mut record = meter.stop("F", round, &tally).await?;
    tokio::time::sleep(plan.later).await;
    record.resident_later = Some(target.family.resident()?);
    let descriptors = real(target.family.descriptors()? as u64);
    record.extra.insert("descriptors later".to_owned(), descriptors);
    Ok(record)
}

/// Runs the streams; `arrived` counts their frames.
pub(super) async fn drive(
    target: &Target,
    plan: Plan,
    arrived: &Arc<AtomicU64>,
    progress: &Progress,
) -> io::Result<Tally> {
    let begun = clock::now();
    let (steps, mut stepped) = tokio::sync::mpsc::channel(1024);
    let mut running = JoinSet::new();
    for index in 0..plan.streams {
        let shape = if plan.stamped { Shape::Stamped(plan.frames) } else { Shape::Echo(plan.frames) };
        let (user, marker) = (format!("load-{}", index % 1_000), format!("many-{index}"));
        let job = Job::new(target, &user, &marker, &shape, &format!("+gap-{}ms", plan.gap.as_millis()))?;
        let (client, steps, arrived) = (Client::new(target.addr), steps.clone(), Arc::clone(arrived));
        let due = begun + plan.ramp * index / plan.streams;
        let steady = plan.steady().map(|steady| begun + steady.start..begun + steady.end);
        let patience = plan.ramp + plan.lasts() + PATIENCE;
        running.spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            let mut tally = Tally::default();
            let came = || {
                arrived.fetch_add(1, Ordering::Relaxed);
                // The bar may miss a step; the stream doesn't wait for it.
                steps.try_send(()).ok();
            };
            let work = stream(&client, &job, (due, plan.gap), steady, came, &mut tally);
            match tokio::time::timeout(patience, work).await {
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
    (due, gap): (Instant, Duration),
    steady: Option<Range<Instant>>,
    came: impl Fn(),
    tally: &mut Tally,
) -> Result<(), Flaw> {
    let connection = client.connect().await?;
    let (mut first, mut count) = (None, 0_u32);
    let late = &mut tally.late;
    let (sample, _connection) = job
        .perform(connection, due, |frame| {
            let first = *first.get_or_insert(frame.at);
            if steady.as_ref().is_none_or(|steady| steady.contains(&frame.at)) {
                late.add(frame.way.unwrap_or_else(|| frame.at.saturating_duration_since(first + gap * count)));
            }
            count += 1;
            came();
        })
        .await?;
    tally.good(sample);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_come_alone_are_timed_while_all_streams_run() {
        let plan = Plan::alone();
        assert_eq!((plan.ramp, plan.lasts()), (Duration::from_secs(5), Duration::from_secs(20)));
        assert_eq!(plan.steady(), Some(Duration::from_secs(6)..Duration::from_secs(19)));
        assert_eq!(Plan::default().steady(), None, "streams that are late at their beginning are late");
    }
}
