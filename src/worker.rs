//! What each worker thread owns, and the app that serves on it.

mod readiness;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix_cors::Cors;
use actix_web::{
    App,
    body::MessageBody,
    dev::{ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::{Condition, from_fn},
};
use actors::{
    auth::{self, AuthHandle},
    ledger::LedgerHandle,
    metrics::Metrics,
    outcome::Audience,
    ports::{Clock, SharedCache},
    quota::{self, Accounts, QuotaGate},
    registry::CatalogHandle,
    repeats::Repeats,
    stats::StatsHandle,
    stream::{self, Kit},
};
use tokio::sync::watch;
use tracing_actix_web::TracingLogger;

use self::readiness::Dependencies;
use crate::{
    config::Config,
    http::{self, Desk, Gate, Settings, Slots},
    store::Store,
    telemetry::{self, RequestSpan},
    token::Verifier,
    upstream::{Providers, UpstreamConfigError},
};

/// What all workers share: from it each makes its own actors.
#[derive(Clone)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// What AuthCaches ask.
    pub auth: auth::Ports,
    /// The signer's keys, for `/readyz`.
    pub verifier: Arc<Verifier>,
    /// The catalog.
    pub catalog: CatalogHandle,
    /// The counts.
    pub accounts: Arc<Accounts>,
    /// The ledger.
    pub ledger: LedgerHandle,
    /// The report.
    pub stats: StatsHandle,
    /// The metrics.
    pub metrics: Metrics,
    /// Who is told of finished requests.
    pub audience: Audience,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The answers that repeated requests join.
    pub repeats: Arc<Repeats>,
    /// The requests that run.
    pub slots: Arc<Slots>,
    /// Whether requests are taken.
    pub gate: Arc<Gate>,
    /// Becomes true when the drain's grace is over.
    pub shutdown: watch::Receiver<bool>,
    /// The database, for `/readyz`.
    pub store: Store,
    /// Redis, for `/readyz`.
    pub cache: Arc<dyn SharedCache>,
    /// Settings that handlers go by.
    pub settings: Arc<Settings>,
}

impl Shared {
    /// Starts this thread's actors.
    ///
    /// # Errors
    /// A provider that can't be spoken to as configured.
    pub fn desk(&self) -> Result<Rc<Desk>, UpstreamConfigError> {
        let quota: quota::Config = self.config.quota.clone();
        let clock = Arc::clone(&self.clock);
        let gate = QuotaGate::start(quota, Arc::clone(&self.accounts), self.ledger.open_books(), Arc::clone(&clock));
        let stream: stream::Config = self.config.stream.clone();
        let kit = Kit {
            config: stream,
            upstream: Rc::new(Providers::new(&self.config.providers)?),
            quota: gate.clone(),
            clock: Arc::clone(&clock),
            shutdown: self.shutdown.clone(),
            metrics: self.metrics.clone(),
            providers: RefCell::default(),
        };
        Ok(Rc::new(Desk {
            auth: AuthHandle::start(self.config.auth.cache.clone(), self.auth.clone()),
            catalog: self.catalog.clone(),
            quota: gate,
            kit: Rc::new(kit),
            repeats: Arc::clone(&self.repeats),
            stats: self.stats.clone(),
            metrics: self.metrics.clone(),
            audience: Arc::clone(&self.audience),
            clock,
            slots: Arc::clone(&self.slots),
            gate: Arc::clone(&self.gate),
            readiness: Rc::new(Dependencies::of(self.clone())),
            settings: Arc::clone(&self.settings),
        }))
    }
}

/// Makes the app of one worker. Production and tests serve the same one.
pub fn app(
    desk: Rc<Desk>,
    cors: Cors,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(desk)
        .configure(http::routes)
        .wrap(from_fn(http::turn_away))
        .wrap(cors)
        .wrap(Condition::new(telemetry::logs_requests(), TracingLogger::<RequestSpan>::new()))
        .wrap(from_fn(http::outermost))
}

/// Makes the layer that lets browsers in, as `[server]` says.
pub fn cors(config: &Config) -> Cors {
    let server = &config.server;
    let any = server.cors_origins.iter().any(|origin| origin == "*");
    let cors = if any {
        Cors::default().allow_any_origin().send_wildcard()
    } else {
        server.cors_origins.iter().fold(Cors::default(), |cors, origin| cors.allowed_origin(origin))
    };
    let cors = if server.cors_credentials { cors.supports_credentials() } else { cors };
    // Any request header: SDKs send an open-ended family of `x-stainless-*`.
    cors.allowed_methods(["GET", "POST", "OPTIONS"]).allow_any_header().expose_headers(EXPOSED).max_age(600)
}

/// The response headers that scripts in browsers may read.
const EXPOSED: [&str; 10] = [
    "x-request-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "server-timing",
    "retry-after",
    "x-should-retry",
];
