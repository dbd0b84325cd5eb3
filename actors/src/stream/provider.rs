//! What a worker knows of the providers: how to ask them, and how they fare.
//!
//! One [`KnownProvider`] for each name, with the retry budget of the provider and a breaker for each of its models, as the
//! provider calls them. A model that is down must not take the others with it.
//!
//! It lives on the worker's thread: no lock, no other thread's cache line. So each worker learns alone, from its own
//! requests: a breaker opens after so many attempts *of one worker*, and n workers have n budgets. Connections are spread
//! evenly over workers, so that they learn the same within a few requests of each other.
//!
//! What is a failure: no connection, none in time, a broken one, silence, 5xx and 408, nonsense, an error in the place
//! of the first frame, and an answer that breaks off or falls silent after it. So is 429: whoever goes on asking only stays
//! above the limit, since refused requests count against it, too (OpenAI's guide to rate limits). What is neither failure nor
//! answer: other 4xx and redirects, which the provider's front may give for a model that is down; and a client that left.
//!
//! Limits: 512 models of a provider. Clients can invent names through pass-through; where no breaker is idle and could
//! be forgotten, further names share one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Failure,
    breaker::{Breaker, Pass, Turn},
    budget::Budget,
    refusal::{Again, Refusal},
};
use crate::{
    complaints::Complaints,
    domain::ErrorCode,
    metrics::{Metrics, ProviderMetrics},
    ports::Patience,
};

/// The most models of a provider that have a breaker of their own; about 400 bytes each.
const MAX_MODELS: usize = 512;

/// One provider.
pub struct KnownProvider {
    pub(super) patience: Patience,
    pub(super) metrics: Rc<ProviderMetrics>,
    name: Arc<str>,
    budget: RefCell<Budget>,
    complaints: Complaints,
    models: RefCell<HashMap<Arc<str>, Rc<Health>>>,
    /// Of all models that are too many.
    others: Rc<Health>,
}

impl KnownProvider {
    pub(super) fn new(name: &Arc<str>, patience: Patience, metrics: &Metrics, now: Instant) -> Self {
        let metrics = Rc::new(metrics.provider(name));
        Self {
            others: Rc::new(Health::new((name, &"(others)".into()), patience, &metrics, now)),
            name: Arc::clone(name),
            budget: RefCell::new(Budget::new(patience.retry_budget_percent, now)),
            complaints: Complaints::default(),
            models: RefCell::default(),
            patience,
            metrics,
        }
    }

    /// Returns how a model fares, as the provider calls it.
    pub(super) fn health(&self, model: &Arc<str>, now: Instant) -> Rc<Health> {
        let mut models = self.models.borrow_mut();
        if let Some(health) = models.get(model) {
            return Rc::clone(health);
        }
        if models.len() >= MAX_MODELS {
            models.retain(|_, health| Rc::strong_count(health) > 1 || !health.breaker.borrow_mut().is_idle(now));
        }
        if models.len() >= MAX_MODELS {
            return Rc::clone(&self.others);
        }
        let health = Rc::new(Health::new((&self.name, model), self.patience, &self.metrics, now));
        models.insert(Arc::clone(model), Rc::clone(&health));
        health
    }

    /// A request is sent for the first time.
    pub(super) fn requested(&self, now: Instant) {
        self.budget.borrow_mut().requested(now);
    }

    /// Counts a failure, and says it in the log unless one of this provider was said lately. A request that is at fault itself
    /// is none of the provider's.
    pub(super) fn failed(&self, model: &str, refusal: &Refusal, now: Instant) {
        self.metrics.failed(refusal.reason);
        if refusal.again == Again::No {
            return;
        }
        if let Some(unsaid) = self.complaints.take(now) {
            let Refusal { reason, failure, error, .. } = refusal;
            let (provider, status) = (&*self.name, failure.provider_status);
            let error = error.as_ref().map(tracing::field::display);
            tracing::warn!(provider, model, %reason, status, error, unsaid, "a provider failed");
        }
    }

    /// Takes a retry out of the budget, if there is one left.
    pub(super) fn take_retry(&self, now: Instant) -> bool {
        let left = self.budget.borrow_mut().take(now);
        if !left {
            self.metrics.retry_refused();
        }
        left
    }
}

/// How a model of a provider fares.
pub(super) struct Health {
    provider: Arc<str>,
    model: Arc<str>,
    breaker: RefCell<Breaker>,
    /// How it failed last.
    last: Cell<Option<(Failure, Instant)>>,
    metrics: Rc<ProviderMetrics>,
}

impl Health {
    fn new(
        (provider, model): (&Arc<str>, &Arc<str>),
        patience: Patience,
        metrics: &Rc<ProviderMetrics>,
        now: Instant,
    ) -> Self {
        Self {
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            breaker: RefCell::new(Breaker::new(patience.breaker, now)),
            last: Cell::new(None),
            metrics: Rc::clone(metrics),
        }
    }

    /// Says whether an attempt would be let through.
    pub(super) fn permits(&self, now: Instant) -> bool {
        self.breaker.borrow().permits(now)
    }

    /// Lets an attempt through; `None` where the breaker is open.
    pub(super) fn admit(self: &Rc<Self>, now: Instant) -> Option<Attempt> {
        let pass = self.breaker.borrow_mut().admit(now)?;
        Some(Attempt { health: Rc::clone(self), pass })
    }

    /// Returns what a request that isn't let through is told: how the last one that was failed. Of the provider's
    /// `retry-after` what is left of it, in whole seconds.
    pub(super) fn last_failure(&self, now: Instant) -> Failure {
        let Some((failure, failed_at)) = self.last.get() else { return Failure::new(ErrorCode::ProviderError) };
        let left = |wait: Duration| {
            let left = wait.saturating_sub(now.saturating_duration_since(failed_at));
            Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0))
        };
        Failure { retry_after: failure.retry_after.map(left), ..failure }
    }

    fn turned(&self, turn: Option<Turn>) {
        let (provider, model) = (&*self.provider, &*self.model);
        match turn {
            Some(Turn::Opened) => {
                self.metrics.breaker_opened();
                tracing::warn!(provider, model, "too many attempts failed: this worker's breaker is open");
            }
            Some(Turn::OpenedAgain) => self.metrics.breaker_opened_again(),
            Some(Turn::Closed) => {
                self.metrics.breaker_closed();
                tracing::info!(provider, model, "a probe was answered: this worker's breaker is closed");
            }
            None => {}
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if self.breaker.get_mut().is_open() {
            self.metrics.breaker_closed();
        }
    }
}

/// An attempt that was let through. Dropped, it counts as nothing.
#[must_use]
pub(super) struct Attempt {
    health: Rc<Health>,
    pass: Pass,
}

impl Attempt {
    /// The first frame, or the whole answer, is here. Returns whom to blame if it breaks off.
    pub(super) fn answered(self, now: Instant) -> Answering {
        let turn = self.health.breaker.borrow_mut().answered(&self.pass, now);
        self.health.turned(turn);
        let turns = self.health.breaker.borrow().turns();
        Answering { health: Rc::clone(&self.health), turns }
    }

    /// The provider failed.
    pub(super) fn failed(self, failure: Failure, now: Instant) {
        self.health.last.set(Some((failure, now)));
        let turn = self.health.breaker.borrow_mut().failed(&self.pass, now);
        self.health.turned(turn);
    }
}

impl Drop for Attempt {
    /// Frees its place among the probes; one that was answered or has failed holds none any more.
    fn drop(&mut self) {
        self.health.breaker.borrow_mut().released(&self.pass);
    }
}

/// An answer that has begun.
pub(super) struct Answering {
    health: Rc<Health>,
    /// How often the breaker had turned by then.
    turns: u64,
}

impl Answering {
    /// It broke off.
    pub(super) fn broke_off(&self, failure: Failure, now: Instant) {
        self.health.last.set(Some((failure, now)));
        let turn = self.health.breaker.borrow_mut().broke_off(self.turns, now);
        self.health.turned(turn);
    }
}

#[cfg(test)]
mod tests;
