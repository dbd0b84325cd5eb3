//! Whether a provider's model is asked at all: pure, no clock.
//!
//! A breaker watches the attempts of the last 10 s. Where too large a share of them failed, and there were enough to tell,
//! it opens: nothing is let through for a while. Then it is half-open, a few attempts at a time may probe: the first
//! answer closes it, the first failure opens it again, for twice as long each time, up to eight times. As Hystrix's (50 %
//! of 20 requests in 10 s, 5 s open), which most later ones follow.
//!
//! Invariants:
//! - It never opens on a single failure, whatever the rules.
//! - Whoever was let through gives the `Pass` back: as answered, as failed, or as neither (the client left, or the
//!   request itself was at fault). What is neither counts as nothing: it frees its place among the probes.
//! - What was let through before the breaker last turned changes nothing: it tells of how things were.

use std::time::{Duration, Instant};

use super::recent::{Recent, WINDOW};

/// The most attempts that probe at once: one of them may hang for as long as the provider's deadlines are.
pub(super) const PROBES: u32 = 3;

/// So often the time that a breaker stays open doubles.
const DOUBLINGS: u32 = 3;

/// When breakers open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The share of failed attempts at which one opens, in percent; 0 = never.
    pub failure_percent: u32,
    /// The least attempts in 10 s to tell by.
    pub min_attempts: u32,
    /// How long one stays open before it lets probes through.
    pub open: Duration,
}

impl Rules {
    /// Of a provider that needs no breaker.
    pub const NEVER: Self = Self { failure_percent: 0, min_attempts: 0, open: Duration::ZERO };
}

/// The breaker of one model of one provider, on one worker.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: Rules,
    /// Attempts and failures.
    recent: Recent,
    place: Place,
    /// How often it turned.
    turns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Closed,
    /// Open until then, half-open from then on.
    Open {
        until: Instant,
        /// How many probe now.
        probes: u32,
        /// How often it opened since it was closed, but for the first time.
        again: u32,
    },
}

/// The right to one attempt. To be given back.
#[derive(Debug)]
#[must_use]
pub(super) struct Pass {
    turns: u64,
}

/// What became of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It opened.
    Opened,
    /// It opened again: a probe failed.
    OpenedAgain,
    /// It closed: a probe was answered.
    Closed,
}

impl Breaker {
    pub(super) fn new(rules: Rules, now: Instant) -> Self {
        Self { rules, recent: Recent::new(now), place: Place::Closed, turns: 0 }
    }

    /// Says whether an attempt would be let through.
    pub(super) fn permits(&self, now: Instant) -> bool {
        match self.place {
            Place::Closed => true,
            Place::Open { until, probes, .. } => until <= now && probes < PROBES,
        }
    }

    /// Lets an attempt through, or not.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Pass> {
        if !self.permits(now) {
            return None;
        }
        if let Place::Open { probes, .. } = &mut self.place {
            *probes += 1;
        }
        Some(Pass { turns: self.turns })
    }

    /// Returns how often it has turned: what is to be told with an answer that breaks off later.
    pub(super) fn turns(&self) -> u64 {
        self.turns
    }

    /// The provider answered.
    pub(super) fn answered(&mut self, pass: &Pass, now: Instant) -> Option<Turn> {
        if pass.turns != self.turns {
            return None;
        }
        if self.place == Place::Closed {
            self.recent.add(now, [1, 0]);
            return None;
        }
        self.place = Place::Closed;
        self.turns += 1;
        self.recent = Recent::new(now);
        Some(Turn::Closed)
    }

    /// The provider failed.
    pub(super) fn failed(&mut self, pass: &Pass, now: Instant) -> Option<Turn> {
        if pass.turns != self.turns {
            return None;
        }
        match self.place {
            Place::Closed => self.count_failure(now, 1),
            Place::Open { again, .. } => {
                self.open(now, (again + 1).min(DOUBLINGS));
                Some(Turn::OpenedAgain)
            }
        }
    }

    /// The provider broke off an answer that had begun, after so many turns, and that was counted as an attempt then.
    pub(super) fn broke_off(&mut self, turns: u64, now: Instant) -> Option<Turn> {
        let as_it_was = self.place == Place::Closed && turns == self.turns;
        if as_it_was { self.count_failure(now, 0) } else { None }
    }

    /// The attempt came to neither.
    pub(super) fn released(&mut self, pass: &Pass) {
        if let Place::Open { probes, .. } = &mut self.place
            && pass.turns == self.turns
        {
            *probes = probes.saturating_sub(1);
        }
    }

    /// Says whether it isn't closed.
    pub(super) fn is_open(&self) -> bool {
        self.place != Place::Closed
    }

    /// Says whether nothing of use would be forgotten if this were dropped: nothing was counted lately, or nobody has
    /// asked for as long since it would have let probes through.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        match self.place {
            Place::Closed => self.recent.counts(now) == [0, 0],
            Place::Open { until, probes, .. } => probes == 0 && until + WINDOW <= now,
        }
    }

    fn count_failure(&mut self, now: Instant, attempts: u32) -> Option<Turn> {
        self.recent.add(now, [attempts, 1]);
        let [attempts, failures] = self.recent.counts(now);
        // The attempts of streams that break off after a while are forgotten before their failures.
        let attempts = attempts.max(failures);
        let Rules { failure_percent, min_attempts, .. } = self.rules;
        let too_many = u64::from(failures) * 100 >= u64::from(attempts) * u64::from(failure_percent);
        if failure_percent == 0 || attempts < min_attempts || failures < 2 || !too_many {
            return None;
        }
        self.open(now, 0);
        Some(Turn::Opened)
    }

    fn open(&mut self, now: Instant, again: u32) {
        self.place = Place::Open { until: now + self.rules.open * (1 << again), probes: 0, again };
        self.turns += 1;
    }
}

#[cfg(test)]
mod tests;
