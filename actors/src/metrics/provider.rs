//! What is counted for each provider.

use prometheus::{IntCounter, IntGauge};

use super::{Failure, Metrics, family::Children};

impl Metrics {
    /// Returns the metrics of a provider, to be kept with it: making them takes a lock.
    #[must_use]
    pub fn provider(&self, name: &str) -> ProviderMetrics {
        let families = &self.families;
        ProviderMetrics {
            attempts: families.attempts.of(name),
            retries: families.retries.of(name),
            fallbacks: families.fallbacks.of(name),
            failures: families.failures.of(name),
            refused_retries: families.refused_retries.of(name),
            breaker_openings: families.breaker_openings.of(name),
            open_breakers: families.open_breakers.of(name),
        }
    }
}

/// What is counted for a provider.
pub struct ProviderMetrics {
    attempts: Children<(), IntCounter>,
    retries: Children<(), IntCounter>,
    fallbacks: Children<(), IntCounter>,
    failures: Children<Failure, IntCounter>,
    refused_retries: Children<(), IntCounter>,
    breaker_openings: Children<(), IntCounter>,
    open_breakers: Children<(), IntGauge>,
}

impl ProviderMetrics {
    /// A request was sent, or tried to be.
    pub fn attempted(&self) {
        self.attempts.count(());
    }

    /// An attempt failed, or was not made.
    pub fn failed(&self, reason: Failure) {
        self.failures.count(reason);
    }

    /// A failed attempt is repeated here.
    pub fn retried(&self) {
        self.retries.count(());
    }

    /// A failed attempt isn't repeated here, because the retry budget is used up.
    pub fn retry_refused(&self) {
        self.refused_retries.count(());
    }

    /// A breaker opened that was closed.
    pub fn breaker_opened(&self) {
        self.breaker_openings.count(());
        self.open_breakers.raise(());
    }

    /// A breaker opened again, as a probe failed.
    pub fn breaker_opened_again(&self) {
        self.breaker_openings.count(());
    }

    /// A breaker closed, or was forgotten.
    pub fn breaker_closed(&self) {
        self.open_breakers.lower(());
    }

    /// A request leaves this provider for a fallback.
    pub fn fell_back(&self) {
        self.fallbacks.count(());
    }
}
