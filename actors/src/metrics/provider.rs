//! What is counted for each provider.

use prometheus::IntCounter;

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
        }
    }
}

/// What is counted for a provider.
pub struct ProviderMetrics {
    attempts: Children<(), IntCounter>,
    retries: Children<(), IntCounter>,
    fallbacks: Children<(), IntCounter>,
    failures: Children<Failure, IntCounter>,
}

impl ProviderMetrics {
    /// A request was sent, or tried to be.
    pub fn attempted(&self) {
        self.attempts.count(());
    }

    /// An attempt failed.
    pub fn failed(&self, reason: Failure) {
        self.failures.count(reason);
    }

    /// A failed attempt is repeated here.
    pub fn retried(&self) {
        self.retries.count(());
    }

    /// A request leaves this provider for a fallback.
    pub fn fell_back(&self) {
        self.fallbacks.count(());
    }
}
