//! wrk, with the command line that the project's targets are stated for.

use super::{
    figures::Quantiles,
    record::{Meter, Record, Tally},
    target::Target,
};
use std::{collections::BTreeMap, io, process::Command};

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long it runs, in seconds.
    pub seconds: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seconds: 30 }
    }
}

/// Measures a target.
///
/// # Errors
/// There is no wrk, it fails, or it says something else than `load/chat.lua` makes it say.
pub async fn measure(target: &Target, plan: Plan, round: u32) -> io::Result<Record> {
    let mut command = Command::new("wrk");
    command.args(["-t12", "-c400", &format!("-d{}s", plan.seconds), "--timeout", "30s", "-s", "load/chat.lua"]);
    command.arg(format!("http://{}", target.addr));
    command.env("TOKEN", target.token("wrk")?).env("MODEL", "mock/load+frames-5").env("STREAM", "false");
    command.env("CHAT_PATH", "/v1/chat/completions");
    let meter = Meter::start(target)?;
    let output = tokio::task::spawn_blocking(move || command.output()).await.map_err(io::Error::other)??;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = Said::parse(&text)
        .ok_or_else(|| io::Error::other(format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr))))?;
    let tally = Tally { requests: said.good, flaws: said.flaws, ..Tally::default() };
    let mut record = meter.stop("D", round, &tally).await?;
    record.total_ms = said.latency_ms;
    Ok(record)
}

#[derive(Debug, PartialEq)]
struct Said {
    good: u64,
    latency_ms: Quantiles,
    flaws: BTreeMap<String, u64>,
}

impl Said {
    /// Reads what `load/chat.lua` prints.
    fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let mut flaws = BTreeMap::new();
        let mut good = 0;
        for class in 1..=5 {
            let Some(rest) = line(&format!("status {class}xx")) else { continue };
            let (count, parts) = rest.trim().strip_suffix(')')?.split_once(" (")?;
            if class == 2 {
                good = count.parse().ok()?;
                continue;
            }
            for part in parts.split(", ") {
                let (answer, count) = part.split_once(": ")?;
                flaws.insert(format!("status {answer}"), count.parse().ok()?);
            }
        }
        for part in line("sockets")?.split(',') {
            let (name, count) = part.trim().split_once(' ')?;
            match count.parse().ok()? {
                0 => {}
                count => drop(flaws.insert(format!("socket {name}"), count)),
            }
        }
        let words: Vec<&str> = line("latency ms")?.split_whitespace().collect();
        let value = |name: &str| words.iter().skip_while(|word| **word != name).nth(1)?.parse().ok();
        let latency_ms = Quantiles { p50: value("p50")?, p95: value("p95")?, p99: value("p99")?, max: value("max")? };
        Some(Self { good, latency_ms, flaws })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\nrequests    110 in 2.0 s, 55/s\nstatus 2xx  100 (200: 100)\nstatus 5xx  10 (502: 3, 503 overloaded: 7)\n\
        broken      0 streams without [DONE]\nsockets     connect 0, read 2, write 0, timeout 0\n\
        error rate  9.1 %\nlatency ms  mean 1.0  p50 2.0  p90 3.0  p95 4.0  p99 5.0  max 6.5\n";

    #[test]
    fn what_wrk_says_is_read() {
        let said = Said::parse(TEXT).unwrap();
        assert_eq!(said.good, 100);
        assert_eq!(said.latency_ms, Quantiles { p50: 2.0, p95: 4.0, p99: 5.0, max: 6.5 });
        let flaws = [("status 502", 3), ("status 503 overloaded", 7), ("socket read", 2)];
        assert_eq!(said.flaws, flaws.map(|(flaw, count)| (flaw.to_owned(), count)).into());
        assert_eq!(Said::parse("wrk: no such host"), None);
    }
}
