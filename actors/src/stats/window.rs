//! Sliding windows over what happened: the last minute, five minutes, hour, and since the start.
//!
//! A window is a ring of 12 slots; the slot that time is in is being filled, so a window covers 11 to 12 twelfths of its
//! span. Slots hold counters and histograms and take memory only for what happened in them: nothing when idle, 0.9 MB when
//! every stage is in every slot. Pure: time is an argument, counted from the start of the process; it may jump ahead by
//! any amount, and what comes late counts as now.

use std::time::Duration;

use super::histogram::Histogram;
use crate::domain::{ErrorCode, Finished, Outcome, Timings};

/// Slots in a ring.
const SLOTS: usize = 12;

/// Answers that took longer until their first frame are slow.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Verifying the caller.
    Auth,
    /// Reserving quota.
    Quota,
    /// A call to the store, whoever made it.
    Database,
    /// Having a connection to the provider: zero where one was kept.
    Connect,
    /// Until the first frame, or the whole answer where it isn't streamed.
    Ttft,
    /// Our share of `Ttft`.
    Overhead,
    /// The whole request.
    Total,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Auth, Self::Quota, Self::Database, Self::Connect, Self::Ttft, Self::Overhead, Self::Total];

    /// Returns the name, as reports and metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::Database => "database",
            Self::Connect => "connect",
            Self::Ttft => "ttft",
            Self::Overhead => "overhead",
            Self::Total => "total",
        }
    }

    /// Iterates over the stages that a request went through, and how long it was in each.
    pub fn of(timings: &Timings) -> impl Iterator<Item = (Self, Duration)> {
        [
            (Self::Auth, timings.auth),
            (Self::Quota, timings.quota),
            (Self::Connect, timings.connect),
            (Self::Ttft, timings.ttft),
            (Self::Overhead, timings.overhead),
            (Self::Total, Some(timings.total)),
        ]
        .into_iter()
        .filter_map(|(stage, took)| Some((stage, took?)))
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observation {
    /// A request is over.
    Request(Finished),
    /// Something other than a chat was refused.
    Refusal(ErrorCode),
    /// A call to the store is.
    Database {
        /// How long it took.
        took: Duration,
        /// Whether it had an answer.
        ok: bool,
    },
}

/// What happened in some time.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Chats that are over, and whatever else was refused.
    pub(super) requests: u64,
    /// Those that the client got wrong, or was not entitled to (see [`blames_client`]).
    pub(super) refused: u64,
    /// Those that failed through a fault of ours or the provider's.
    pub(super) failed: u64,
    /// Of the failed, those in which a deadline passed.
    pub(super) timeouts: u64,
    /// Those above [`SLOW`].
    pub(super) slow: u64,
    /// Those that were admitted, and so are posted.
    pub(super) posted: u64,
    /// Of the posted, those whose figures are an estimate.
    pub(super) estimated: u64,
    /// Calls to the store that failed.
    pub(super) database_failed: u64,
    codes: [u64; ErrorCode::ALL.len()],
    stages: [Histogram; Stage::ALL.len()],
}

impl Tally {
    /// Returns how many requests ended in each code, without those that none did.
    pub(super) fn by_code(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.iter().copied().zip(self.codes).filter(|(_, count)| *count > 0)
    }

    /// Returns the times of a stage.
    pub(super) fn stages(&self) -> impl Iterator<Item = (Stage, &Histogram)> {
        Stage::ALL.into_iter().zip(&self.stages)
    }

    /// Returns the times of one stage.
    pub(super) fn stage(&self, stage: Stage) -> &Histogram {
        // `Stage::ALL` is in the order of the variants, and there is a histogram for each.
        let [auth, quota, database, connect, ttft, overhead, total] = &self.stages;
        match stage {
            Stage::Auth => auth,
            Stage::Quota => quota,
            Stage::Database => database,
            Stage::Connect => connect,
            Stage::Ttft => ttft,
            Stage::Overhead => overhead,
            Stage::Total => total,
        }
    }

    /// Takes down what happened.
    pub(super) fn record(&mut self, observation: &Observation) {
        match observation {
            Observation::Request(finished) => self.count(finished),
            Observation::Refusal(code) => self.refuse(*code),
            Observation::Database { took, ok } => {
                self.time(Stage::Database, *took);
                self.database_failed += u64::from(!ok);
            }
        }
    }

    fn count(&mut self, finished: &Finished) {
        self.requests += 1;
        self.refused += u64::from(finished.outcome.is_none() && finished.code.is_some_and(blames_client));
        self.failed += u64::from(is_failure(finished));
        self.timeouts += u64::from(is_timeout(finished));
        // Whoever waited for long for a provider in vain had no first frame for that long, at least.
        let in_vain = finished.outcome.is_some() && finished.timings.ttft.is_none();
        let waited = Some(finished.timings.total).filter(|waited| in_vain && *waited > SLOW);
        self.slow += u64::from(finished.timings.ttft.or(waited).is_some_and(|ttft| ttft > SLOW));
        self.posted += u64::from(finished.outcome.is_some());
        self.estimated += u64::from(finished.outcome.is_some() && finished.estimated);
        if let Some(code) = finished.code {
            self.list(code);
        }
        for (stage, took) in Stage::of(&finished.timings).chain(waited.map(|waited| (Stage::Ttft, waited))) {
            self.time(stage, took);
        }
    }

    fn refuse(&mut self, code: ErrorCode) {
        self.list(code);
        // An instance that goes or comes: others are asked instead.
        if matches!(code, ErrorCode::Draining | ErrorCode::LedgerUnavailable) {
            return;
        }
        self.requests += 1;
        *(if blames_client(code) { &mut self.refused } else { &mut self.failed }) += 1;
    }

    fn list(&mut self, code: ErrorCode) {
        if let Some(count) = self.codes.get_mut(code as usize) {
            *count += 1;
        }
    }

    fn time(&mut self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get_mut(stage as usize) {
            histogram.record(took);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.failed += other.failed;
        self.timeouts += other.timeouts;
        self.slow += other.slow;
        self.posted += other.posted;
        self.estimated += other.estimated;
        self.database_failed += other.database_failed;
        for (mine, others) in self.codes.iter_mut().zip(other.codes) {
            *mine += others;
        }
        for (mine, others) in self.stages.iter_mut().zip(&other.stages) {
            mine.merge(others);
        }
    }
}

/// Says whether the client could have avoided this refusal: its mistakes (4xx) and the limits that it met. Such requests
/// are listed by code, but count neither as errors nor among the requests that the error rate is a share of: a flood of
/// bad tokens must neither raise an alarm nor hide one.
fn blames_client(code: ErrorCode) -> bool {
    match code {
        ErrorCode::InvalidApiKey
        | ErrorCode::TokenExpired
        | ErrorCode::AdminRequired
        | ErrorCode::ModelNotAllowed
        | ErrorCode::ModelNotFound
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::InvalidJson
        | ErrorCode::InvalidValue
        | ErrorCode::RequestTimeout
        | ErrorCode::RequestTooLarge
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::IdempotencyMismatch
        | ErrorCode::RateLimitExceeded
        | ErrorCode::InsufficientQuota => true,
        ErrorCode::ProviderError
        | ErrorCode::ProviderOverloaded
        | ErrorCode::Overloaded
        | ErrorCode::Draining
        | ErrorCode::QuotaUnavailable
        | ErrorCode::LedgerUnavailable
        | ErrorCode::ProviderTimeout
        | ErrorCode::InternalError => false,
    }
}

/// Says whether a request failed through no fault of its client: a code that doesn't blame it, or an outcome that no client
/// causes. One that left (`client_gone`) or used up its quota (`cut_off`) got what it asked for.
fn is_failure(finished: &Finished) -> bool {
    let by_outcome = matches!(finished.outcome, Some(Outcome::ProviderError | Outcome::Deadline | Outcome::Shutdown));
    by_outcome || finished.code.is_some_and(|code| !blames_client(code))
}

/// Says whether a deadline of the provider's passed. A body that a client sent too slowly is the client's.
fn is_timeout(finished: &Finished) -> bool {
    finished.outcome == Some(Outcome::Deadline) || finished.code == Some(ErrorCode::ProviderTimeout)
}

/// What happened in the last `SLOTS` slots.
#[derive(Debug)]
struct Ring {
    width: Duration,
    slots: [Tally; SLOTS],
    /// The number, since the start, of the slot that is being filled.
    current: u64,
}

impl Ring {
    fn new(span: Duration) -> Self {
        let slots = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        Self { width: span / slots, slots: Default::default(), current: 0 }
    }

    fn number(&self, now: Duration) -> u64 {
        u64::try_from(now.as_nanos() / self.width.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// Empties the slots that lie between the last time and this one.
    fn advance(&mut self, now: Duration) {
        let now = self.number(now).max(self.current);
        let slots = u64::try_from(SLOTS).unwrap_or(u64::MAX);
        for number in (self.current..now).rev().take(SLOTS).map(|before| before + 1) {
            let place = usize::try_from(number % slots).unwrap_or(0);
            if let Some(slot) = self.slots.get_mut(place) {
                *slot = Tally::default();
            }
        }
        self.current = now;
    }

    fn filled(&mut self) -> Option<&mut Tally> {
        let slots = u64::try_from(SLOTS).unwrap_or(u64::MAX);
        self.slots.get_mut(usize::try_from(self.current % slots).unwrap_or(0))
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.slots.iter().for_each(|slot| total.merge(slot));
        total
    }

    /// Returns the time that the slots cover: what has passed of the current one, and the eleven before it.
    fn covered(&self, now: Duration) -> Duration {
        let slots = u32::try_from(SLOTS).unwrap_or(u32::MAX);
        let width = u64::try_from(self.width.as_nanos()).unwrap_or(u64::MAX);
        let start = Duration::from_nanos(width.saturating_mul(self.current));
        now.min(self.width * (slots - 1) + now.saturating_sub(start).min(self.width))
    }
}

/// One window as it stands.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The name: `1m`, `5m`, `1h` or `start`.
    pub(super) name: &'static str,
    /// The time that it covers.
    pub(super) covered: Duration,
    /// What happened in it.
    pub(super) tally: Tally,
}

/// All windows.
#[derive(Debug)]
pub(super) struct Windows {
    rings: [(&'static str, Ring); 3],
    start: Tally,
}

impl Windows {
    /// Makes empty windows.
    pub(super) fn new() -> Self {
        let ring = |name, seconds| (name, Ring::new(Duration::from_secs(seconds)));
        Self { rings: [ring("1m", 60), ring("5m", 300), ring("1h", 3600)], start: Tally::default() }
    }

    /// Takes down what happened lately, at `now` since the start. Costs the same whatever it is: better much at once.
    pub(super) fn add(&mut self, now: Duration, lately: &Tally) {
        for (_, ring) in &mut self.rings {
            ring.advance(now);
            if let Some(slot) = ring.filled() {
                slot.merge(lately);
            }
        }
        self.start.merge(lately);
    }

    /// Returns what happened in the last minute.
    pub(super) fn last_minute(&mut self, now: Duration) -> Tally {
        let [(_, minute), ..] = &mut self.rings;
        minute.advance(now);
        minute.total()
    }

    /// Returns each window, the shortest first.
    pub(super) fn views(&mut self, now: Duration) -> Vec<View> {
        let mut views = Vec::with_capacity(self.rings.len() + 1);
        for (name, ring) in &mut self.rings {
            ring.advance(now);
            views.push(View { name, covered: ring.covered(now), tally: ring.total() });
        }
        views.push(View { name: "start", covered: now, tally: self.start.clone() });
        views
    }
}

#[cfg(test)]
mod tests;
