//! What the handlers of one worker have at hand.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::{
    auth::AuthHandle,
    domain::{Caller, Catalog, ErrorCode, RequestId},
    metrics::Metrics,
    outcome::{Audience, RequestOutcome},
    ports::Clock,
    quota::QuotaHandle,
    registry::CatalogHandle,
    repeats::Repeats,
    stats::StatsHandle,
    stream::Kit,
};
use futures_util::future::LocalBoxFuture;

use super::error::ApiError;

/// The handles and settings of one worker.
pub struct Desk {
    /// Who is calling.
    pub auth: AuthHandle,
    /// Which models there are.
    pub catalog: CatalogHandle,
    /// Whether a caller may go on.
    pub quota: QuotaHandle,
    /// What streams are made of.
    pub kit: Rc<Kit>,
    /// The answers that repeated requests join, of the whole process.
    pub repeats: Arc<Repeats>,
    /// The report.
    pub stats: StatsHandle,
    /// The metrics.
    pub metrics: Metrics,
    /// Who is told of finished requests.
    pub audience: Audience,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How many requests run, in the whole process.
    pub slots: Arc<Slots>,
    /// Whether the process takes requests.
    pub gate: Arc<Gate>,
    /// Asked by `/readyz`.
    pub readiness: Rc<dyn Readiness>,
    /// The settings that handlers go by.
    pub settings: Arc<Settings>,
}

/// The settings that handlers go by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most bytes of a body.
    pub max_body_bytes: usize,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// When the `/api` paths commit.
    pub commit_after: Duration,
    /// When the `/v1` paths commit.
    pub keepalive: Duration,
    /// Which of the forbidden fields each provider takes nevertheless.
    pub allow_fields: std::collections::HashMap<String, Vec<String>>,
}

impl Settings {
    /// Returns the forbidden fields that a provider takes nevertheless.
    #[must_use]
    pub fn allowed_fields(&self, provider: &str) -> &[String] {
        self.allow_fields.get(provider).map_or(&[], Vec::as_slice)
    }
}

impl Desk {
    /// Starts the record of a request.
    #[must_use]
    pub fn outcome(&self, id: RequestId) -> RequestOutcome {
        RequestOutcome::arrived(id, Arc::clone(&self.clock), Arc::clone(&self.audience))
    }

    /// Returns a catalog that has the caller's plan. Where this instance's hasn't, the store is asked before it is said
    /// that there is none.
    ///
    /// # Errors
    /// 503 `quota_unavailable` where the store can't be asked.
    pub(super) async fn catalog_for(&self, caller: &Caller) -> Result<Arc<Catalog>, ApiError> {
        let catalog = self.catalog.current();
        if catalog.plan(caller.plan).is_some() {
            return Ok(catalog);
        }
        self.catalog.ask_refresh().await.map_err(|_away| ApiError::new(ErrorCode::QuotaUnavailable))
    }

    /// Counts a refusal that is in no record: of anything but a chat, or before there was one.
    pub fn refused(&self, code: ErrorCode) {
        self.metrics.refused(code);
        self.stats.post_refusal(code);
    }
}

/// What `/readyz` says of one dependency.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Dependency {
    /// Which one.
    pub name: &'static str,
    /// Whether it answers.
    pub ok: bool,
    /// Whether the service can't do without it.
    pub required: bool,
    /// What it is, or what is wrong.
    pub message: String,
}

/// Knows how the dependencies are.
pub trait Readiness {
    /// Asks each of them, within a second.
    fn dependencies(&self) -> LocalBoxFuture<'_, Vec<Dependency>>;
}

/// Counts the requests that run, against the most that may.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    taken: AtomicUsize,
}

impl Slots {
    /// Makes so many slots.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0) })
    }

    /// Takes one; `None` where all are taken.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let one_more = |taken: usize| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Slot(Arc::clone(self)))
    }

    /// Returns how many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// A running request's slot. Dropping it frees it.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the process takes requests.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    draining: AtomicBool,
}

impl Gate {
    /// Takes requests from now on: what a crash has left is in the books.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Says whether what a crash has left is still being brought into the books.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        !self.open.load(Ordering::Acquire)
    }

    /// Takes no more requests from now on.
    pub fn close(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Says whether the process is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
