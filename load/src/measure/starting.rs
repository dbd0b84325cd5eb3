//! How long a service takes from the start of its process until it is ready, and to end when it is told to.

use super::record::{Record, Tally};
use crate::{client::Client, clock};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How often is looked whether it is ready.
const LOOK_AGAIN: Duration = Duration::from_micros(500);
/// Nothing takes longer to start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is started, again and again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What reports call it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// The folder that it runs in.
    pub folder: PathBuf,
    /// Its whole environment but for `LISTEN`.
    pub environment: Vec<(String, String)>,
    /// How often.
    pub times: u32,
}

/// Measures: in the record «ttft» is until `/readyz` says 200, «total» from SIGTERM to the end of the process.
///
/// # Errors
/// The program can't be started, isn't ready in a minute, or ends by itself or badly.
pub async fn measure(plan: &Plan) -> io::Result<Record> {
    let mut tally = Tally::default();
    for _ in 0..plan.times {
        let (ready, ended) = once(plan).await?;
        tally.requests += 1;
        tally.ttft.add(ready);
        tally.total.add(ended);
    }
    Ok(Record {
        scenario: super::scenario::STARTING.0.to_owned(),
        target: plan.name.clone(),
        round: 1,
        requests: tally.requests,
        ttft_ms: tally.ttft.quantiles(),
        total_ms: tally.total.quantiles(),
        ..Record::default()
    })
}

async fn once(plan: &Plan) -> io::Result<(Duration, Duration)> {
    let addr = free_address()?;
    let begun = clock::now();
    let mut child = Command::new(&plan.program)
        .arg("serve")
        .current_dir(&plan.folder)
        .env_clear()
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .env("LISTEN", addr.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ready = until_ready(addr, begun, &mut child).await;
    let ended = end(&mut child).await;
    Ok((ready?, ended?))
}

/// An address that nobody listens at now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

async fn until_ready(addr: SocketAddr, begun: Instant, child: &mut Child) -> io::Result<Duration> {
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it has ended: {status}")));
        }
        // Nobody listens yet, or it is not ready.
        if let Ok(response) = Client::new(addr).get("/readyz").await
            && response.status == 200
        {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err(io::Error::other("it is not ready in time"))
}

/// Ends the process in an orderly way; one that doesn't is killed.
async fn end(child: &mut Child) -> io::Result<Duration> {
    let told = clock::now();
    Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status()?;
    while told.elapsed() < PATIENCE {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(told.elapsed()),
            Some(status) => return Err(io::Error::other(format!("it ended badly: {status}"))),
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::other("it does not end"))
}
