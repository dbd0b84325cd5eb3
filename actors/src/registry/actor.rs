//! The actor: one loop of polls and one of reads, each with at most one flight under way.

use std::{
    future::Future,
    mem,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use arc_swap::ArcSwap;
use futures_util::FutureExt;

use super::{Config, Feed, MAX_GAP, MAX_LOG, MAX_PAUSE, POLL_INTERVAL, Ports, REFRESH_INTERVAL, STORE_TIMEOUT};
use crate::{
    domain::{Catalog, CatalogRows, PassThrough, Timestamp, TokenHash},
    metrics::Reload,
    ports::{Change, Changes, StoreError},
    reply::{Reply, Waiters},
};

/// Questions that wait; beyond them, askers wait for room.
const MAILBOX: usize = 4_096;
/// How often forgotten changes and ended revocations are cleared away.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Whether a read succeeded.
type Answer = Result<(), StoreError>;

/// Asks to be told when the first read has succeeded or failed.
pub(super) struct Ready;

impl Message for Ready {
    type Result = Answer;
}

/// Asks to be told when the snapshot is young enough.
pub(super) struct Refresh;

impl Message for Refresh {
    type Result = Answer;
}

/// Keeps the catalog and the feed up to date.
pub(super) struct ModelRegistry {
    config: Config,
    ports: Ports,
    catalog: Arc<ArcSwap<Catalog>>,
    feed: Arc<Feed>,
    /// Whether the feed has a start and the catalog was read.
    ready: Option<Answer>,
    wait_ready: Waiters<Answer>,
    read: Read,
    /// Which change the feed stands at, as the store had it.
    mark: i64,
    /// When the last successful poll or synchronization began.
    last_success: Instant,
    last_prune: Instant,
    pause: Duration,
    /// The catalog has changed and must be read, whatever it takes.
    dirty: bool,
}

/// Reading the catalog.
#[derive(Default)]
struct Read {
    started_at: Option<Instant>,
    under_way: bool,
    last: Option<StoreError>,
    waiting: Waiters<Answer>,
    /// Those who came when the read under way was already too old for them.
    waiting_for_next: Waiters<Answer>,
}

/// What a start afresh reads.
struct Everything {
    changes: Changes,
    revoked: Vec<(TokenHash, Timestamp)>,
    catalog: Catalog,
}

impl ModelRegistry {
    pub(super) fn new(config: Config, ports: Ports, (catalog, feed): (Arc<ArcSwap<Catalog>>, Arc<Feed>)) -> Self {
        let now = ports.clock.now();
        Self {
            config,
            ports,
            catalog,
            feed,
            ready: None,
            wait_ready: Waiters::default(),
            read: Read::default(),
            mark: 0,
            last_success: now,
            last_prune: now,
            pause: POLL_INTERVAL,
            dirty: false,
        }
    }

    /// Asks for changes, or for everything where those since the last success may be more than the store remembers.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        let asked_at = self.ports.clock.now();
        self.prune(asked_at);
        if self.ready != Some(Ok(())) || asked_at.saturating_duration_since(self.last_success) >= MAX_GAP {
            return self.synchronize(asked_at, ctx);
        }
        if self.dirty && !self.read.under_way {
            self.read(ctx);
        }
        let (directory, after) = (Arc::clone(&self.ports.directory), self.feed.last());
        let poll = guarded(async move { directory.changes(after).await });
        ctx.spawn(poll.into_actor(self).map(move |changes, registry, ctx| registry.land_poll(changes, asked_at, ctx)));
    }

    fn land_poll(&mut self, changes: Result<Changes, StoreError>, asked_at: Instant, ctx: &mut Context<Self>) {
        self.ports.metrics.reloaded(Reload::Changes, changes.is_ok());
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => return self.back_off(&error, ctx),
        };
        // Where the change that it stands at isn't kept any more, the numbers alone tell.
        let another = changes.asked != 0 && changes.asked != self.mark;
        if another || changes.last < self.feed.last() {
            tracing::warn!(from = self.feed.last(), to = changes.last, "the change sequence is another one");
            return self.synchronize(asked_at, ctx);
        }
        if changes.unreadable {
            return self.synchronize(asked_at, ctx);
        }
        self.mark = changes.mark;
        self.feed.apply(&changes, asked_at);
        if changes.items.iter().any(|(_, change)| *change == Change::Catalog) {
            self.dirty = true;
            // A read that is under way may have begun before the change; the next tick reads again.
            if !self.read.under_way {
                self.read(ctx);
            }
        }
        // A full page: there are more. None may wait for the next tick, and as long as one is missing nothing is fresh.
        if changes.items.len() >= MAX_LOG {
            return self.tick(ctx);
        }
        self.succeed(asked_at);
        self.schedule(asked_at, POLL_INTERVAL, ctx);
    }

    /// Reads everything anew.
    fn synchronize(&mut self, asked_at: Instant, ctx: &mut Context<Self>) {
        let (ports, config) = (self.ports.clone(), self.config.clone());
        let sync = guarded(async move {
            // In this order: what changes while this is read comes with the first poll.
            let changes = ports.directory.recent_changes().await?;
            let revoked = ports.directory.revoked_tokens().await?;
            let catalog = snapshot(ports.catalog.catalog().await?, &config);
            Ok(Everything { changes, revoked, catalog })
        });
        ctx.spawn(sync.into_actor(self).map(move |everything, registry, ctx| {
            registry.land_everything(everything, asked_at, ctx);
        }));
    }

    fn land_everything(
        &mut self,
        everything: Result<Everything, StoreError>,
        asked_at: Instant,
        ctx: &mut Context<Self>,
    ) {
        self.ports.metrics.reloaded(Reload::Catalog, everything.is_ok());
        match everything {
            Ok(Everything { changes, revoked, catalog }) => {
                self.mark = changes.mark;
                self.feed.load(&changes, revoked, asked_at);
                self.catalog.store(Arc::new(catalog));
                self.succeed(asked_at);
                self.be_ready(Ok(()));
                self.schedule(asked_at, POLL_INTERVAL, ctx);
            }
            Err(error) => {
                self.be_ready(Err(error.clone()));
                self.back_off(&error, ctx);
            }
        }
    }

    /// Remembers how the first read went; a success is never taken back.
    fn be_ready(&mut self, result: Answer) {
        if self.ready != Some(Ok(())) {
            self.ready = Some(result.clone());
        }
        self.wait_ready.answer(&result);
    }

    fn succeed(&mut self, asked_at: Instant) {
        if self.pause > POLL_INTERVAL {
            tracing::info!("the store is back: changes are followed again");
        }
        self.pause = POLL_INTERVAL;
        self.last_success = asked_at;
        self.feed.renew(asked_at);
    }

    fn back_off(&mut self, error: &StoreError, ctx: &mut Context<Self>) {
        if self.pause == POLL_INTERVAL {
            tracing::warn!(%error, "the store can't be read: changes are not followed");
        }
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        self.schedule(self.ports.clock.now(), self.pause, ctx);
    }

    fn schedule(&self, from: Instant, pause: Duration, ctx: &mut Context<Self>) {
        let spent = self.ports.clock.now().saturating_duration_since(from);
        ctx.run_later(pause.saturating_sub(spent), Self::tick);
    }

    fn prune(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_prune) >= PRUNE_INTERVAL {
            self.last_prune = now;
            self.feed.prune(now, self.ports.clock.wall());
        }
    }

    fn refresh(&mut self, ctx: &mut Context<Self>) -> Reply<Answer> {
        let now = self.ports.clock.now();
        let young = self.read.started_at.is_some_and(|start| now.saturating_duration_since(start) < REFRESH_INTERVAL);
        match (young, self.read.under_way) {
            (true, false) => Reply::Now(self.read.last.clone().map_or(Ok(()), Err)),
            (true, true) => Reply::Later(self.read.waiting.clone()),
            (false, true) => Reply::Later(self.read.waiting_for_next.clone()),
            (false, false) => {
                self.read(ctx);
                Reply::Later(self.read.waiting.clone())
            }
        }
    }

    /// Reads the catalog. Never while a read is under way.
    fn read(&mut self, ctx: &mut Context<Self>) {
        self.dirty = false;
        self.read.started_at = Some(self.ports.clock.now());
        self.read.under_way = true;
        let (source, config) = (Arc::clone(&self.ports.catalog), self.config.clone());
        let read = guarded(async move { Ok(snapshot(source.catalog().await?, &config)) });
        ctx.spawn(read.into_actor(self).map(|catalog, registry, ctx| registry.land_read(catalog, ctx)));
    }

    fn land_read(&mut self, catalog: Result<Catalog, StoreError>, ctx: &mut Context<Self>) {
        self.read.under_way = false;
        self.ports.metrics.reloaded(Reload::Catalog, catalog.is_ok());
        let result = catalog.map(|catalog| self.catalog.store(Arc::new(catalog)));
        self.dirty |= result.is_err();
        self.read.last = result.clone().err();
        self.read.waiting.answer(&result);
        if !self.read.waiting_for_next.is_empty() {
            self.read.waiting = mem::take(&mut self.read.waiting_for_next);
            self.read(ctx);
        }
    }
}

/// Makes the snapshot that this process offers.
fn snapshot(rows: CatalogRows, config: &Config) -> Catalog {
    let pass_through = config.pass_through.as_ref().and_then(|to| {
        let class = rows.classes.iter().find(|class| class.name == to.class)?;
        Some(PassThrough { provider: Arc::clone(&to.provider), class: class.clone() })
    });
    Catalog::new(rows, |model| (config.keep)(model), pass_through)
}

/// Answers by the deadline, also where the flight crashes: the loops must go on.
async fn guarded<T>(flight: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(STORE_TIMEOUT, AssertUnwindSafe(flight).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => Err(StoreError::Unavailable("reading the store panicked".to_owned())),
        Err(_elapsed) => Err(StoreError::Unavailable(format!("no answer within {STORE_TIMEOUT:?}"))),
    }
}

impl Actor for ModelRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.tick(ctx);
    }
}

impl Handler<Ready> for ModelRegistry {
    type Result = Reply<Answer>;

    fn handle(&mut self, _: Ready, _: &mut Self::Context) -> Reply<Answer> {
        match &self.ready {
            Some(Ok(())) => Reply::Now(Ok(())),
            // A try that failed was answered to those who waited for it; whoever asks later waits for the next.
            _ => Reply::Later(self.wait_ready.clone()),
        }
    }
}

impl Handler<Refresh> for ModelRegistry {
    type Result = Reply<Answer>;

    fn handle(&mut self, _: Refresh, ctx: &mut Self::Context) -> Reply<Answer> {
        self.refresh(ctx)
    }
}
