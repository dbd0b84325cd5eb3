//! What one measurement says: one line of JSON, from which reports are made.

use super::{
    check::Flaw,
    figures::{Quantiles, Times, real},
    job::Sample,
    process::{self, Watch},
    target::Target,
};
use crate::clock;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

/// How long a target is given to do what it put off, such as flushing its books, before its CPU time is read.
const SETTLES_IN: Duration = Duration::from_millis(500);

/// One measurement of one target.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// The scenario's letter.
    pub scenario: String,
    /// The target's name.
    pub target: String,
    /// Counts rounds from 1.
    pub round: u32,
    /// How far the scenario had grown, in what its title says; 0 where nothing grows.
    #[serde(default)]
    pub step: u64,
    /// Good answers.
    pub requests: u64,
    /// Frames of content in good answers.
    pub frames: u64,
    /// How long it took.
    pub seconds: f64,
    /// Good answers in a second.
    pub per_second: f64,
    /// To the first frame of content, or to the head of a whole answer; ms.
    pub ttft_ms: Quantiles,
    /// To the end; ms.
    pub total_ms: Quantiles,
    /// How long frames came after they were due, where they are due at all; ms.
    pub late_ms: Option<Quantiles>,
    /// The target's user and system time for each good answer.
    pub cpu_us_request: f64,
    /// The same for each frame; 0 without frames.
    pub cpu_us_frame: f64,
    /// Resident memory before, in KiB.
    pub resident_before: u64,
    /// The most resident memory, in KiB.
    pub resident_peak: u64,
    /// Resident memory a minute after the end, in KiB, where it was waited for.
    pub resident_later: Option<u64>,
    /// Answers that were not good, by what was wrong.
    pub flaws: BTreeMap<String, u64>,
    /// The machine's load average at the end.
    pub load_average: f64,
    /// Figures that only this scenario has.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
    /// What the target held meanwhile, where that is watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
}

/// What a target held at one moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Level {
    /// Since the work began.
    pub seconds: f64,
    /// Resident memory in KiB.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Record {
    /// Answers that were not good.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.flaws.values().sum()
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let flaws: Vec<_> = self.flaws.iter().map(|(flaw, count)| format!("{count} × {flaw}")).collect();
        let step = if self.step == 0 { String::new() } else { format!(" {:>7}", self.step) };
        let later = self.resident_later.map_or_else(String::new, |later| format!(" → {:.1}", mib(later)));
        let extra: String = self.extra.iter().map(|(name, value)| format!("  {name} {value:.1}")).collect();
        format!(
            "{:<2} {:<12}{step} round {}: {:>7.0}/s  ttft {:.2} · {:.2} ms  total {:.2} · {:.2} ms  CPU {:.1} µs/request {:.2} µs/frame  \
             {:.1} → {:.1}{later} MiB  load {:.1}  errors {} {}{extra}",
            self.scenario,
            self.target,
            self.round,
            self.per_second,
            self.ttft_ms.p50,
            self.ttft_ms.p99,
            self.total_ms.p50,
            self.total_ms.p99,
            self.cpu_us_request,
            self.cpu_us_frame,
            mib(self.resident_before),
            mib(self.resident_peak),
            self.load_average,
            self.errors(),
            flaws.join(", "),
        )
    }
}

/// KiB as MiB.
#[must_use]
pub fn mib(kib: u64) -> f64 {
    real(kib) / 1024.0
}

/// What came back so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Good answers.
    pub requests: u64,
    /// Their frames.
    pub frames: u64,
    /// To their first frames.
    pub ttft: Times,
    /// To their ends.
    pub total: Times,
    /// How late frames were.
    pub late: Times,
    /// Other answers.
    pub flaws: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds a good answer.
    pub fn good(&mut self, sample: Sample) {
        self.requests += 1;
        self.frames += sample.frames;
        self.ttft.add(sample.ttft);
        self.total.add(sample.total);
    }

    /// Adds another one.
    pub fn bad(&mut self, flaw: &Flaw) {
        *self.flaws.entry(flaw.to_string()).or_default() += 1;
    }

    /// Adds all of another tally.
    pub fn join(&mut self, other: &Self) {
        self.requests += other.requests;
        self.frames += other.frames;
        self.ttft.join(&other.ttft);
        self.total.join(&other.total);
        self.late.join(&other.late);
        for (flaw, count) in &other.flaws {
            *self.flaws.entry(flaw.clone()).or_default() += count;
        }
    }
}

/// Reads a target's processes before and after some work.
#[derive(Debug)]
pub struct Meter<'a> {
    target: &'a Target,
    cpu: Duration,
    resident: u64,
    watch: Watch,
    begun: Instant,
}

impl<'a> Meter<'a> {
    /// Begins.
    ///
    /// # Errors
    /// The target has ended.
    pub fn start(target: &'a Target) -> io::Result<Self> {
        let (cpu, resident) = (target.family.cpu()?, target.family.resident()?);
        Ok(Self { target, cpu, resident, watch: target.family.watch(), begun: clock::now() })
    }

    /// Ends when the target has settled.
    ///
    /// # Errors
    /// The target has ended.
    pub async fn stop(self, scenario: &str, round: u32, tally: &Tally) -> io::Result<Record> {
        let seconds = self.begun.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLES_IN).await;
        self.read(scenario, round, tally, seconds)
    }

    /// Ends at once, where work that goes on leaves nothing to settle.
    ///
    /// # Errors
    /// The target has ended.
    pub fn cut(self, scenario: &str, round: u32, tally: &Tally) -> io::Result<Record> {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.read(scenario, round, tally, seconds)
    }

    fn read(self, scenario: &str, round: u32, tally: &Tally, seconds: f64) -> io::Result<Record> {
        let cpu = self.target.family.cpu()?.saturating_sub(self.cpu).as_secs_f64() * 1e6;
        let each = |count: u64| if count == 0 { 0.0 } else { cpu / real(count) };
        let late = tally.late.quantiles();
        Ok(Record {
            scenario: scenario.to_owned(),
            target: self.target.name.clone(),
            round,
            step: 0,
            requests: tally.requests,
            frames: tally.frames,
            seconds,
            per_second: real(tally.requests) / seconds,
            ttft_ms: tally.ttft.quantiles(),
            total_ms: tally.total.quantiles(),
            late_ms: (late != Quantiles::default()).then_some(late),
            cpu_us_request: each(tally.requests),
            cpu_us_frame: each(tally.frames),
            resident_before: self.resident,
            resident_peak: self.watch.peak(),
            resident_later: None,
            flaws: tally.flaws.clone(),
            load_average: process::load_average(),
            extra: BTreeMap::new(),
            levels: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_are_joined() {
        let sample = Sample { ttft: Duration::from_millis(2), total: Duration::from_millis(4), frames: 20 };
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.good(sample);
        one.bad(&Flaw::Open);
        other.good(sample);
        other.bad(&Flaw::Open);
        other.bad(&Flaw::Status(503));
        one.join(&other);
        assert_eq!((one.requests, one.frames), (2, 40));
        assert_eq!(one.flaws, BTreeMap::from([("no [DONE]".to_owned(), 2), ("status 503".to_owned(), 1)]));
        assert!((one.total.quantiles().p99 - 4.0).abs() < 1e-9);
    }

    #[test]
    fn a_record_survives_its_line_of_json() {
        let record = Record { scenario: "A".into(), requests: 3, resident_later: Some(7), ..Record::default() };
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }
}
