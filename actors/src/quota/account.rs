//! The arithmetic of limits: pure, in integers, no clock.
//!
//! Invariants: `reserved` is the sum of what running requests were granted; no grant makes `used + reserved` exceed a
//! ceiling; a settlement may (a provider reported more than was granted), and then nothing more is granted.

use crate::domain::{Amounts, Limits, Nanodollars, Price, Window};

/// What a request may need at most.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Estimate of the prompt's tokens.
    pub prompt_tokens: i64,
    /// The most completion tokens that it may produce, over all its choices.
    pub completion_tokens: i64,
    /// What tokens cost.
    pub price: Price,
}

impl Ask {
    fn amounts(&self, completion_tokens: i64) -> Amounts {
        Amounts {
            requests: 1,
            prompt_tokens: self.prompt_tokens,
            completion_tokens,
            cost: self.price.of(self.prompt_tokens, completion_tokens),
        }
    }
}

/// Which figure a ceiling is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Requests.
    Requests,
    /// Tokens of prompt and completion.
    Tokens,
    /// Nano-dollars.
    Cost,
}

impl Dimension {
    /// Returns the name as errors, reports and metrics spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Cost => "cost_nanodollars",
        }
    }
}

/// One ceiling and how far it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// The ceiling; `None` is unlimited.
    pub limit: Option<i64>,
    /// Settled.
    pub used: i64,
    /// Promised to running requests.
    pub reserved: i64,
}

impl Figure {
    /// Returns what is left, never less than 0; `None` is unlimited.
    #[must_use]
    pub fn remaining(&self) -> Option<i64> {
        self.limit.map(|limit| limit.saturating_sub(self.used).saturating_sub(self.reserved).max(0))
    }
}

/// The counts of one user, class and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The period that the counts are of.
    pub window: Window,
    /// Settled.
    pub used: Amounts,
    /// Promised to running requests.
    pub reserved: Amounts,
}

impl Account {
    /// Returns a ceiling beside its counts.
    #[must_use]
    pub fn figure(&self, dimension: Dimension, limits: &Limits) -> Figure {
        let (limit, count): (_, fn(&Amounts) -> i64) = match dimension {
            Dimension::Requests => (limits.requests, |amounts| amounts.requests),
            Dimension::Tokens => (limits.tokens, Amounts::tokens),
            Dimension::Cost => (limits.cost.map(|cost| cost.0), |amounts| amounts.cost.0),
        };
        Figure { limit, used: count(&self.used), reserved: count(&self.reserved) }
    }

    fn remaining(&self, dimension: Dimension, limits: &Limits) -> i64 {
        self.figure(dimension, limits).remaining().unwrap_or(i64::MAX)
    }

    /// Promises one request and as much of the ask as is left.
    ///
    /// # Errors
    /// The first ceiling that leaves no room for the request or for its prompt alone; nothing is promised then.
    pub fn reserve(&mut self, ask: &Ask, limits: &Limits) -> Result<Amounts, Dimension> {
        let tokens = self.remaining(Dimension::Tokens, limits);
        let cost = self.remaining(Dimension::Cost, limits);
        let least = ask.amounts(0);
        if self.remaining(Dimension::Requests, limits) < 1 {
            return Err(Dimension::Requests);
        }
        if tokens < least.tokens().max(1) {
            return Err(Dimension::Tokens);
        }
        if cost < least.cost.0.max(1) {
            return Err(Dimension::Cost);
        }
        let completion = ask.completion_tokens.min(tokens.saturating_sub(ask.prompt_tokens));
        let mut granted = ask.amounts(completion);
        granted.cost = Nanodollars(granted.cost.0.min(cost));
        self.reserved += granted;
        Ok(granted)
    }

    /// Promises this ask in place of what the same request was granted before, so that it never counts twice.
    ///
    /// # Errors
    /// As [`Account::reserve`]; what was granted stands then.
    pub fn exchange(&mut self, granted: Amounts, ask: &Ask, limits: &Limits) -> Result<Amounts, Dimension> {
        self.reserved -= granted;
        let exchanged = self.reserve(ask, limits);
        if exchanged.is_err() {
            self.reserved += granted;
        }
        exchanged
    }

    /// Promises more to a request that has outgrown what it was granted, as much of it as is left. Returns what was
    /// added; zero where a ceiling is reached.
    pub fn extend(&mut self, completion_tokens: i64, cost: Nanodollars, limits: &Limits) -> Amounts {
        let added = Amounts {
            requests: 0,
            prompt_tokens: 0,
            completion_tokens: completion_tokens.min(self.remaining(Dimension::Tokens, limits)),
            cost: Nanodollars(cost.0.min(self.remaining(Dimension::Cost, limits))),
        };
        self.reserved += added;
        added
    }

    /// Replaces a promise by the truth; a release is a truth of zero.
    pub fn settle(&mut self, granted: Amounts, truth: Amounts) {
        self.reserved -= granted;
        self.used += truth;
    }
}

/// One user's requests of the last minute and running streams, on this instance.
///
/// The minute slides in steps of a second: at most `limit` requests in any 60 consecutive clock seconds.
#[derive(Debug, Default)]
pub struct Meter {
    seconds: std::collections::VecDeque<(u64, u32)>,
    running: u32,
}

/// Seconds that a request counts against the rate.
const MINUTE: u64 = 60;

impl Meter {
    /// Counts a request in, at second `now` of any clock that doesn't run backwards.
    ///
    /// # Errors
    /// How many seconds to wait. A refused request is not counted.
    pub fn admit(&mut self, now: u64, per_minute: Option<u32>, concurrent: Option<u32>) -> Result<(), u64> {
        if concurrent.is_some_and(|most| self.running >= most) {
            return Err(1);
        }
        if let Some(most) = per_minute {
            self.count(now, most)?;
        }
        self.running += 1;
        Ok(())
    }

    fn count(&mut self, now: u64, most: u32) -> Result<(), u64> {
        while self.seconds.front().is_some_and(|&(second, _)| second + MINUTE <= now) {
            self.seconds.pop_front();
        }
        let counted: u32 = self.seconds.iter().map(|&(_, count)| count).sum();
        if counted >= most {
            let first = self.seconds.front().map_or(now, |&(second, _)| second);
            return Err((first + MINUTE).saturating_sub(now).max(1));
        }
        match self.seconds.back_mut() {
            Some((second, count)) if *second == now => *count += 1,
            _ => self.seconds.push_back((now, 1)),
        }
        Ok(())
    }

    /// Counts a stream out.
    pub fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Says whether nothing would be forgotten if this were dropped at second `now`.
    #[must_use]
    pub fn is_idle(&self, now: u64) -> bool {
        self.running == 0 && self.seconds.back().is_none_or(|&(second, _)| second + MINUTE <= now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Timestamp, WindowKind};

    fn account() -> Account {
        let window = WindowKind::Day.at(Timestamp::from_seconds(0));
        Account { window, used: Amounts::ZERO, reserved: Amounts::ZERO }
    }

    fn ask(prompt_tokens: i64, completion_tokens: i64) -> Ask {
        let price = Price { input: Nanodollars(1_000_000), output: Nanodollars(2_000_000) };
        Ask { prompt_tokens, completion_tokens, price }
    }

    #[test]
    fn the_last_request_is_granted_and_the_next_refused() {
        let limits = Limits { requests: Some(2), ..Limits::default() };
        let mut account = account();
        let first = account.reserve(&ask(1, 1), &limits).unwrap();
        account.reserve(&ask(1, 1), &limits).unwrap();
        assert_eq!(account.reserve(&ask(1, 1), &limits), Err(Dimension::Requests));
        account.settle(first, Amounts::ZERO);
        account.reserve(&ask(1, 1), &limits).unwrap();
    }

    #[test]
    fn a_grant_is_cut_to_what_is_left_but_never_below_the_prompt() {
        let limits = Limits { tokens: Some(100), ..Limits::default() };
        let mut account = account();
        assert_eq!(account.reserve(&ask(101, 1), &limits), Err(Dimension::Tokens));
        assert_eq!(account.reserve(&ask(60, 1_000), &limits).unwrap().completion_tokens, 40);
        assert_eq!(account.reserve(&ask(0, 10), &limits), Err(Dimension::Tokens));
        assert_eq!(account.extend(5, Nanodollars(0), &limits), Amounts::ZERO);
    }

    #[test]
    fn the_last_request_can_be_exchanged_and_stands_where_it_can_not() {
        let limits = Limits { requests: Some(1), tokens: Some(100), ..Limits::default() };
        let mut account = account();
        let first = account.reserve(&ask(10, 1_000), &limits).unwrap();
        let second = account.exchange(first, &ask(20, 30), &limits).unwrap();
        assert_eq!((account.reserved, second.tokens()), (second, 50));
        assert_eq!(account.exchange(second, &ask(101, 0), &limits), Err(Dimension::Tokens));
        assert_eq!(account.reserved, second);
    }

    #[test]
    fn an_overrun_is_booked_and_stops_further_grants() {
        let limits = Limits { cost: Some(Nanodollars(100)), ..Limits::default() };
        let mut account = account();
        let granted = account.reserve(&ask(10, 1_000), &limits).unwrap();
        assert_eq!(granted.cost, Nanodollars(100));
        account.settle(granted, Amounts { requests: 1, cost: Nanodollars(130), ..Amounts::ZERO });
        assert_eq!(account.used.cost, Nanodollars(130));
        assert_eq!(account.figure(Dimension::Cost, &limits).remaining(), Some(0));
        assert_eq!(account.reserve(&ask(0, 0), &limits), Err(Dimension::Cost));
    }

    #[test]
    fn the_minute_slides() {
        let mut meter = Meter::default();
        for second in [0, 0, 30] {
            meter.admit(second, Some(3), None).unwrap();
        }
        assert_eq!(meter.admit(31, Some(3), None), Err(29));
        assert_eq!(meter.admit(59, Some(3), None), Err(1));
        meter.admit(60, Some(3), None).unwrap();
        meter.admit(60, Some(3), None).unwrap();
        assert_eq!(meter.admit(61, Some(3), None), Err(29));
        (0..5).for_each(|_| meter.leave());
        assert!(!meter.is_idle(119) && meter.is_idle(120));
    }

    #[test]
    fn streams_at_once_are_bounded_and_a_refusal_counts_nothing() {
        let mut meter = Meter::default();
        meter.admit(0, Some(9), Some(1)).unwrap();
        assert_eq!(meter.admit(0, Some(9), Some(1)), Err(1));
        meter.leave();
        meter.admit(0, Some(2), Some(1)).unwrap();
        assert!(meter.admit(0, None, Some(1)).is_err());
    }

    proptest! {
        #[test]
        fn grants_never_pass_a_ceiling(
            limits in (0i64..50, 0i64..2_000, 0i64..3_000),
            steps in proptest::collection::vec((0i64..200, 0i64..300, 0i64..400, any::<bool>()), 1..60),
        ) {
            let limits =
                Limits { requests: Some(limits.0), tokens: Some(limits.1), cost: Some(Nanodollars(limits.2)) };
            let mut account = account();
            let mut open = Vec::new();
            for (prompt, completion, more, end) in steps {
                if let Ok(granted) = account.reserve(&ask(prompt, completion), &limits) {
                    open.push(granted);
                }
                if let Some(granted) = open.last_mut() {
                    *granted += account.extend(more, Nanodollars(more), &limits);
                }
                for dimension in [Dimension::Requests, Dimension::Tokens, Dimension::Cost] {
                    let figure = account.figure(dimension, &limits);
                    prop_assert!(figure.used + figure.reserved <= figure.limit.unwrap());
                }
                if end && let Some(granted) = open.pop() {
                    account.settle(granted, granted);
                }
            }
            for granted in open {
                account.settle(granted, Amounts::ZERO);
            }
            prop_assert_eq!(account.reserved, Amounts::ZERO);
        }
    }
}
