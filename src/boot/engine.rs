//! The actors that are there once in the process.

use std::{io, sync::Arc};

use actix_rt::Arbiter;
use actors::{
    auth,
    domain::Model,
    ledger::{self, LedgerHandle, Owner, UsageLedger},
    metrics::{Metrics, StoreOp},
    mutants::{self, Mutant},
    outcome::Audience,
    ports::{CatalogSource, Clock, Directory, LedgerStore, SharedCache, TokenVerifier},
    quota::Accounts,
    registry::{self, CatalogHandle},
    stats::{Parts, Stats, StatsHandle},
};
use uuid::Uuid;

use super::BootError;
use crate::{
    clock::StoreClock,
    config::Config,
    http::Slots,
    store::Store,
    token::{AwcFetch, Verifier},
    vitals::ProcessVitals,
};

/// The actors that are there once in the process, each on a thread of its own.
pub(super) struct Engine<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) store: &'a Store,
    pub(super) cache: &'a Arc<dyn SharedCache>,
    pub(super) clock: &'a Arc<StoreClock>,
    pub(super) arbiters: Vec<Arbiter>,
}

impl Engine<'_> {
    fn thread(&mut self) -> actix_rt::ArbiterHandle {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        self.arbiters.push(arbiter);
        handle
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(self.clock) as Arc<dyn Clock>
    }

    pub(super) async fn registry(&mut self, metrics: &Metrics) -> Result<CatalogHandle, BootError> {
        let configured = Arc::clone(self.config);
        let keep = move |model: &Model| {
            let usable = configured.providers.contains_key(&*model.provider);
            let simulated = model.id.as_str().starts_with("sim/");
            usable && (!simulated || configured.is_simulated())
        };
        let pass_through = self.config.pass_through_provider().map(|provider| registry::PassThroughTo {
            provider: provider.into(),
            class: self.config.models.pass_through_class.as_str().into(),
        });
        let ports = registry::Ports {
            catalog: Arc::new(self.store.clone()) as Arc<dyn CatalogSource>,
            directory: Arc::new(self.store.clone()) as Arc<dyn Directory>,
            metrics: metrics.clone(),
            clock: self.clock(),
        };
        let config = registry::Config { keep: Arc::new(keep), pass_through };
        let catalog = CatalogHandle::start(&self.thread(), config, ports);
        catalog.ask_ready().await?;
        Ok(catalog)
    }

    pub(super) fn ledger(
        &mut self,
        catalog: &CatalogHandle,
        metrics: &Metrics,
        (owner, process): (Owner, Uuid),
    ) -> io::Result<(Arc<Accounts>, LedgerHandle)> {
        let store: Arc<dyn LedgerStore> = Arc::new(self.store.clone());
        let max_accounts = self.config.quota.max_accounts;
        let accounts = Arc::new(Accounts::new(Arc::clone(&store), owner.instance, max_accounts, self.clock()));
        let clock = Arc::clone(self.clock);
        let ports = ledger::Ports {
            store,
            accounts: Arc::clone(&accounts),
            cache: Arc::clone(self.cache),
            catalog: catalog.clone(),
            metrics: metrics.clone(),
            clock: self.clock(),
            set_clock: Arc::new(move |now, asked| clock.set(now, asked)),
        };
        let folder = self.config.data_dir.join("journal");
        let place = ledger::Place { journal: self.config.journal.clone(), folder, owner, process };
        let ledger = UsageLedger::start(self.config.ledger.clone(), place, ports, &self.thread())?;
        Ok((accounts, ledger))
    }

    pub(super) fn stats(&mut self, slots: &Arc<Slots>, ledger: &LedgerHandle, metrics: &Metrics) -> StatsHandle {
        let vitals = ProcessVitals {
            store: self.store.clone(),
            slots: Arc::clone(slots),
            ledger: ledger.clone(),
            clock: self.clock(),
        };
        let memory_limit = self.config.server.memory_limit_mb << 20;
        let parts = Parts { clock: self.clock(), vitals: Arc::new(vitals), metrics: metrics.clone(), memory_limit };
        let stats = Stats::start(&self.thread(), &self.config.alerts, parts);
        let observer = (stats.clone(), metrics.clone());
        self.store.observe(Box::new(move |op, took, ok| {
            let (stats, metrics) = &observer;
            stats.post_database(took, ok);
            metrics.store_called(store_op(op), ok, took);
        }));
        stats
    }

    pub(super) async fn verifier(&mut self, metrics: &Metrics) -> Result<Arc<Verifier>, BootError> {
        let thread = self.thread();
        let fetch = Arc::new(AwcFetch::new(thread.clone()));
        let verifier = Arc::new(Verifier::new(&self.config.auth.jwt, fetch, self.clock(), metrics)?);
        verifier.warm_up().await;
        // Who waits for `/readyz` sends nobody whose token would have the keys fetched.
        let waiting = Arc::clone(&verifier);
        thread.spawn(async move { waiting.first_keys().await });
        Ok(verifier)
    }

    /// Collects what the workers' AuthCaches ask.
    pub(super) fn auth(&self, verifier: &Arc<Verifier>, catalog: &CatalogHandle, metrics: &Metrics) -> auth::Ports {
        auth::Ports {
            verifier: Arc::clone(verifier) as Arc<dyn TokenVerifier>,
            cache: Arc::clone(self.cache),
            directory: Arc::new(self.store.clone()) as Arc<dyn Directory>,
            clock: self.clock(),
            feed: Arc::clone(catalog.feed()),
            metrics: metrics.clone(),
            roll: auth::Roll::default(),
            complaints: auth::Complaints::default(),
        }
    }
}

/// Tells report and metrics of every finished request.
pub(super) fn audience(stats: &StatsHandle, metrics: &Metrics) -> Audience {
    let (stats, metrics) = (stats.clone(), metrics.clone());
    if mutants::is(Mutant::NoMetrics) {
        return Arc::new(|_| {});
    }
    Arc::new(move |finished| {
        metrics.request_finished(finished);
        stats.post_request(*finished);
    })
}

/// Sorts the store's calls under the metrics' names.
fn store_op(op: &str) -> StoreOp {
    match op {
        "user.find" => StoreOp::Caller,
        "user.provision" => StoreOp::Provision,
        "key.find" => StoreOp::Key,
        "key.touch" => StoreOp::TouchKeys,
        "token.revoked" => StoreOp::RevokedTokens,
        "changes" | "changes.recent" => StoreOp::Changes,
        "catalog" => StoreOp::Catalog,
        "ledger.apply" => StoreOp::Apply,
        "ledger.cursors" => StoreOp::Cursors,
        "ledger.exchange" => StoreOp::Exchange,
        "ledger.recall" | "ledger.holders" => StoreOp::Recall,
        "ledger.heartbeat" => StoreOp::Heartbeat,
        _ => StoreOp::Other,
    }
}
