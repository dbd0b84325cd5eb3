//! ModelRegistry: which models and plans there are, and what was changed in the store.
//!
//! One actor in the process, on a thread of its own. It publishes the [`Catalog`] as an immutable snapshot and writes the
//! [`Feed`] of changes. Handlers never wait for it on the warm path: they load the snapshot from shared memory.
//!
//! # Invariants
//! - Every snapshot is one transaction's read of the store, filtered by what configuration allows.
//! - Polls never overlap. One begins [`POLL_INTERVAL`] after the one before began, later while the store is down.
//! - The feed's start is read before revocations and catalog, so that no change falls between them.
//! - The feed says «fresh» only while polls succeed and reach the last change. The first read does: of more changes than
//!   one poll returns it brings the youngest. After an outage of [`MAX_GAP`], or when the store's sequence went
//!   backwards (a restored backup), everything is read again and every cache forgets everything.
//! - A catalog change is retried until it has been read; requests go on with the snapshot they hold.
//! - What the catalog doesn't have may be asked for anew ([`CatalogHandle::ask_refresh`]): askers share one read, and the
//!   store is read at most once each [`REFRESH_INTERVAL`].
//!
//! # Limits
//! 4,096 questions wait in the mailbox and as many for one read; beyond them askers wait for room, or get `Unavailable`. A
//! read of the store takes at most [`STORE_TIMEOUT`].

mod actor;
mod feed;

use std::{fmt, sync::Arc, time::Duration};

use actix::{Actor, Addr, Context};
use arc_swap::ArcSwap;

use crate::{
    domain::{Catalog, Model},
    metrics::Metrics,
    ports::{CatalogSource, Clock, Directory, StoreError},
};
use actor::{ModelRegistry, Ready, Refresh};
pub use feed::{FRESH, Feed, KEEP, MAX_LOG, MAX_REVOKED, News, Reader, Recalls, Revocation};

/// How often changes are asked for: half of the second within which they hold, less the time to read them.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The longest pause between polls while the store is down.
pub const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The shortest time between two reads of the catalog for models or plans that were not found.
pub const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// How long the store may take for one read.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// An outage after which everything is read anew: half of what the feed remembers.
pub const MAX_GAP: Duration = Duration::from_secs(10 * 60);

/// Which part of the store's catalog this process offers.
#[derive(Clone)]
pub struct Config {
    /// Says whether a model may be offered: its provider is usable, and it is still configured if it came from there.
    pub keep: Arc<dyn Fn(&Model) -> bool + Send + Sync>,
    /// How models that are in no catalog are passed through, if they are.
    pub pass_through: Option<PassThroughTo>,
}

/// Where models that are in no catalog go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassThroughTo {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The name of the class in which they are counted; nothing is passed through while the store has no such class.
    pub class: Arc<str>,
}

/// What the actor asks.
#[derive(Clone)]
pub struct Ports {
    /// Models, classes and plans.
    pub catalog: Arc<dyn CatalogSource>,
    /// The change sequence and revocations.
    pub directory: Arc<dyn Directory>,
    /// What is counted.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The way to the catalog and the feed, from any thread.
#[derive(Clone)]
pub struct CatalogHandle {
    addr: Addr<ModelRegistry>,
    catalog: Arc<ArcSwap<Catalog>>,
    feed: Arc<Feed>,
}

impl CatalogHandle {
    /// Starts the actor on this arbiter. It begins to read at once and never gives up.
    #[must_use]
    pub fn start(arbiter: &actix::ArbiterHandle, config: Config, ports: Ports) -> Self {
        let catalog = Arc::new(ArcSwap::default());
        let feed = Feed::new(ports.clock.now());
        let shared = (Arc::clone(&catalog), Arc::clone(&feed));
        let addr = ModelRegistry::start_in_arbiter(arbiter, |_: &mut Context<ModelRegistry>| {
            ModelRegistry::new(config, ports, shared)
        });
        Self { addr, catalog, feed }
    }

    /// Returns the latest snapshot. A request takes one and goes by it to its end.
    #[must_use]
    pub fn current(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Returns the change feed, for caches to follow.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Waits for the first read of feed and catalog. Where it failed, the reading goes on and this may be asked again.
    ///
    /// # Errors
    /// Why the last try failed.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn ask_ready(&self) -> Result<(), StoreError> {
        self.addr.send(Ready).await.unwrap_or_else(|_| Err(gone()))
    }

    /// Returns a snapshot that is at most [`REFRESH_INTERVAL`] old: for what the current one doesn't have.
    ///
    /// # Errors
    /// The store can't be read, so that nobody can say whether there is such a thing.
    ///
    /// # Cancel safety
    /// May be dropped at any point; the others who wait are not disturbed.
    pub async fn ask_refresh(&self) -> Result<Arc<Catalog>, StoreError> {
        self.addr.send(Refresh).await.unwrap_or_else(|_| Err(gone()))?;
        Ok(self.current())
    }
}

impl fmt::Debug for CatalogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogHandle").field("feed_stands_at", &self.feed.last()).finish_non_exhaustive()
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the registry has stopped".to_owned())
}

#[cfg(test)]
mod tests;
