//! UsageLedger: brings postings into the store.
//!
//! Workers write to their [`Books`]: `open` records in the worker's journal (`journal`) that a request is admitted before a
//! provider is contacted, `settle` records what it used before the client is handed the end of its answer. The actor,
//! once in the process on a thread of its own, reads the journals' files and brings what was settled into the store, in
//! order, in batches that carry a cursor for each journal: the store applies a batch only where it starts, so that a
//! retry after an unknown commit can't count twice. At the start it drains what a crash has left (`recovery`).
//!
//! Since it sees what has reached the store, and has the time, it also looks after leases that nobody asks for (see
//! [`crate::quota`]): those that are idle, recalled, or due for the next window.
//!
//! Limits: one batch in flight, of at most `flush_postings`; journals of at most `max_bytes`, beyond which `open`
//! refuses. Memory doesn't grow while the store is away.

mod books;
mod flush;
mod handle;
mod inspection;
mod journal;
mod recovery;
mod shelf;
mod tail;
mod tally;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{
    Actor, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture,
    fut::wrap_future,
};
use serde::Deserialize;
use tokio::sync::oneshot;
use uuid::Uuid;

pub use books::{Books, Entry, Receipt};
pub use handle::{Lag, LedgerHandle, Recovered};
pub use inspection::{JournalFiles, inspect};
#[cfg(feature = "testing")]
pub use journal::record::rewrite;
pub use journal::{Owner, writer::Unwritten};
pub use recovery::RecoveryError;
pub use shelf::{Fsync, JournalConfig, Shelf};

use crate::{
    domain::{Catalog, ClassId, Posting, Timestamp},
    metrics::Metrics,
    ports::{ClassSnapshot, Clock, Heartbeat, LedgerStore, SharedCache, StoreError, UsageSnapshot},
    quota::{Account, Accounts},
    registry::CatalogHandle,
};
pub(crate) use flush::{FlushError, Flusher, Landed};
use handle::{Flush, Recover, ReturnLeases};
use tally::Tally;

/// How usage is booked: `[ledger]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How often postings are brought into the store.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// So many postings are brought at once, and at once.
    pub flush_postings: usize,
}

/// The longest pause between two attempts while the store is away.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How often the store is told that this instance lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often leases are looked after.
const TEND: Duration = Duration::from_millis(500);

/// What the ledger works with.
pub struct Ports {
    /// The books.
    pub store: Arc<dyn LedgerStore>,
    /// The accounts, which are told what has reached the store.
    pub accounts: Arc<Accounts>,
    /// Where snapshots of usage go.
    pub cache: Arc<dyn SharedCache>,
    /// The names of classes, and what was recalled.
    pub catalog: CatalogHandle,
    /// What is counted.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Told the store's time of day, and when it was asked.
    pub set_clock: Arc<dyn Fn(Timestamp, Instant) + Send + Sync>,
}

/// Where and whose the journals are.
#[derive(Debug, Clone)]
pub struct Place {
    /// How they are kept.
    pub journal: JournalConfig,
    /// The folder of all stores' journals.
    pub folder: PathBuf,
    /// The store and the instance.
    pub owner: Owner,
    /// This process's own id, under which the instance was enrolled.
    pub process: Uuid,
}

type Recovery = Result<Recovered, RecoveryError>;

/// The actor.
pub struct UsageLedger {
    config: Config,
    ports: Ports,
    place: Place,
    shelf: Arc<Shelf>,
    tally: Rc<RefCell<Tally>>,
    /// Away while a batch is in flight.
    flusher: Option<Flusher>,
    not_before: Instant,
    backoff: Duration,
    waiting: Vec<oneshot::Sender<()>>,
    /// Asked to recover, and not yet about it.
    recovering: Option<oneshot::Sender<Recovery>>,
    /// When the identity was last taken back: another process had it, or the store is one that knows of an earlier one.
    taken_back_at: Option<Instant>,
    /// Counts looks at leases.
    turn: usize,
    /// By which leases were last looked at.
    catalog: Arc<Catalog>,
}

impl UsageLedger {
    /// Starts the ledger on a thread of its own.
    ///
    /// # Errors
    /// The journals' folder can't be made.
    pub fn start(config: Config, place: Place, ports: Ports, arbiter: &ArbiterHandle) -> io::Result<LedgerHandle> {
        let clock = Arc::clone(&ports.clock);
        let shelf =
            Shelf::new(place.journal.clone(), &place.folder, place.owner, config.flush_postings, Arc::clone(&clock))?;
        shelf.observe(ports.metrics.clone());
        ports.accounts.observe(ports.metrics.clone());
        let flusher = Flusher::new(Arc::clone(&shelf), Arc::clone(&ports.store));
        let books = Arc::clone(&shelf);
        let addr = Self::start_in_arbiter(arbiter, move |_| Self {
            config,
            tally: Rc::new(RefCell::new(Tally::new(ports.catalog.clone(), ports.metrics.clone()))),
            catalog: ports.catalog.current(),
            ports,
            place,
            shelf: books,
            flusher: Some(flusher),
            not_before: clock.now(),
            backoff: Duration::ZERO,
            waiting: Vec::new(),
            recovering: None,
            taken_back_at: None,
            turn: 0,
        });
        Ok(LedgerHandle { addr, shelf })
    }

    /// Starts bringing a batch into the store, unless one is on its way or the store needs a rest.
    fn fly(&mut self, ctx: &mut Context<Self>) {
        if self.ports.clock.now() < self.not_before {
            return;
        }
        let Some(mut flusher) = self.flusher.take() else { return };
        if let Some(asked) = self.recovering.take() {
            return self.recover(flusher, asked, ctx);
        }
        let started = self.ports.clock.now();
        if !self.waiting.is_empty() {
            flusher.sync();
        }
        let flight = async move {
            let result = flusher.flush().await;
            (flusher, result)
        };
        ctx.spawn(flight.into_actor(self).map(move |(mut flusher, result), ledger, ctx| {
            let took = ledger.ports.clock.now().saturating_duration_since(started);
            let (under_way, done) = (flusher.under_way(), flusher.is_done());
            flusher.follow(&ledger.ports.accounts);
            ledger.flusher = Some(flusher);
            if ledger.recovering.is_some() {
                ledger.fly(ctx);
            }
            match result {
                Ok(None) if done => ledger.nothing_waits(),
                Ok(None) => {}
                Ok(Some(landed)) => {
                    ledger.ports.metrics.flushed(true, landed.batch.postings.len(), took);
                    ledger.landed(&landed, ctx);
                }
                Err(error) => {
                    ledger.ports.metrics.flushed(false, under_way, took);
                    ledger.rest(&error);
                }
            }
        }));
    }

    /// Drains what processes before this one have left, before anything else is flushed.
    fn recover(&self, mut flusher: Flusher, asked: oneshot::Sender<Recovery>, ctx: &mut Context<Self>) {
        let (tally, accounts) = (Rc::clone(&self.tally), Arc::clone(&self.ports.accounts));
        let recovery = async move { (recover(&mut flusher, &tally, &accounts).await, flusher) };
        ctx.spawn(recovery.into_actor(self).map(|(result, flusher), ledger, ctx| {
            ledger.flusher = Some(flusher);
            if let Ok(recovered) = &result {
                ledger.ports.metrics.journals_recovered(recovered.journals as u64);
                ledger.obey(ctx);
            }
            let _left = asked.send(result).is_err();
        }));
    }

    fn nothing_waits(&mut self) {
        for waiter in self.waiting.drain(..) {
            // Whoever left needs no answer.
            let _left = waiter.send(()).is_err();
        }
    }

    fn landed(&mut self, landed: &Landed, ctx: &mut Context<Self>) {
        self.backoff = Duration::ZERO;
        self.tally.borrow_mut().count(&landed.batch.postings);
        self.ports.accounts.post_brought(&landed.batch.cursors);
        self.tell(landed);
        if landed.batch.postings.len() >= self.config.flush_postings || !self.waiting.is_empty() {
            self.fly(ctx);
        }
    }

    /// Lets the store rest, the longer the more often it failed.
    fn rest(&mut self, error: &FlushError) {
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF).max(self.config.flush_interval);
        self.not_before = self.ports.clock.now() + self.backoff;
        tracing::warn!(target: "ledger", %error, rows = self.shelf.lag_rows(), "postings wait for the store");
    }

    /// Tells accounts and the shared cache what has reached the store.
    fn tell(&self, landed: &Landed) {
        let mut users = BTreeMap::<_, Vec<&Posting>>::new();
        for posting in landed.news() {
            users.entry(posting.user).or_default().push(posting);
        }
        let catalog = self.ports.catalog.current();
        for (user, postings) in users {
            let Some((id, accounts)) = self.ports.accounts.post_flushed(user, &postings) else { continue };
            let class = |(class, account): &(ClassId, Account)| ClassSnapshot {
                class: catalog.class_name(*class),
                window: account.window.kind(),
                resets_at: account.window.end().to_rfc3339(),
                used: account.used,
                used_elsewhere: account.lease.behind,
                reserved: account.reserved,
            };
            let classes = accounts.iter().map(class).collect();
            self.ports.cache.post_usage(&id, &UsageSnapshot { classes });
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

    /// Obeys recalls as they come, once all is recovered: until then part of what is leased may be used up.
    fn obey(&self, ctx: &mut Context<Self>) {
        let feed = Arc::clone(self.ports.catalog.feed());
        let recalled = wrap_future::<_, Self>(async move { feed.recalled().await });
        ctx.spawn(recalled.map(|(), ledger, ctx| {
            let recalls = ledger.ports.catalog.feed().take_recalls();
            ledger.ports.accounts.obey(&recalls, ledger.ports.clock.now());
            ledger.obey(ctx);
        }));
    }

    fn beat(&self, ctx: &mut Context<Self>) {
        self.ports.metrics.journals_sampled(self.shelf.bytes());
        self.ports.metrics.leases_sampled(self.ports.accounts.leases());
        let (store, owner, process) = (Arc::clone(&self.ports.store), self.place.owner, self.place.process);
        let asked = self.ports.clock.now();
        let beat = async move { store.heartbeat(owner.instance, process).await };
        ctx.spawn(beat.into_actor(self).map(move |answer, ledger, ctx| ledger.heard(answer, asked, ctx)));
        let accounts = Arc::clone(&self.ports.accounts);
        // Where nothing is served, nothing else would tell.
        let look = wrap_future::<_, Self>(async move { accounts.look_back().await.is_ok() });
        ctx.spawn(look.map(|_firm, _, _| ()));
    }

    fn heard(&mut self, answer: Result<Heartbeat, StoreError>, asked: Instant, ctx: &mut Context<Self>) {
        self.ports.accounts.heard(answer.as_ref().ok().map(|heartbeat| heartbeat.ended));
        // Where the store is away, flushes say so.
        let Ok(heartbeat) = answer else { return };
        (self.ports.set_clock)(heartbeat.now, asked);
        if heartbeat.ours && !heartbeat.written_off {
            return;
        }
        // Leases may have been lent to others since.
        self.ports.accounts.forget_leases();
        let now = self.ports.clock.now();
        let again = |at: Instant| now.saturating_duration_since(at) < HEARTBEAT * 12;
        // Of what was asked before it was taken back, the answer says nothing new.
        if !heartbeat.ours && self.taken_back_at.is_some_and(|at| at <= asked && again(at)) {
            self.shelf.stop("another process runs with the identity of this data folder, from a copy of it".into());
            return;
        }
        tracing::warn!(heartbeat.ours, heartbeat.written_off, "this instance enrolls anew");
        let (store, owner, process) = (Arc::clone(&self.ports.store), self.place.owner, self.place.process);
        let enroll = async move { store.enroll(owner.instance, process).await };
        ctx.spawn(enroll.into_actor(self).map(move |enrolled, ledger, _| match enrolled {
            Ok(_) if heartbeat.ours => {}
            Ok(_) => ledger.taken_back_at = Some(ledger.ports.clock.now()),
            Err(error) => tracing::warn!(%error, "not enrolled"),
        }));
    }
}

impl Actor for UsageLedger {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.config.flush_interval, |ledger, ctx| ledger.fly(ctx));
        ctx.run_interval(HEARTBEAT, |ledger, ctx| ledger.beat(ctx));
        ctx.run_interval(TEND, |ledger, _| {
            ledger.turn = ledger.turn.wrapping_add(1);
            let catalog = ledger.ports.catalog.current();
            if !Arc::ptr_eq(&ledger.catalog, &catalog) {
                ledger.ports.accounts.return_changed(&catalog);
                ledger.catalog = catalog;
            }
            ledger.ports.accounts.tend(ledger.turn, ledger.ports.clock.now(), ledger.ports.clock.wall());
        });
        ctx.spawn(Arc::clone(&self.ports.accounts).carry().into_actor(self));
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

impl Handler<Recover> for UsageLedger {
    type Result = actix::MessageResult<Recover>;

    fn handle(&mut self, _: Recover, ctx: &mut Context<Self>) -> Self::Result {
        let (sender, done) = oneshot::channel();
        self.recovering = Some(sender);
        self.fly(ctx);
        actix::MessageResult(done)
    }
}

/// Drains what was left.
async fn recover(flusher: &mut Flusher, tally: &RefCell<Tally>, accounts: &Accounts) -> Recovery {
    let mut recovered = Recovered { journals: flusher.recover().await?, postings: 0 };
    loop {
        let landed = flusher.flush().await.map_err(|error| match error {
            FlushError::Store(error) => RecoveryError::Store(error),
            FlushError::Recovery(error) => error,
            ahead @ FlushError::Ahead { .. } => RecoveryError::Journal(ahead.to_string()),
        })?;
        let Some(Landed { batch, .. }) = landed else { return Ok(recovered) };
        recovered.postings += batch.postings.len();
        tally.borrow_mut().count(&batch.postings);
        accounts.post_brought(&batch.cursors);
    }
}

impl Handler<ReturnLeases> for UsageLedger {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: ReturnLeases, _: &mut Context<Self>) -> Self::Result {
        self.ports.accounts.return_all();
        let accounts = Arc::clone(&self.ports.accounts);
        Box::pin(async move { accounts.settle_all_exchanges().await }.into_actor(self))
    }
}
