//! What the service needs, and how that fares.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use super::Shared;
use crate::{
    config::Provider,
    http::{Dependency, Readiness},
    token::Published,
};

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Postings that have waited for longer are trouble.
const LATE: Duration = Duration::from_secs(5);

/// Asks them for `/readyz`.
pub(super) struct Dependencies {
    shared: Shared,
}

impl Readiness for Dependencies {
    fn dependencies(&self) -> LocalBoxFuture<'_, Vec<Dependency>> {
        Box::pin(async {
            let database = match tokio::time::timeout(PATIENCE, self.shared.store.ping()).await {
                Ok(Ok(())) => (true, "answers".to_owned()),
                Ok(Err(error)) => (false, error.to_string()),
                Err(_elapsed) => (false, "gives no answer".to_owned()),
            };
            let mut all = vec![Dependency { name: "database", ok: database.0, required: false, message: database.1 }];
            if let Some(ok) = self.shared.cache.healthy() {
                let message = if ok { "answers" } else { "gives no answer" }.to_owned();
                all.push(Dependency { name: "redis", ok, required: false, message });
            }
            let lag = self.shared.ledger.lag(self.shared.clock.wall());
            let message = format!("{} postings wait, the oldest for {:?}", lag.rows, lag.age);
            all.push(Dependency { name: "ledger", ok: lag.age < LATE, required: false, message });
            let trouble = self.shared.ledger.trouble();
            let message = trouble.clone().unwrap_or_else(|| "takes records".to_owned());
            all.push(Dependency { name: "journal", ok: trouble.is_none(), required: true, message });
            all.extend(self.keys());
            for (name, provider) in self.shared.config.providers.iter().filter(|(_, provider)| !provider.is_idle()) {
                let message = match provider {
                    Provider::Http(_) => format!("{name} is asked over HTTP"),
                    Provider::Simulator(_) => format!("{name} is a simulator: its answers are made up here"),
                };
                all.push(Dependency { name: "provider", ok: true, required: false, message });
            }
            all
        })
    }
}

impl Dependencies {
    pub(super) fn of(shared: Shared) -> Self {
        Self { shared }
    }

    /// Without a first set of keys no token can be checked; later the set there is goes on.
    fn keys(&self) -> Option<Dependency> {
        let Published { usable, awaited, trouble } = self.shared.verifier.published()?;
        let ok = usable > 0 && trouble.is_none();
        let trouble = trouble.map(|trouble| format!(", at the last fetch: {trouble}"));
        let message = format!("{usable} published keys can be used{}", trouble.unwrap_or_default());
        Some(Dependency { name: "keys", ok, required: awaited, message })
    }
}
