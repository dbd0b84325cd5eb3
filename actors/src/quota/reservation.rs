//! Reservation: promise before, truth after.
//!
//! Invariants:
//! - A reservation ends exactly once: settled by [`Reservation::settle`], or released when it is dropped. A release
//!   charges nothing and leaves no row, so whoever has contacted a provider settles.
//! - While it is open, its share of the account is reserved and the space of its posting in the books is claimed, so
//!   settling can't fail.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Shortage, Wish,
    account::{Account, Dimension, Figure},
    accounts::{Accounts, UserState, lock},
};
use crate::{
    domain::{Amounts, ClassId, Limits, ModelKey, Nanodollars, Outcome, PlanLimit, Posting, Price, Timestamp, Window},
    ledger::Entry,
};

/// A user's place among the running streams. Dropping it makes room.
#[derive(Debug)]
pub struct Permit(pub(super) Arc<UserState>);

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.0.counts).meter.leave();
    }
}

/// How an admitted request ended, in figures.
#[derive(Debug, Clone, Copy)]
pub struct Settlement {
    /// Why it ended.
    pub outcome: Outcome,
    /// Whether the tokens are our estimate.
    pub estimated: bool,
    /// What is charged.
    pub amounts: Amounts,
    /// When.
    pub at: Timestamp,
}

/// A promise to one request, held against one account.
#[derive(Debug)]
#[must_use = "dropping a reservation releases it"]
pub struct Reservation {
    pub(super) user: Arc<UserState>,
    pub(super) model: ModelKey,
    pub(super) line: PlanLimit,
    pub(super) window: Window,
    pub(super) price: Price,
    pub(super) opened_at: Timestamp,
    pub(super) granted: Amounts,
    /// `None` once it has ended.
    pub(super) entry: Option<Entry>,
}

/// Where an account stands with a reservation counted in: for response headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The requests of the window.
    pub requests: Figure,
    /// Its tokens.
    pub tokens: Figure,
    /// When both reset.
    pub resets_at: Timestamp,
}

impl Reservation {
    /// Returns what it was granted so far.
    #[must_use]
    pub fn granted(&self) -> Amounts {
        self.granted
    }

    /// Returns the price that its estimate goes by.
    #[must_use]
    pub fn price(&self) -> Price {
        self.price
    }

    /// Returns the class in which it is held.
    #[must_use]
    pub fn class(&self) -> ClassId {
        self.line.class
    }

    /// Returns where its account stands, if its window isn't over.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let mut counts = lock(&self.user.counts);
        let account = counts.account(self.line.class, self.window)?;
        let figure = |dimension| account.figure(dimension, &self.line.limits);
        Some(Standing {
            requests: figure(Dimension::Requests),
            tokens: figure(Dimension::Tokens),
            resets_at: self.window.end(),
        })
    }

    /// Promises what another model of the same class may need in place of what it was granted. Says whether that fits;
    /// where it doesn't, all stands as it was. `None` where the class is another one.
    #[must_use]
    pub fn exchange(&mut self, wish: &Wish) -> Option<bool> {
        if wish.line.class != self.line.class {
            return None;
        }
        let mut counts = lock(&self.user.counts);
        let account = counts.account(self.line.class, self.window);
        let granted = account.and_then(|account| account.exchange(self.granted, &wish.ask, &self.line.limits).ok());
        if let Some(granted) = granted {
            (self.granted, self.price, self.model) = (granted, wish.ask.price, wish.model);
        }
        Some(granted.is_some())
    }

    /// Makes sure that this many completion tokens are covered, by taking more of what is left. `false`: the request
    /// has used up what there is and must be cut off.
    #[must_use]
    pub fn cover(&mut self, completion_tokens: i64) -> bool {
        let Limits { tokens, cost, .. } = self.line.limits;
        if tokens.is_none() && cost.is_none() {
            return true;
        }
        let needed = self.price.of(self.granted.prompt_tokens, completion_tokens);
        let covers = |granted: &Amounts| {
            (tokens.is_none() || completion_tokens <= granted.completion_tokens)
                && (cost.is_none() || needed <= granted.cost)
        };
        if covers(&self.granted) {
            return true;
        }
        // As much again as it needs now, so that a long answer asks seldom.
        let more = Amounts {
            completion_tokens: completion_tokens
                .saturating_mul(2)
                .saturating_sub(self.granted.completion_tokens)
                .max(0),
            cost: Nanodollars(needed.0.saturating_mul(2).saturating_sub(self.granted.cost.0).max(0)),
            ..Amounts::ZERO
        };
        let mut counts = lock(&self.user.counts);
        if let Some(account) = counts.account(self.line.class, self.window) {
            self.granted += account.extend(more.completion_tokens, more.cost, &self.line.limits);
        }
        covers(&self.granted)
    }

    /// Returns which ceiling it ran into; `None` where there is room.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        let mut counts = lock(&self.user.counts);
        let account = counts.account(self.line.class, self.window)?;
        [Dimension::Tokens, Dimension::Cost].into_iter().find_map(|dimension| {
            let figure = account.figure(dimension, &self.line.limits);
            let full = figure.remaining() == Some(0);
            full.then_some(Shortage { class: self.line.class, dimension, figure, window: self.window })
        })
    }

    /// Returns when it opened, by the store's clock.
    #[must_use]
    pub fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// Ends it with the truth. The posting is in the books when this returns.
    pub fn settle(mut self, truth: Settlement) {
        if let Some(entry) = self.entry.take() {
            let posting = Posting {
                id: Uuid::now_v7(),
                user: self.user.key,
                class: self.line.class,
                model: self.model,
                opened_at: self.opened_at,
                settled_at: truth.at,
                outcome: truth.outcome,
                estimated: truth.estimated,
                amounts: truth.amounts,
            };
            self.close(truth.amounts, true);
            entry.settle(posting);
        }
    }

    fn close(&self, truth: Amounts, posted: bool) {
        let mut counts = lock(&self.user.counts);
        counts.settle((self.line.class, self.window, self.opened_at), self.granted, truth, posted);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.entry.take().is_some() {
            self.close(Amounts::ZERO, false);
        }
    }
}

/// One class of a caller's plan, with its counts: what `GET /api/usage` lists.
#[derive(Debug, Clone, Copy)]
pub struct ClassUsage {
    /// The class and its ceilings.
    pub line: PlanLimit,
    /// The counts.
    pub account: Account,
}

impl Accounts {
    /// Returns the counts of a line's current window, if they are in memory.
    pub(super) fn class_usage(user: &UserState, line: PlanLimit, window: Window) -> Option<ClassUsage> {
        lock(&user.counts).account(line.class, window).map(|account| ClassUsage { line, account: *account })
    }
}
