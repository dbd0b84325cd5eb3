//! The arithmetic of limits and leases: pure, in integers, no clock.
//!
//! Invariants:
//! - `lease.free` was lent to this instance and is promised to nobody. A promise takes from it; a settlement gives back
//!   what the promise has taken and the truth doesn't need. So what the store says is leased here is always
//!   `free + taken by running requests + used up by postings that it doesn't have yet`.
//! - Whatever leaves `free` was in it: no figure of it is ever below 0.
//! - A settlement may exceed its promise (a provider reported more than was granted); as much of that as is free is
//!   taken from the lease, the rest is booked all the same. Until the store has that posting it would lend the rest once
//!   more: what is promised is within what is free, and within what is left of the limit by all that is known here.
//! - Nothing is counted against a ceiling that is absent.

use crate::domain::{Amounts, Limits, Nanodollars, Portion, Price, Window};

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
    /// Returns all that it may need: something of each figure, since what costs nothing by its price may cost what its
    /// provider says.
    #[must_use]
    pub fn whole(&self) -> Portion {
        let Portion { requests, tokens, cost } = self.amounts(self.completion_tokens).into();
        Portion { requests, tokens: tokens.max(1), cost: cost.max(Nanodollars(1)) }
    }

    /// Returns what it needs for so many completion tokens.
    pub(super) fn amounts(&self, completion_tokens: i64) -> Amounts {
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
    /// All of them, in the order in which they are checked.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::Cost];

    /// Returns this figure of a portion.
    #[must_use]
    pub fn of(self, portion: Portion) -> i64 {
        match self {
            Self::Requests => portion.requests,
            Self::Tokens => portion.tokens,
            Self::Cost => portion.cost.0,
        }
    }

    /// Returns the ceiling of this figure.
    #[must_use]
    pub fn limit(self, limits: &Limits) -> Option<i64> {
        match self {
            Self::Requests => limits.requests,
            Self::Tokens => limits.tokens,
            Self::Cost => limits.cost.map(|cost| cost.0),
        }
    }

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
    /// Promised to running requests, or lent elsewhere.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account {
    /// The period that the counts are of.
    pub window: Window,
    /// Settled, by whomever, as far as it is known here.
    pub used: Amounts,
    /// Promised to running requests of this instance.
    pub reserved: Amounts,
    /// What the store has lent.
    pub lease: Lease,
    /// What was settled here beyond what was lent, and hasn't reached the store.
    pub over: Portion,
}

/// A part of an account's limit, as far as it is this instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Lease {
    /// Lent to this instance, and promised to nobody.
    pub free: Portion,
    /// Lent to other instances, when the store was last asked.
    pub elsewhere: Portion,
    /// Used by other instances, and not in `used`; below 0 where the store's figure was corrected.
    pub behind: Portion,
}

/// What was promised to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Grant {
    /// The promise.
    pub amounts: Amounts,
    /// What it took from the lease: nothing of a figure without a ceiling.
    pub taken: Portion,
}

/// How much of what it may need a request is to be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// All of it, or nothing.
    Whole,
    /// As much of it as is there, but never less than its prompt.
    Left,
}

impl Account {
    /// Makes the account of a window.
    #[must_use]
    pub fn new(window: Window, used: Amounts) -> Self {
        Self { window, used, reserved: Amounts::ZERO, lease: Lease::default(), over: Portion::ZERO }
    }

    /// Returns a ceiling beside its counts. What is lent elsewhere counts as reserved.
    #[must_use]
    pub fn figure(&self, dimension: Dimension, limits: &Limits) -> Figure {
        let used = Portion::from(self.used) + self.lease.behind;
        let reserved = Portion::from(self.reserved) + self.lease.elsewhere;
        Figure { limit: dimension.limit(limits), used: dimension.of(used), reserved: dimension.of(reserved) }
    }

    /// Takes over what the store says: what all have used, what is lent here, and what is lent to others.
    ///
    /// `quiet` says that nothing is promised here or on its way to the store. Otherwise what is leased and neither free
    /// nor promised was settled here and is on its way, as is what is over, and the store's figure lacks it.
    pub fn renew(&mut self, used: Amounts, leased: Portion, elsewhere: Portion, limits: &Limits, quiet: bool) {
        if quiet {
            (self.used, self.lease.free, self.over) = (used, leased, Portion::ZERO);
        }
        let settled = limited(leased - self.lease.free - self.reserved.into(), limits);
        let behind = Portion::from(used) + settled + self.over - self.used.into();
        self.lease.behind = behind;
        self.lease.elsewhere = elsewhere;
    }

    /// Returns what may be promised of a figure.
    pub(super) fn free(&self, dimension: Dimension, limits: &Limits) -> i64 {
        let left = self.figure(dimension, limits).remaining();
        left.map_or(i64::MAX, |left| dimension.of(self.lease.free).min(left))
    }

    /// Says whether more of a figure is lent than is left of its limit.
    pub(super) fn is_overlent(&self, dimension: Dimension, limits: &Limits) -> bool {
        self.free(dimension, limits) < dimension.of(self.lease.free)
    }

    /// Promises one request and, of its ask, all or as much as is free.
    ///
    /// # Errors
    /// The first ceiling of which not enough is free here; nothing is promised then.
    pub fn reserve(&mut self, ask: &Ask, limits: &Limits, measure: Measure) -> Result<Grant, Dimension> {
        let (tokens, cost) = (self.free(Dimension::Tokens, limits), self.free(Dimension::Cost, limits));
        let (least, whole) = (ask.amounts(0), ask.amounts(ask.completion_tokens));
        let wanted = if measure == Measure::Whole { whole } else { least };
        if self.free(Dimension::Requests, limits) < 1 {
            return Err(Dimension::Requests);
        }
        if tokens < wanted.tokens().max(1) {
            return Err(Dimension::Tokens);
        }
        if cost < wanted.cost.0.max(1) {
            return Err(Dimension::Cost);
        }
        let completion = ask.completion_tokens.min(tokens.saturating_sub(ask.prompt_tokens));
        let mut amounts = ask.amounts(completion);
        amounts.cost = Nanodollars(amounts.cost.0.min(cost));
        Ok(self.promise(amounts, limits))
    }

    fn promise(&mut self, amounts: Amounts, limits: &Limits) -> Grant {
        let taken = limited(amounts.into(), limits);
        self.reserved += amounts;
        self.lease.free -= taken;
        Grant { amounts, taken }
    }

    /// Promises this ask in place of what the same request was granted before, so that it never counts twice.
    ///
    /// # Errors
    /// As [`Account::reserve`]; what was granted stands then.
    pub fn exchange(&mut self, granted: Grant, ask: &Ask, limits: &Limits) -> Result<Grant, Dimension> {
        let before = *self;
        self.reserved -= granted.amounts;
        self.lease.free += granted.taken;
        self.reserve(ask, limits, Measure::Left).inspect_err(|_| *self = before)
    }

    /// Promises more to a request that has outgrown what it was granted, as much of it as is free. Returns what was
    /// added; zero where nothing is.
    pub fn extend(&mut self, completion_tokens: i64, cost: Nanodollars, limits: &Limits) -> Grant {
        let amounts = Amounts {
            requests: 0,
            prompt_tokens: 0,
            completion_tokens: completion_tokens.min(self.free(Dimension::Tokens, limits)),
            cost: Nanodollars(cost.0.min(self.free(Dimension::Cost, limits))),
        };
        self.promise(amounts, limits)
    }

    /// Replaces a promise by the truth; a release is a truth of zero. Returns what the truth uses up of the lease.
    pub fn settle(&mut self, granted: Grant, truth: Amounts, limits: &Limits) -> Portion {
        self.reserved -= granted.amounts;
        self.used += truth;
        let free = self.lease.free + granted.taken;
        let leased = limited(truth.into(), limits).zip(Portion::ZERO, i64::max).min(free);
        self.lease.free = free - leased;
        leased
    }
}

/// Leaves out the figures without a ceiling.
pub(super) fn limited(portion: Portion, limits: &Limits) -> Portion {
    Portion {
        requests: limits.requests.map_or(0, |_| portion.requests),
        tokens: limits.tokens.map_or(0, |_| portion.tokens),
        cost: limits.cost.map_or(Nanodollars(0), |_| portion.cost),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Timestamp, WindowKind};

    /// An account to which so much is lent.
    fn account(free: Portion) -> Account {
        let window = WindowKind::Day.at(Timestamp::from_seconds(0));
        Account { lease: Lease { free, ..Lease::default() }, ..Account::new(window, Amounts::ZERO) }
    }

    fn portion(requests: i64, tokens: i64, cost: i64) -> Portion {
        Portion { requests, tokens, cost: Nanodollars(cost) }
    }

    fn ask(prompt_tokens: i64, completion_tokens: i64) -> Ask {
        let price = Price { input: Nanodollars(1_000_000), output: Nanodollars(2_000_000) };
        Ask { prompt_tokens, completion_tokens, price }
    }

    const LEFT: Measure = Measure::Left;

    #[test]
    fn the_last_request_is_granted_and_the_next_refused() {
        let limits = Limits { requests: Some(2), ..Limits::default() };
        let mut account = account(portion(2, 0, 0));
        let first = account.reserve(&ask(1, 1), &limits, LEFT).unwrap();
        account.reserve(&ask(1, 1), &limits, LEFT).unwrap();
        assert_eq!(account.reserve(&ask(1, 1), &limits, LEFT), Err(Dimension::Requests));
        assert_eq!(account.settle(first, Amounts::ZERO, &limits), Portion::ZERO);
        account.reserve(&ask(1, 1), &limits, LEFT).unwrap();
    }

    #[test]
    fn a_grant_is_cut_to_what_is_left_but_never_below_the_prompt() {
        let limits = Limits { tokens: Some(100), ..Limits::default() };
        let mut account = account(portion(0, 100, 0));
        assert_eq!(account.reserve(&ask(101, 1), &limits, LEFT), Err(Dimension::Tokens));
        assert_eq!(account.reserve(&ask(60, 1_000), &limits, Measure::Whole), Err(Dimension::Tokens));
        assert_eq!(account.reserve(&ask(60, 1_000), &limits, LEFT).unwrap().amounts.completion_tokens, 40);
        assert_eq!(account.reserve(&ask(0, 10), &limits, LEFT), Err(Dimension::Tokens));
        assert_eq!(account.extend(5, Nanodollars(0), &limits), Grant::default());
    }

    #[test]
    fn the_last_request_can_be_exchanged_and_stands_where_it_can_not() {
        let limits = Limits { requests: Some(1), tokens: Some(100), ..Limits::default() };
        let mut account = account(portion(1, 100, 0));
        let first = account.reserve(&ask(10, 1_000), &limits, LEFT).unwrap();
        let second = account.exchange(first, &ask(20, 30), &limits).unwrap();
        assert_eq!((account.reserved, second.amounts.tokens()), (second.amounts, 50));
        assert_eq!(account.lease.free, portion(0, 50, 0));
        assert_eq!(account.exchange(second, &ask(101, 0), &limits), Err(Dimension::Tokens));
        assert_eq!((account.reserved, account.lease.free), (second.amounts, portion(0, 50, 0)));
    }

    #[test]
    fn an_overrun_is_booked_and_takes_what_is_free() {
        let limits = Limits { cost: Some(Nanodollars(120)), ..Limits::default() };
        let mut account = account(portion(0, 0, 120));
        let granted = account.reserve(&ask(10, 45), &limits, LEFT).unwrap();
        assert_eq!(granted.taken, portion(0, 0, 100));
        let truth = Amounts { requests: 1, cost: Nanodollars(130), ..Amounts::ZERO };
        assert_eq!(account.settle(granted, truth, &limits), portion(0, 0, 120));
        assert_eq!(account.used.cost, Nanodollars(130));
        assert_eq!(account.figure(Dimension::Cost, &limits).remaining(), Some(0));
        assert_eq!(account.reserve(&ask(0, 0), &limits, LEFT), Err(Dimension::Cost));
    }

    #[test]
    fn what_is_lent_elsewhere_is_reserved() {
        let limits = Limits { requests: Some(10), ..Limits::default() };
        let mut account = account(portion(3, 0, 0));
        account.lease.elsewhere = portion(5, 9, 9);
        account.reserve(&ask(1, 1), &limits, LEFT).unwrap();
        let figure = account.figure(Dimension::Requests, &limits);
        assert_eq!((figure.used, figure.reserved, figure.remaining()), (0, 6, Some(4)));
    }

    proptest! {
        /// Whatever happens, what was lent is free, taken or used up; and none of these is ever negative.
        #[test]
        fn a_lease_is_conserved(
            limits in proptest::option::of(0i64..50).prop_flat_map(|requests| {
                (Just(requests), proptest::option::of(0i64..2_000), proptest::option::of(0i64..3_000))
            }),
            steps in proptest::collection::vec((0i64..200, 0i64..300, 0i64..400, 0u8..4), 1..60),
        ) {
            let limits = Limits { requests: limits.0, tokens: limits.1, cost: limits.2.map(Nanodollars) };
            let lent = portion(limits.requests.unwrap_or(0), limits.tokens.unwrap_or(0), limits.cost.map_or(0, |c| c.0));
            let mut account = account(lent);
            let (mut open, mut used_up) = (Vec::<Grant>::new(), Portion::ZERO);
            for (prompt, completion, more, kind) in steps {
                match (kind, open.pop()) {
                    (0, Some(mut granted)) => {
                        let added = account.extend(more, Nanodollars(more), &limits);
                        granted.amounts += added.amounts;
                        granted.taken += added.taken;
                        open.push(granted);
                    }
                    (1, Some(granted)) => {
                        let truth = Amounts { completion_tokens: more, cost: Nanodollars(more), ..granted.amounts };
                        used_up += account.settle(granted, truth, &limits);
                    }
                    (2, Some(granted)) => {
                        open.push(account.exchange(granted, &ask(prompt, completion), &limits).unwrap_or(granted));
                    }
                    (_, last) => {
                        open.extend(last);
                        open.extend(account.reserve(&ask(prompt, completion), &limits, LEFT));
                    }
                }
                let taken = open.iter().fold(Portion::ZERO, |sum, granted| sum + granted.taken);
                prop_assert_eq!(account.lease.free + taken + used_up, lent);
                for figure in Dimension::ALL {
                    prop_assert!(figure.of(account.lease.free) >= 0 && figure.of(used_up) >= 0);
                }
            }
            for granted in open {
                used_up += account.settle(granted, Amounts::ZERO, &limits);
            }
            prop_assert_eq!((account.reserved, account.lease.free + used_up), (Amounts::ZERO, lent));
        }
    }
}
