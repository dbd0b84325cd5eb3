//! Clients that connect, ask for a stream that is held, and leave; and what must not be left of them.

use super::{
    check::Flaw,
    job::{Job, Shape},
    progress::Progress,
    target::Target,
};
use crate::{
    client::{Client, Connection, Response},
    clock,
};
use serde::Serialize;
use serde_json::Value;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// Who leaves.
const USER: &str = "leaver";
/// How long it may take until nothing is left. A client that vanishes is noticed after `server.write_timeout`, 30 s,
/// which begins with the next keep-alive comment, and TCP's own clock is coarse.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often what is left is looked at.
const ASKED_EVERY: Duration = Duration::from_millis(250);
/// The service is at rest when its descriptors have not changed for so long: longer than it keeps idle connections.
const RESTS_FOR: Duration = Duration::from_secs(25);
/// Some wait for their first frame before they leave; longer than this nobody waits.
const FIRST_FRAME: Duration = Duration::from_secs(30);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients in all.
    pub cycles: u32,
    /// Clients at once.
    pub at_once: u32,
    /// One in so many vanishes without a word.
    pub vanish: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { cycles: 10_000, at_once: 200, vanish: 50 }
    }
}

/// What was left of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Left {
    /// The service's open descriptors before the first client came.
    pub descriptors_before: usize,
    /// And when nothing more changed.
    pub descriptors: usize,
    /// `hne_open_streams`.
    pub open_streams: u64,
    /// Requests that `GET /api/usage` shows as reserved for the clients' user.
    pub reserved: u64,
    /// The provider's open streams.
    pub provider_streams: u64,
    /// How long that took after the last one had left, in seconds.
    pub seconds: f64,
    /// Clients that did not get as far as they meant to, by why.
    pub failed: u32,
}

impl Left {
    /// Whether nothing was left, and every client was one.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.descriptors <= self.descriptors_before
            && self.open_streams == 0
            && self.reserved == 0
            && self.provider_streams == 0
            && self.failed == 0
    }
}

/// Lets clients of `service` come and leave; `mock` is the provider behind it.
///
/// # Errors
/// The service or the mock can't be asked.
pub async fn run(service: &Target, mock: SocketAddr, plan: Plan) -> io::Result<Left> {
    // The pools of connections are filled first.
    warm_up(service).await?;
    let mut left = Left { descriptors_before: at_rest(service).await?, ..Left::default() };
    let job = Arc::new(Job::new(service, USER, "leave", &Shape::Stream(3), "+hold-after-1")?);
    let progress = Progress::new("leaving", u64::from(plan.cycles));
    let next = Arc::new(AtomicU32::new(0));
    let (steps, mut stepped) = tokio::sync::mpsc::channel(1024);
    let mut running = JoinSet::new();
    for _ in 0..plan.at_once {
        let (client, job, next, steps) =
            (Client::new(service.addr), Arc::clone(&job), Arc::clone(&next), steps.clone());
        running.spawn(async move {
            let (mut gone, mut failed) = (Vec::new(), 0);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= plan.cycles {
                    return (gone, failed);
                }
                match tokio::time::timeout(FIRST_FRAME, come_and_leave(&client, &job, index, plan.vanish)).await {
                    Ok(Ok(vanished)) => gone.extend(vanished),
                    _ => failed += 1,
                }
                steps.try_send(()).ok();
            }
        });
    }
    drop(steps);
    while stepped.recv().await.is_some() {
        progress.step();
    }
    // To drop a connection would say something; those who vanished are kept until they have been noticed.
    let all = running.join_all().await;
    left.failed = all.iter().map(|(_, failed)| failed).sum();
    let since = clock::now();
    let mut turns = tokio::time::interval(ASKED_EVERY);
    loop {
        turns.tick().await;
        look(service, mock, &mut left).await?;
        left.seconds = since.elapsed().as_secs_f64();
        if left.is_nothing() || since.elapsed() > PATIENCE {
            return Ok(left);
        }
    }
}

async fn warm_up(service: &Target) -> io::Result<()> {
    let job = Job::new(service, USER, "warm", &Shape::Stream(3), "+gap-100ms")?;
    let mut running = JoinSet::new();
    for _ in 0..64 {
        let (client, job) = (Client::new(service.addr), job.clone());
        running.spawn(async move { job.perform(client.connect().await?, clock::now(), |_at| {}).await });
    }
    let answers: Vec<Result<_, Flaw>> = running.join_all().await;
    match answers.into_iter().find_map(Result::err) {
        Some(flaw) => Err(io::Error::other(format!("the service does not answer: {flaw}"))),
        None => Ok(()),
    }
}

/// Waits until idle connections to the provider are closed; returns how many descriptors are open then.
async fn at_rest(service: &Target) -> io::Result<usize> {
    let (mut open, mut since) = (service.family.descriptors()?, clock::now());
    let begun = since;
    while since.elapsed() < RESTS_FOR && begun.elapsed() < PATIENCE {
        tokio::time::sleep(ASKED_EVERY).await;
        let now = service.family.descriptors()?;
        if now != open {
            (open, since) = (now, clock::now());
        }
    }
    Ok(open)
}

/// One client. It leaves after its request, after the head or after the first frame, in turn; with a FIN, a reset, a
/// half-close, in turn; now and then it vanishes, and its connection is returned.
async fn come_and_leave(client: &Client, job: &Job, index: u32, vanish: u32) -> io::Result<Option<Response>> {
    let mut connection = client.connect().await?;
    connection.send_raw(job.bytes()).await?;
    let way = index % 3;
    let stage = index / 3 % 3;
    let vanishes = index % vanish == vanish - 1;
    if stage == 0 && !vanishes {
        return leave_early(connection, way).await.map(|()| None);
    }
    let mut response = connection.response().await?;
    if response.status != 200 {
        return Err(io::Error::other("refused"));
    }
    if stage == 2 || vanishes {
        response.frame().await?;
    }
    if vanishes {
        response.vanish()?;
        return Ok(Some(response));
    }
    match way {
        0 => response.close(),
        1 => response.reset()?,
        _ => {
            response.half_close().await?;
            response.closed().await?;
        }
    }
    Ok(None)
}

async fn leave_early(mut connection: Connection, way: u32) -> io::Result<()> {
    match way {
        0 => connection.close(),
        1 => connection.reset()?,
        _ => {
            connection.half_close().await?;
            connection.closed().await?;
        }
    }
    Ok(())
}

async fn look(service: &Target, mock: SocketAddr, left: &mut Left) -> io::Result<()> {
    let totals = Client::new(mock).get("/__books/totals").await?.json().await?;
    left.provider_streams = totals.get("open_streams").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let metrics = Client::new(service.addr).get("/metrics").await?.text().await?;
    left.open_streams = gauge(&metrics, "hne_open_streams").unwrap_or(u64::MAX);
    let usage = service.client(USER)?.get("/api/usage").await?.json().await?;
    left.reserved = reserved(&usage).unwrap_or(u64::MAX);
    // The connections of these three questions may not have been closed yet; the next look sees it.
    left.descriptors = service.family.descriptors()?;
    Ok(())
}

/// The sum of a gauge's series.
fn gauge(metrics: &str, name: &str) -> Option<u64> {
    let series = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let values = series.filter(|rest| rest.starts_with([' ', '{'])).map(|rest| rest.rsplit(' ').next()?.parse().ok());
    values.collect::<Option<Vec<u64>>>().filter(|values| !values.is_empty()).map(|values| values.iter().sum())
}

/// The requests that a user's classes have reserved.
fn reserved(usage: &Value) -> Option<u64> {
    let classes = usage.get("classes")?.as_array()?;
    let each = classes.iter().map(|class| class.pointer("/requests/reserved")?.as_u64());
    each.collect::<Option<Vec<_>>>().filter(|each| !each.is_empty()).map(|each| each.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gauge_is_summed_over_its_series() {
        let metrics = "# HELP hne_open_streams x\nhne_open_streams{class=\"a\"} 2\nhne_open_streams{class=\"b\"} 3\nhne_open_streams_total 9\n";
        assert_eq!(gauge(metrics, "hne_open_streams"), Some(5));
        assert_eq!(gauge(metrics, "hne_open"), None);
    }

    #[test]
    fn reservations_of_all_classes_count() {
        let class = |reserved: u64| json!({"requests": {"reserved": reserved}});
        assert_eq!(reserved(&json!({"classes": [class(1), class(2)]})), Some(3));
        assert_eq!(reserved(&json!({"classes": []})), None, "nothing shown is not nothing reserved");
    }

    #[test]
    fn anything_that_is_left_shows() {
        let nothing = Left { descriptors_before: 9, descriptors: 9, ..Left::default() };
        assert!(nothing.is_nothing());
        for left in [
            Left { descriptors: 10, ..nothing.clone() },
            Left { open_streams: 1, ..nothing.clone() },
            Left { reserved: 1, ..nothing.clone() },
            Left { provider_streams: 1, ..nothing.clone() },
            Left { failed: 1, ..nothing.clone() },
        ] {
            assert!(!left.is_nothing(), "{left:?}");
        }
    }
}
