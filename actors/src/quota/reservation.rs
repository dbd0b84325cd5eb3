//! Reservation: promise before, truth after.
//!
//! Invariants:
//! - A reservation ends exactly once: settled by [`Reservation::settle`], or released when it is dropped. A release
//!   charges nothing and leaves no row, so whoever has contacted a provider settles.
//! - While it is open, its share of the account is reserved, and its end has its space in the journal.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    Ask, Lack, Shortage, Wish,
    account::{Account, Dimension, Figure, Grant, limited},
    accounts::{Accounts, Against, UserState},
    loan::{Held, Verdict},
};
use crate::{
    domain::{
        Amounts, Limits, ModelKey, Nanodollars, Outcome, PlanLimit, Portion, Posting, Price, Timestamp, UserKey, Window,
    },
    ledger::{Entry, Receipt, Unwritten},
    lock::lock,
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
    pub(super) accounts: Arc<Accounts>,
    pub(super) user: Arc<UserState>,
    /// The id of its row.
    pub(super) id: Uuid,
    pub(super) model: ModelKey,
    pub(super) price: Price,
    pub(super) against: Against,
    pub(super) granted: Grant,
    /// `None` once it has ended.
    pub(super) entry: Option<Entry>,
}

/// Whether a request may produce more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// What it needs is promised.
    Yes,
    /// Not enough is free here; the store may have more.
    Ask,
    /// It has used up what there is and must be cut off.
    No,
}

/// An account against which there was a reservation.
#[derive(Debug)]
pub struct AccountView {
    user: Arc<UserState>,
    against: Against,
}

impl AccountView {
    /// Returns where it stands, if its window isn't over.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let Against { line, window, opened_at, .. } = &self.against;
        let mut counts = lock(&self.user.counts);
        let held = counts.held(line.class, *window)?;
        let figure = |dimension| held.account.figure(dimension, &line.limits);
        Some(Standing {
            requests: figure(Dimension::Requests),
            tokens: figure(Dimension::Tokens),
            resets_in: window.end().since(*opened_at),
        })
    }
}

/// Where an account stands: for response headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The requests of the window.
    pub requests: Figure,
    /// Its tokens.
    pub tokens: Figure,
    /// How long after the reservation both reset.
    pub resets_in: Duration,
}

impl Reservation {
    /// Returns what so many tokens are charged where the request is cut off: no more than was granted of a figure that
    /// has a ceiling.
    #[must_use]
    pub fn capped(&self, prompt_tokens: i64, completion_tokens: i64) -> Amounts {
        let (granted, limits) = (self.granted.amounts, self.limits());
        let completion_tokens = limits.tokens.map_or(i64::MAX, |_| granted.completion_tokens).min(completion_tokens);
        let most = limits.cost.map_or(Nanodollars(i64::MAX), |_| granted.cost);
        let cost = self.price.of(prompt_tokens, completion_tokens).min(most);
        Amounts { requests: 1, prompt_tokens, completion_tokens, cost }
    }

    /// Returns the price that its estimate goes by.
    #[must_use]
    pub fn price(&self) -> Price {
        self.price
    }

    fn limits(&self) -> &Limits {
        &self.against.line.limits
    }

    /// Runs `work` on what is held of its account, if its window isn't over.
    fn with_held<T>(&self, work: impl FnOnce(&mut Held) -> T) -> Option<T> {
        let mut counts = lock(&self.user.counts);
        counts.held(self.against.line.class, self.against.window).map(work)
    }

    /// Runs `work`, which changes its account and what it was granted, if its window isn't over. What was taken from a
    /// lease that is forgotten meanwhile can't go back to it.
    fn regrant<T>(&mut self, work: impl FnOnce(&mut Account, &mut Grant) -> T) -> Option<T> {
        let mut counts = lock(&self.user.counts);
        let held = counts.held(self.against.line.class, self.against.window)?;
        if self.against.generation != held.loan.generation {
            (self.against.generation, self.granted.taken) = (held.loan.generation, Portion::ZERO);
        }
        held.touch();
        Some(work(&mut held.account, &mut self.granted))
    }

    /// Returns its account, to be looked at also when this has ended.
    #[must_use]
    pub fn view(&self) -> AccountView {
        AccountView { user: Arc::clone(&self.user), against: self.against }
    }

    /// Promises what another model of the same class may need in place of what it was granted. Says whether that fits;
    /// where it doesn't, all stands as it was. `None` where it has to be asked for anew: the class is another one, or what
    /// was lent is forgotten and nothing else is.
    #[must_use]
    pub fn exchange(&mut self, wish: &Wish) -> Option<bool> {
        if wish.line.class != self.against.line.class {
            return None;
        }
        let (limits, generation) = (*self.limits(), self.against.generation);
        let exchanged = self.regrant(|account, granted| {
            *granted = account.exchange(*granted, &wish.ask, &limits).ok()?;
            Some(())
        });
        let fits = exchanged.flatten().is_some();
        if fits {
            (self.price, self.model) = (wish.ask.price, wish.model);
        }
        (fits || self.against.generation == generation).then_some(fits)
    }

    /// Makes sure that this many completion tokens are covered, by taking more of what is free.
    #[must_use]
    pub fn cover(&mut self, completion_tokens: i64) -> Cover {
        let missing = self.missing(completion_tokens);
        if missing == Portion::ZERO {
            return Cover::Yes;
        }
        // As much again as it needs now, so that a long answer asks seldom.
        let more = self.missing(completion_tokens.saturating_mul(2));
        let limits = *self.limits();
        self.regrant(|account, granted| {
            let added = account.extend(more.tokens, more.cost, &limits);
            granted.amounts += added.amounts;
            granted.taken += added.taken;
        });
        let missing = self.missing(completion_tokens);
        if missing == Portion::ZERO {
            return Cover::Yes;
        }
        let dimension = if missing.tokens > 0 { Dimension::Tokens } else { Dimension::Cost };
        let now = self.accounts.clock.now();
        match self.with_held(|held| held.verdict(dimension, now)) {
            Some(Verdict::Exhausted) => Cover::No,
            _ => Cover::Ask,
        }
    }

    /// Returns what isn't granted of so many completion tokens; nothing of a figure without a ceiling.
    fn missing(&self, completion_tokens: i64) -> Portion {
        let Amounts { prompt_tokens, completion_tokens: granted, cost, .. } = self.granted.amounts;
        let needed = self.price.of(prompt_tokens, completion_tokens);
        let missing =
            Portion { requests: 0, tokens: completion_tokens - granted, cost: Nanodollars(needed.0 - cost.0) };
        limited(missing, self.limits()).zip(Portion::ZERO, i64::max)
    }

    /// Returns what this many completion tokens lack. Once that was asked for, [`Reservation::cover`] is to be tried again.
    #[must_use]
    pub fn lack(&self, completion_tokens: i64) -> Lack {
        self.lacking(self.missing(completion_tokens), self.missing(completion_tokens.saturating_mul(2)))
    }

    /// Returns what this ask lacks. Once that was asked for, [`Reservation::exchange`] is to be tried again.
    #[must_use]
    pub fn lack_of(&self, ask: &Ask) -> Lack {
        let beyond = Portion::from(ask.amounts(0)) - self.granted.amounts.into();
        self.lacking(limited(beyond, self.limits()).zip(Portion::ZERO, i64::max), ask.whole())
    }

    fn lacking(&self, least: Portion, whole: Portion) -> Lack {
        let Against { line, window, .. } = self.against;
        Lack { user: Arc::clone(&self.user), line, window, least, whole }
    }

    /// Returns which ceiling it ran into; `None` where there is room.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        let Against { line, window, .. } = self.against;
        self.with_held(|held| {
            [Dimension::Tokens, Dimension::Cost].into_iter().find_map(|dimension| {
                let figure = held.account.figure(dimension, &line.limits);
                let full = figure.limit.is_some() && held.account.free(dimension, &line.limits) == 0;
                full.then_some(Shortage { class: line.class, dimension, figure, window })
            })
        })?
    }

    /// Returns what is to be waited for before a provider is contacted.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        self.entry.as_ref()?.receipt()
    }

    /// Ends it with the truth. The posting is in the journal when this returns.
    ///
    /// # Errors
    /// [`Unwritten`]: the request has to end as if the process had died; nothing is charged.
    pub fn settle(mut self, truth: Settlement) -> Result<Option<Receipt>, Unwritten> {
        let Some(entry) = self.entry.take() else { return Err(Unwritten) };
        // Nobody is told when the row of one that was interrupted reaches the store; it charges nothing.
        let posted = truth.outcome != Outcome::Interrupted;
        let leased = self.close(truth.amounts, posted);
        let posting = Posting {
            settled_at: truth.at,
            outcome: truth.outcome,
            estimated: truth.estimated,
            amounts: truth.amounts,
            leased,
            ..draft(self.id, self.user.key, self.model, &self.against)
        };
        entry.settle(posting).inspect_err(|Unwritten| {
            lock(&self.user.counts).unsettle(&self.against, truth.amounts, leased, posted);
        })
    }

    fn close(&self, truth: Amounts, posted: bool) -> Portion {
        let mut counts = lock(&self.user.counts);
        let leased = counts.settle(&self.against, self.granted, truth, posted);
        let held = counts.held(self.against.line.class, self.against.window);
        let returns = held.is_some_and(|held| held.is_contended()) && !self.accounts.is_away();
        drop(counts);
        if returns {
            self.accounts.post_return(&self.user, self.against.line, self.against.window);
        }
        leased
    }
}

/// The row of a request of which nothing more is known than that it was admitted.
pub(super) fn draft(id: Uuid, user: UserKey, model: ModelKey, against: &Against) -> Posting {
    Posting {
        id,
        user,
        class: against.line.class,
        model,
        opened_at: against.opened_at,
        settled_at: against.opened_at,
        outcome: Outcome::Interrupted,
        estimated: false,
        amounts: Amounts::ZERO,
        window: against.line.window,
        leased: Portion::ZERO,
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
        lock(&user.counts).held(line.class, window).map(|held| ClassUsage { line, account: held.account })
    }

    /// Says whether the store has to be asked before they are shown. While it is away, what is known is shown.
    pub(super) fn is_stale(&self, user: &UserState, line: PlanLimit, window: Window, now: Instant) -> bool {
        let away = self.is_away();
        lock(&user.counts).held(line.class, window).is_none_or(|held| held.is_stale(now) && !away)
    }
}
