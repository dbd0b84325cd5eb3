//! A request that asks to be admitted: from what is lent to its account, or, where that isn't enough, from the store.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    Config, QuotaError, Reservation, Shortage, Wish,
    account::{Dimension, Grant, Measure},
    accounts::{Accounts, Against, UserState},
    loan::Verdict,
    reservation::draft,
};
use crate::{
    domain::{Amounts, PlanLimit, Portion, Timestamp, Window},
    ledger::Books,
    lock::lock,
    metrics::Metrics,
};

/// How long a request that waits for others' leases lets them be before it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A request that asks to be admitted, as often as it takes.
pub(super) struct Asking {
    pub(super) accounts: Arc<Accounts>,
    pub(super) user: Arc<UserState>,
    pub(super) books: Books,
    pub(super) wish: Wish,
    pub(super) window: Window,
    pub(super) opened_at: Timestamp,
    /// When that was, as the accounts count seconds.
    pub(super) second: u64,
}

/// What came of it.
pub(super) enum Attempt {
    /// It is admitted, or refused.
    Decided(Box<Result<Reservation, QuotaError>>),
    /// The store has to be asked, at once or once others have returned what they don't need.
    Ask(Verdict),
}

impl Asking {
    /// Takes a promise from what is lent to the account.
    pub(super) fn attempt(&self, measure: Measure) -> Attempt {
        let Self { user, wish, window, .. } = self;
        let mut counts = lock(&user.counts);
        let Some(held) = counts.held(wish.line.class, *window).filter(|held| held.loan.limits == wish.line.limits)
        else {
            return Attempt::Ask(Verdict::Ask);
        };
        let granted = match held.account.reserve(&wish.ask, &wish.line.limits, measure) {
            Ok(granted) => granted,
            Err(dimension) => {
                let verdict = held.verdict(dimension, self.accounts.clock.now());
                let figure = held.account.figure(dimension, &wish.line.limits);
                drop(counts);
                return match (verdict, measure) {
                    (Verdict::Exhausted, Measure::Whole) => self.attempt(Measure::Left),
                    (Verdict::Exhausted, Measure::Left) => {
                        let (class, window) = (wish.line.class, *window);
                        let shortage = Shortage { class, dimension, figure, window };
                        Attempt::Decided(Box::new(Err(QuotaError::Exhausted(shortage))))
                    }
                    _ => Attempt::Ask(verdict),
                };
            }
        };
        held.touch();
        held.loan.plan = Some(wish.caller.plan);
        held.demand(granted.taken, self.second);
        let low = held.is_low();
        held.loan.asked |= low;
        let generation = held.loan.generation;
        drop(counts);
        if low {
            self.accounts.post_refill(user, wish.line, *window, wish.ask.whole());
        }
        Attempt::Decided(Box::new(self.record(granted, generation)))
    }

    /// Records what was promised.
    fn record(&self, granted: Grant, generation: u64) -> Result<Reservation, QuotaError> {
        let Self { accounts, user, books, wish, window, opened_at, .. } = self;
        let against = Against { line: wish.line, window: *window, opened_at: *opened_at, generation };
        let id = Uuid::now_v7();
        let Some(entry) = books.open(draft(id, user.key, wish.model, &against)) else {
            lock(&user.counts).settle(&against, granted, Amounts::ZERO, false);
            return Err(QuotaError::BooksFull);
        };
        Ok(Reservation {
            accounts: Arc::clone(accounts),
            user: Arc::clone(user),
            id,
            model: wish.model,
            price: wish.ask.price,
            against,
            granted,
            entry: Some(entry),
        })
    }

    /// Asks the store, and again while the rest is lent elsewhere, until it has waited for too long.
    pub(super) async fn persist(self, config: Config) -> Result<Reservation, QuotaError> {
        self.accounts.count(Metrics::lease_awaited);
        let Self { accounts, user, wish, window, .. } = &self;
        let whole = wish.ask.whole();
        let lend = || lend(accounts, (user, wish.line, *window), whole, &config);
        if let Err(unavailable) = lend().await
            && !lock(&user.counts).goes_on(&wish.line, *window, self.opened_at)
        {
            return Err(unavailable);
        }
        let decided = async {
            loop {
                match self.attempt(Measure::Left) {
                    Attempt::Decided(decided) => return *decided,
                    Attempt::Ask(Verdict::Elsewhere) => tokio::time::sleep(ASK_AGAIN).await,
                    Attempt::Ask(_) => {}
                }
                lend().await?;
            }
        };
        tokio::time::timeout(config.lease_wait, decided).await.unwrap_or(Err(QuotaError::Unavailable))
    }
}

/// What a running request lacks to go on.
pub struct Lack {
    pub(super) user: Arc<UserState>,
    pub(super) line: PlanLimit,
    pub(super) window: Window,
    /// What must be free.
    pub(super) least: Portion,
    /// What is asked for.
    pub(super) whole: Portion,
}

impl Lack {
    /// Asks the store, and again while the rest is lent elsewhere, until it has waited for too long. `false`: it isn't known
    /// whether there is more.
    pub(super) async fn fill(self, accounts: &Accounts, config: &Config) -> bool {
        let filled = async {
            loop {
                lend(accounts, (&self.user, self.line, self.window), self.whole, config).await?;
                match self.verdict(accounts) {
                    Some(Verdict::Elsewhere) => tokio::time::sleep(ASK_AGAIN).await,
                    Some(Verdict::Ask) => {}
                    Some(Verdict::Exhausted) | None => return Ok::<_, QuotaError>(()),
                }
            }
        };
        matches!(tokio::time::timeout(config.lease_wait, filled).await, Ok(Ok(())))
    }

    /// Says why not enough is free; `None` where enough is.
    fn verdict(&self, accounts: &Accounts) -> Option<Verdict> {
        let mut counts = lock(&self.user.counts);
        let held = counts.held(self.line.class, self.window)?;
        let is_short =
            |dimension: &Dimension| dimension.of(self.least) > held.account.free(*dimension, &self.line.limits);
        Some(held.verdict(Dimension::ALL.into_iter().find(is_short)?, accounts.clock.now()))
    }
}

/// Has the store lend so much to an account, or as much of it as there is, once it knows what counts there.
pub(super) async fn lend(
    accounts: &Accounts,
    (user, line, window): (&Arc<UserState>, PlanLimit, Window),
    whole: Portion,
    config: &Config,
) -> Result<(), QuotaError> {
    let lent = async {
        while lock(&user.counts).awaits(line.class, window) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        accounts.ask_lease(user, line, window, whole).answer().await
    };
    match tokio::time::timeout(config.load_timeout, lent).await {
        Ok(Ok(())) => Ok(()),
        // Which is logged where it happens.
        Ok(Err(_)) | Err(_) => Err(QuotaError::Unavailable),
    }
}
