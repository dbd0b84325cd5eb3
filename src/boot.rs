//! From a configuration to a running service, in dependency order, and back.
//!
//! Up: data folder, connections' thread, database, Redis, report and metrics, registry, accounts and ledger, verifier,
//! listener, workers, and then what a crash has left ([`Gateway::recover`]). Down: no new requests, listener closed,
//! last uses of API keys noted, streams get their grace, then an error frame, who doesn't read is cut off, ledger flushed
//! and its journals closed, leases returned, connections closed.

mod engine;
mod folder;
mod listener;
mod socket;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use actix_rt::Arbiter;
use actors::{
    auth::Roll,
    ledger::{LedgerHandle, Owner, Recovered, RecoveryError},
    metrics::Metrics,
    ports::{Clock, LedgerStore, SharedCache, StoreError},
    repeats::Repeats,
};
use futures_util::future::{Either, FutureExt as _, select};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use uuid::Uuid;

use self::{
    engine::{Engine, audience},
    listener::Listening,
};
use crate::{
    cache,
    clock::StoreClock,
    config::{Config, Provider},
    http::{Gate, Settings, Slots},
    io::IoThread,
    store::{InstanceLock, ModelSpec, Store},
    token::SetupError,
    upstream::UpstreamConfigError,
    worker::Shared,
};

pub use folder::{DataFolder, find_room, prepare_folder};

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

impl From<RecoveryError> for BootError {
    fn from(error: RecoveryError) -> Self {
        Self::Unavailable(error.to_string())
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
    server: Listening,
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    repeats: Arc<Repeats>,
    shutdown: watch::Sender<bool>,
    roll: Roll,
    ledger: LedgerHandle,
    arbiters: Vec<Arbiter>,
    /// Connections end with this thread, so it is dropped last.
    _io: IoThread,
    _database: InstanceLock,
    _folder: DataFolder,
}

/// Takes the process's one TLS implementation. Both may be in the tree, and a client built before this call panics.
pub fn install_crypto() {
    // A second call finds the first one's.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default().is_ok();
}

impl Gateway {
    /// Starts the service and returns when it can be asked; it takes requests after [`Gateway::recover`].
    ///
    /// # Errors
    /// [`BootError`]: nothing runs then, and no port is bound.
    pub async fn start(config: Config) -> Result<(Self, impl Future<Output = io::Result<()>>), BootError> {
        install_crypto();
        let folder = DataFolder::claim(&config.data_dir)?;
        let io = IoThread::start()?;
        let (store, database) = open_store(&config, &io).await?;
        let clock = Arc::new(StoreClock::new());
        let process = Uuid::new_v4();
        let asked = clock.now();
        clock.set(store.enroll(folder.instance, process).await?, asked);
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), clock.wall());
        let metrics = metrics.map_err(|error| BootError::Internal(error.to_string()))?;
        let cache = open_cache(&config, &store, &io, &clock, &metrics).await?;

        let listener = listener::listen(&config.server)?;
        let address = listener.local_addr()?;
        let repeats = Repeats::new(config.stream.replay_bytes);
        let slots = Slots::new(config.server.admission(listener::open_files()).streams);
        let config = Arc::new(config);
        let mut engine = Engine { config: &config, store: &store, cache: &cache, clock: &clock, arbiters: Vec::new() };
        let catalog = engine.registry(&metrics).await?;
        let owner = Owner { store: store.identity().await?, instance: folder.instance };
        let (accounts, ledger) = engine.ledger(&catalog, &metrics, (owner, process))?;
        let stats = engine.stats(&slots, &ledger, &metrics);
        let verifier = engine.verifier(&metrics).await?;
        let auth = engine.auth(&verifier, &catalog, &metrics);
        let roll = auth.roll.clone();
        let arbiters = engine.arbiters;

        let (shutdown, grace_over) = watch::channel(false);
        let gate = Arc::new(Gate::default());
        let shared = Shared {
            auth,
            verifier,
            catalog,
            accounts,
            ledger: ledger.clone(),
            audience: audience(&stats, &metrics),
            stats,
            metrics,
            clock,
            repeats: Arc::clone(&repeats),
            slots: Arc::clone(&slots),
            gate: Arc::clone(&gate),
            shutdown: grace_over,
            store: store.clone(),
            cache,
            settings: Arc::new(settings(&config)),
            config: Arc::clone(&config),
        };
        let (server, running) = listener::serve(shared, listener)?;
        let service = Self {
            address,
            config,
            store,
            server,
            gate,
            slots,
            repeats,
            shutdown,
            roll,
            ledger,
            arbiters,
            _io: io,
            _database: database,
            _folder: folder,
        };
        Ok((service, running))
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

    /// Brings into the books what processes before this one have left in the data folder; then requests are taken.
    /// Until then they are answered 503. Needs the server to run.
    ///
    /// # Errors
    /// [`BootError`]: what was left can't be brought into these books; nothing is served.
    pub async fn recover(&self) -> Result<Recovered, BootError> {
        let recovered = self.ledger.ask_recover().await?;
        if recovered.journals > 0 {
            tracing::info!(recovered.journals, recovered.postings, "recovered what a crash has left");
        }
        self.gate.open();
        Ok(recovered)
    }

    /// Shuts down: new requests are turned away at once, running ones get their grace, which is over when `hurry` is.
    /// Returns how many postings could not be brought into the store: 0 unless it is away.
    pub async fn stop(self, hurry: impl Future<Output = ()>) -> usize {
        let times = &self.config.shutdown;
        let hurry = hurry.shared();
        self.gate.close();
        tracing::info!(running = self.slots.taken(), "draining");
        select(pin!(sleep(times.delay)), hurry.clone()).await;
        self.drain(select(pin!(sleep(times.grace)), hurry)).await;
        let left = self.ledger.ask_close(times.flush_timeout).await;
        if left > 0 {
            tracing::warn!(postings = left, "usage could not be brought into the database; the journal has it");
        } else {
            self.ledger.ask_return_leases(times.flush_timeout).await;
        }
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        left
    }

    /// Waits until the clients have gone. When the grace is over, their streams end; who doesn't read that is cut off.
    async fn drain(&self, grace: impl Future + Unpin) {
        let mut stopped = pin!(async {
            self.server.close().await;
            self.roll.ask_touch(TOUCH_TIMEOUT).await;
            // A worker goes when its own clients have gone, and what others read there would go with it.
            self.repeats.idle().await;
            until(|| self.slots.taken() == 0).await;
            self.server.stop().await;
        });
        if let Either::Left(_) = select(&mut stopped, grace).await {
            return;
        }
        self.shutdown.send_replace(true);
        if timeout(CUT_AFTER_GRACE, stopped).await.is_err() {
            tracing::warn!(running = self.slots.taken(), "clients that don't read are cut off");
            self.server.cut().await;
        }
    }
}

/// Waits until this is so. It looks now and then, so that what runs needn't tell.
///
/// # Cancel safety
/// May be dropped.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long the last uses of API keys may take to be noted: no more than idle connections are kept anyway.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after the grace clients are cut off: streams end by themselves when it is over.
const CUT_AFTER_GRACE: Duration = Duration::from_secs(10);

/// Opens the database and brings it up to date.
async fn open_store(config: &Config, io: &IoThread) -> Result<(Store, InstanceLock), BootError> {
    let store = Store::connect(&config.database, &io.handle()).await;
    let store = store.map_err(|error| match error {
        StoreError::Refused(why) => BootError::Config(why),
        away => away.into(),
    })?;
    let lock = store.claim_single_instance()?;
    store.migrate().await?;
    store.sync_configured_models(configured_models(config)).await?;
    Ok((store, lock))
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
