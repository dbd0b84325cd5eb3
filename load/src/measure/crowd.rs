//! A thousand users whom the service has never seen, all at once: every look-up is a cold one.

use super::{
    check::Flaw,
    job::{Job, Shape},
    record::{Meter, Record, Tally},
    target::Target,
};
use crate::{client::Client, clock};
use std::{io, time::Duration};
use tokio::task::JoinSet;

/// Users.
const USERS: u32 = 1_000;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures a target. Each call brings users with new names.
///
/// # Errors
/// The target has ended; flaws of answers are part of the record.
pub async fn measure(target: &Target, round: u32) -> io::Result<Record> {
    let crowd = clock::unix_nanos();
    let mut jobs = Vec::new();
    for user in 0..USERS {
        jobs.push(Job::new(target, &format!("crowd-{crowd}-{user}"), "hello", &Shape::Stream(20), "")?);
    }
    let meter = Meter::start(target)?;
    // All of them are due now, so that whoever is served last waited for it.
    let due = clock::now();
    let mut running = JoinSet::new();
    for job in jobs {
        let client = Client::new(target.addr);
        running.spawn(async move {
            let answer = async { job.perform(client.connect().await?, due, |_at| {}).await };
            tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Err(Flaw::Late))
        });
    }
    let mut tally = Tally::default();
    for answer in running.join_all().await {
        match answer {
            Ok((sample, _connection)) => tally.good(sample),
            Err(flaw) => tally.bad(&flaw),
        }
    }
    meter.stop("G", round, &tally).await
}
