//! UsageLedger: brings postings into the store.
//!
//! Workers write to their [`Books`]: `open` claims the space of a posting before a provider is contacted, `settle`
//! fills it. The actor, once in the process on a thread of its own, brings what was settled into the store, in order,
//! in batches that carry a cursor for each book: the store applies a batch only where it starts, so that a retry after
//! an unknown commit can't count twice.
//!
//! Limits: at most `max_pending` postings wait or are promised, over all books; beyond them `open` refuses. One batch
//! in flight, of at most `flush_postings`.

mod books;
mod flush;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, Addr, ArbiterHandle, AsyncContext, Context, Handler, Message, WrapFuture, fut::wrap_future,
};
use serde::Deserialize;
use tokio::sync::oneshot;

pub use books::{Books, Entry, Shelf};

use crate::{
    domain::{ClassId, Timestamp},
    metrics::{ClassMetrics, Metrics},
    ports::{Batch, Clock, LedgerStore, SharedCache},
    quota::{Account, Accounts},
    registry::CatalogHandle,
};
use flush::FlushError;
pub(crate) use flush::Flusher;

/// How usage is booked: `[ledger]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How often postings are brought into the store.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// So many postings are brought at once, and at once.
    pub flush_postings: usize,
    /// The most postings that wait, those of running requests included; beyond them new requests are refused.
    pub max_pending: usize,
}

/// The longest pause between two attempts while the store is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How others speak to the ledger.
#[derive(Debug, Clone)]
pub struct LedgerHandle {
    addr: Addr<UsageLedger>,
    shelf: Arc<Shelf>,
}

/// How far the store is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Postings that haven't reached the store.
    pub rows: usize,
    /// The age of the oldest of them.
    pub age: Duration,
}

impl LedgerHandle {
    /// Returns how far the store is behind.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Lag {
        let age = self.shelf.lag_since().map_or(Duration::ZERO, |since| now.since(since));
        Lag { rows: self.shelf.lag_rows(), age }
    }

    /// Returns how many admitted requests haven't ended.
    #[must_use]
    pub fn open_entries(&self) -> usize {
        self.shelf.open_entries()
    }

    /// Opens a fresh book for a worker.
    #[must_use]
    pub fn open_books(&self) -> Books {
        self.shelf.open_books()
    }

    /// Brings everything that was settled into the store, waiting at most `deadline`. Returns how many postings are
    /// left: 0 unless the store was away.
    pub async fn ask_flush(&self, deadline: Duration) -> usize {
        let done = async {
            match self.addr.send(Flush).await {
                Ok(done) => done.await.is_ok(),
                Err(_closed) => false,
            }
        };
        match tokio::time::timeout(deadline, done).await {
            Ok(true) => 0,
            _ => self.shelf.lag_rows(),
        }
    }
}

/// Asks to be told when nothing waits any more.
struct Flush;

impl Message for Flush {
    type Result = oneshot::Receiver<()>;
}

/// What the ledger works with.
pub struct Ports {
    /// The books.
    pub store: Arc<dyn LedgerStore>,
    /// The accounts, which are told what has reached the store.
    pub accounts: Arc<Accounts>,
    /// Where snapshots of usage go.
    pub cache: Arc<dyn SharedCache>,
    /// The names of classes.
    pub catalog: CatalogHandle,
    /// What is counted.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The actor.
pub struct UsageLedger {
    config: Config,
    ports: Ports,
    shelf: Arc<Shelf>,
    /// What is counted for each class.
    classes: HashMap<ClassId, ClassMetrics>,
    /// Away while a batch is in flight.
    flusher: Option<Flusher>,
    not_before: Instant,
    backoff: Duration,
    waiting: Vec<oneshot::Sender<()>>,
}

impl UsageLedger {
    /// Starts the ledger on a thread of its own.
    #[must_use]
    pub fn start(config: Config, ports: Ports, arbiter: &ArbiterHandle) -> LedgerHandle {
        let shelf = Shelf::new(config.max_pending, config.flush_postings);
        let flusher = Flusher::new(Arc::clone(&shelf), Arc::clone(&ports.store));
        let not_before = ports.clock.now();
        let books = Arc::clone(&shelf);
        let addr = Self::start_in_arbiter(arbiter, move |_| Self {
            config,
            ports,
            shelf: books,
            classes: HashMap::new(),
            flusher: Some(flusher),
            not_before,
            backoff: Duration::ZERO,
            waiting: Vec::new(),
        });
        LedgerHandle { addr, shelf }
    }

    /// Starts bringing a batch into the store, unless one is on its way or the store needs a rest.
    fn fly(&mut self, ctx: &mut Context<Self>) {
        if self.ports.clock.now() < self.not_before {
            return;
        }
        let Some(mut flusher) = self.flusher.take() else { return };
        let started = self.ports.clock.now();
        let flight = async move {
            let result = flusher.flush().await;
            (flusher, result)
        };
        ctx.spawn(flight.into_actor(self).map(move |(flusher, result), ledger, ctx| {
            let took = ledger.ports.clock.now().saturating_duration_since(started);
            let under_way = flusher.under_way();
            ledger.flusher = Some(flusher);
            match result {
                Ok(None) => ledger.nothing_waits(),
                Ok(Some(batch)) => {
                    ledger.ports.metrics.flushed(true, batch.postings.len(), took);
                    ledger.landed(&batch, ctx);
                }
                Err(error) => {
                    ledger.ports.metrics.flushed(false, under_way, took);
                    ledger.rest(&error);
                }
            }
        }));
    }

    fn nothing_waits(&mut self) {
        for waiter in self.waiting.drain(..) {
            // Whoever left needs no answer.
            let _left = waiter.send(()).is_err();
        }
    }

    fn landed(&mut self, batch: &Batch, ctx: &mut Context<Self>) {
        self.backoff = Duration::ZERO;
        self.count(batch);
        self.tell(batch);
        if batch.postings.len() >= self.config.flush_postings || !self.waiting.is_empty() {
            self.fly(ctx);
        }
    }

    /// Lets the store rest, the longer the more often it failed.
    fn rest(&mut self, error: &FlushError) {
        self.backoff = (self.backoff * 2).clamp(self.config.flush_interval, MAX_BACKOFF);
        self.not_before = self.ports.clock.now() + self.backoff;
        tracing::warn!(target: "ledger", %error, rows = self.shelf.lag_rows(), "postings wait for the store");
    }

    fn count(&mut self, batch: &Batch) {
        for posting in &batch.postings {
            let class = self.classes.entry(posting.class).or_insert_with(|| {
                let catalog = self.ports.catalog.current();
                self.ports.metrics.class(catalog.class_name(posting.class))
            });
            class.posted(posting.outcome, posting.estimated, &posting.amounts);
        }
    }

    /// Tells accounts and the shared cache what has reached the store.
    fn tell(&self, batch: &Batch) {
        let mut users = BTreeMap::new();
        for posting in &batch.postings {
            *users.entry(posting.user).or_insert(0) += 1;
        }
        let catalog = self.ports.catalog.current();
        for (user, postings) in users {
            let Some((id, accounts)) = self.ports.accounts.post_flushed(user, postings) else { continue };
            let class = |(class, account): &(ClassId, Account)| {
                serde_json::json!({
                    "class": catalog.class_name(*class),
                    "window": account.window.kind(),
                    "resets_at": account.window.end().to_rfc3339(),
                    "used": account.used,
                    "reserved": account.reserved,
                })
            };
            let classes: Vec<_> = accounts.iter().map(class).collect();
            self.ports.cache.post_usage(&id, serde_json::json!({ "classes": classes }));
        }
    }

    /// Flushes at once whenever a whole batch is there.
    fn listen(&self, ctx: &mut Context<Self>) {
        let shelf = Arc::clone(&self.shelf);
        let poked = wrap_future::<_, Self>(async move { shelf.poked().await });
        ctx.spawn(poked.map(|(), ledger, ctx| {
            ledger.fly(ctx);
            ledger.listen(ctx);
        }));
    }
}

impl Actor for UsageLedger {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.config.flush_interval, |ledger, ctx| ledger.fly(ctx));
        self.listen(ctx);
    }
}

impl Handler<Flush> for UsageLedger {
    type Result = actix::MessageResult<Flush>;

    fn handle(&mut self, _: Flush, ctx: &mut Context<Self>) -> Self::Result {
        let (sender, done) = oneshot::channel();
        self.waiting.push(sender);
        // Whoever asks can't wait for the end of a pause.
        self.not_before = self.ports.clock.now();
        self.fly(ctx);
        actix::MessageResult(done)
    }
}
