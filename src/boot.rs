//! From a configuration to a running service, in dependency order, and back.
//!
//! Up: connections' thread, database, Redis, report and metrics, registry, accounts and ledger, verifier, listener,
//! workers. Down: no new requests, listener closed, streams get their grace, then an error frame, ledger flushed,
//! connections closed.

mod folder;
mod listener;

use std::{io, net::SocketAddr, sync::Arc};

use actix_rt::Arbiter;
use actix_web::dev::{Server, ServerHandle};
use actors::{
    auth,
    domain::Model,
    ledger::{self, LedgerHandle, UsageLedger},
    metrics::{Metrics, StoreOp},
    outcome::Audience,
    ports::{CatalogSource, Clock, Directory, LedgerStore, SharedCache, StoreError},
    quota::Accounts,
    registry::{self, CatalogHandle},
    stats::{Parts, Stats, StatsHandle},
};
use tokio::sync::watch;

use crate::{
    cache,
    clock::StoreClock,
    config::{Config, Provider},
    http::{Gate, Settings, Slots},
    io::IoThread,
    store::{InstanceLock, ModelSpec, Store},
    token::{AwcFetch, SetupError, Verifier},
    upstream::UpstreamConfigError,
    vitals::ProcessVitals,
    worker::Shared,
};

pub use folder::prepare_folder;

/// Why the service can't start. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A dependency is away, or the data folder is in use: exit 69.
    #[error("{0}")]
    Unavailable(String),
    /// The configuration can't be served: exit 78.
    #[error("{0}")]
    Config(String),
    /// A fault of our own or of the machine: exit 70.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for BootError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<SetupError> for BootError {
    fn from(error: SetupError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<UpstreamConfigError> for BootError {
    fn from(error: UpstreamConfigError) -> Self {
        Self::Config(error.to_string())
    }
}

impl From<io::Error> for BootError {
    fn from(error: io::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

/// The service as it runs. Must be stopped by [`Gateway::stop`], or its last usage isn't flushed.
pub struct Gateway {
    address: SocketAddr,
    config: Arc<Config>,
    store: Store,
    server: ServerHandle,
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    shutdown: watch::Sender<bool>,
    ledger: LedgerHandle,
    arbiters: Vec<Arbiter>,
    /// Connections end with this thread, so it is dropped last.
    _io: IoThread,
    _instance: InstanceLock,
}

/// Takes the process's one TLS implementation. Both may be in the tree, and a client built before this call panics.
pub fn install_crypto() {
    // A second call finds the first one's.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default().is_ok();
}

impl Gateway {
    /// Starts the service and returns when it takes requests.
    ///
    /// # Errors
    /// [`BootError`]: nothing runs then, and no port is bound.
    pub async fn start(config: Config) -> Result<(Self, Server), BootError> {
        install_crypto();
        let io = IoThread::start()?;
        let store = Store::connect(&config.database, &io.handle()).await;
        let store = store.map_err(|error| match error {
            StoreError::Refused(why) => BootError::Config(why),
            away => away.into(),
        })?;
        let instance = store.claim_single_instance()?;
        store.migrate().await?;
        store.sync_configured_models(configured_models(&config)).await?;
        let clock = Arc::new(StoreClock::new());
        sync_clock(&clock, &store).await?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), clock.wall());
        let metrics = metrics.map_err(|error| BootError::Internal(error.to_string()))?;
        let cache = open_cache(&config, &store, &io, &clock, &metrics).await?;

        let listener = listener::listen(&config.server)?;
        let address = listener.local_addr()?;
        let slots = Slots::new(config.server.admission(listener::open_files()).streams);
        let config = Arc::new(config);
        let mut engine = Engine { config: &config, store: &store, cache: &cache, clock: &clock, arbiters: Vec::new() };
        let catalog = engine.registry(&metrics).await?;
        let (accounts, ledger) = engine.ledger(&catalog, &metrics);
        let stats = engine.stats(&slots, &ledger, &metrics);
        let verifier = engine.verifier(&metrics).await?;
        let arbiters = engine.arbiters;

        let (shutdown, grace_over) = watch::channel(false);
        let gate = Arc::new(Gate::default());
        let clock: Arc<dyn Clock> = clock;
        let auth = auth::Ports {
            verifier: Arc::new(verifier),
            cache: Arc::clone(&cache),
            directory: Arc::new(store.clone()) as Arc<dyn Directory>,
            clock: Arc::clone(&clock),
            feed: Arc::clone(catalog.feed()),
            metrics: metrics.clone(),
        };
        let shared = Shared {
            auth,
            catalog,
            accounts,
            ledger: ledger.clone(),
            audience: audience(&stats, &metrics),
            stats,
            metrics,
            clock,
            slots: Arc::clone(&slots),
            gate: Arc::clone(&gate),
            shutdown: grace_over,
            store: store.clone(),
            cache,
            settings: Arc::new(settings(&config)),
            config: Arc::clone(&config),
        };
        let server = listener::serve(shared, listener)?;
        let service = Self {
            address,
            config,
            store,
            server: server.handle(),
            gate,
            slots,
            shutdown,
            ledger,
            arbiters,
            _io: io,
            _instance: instance,
        };
        Ok((service, server))
    }

    /// Returns where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Shuts down: new requests are turned away at once, running ones get their grace. Returns how many postings could
    /// not be brought into the store: 0 unless it is away.
    pub async fn stop(self) -> usize {
        let times = &self.config.shutdown;
        self.gate.close();
        tracing::info!(running = self.slots.taken(), "draining");
        tokio::time::sleep(times.delay).await;
        let stopped = self.server.stop(true);
        let mut grace_over = std::pin::pin!(tokio::time::sleep(times.grace));
        let mut stopped = std::pin::pin!(stopped);
        tokio::select! {
            () = &mut stopped => {}
            () = &mut grace_over => {
                self.shutdown.send_replace(true);
                stopped.await;
            }
        }
        let left = self.ledger.ask_flush(times.flush_timeout).await;
        if left > 0 {
            tracing::error!(postings = left, "usage could not be brought into the database");
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        left
    }
}

/// The actors that are there once in the process, each on a thread of its own.
struct Engine<'a> {
    config: &'a Arc<Config>,
    store: &'a Store,
    cache: &'a Arc<dyn SharedCache>,
    clock: &'a Arc<StoreClock>,
    arbiters: Vec<Arbiter>,
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

    async fn registry(&mut self, metrics: &Metrics) -> Result<CatalogHandle, BootError> {
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

    fn ledger(&mut self, catalog: &CatalogHandle, metrics: &Metrics) -> (Arc<Accounts>, LedgerHandle) {
        let store: Arc<dyn LedgerStore> = Arc::new(self.store.clone());
        let max_accounts = self.config.quota.max_accounts;
        let accounts = Arc::new(Accounts::new(Arc::clone(&store), max_accounts, self.clock.now()));
        let ports = ledger::Ports {
            store,
            accounts: Arc::clone(&accounts),
            cache: Arc::clone(self.cache),
            catalog: catalog.clone(),
            metrics: metrics.clone(),
            clock: self.clock(),
        };
        let ledger = UsageLedger::start(self.config.ledger.clone(), ports, &self.thread());
        (accounts, ledger)
    }

    fn stats(&mut self, slots: &Arc<Slots>, ledger: &LedgerHandle, metrics: &Metrics) -> StatsHandle {
        let vitals = ProcessVitals {
            store: self.store.clone(),
            slots: Arc::clone(slots),
            ledger: ledger.clone(),
            clock: self.clock(),
        };
        let memory_limit = self.config.server.memory_limit_mb * 1_000_000;
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

    async fn verifier(&mut self, metrics: &Metrics) -> Result<Verifier, BootError> {
        let fetch = Arc::new(AwcFetch::new(self.thread()));
        let verifier = Verifier::new(&self.config.auth.jwt, fetch, self.clock(), metrics)?;
        verifier.warm_up().await;
        Ok(verifier)
    }
}

/// Tells report and metrics of every finished request.
fn audience(stats: &StatsHandle, metrics: &Metrics) -> Audience {
    let (stats, metrics) = (stats.clone(), metrics.clone());
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
        "ledger.totals" => StoreOp::Totals,
        _ => StoreOp::Other,
    }
}

async fn sync_clock(clock: &StoreClock, store: &Store) -> Result<(), BootError> {
    let asked = clock.now();
    clock.set(LedgerStore::now(store).await?, asked);
    Ok(())
}

/// Opens the shared cache. Where one is configured, it must answer: a mistyped URL is found out at start, not by slow
/// requests.
async fn open_cache(
    config: &Config,
    store: &Store,
    io: &IoThread,
    clock: &Arc<StoreClock>,
    metrics: &Metrics,
) -> Result<Arc<dyn SharedCache>, BootError> {
    cache::ping(&config.redis)
        .await
        .map_err(|error| BootError::Unavailable(format!("{error}: check REDIS_URL and its server")))?;
    let store = store.identity().await?.to_string();
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let cache = cache::open(&config.redis, &store, io.handle().runtime(), clock, metrics);
    cache.map_err(|error| BootError::Config(error.to_string()))
}

fn configured_models(config: &Config) -> Vec<ModelSpec> {
    let spec = |(id, model): (&actors::domain::ModelId, &crate::config::ModelConfig)| ModelSpec {
        id: id.clone(),
        class: model.class.clone(),
        provider: model.provider.clone(),
        upstream_model: model.upstream_model.clone().unwrap_or_else(|| id.to_string()),
        price: model.price(),
        context: model.context,
        max_output: model.max_output,
        fallbacks: model.fallbacks.clone(),
    };
    config.models.catalog.iter().map(spec).collect()
}

fn settings(config: &Config) -> Settings {
    let allowed = |(name, provider): (&String, &Provider)| match provider {
        Provider::Http(http) => Some((name.clone(), http.allow_fields.clone())),
        Provider::Simulator(_) => None,
    };
    Settings {
        max_body_bytes: config.server.max_body_bytes,
        body_timeout: config.server.body_timeout,
        commit_after: config.stream.commit_after,
        keepalive: config.stream.keepalive,
        allow_fields: config.providers.iter().filter_map(allowed).collect(),
    }
}
