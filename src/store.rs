//! The store: users, keys, the catalog and the books, in PostgreSQL or SQLite, whichever the URL says.
//!
//! [`Store`] implements the engine's ports ([`Directory`], [`CatalogSource`], [`LedgerStore`]) and the administration
//! that the command line needs. Both databases run the same statements through diesel-async; where their SQL has to
//! differ (`sql/`, `migrations/`), it differs in text only.
//!
//! Invariants:
//! - A connection to PostgreSQL is one session for as long as it is open: a pooler that doesn't keep them is refused.
//! - Connections are opened and driven on an [`IoThread`](crate::io::IoThread). Every call runs there to its end,
//!   whoever called it and whether or not they still wait.
//! - Every write is one transaction, and takes its locks in this order, so that none waits in a circle: the change
//!   counter, instances and journals, totals, leases; within a table in the order of the keys. Administration, recalls
//!   and corrections begin with the change counter, so they follow one another; batches, exchanges and heartbeats never
//!   take it. A lease is only written under the lock of its total: nobody ever waits for a lease. What is dropped
//!   without that lock (leases of windows long ended) is skipped where somebody has it.
//! - No error and no `Debug` output holds a password.
//! - Callers that are asked for at the same time share statements (`gathering`), and those that are added a transaction.
//!
//! Limits: `pool_max` connections, `connect_timeout` for one to come free, `statement_timeout` for a call.

mod catalog;
mod changes;
mod column;
mod corrections;
mod directory;
mod examination;
mod fault;
mod gathering;
mod inspection;
mod instances;
mod keys;
mod leases;
mod ledger;
mod link;
mod migrate;
mod models;
mod plans;
mod pool;
mod pooler;
mod postgres;
mod prune;
mod schema;
mod sql;
mod sqlite;
mod tls;
mod url;
mod usage;
mod users;
mod verify;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

#[cfg(doc)]
use actors::ports::{CatalogSource, Directory, LedgerStore};
use actors::{
    domain::{CallerRecord, Timestamp, TokenHash, UserId},
    ports::{KeyRecord, StoreError},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use self::{
    fault::Fault,
    gathering::Gathering,
    link::{Link, Scope},
    pool::{AsyncWork, Opener, Pool, Sizes},
    url::Address,
    users::NewCaller,
};
use crate::{io::IoHandle, values};

pub use self::{
    corrections::Correction,
    examination::Examination,
    inspection::{Inspection, InstanceRow, JournalRow, LeaseRow},
    instances::WriteOff,
    keys::{KeyRow, NewKey},
    migrate::Schema,
    models::{ModelSpec, Origin},
    plans::PlanLine,
    pool::PoolState,
    prune::Pruned,
    sqlite::InstanceLock,
    usage::{ClassUsage, UserUsage},
    users::{NewUser, UserRow},
    verify::{Drift, Verification},
};

/// The most connections that read a SQLite file at once, beside the one that writes.
const SQLITE_READERS: u32 = 4;
/// The most statements at once that look callers up, that look keys up (which anybody can make up), and the most
/// transactions that add callers. These follow one another by the change counter; but where one hangs with its
/// connection, the other goes on.
const LOOKUPS: usize = 4;
const KEY_LOOKUPS: usize = 2;
const ADDITIONS: usize = 2;

/// Where the store is and how it is connected to: `[database]`, whose ranges `config` checks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `postgres://…`, `postgresql://…` or `sqlite://PATH`.
    pub url: SecretString,
    /// A copy to read usage listings and reports from.
    #[serde(deserialize_with = "values::secret")]
    pub replica_url: Option<SecretString>,
    /// The most connections to PostgreSQL, 1 to 1,000; `?pool_max=` in the URL wins.
    pub pool_max: u32,
    /// Idle connections to PostgreSQL are closed after this: 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// The longest wait for a connection: 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The longest that one call may take: 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

/// Checks a database's URL, and the files that it names, as far as that goes without connecting.
///
/// # Errors
/// A sentence that says what is allowed; it repeats no password.
pub fn check_url(url: &SecretString) -> Result<(), String> {
    match url::parse(url.expose_secret())?.address {
        Address::Postgres(address) => postgres::Target::new(*address, Duration::ZERO, Duration::ZERO).map(drop),
        Address::Sqlite(_) => Ok(()),
    }
}

/// Told of every call: its name, how long it took, and whether the database did its part.
pub type Observer = Box<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

/// The database, behind its URL. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    io: IoHandle,
    /// PostgreSQL's one pool; SQLite's only writer.
    write: Pool,
    /// PostgreSQL's one pool; SQLite's readers.
    read: Pool,
    /// The replica, where there is one.
    report: Pool,
    opener: Opener,
    observer: OnceLock<Observer>,
    lookups: Arc<Gathering<UserId, Option<CallerRecord>>>,
    key_lookups: Arc<Gathering<TokenHash, Option<KeyRecord>>>,
    additions: Arc<Gathering<NewCaller, CallerRecord>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("pool", &self.pool_state()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a first connection, which shows that the database is there; a SQLite file that isn't is made. Nothing is
    /// migrated.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that [`check_url`] refuses, [`StoreError::Unavailable`] within `connect_timeout`
    /// if the database can't be reached, [`StoreError::Unfit`] for a pooler that doesn't keep sessions.
    pub async fn connect(config: &Config, io: &IoHandle) -> Result<Self, StoreError> {
        Self::open(config, io, true).await
    }

    /// Does as [`connect`](Self::connect), but makes nothing: `None` where there is no SQLite file.
    ///
    /// # Errors
    /// As those of [`connect`](Self::connect).
    pub async fn find(config: &Config, io: &IoHandle) -> Result<Option<Self>, StoreError> {
        match url::parse(config.url.expose_secret()).map_err(StoreError::Refused)?.address {
            Address::Sqlite(target) if target.is_missing() => Ok(None),
            _ => Self::open(config, io, false).await.map(Some),
        }
    }

    async fn open(config: &Config, io: &IoHandle, makes: bool) -> Result<Self, StoreError> {
        let limit = config.statement_timeout + pooler::PATIENCE;
        let config = config.clone();
        let opening = io.clone();
        let inner = io.run(async move { open(&config, opening, makes) }).await.map_err(|gone| no_answer(&gone))?;
        let store = Self(Arc::new(inner?));
        if let Opener::Postgres(target) = &store.0.opener {
            // Before anything is prepared.
            let target = Arc::clone(target);
            let look = async move |link: &mut Link| pooler::refuse(link, &target).await;
            store.call("pooler", &store.0.write, Scope::Statement, Some(limit), look).await?;
        }
        store.ping().await?;
        Ok(store)
    }

    /// Has `observer` told of every call from now on. The first one stays.
    pub fn observe(&self, observer: Observer) {
        if self.0.observer.set(observer).is_err() {
            tracing::warn!("the store has an observer already");
        }
    }

    /// Keeps a second server away from a SQLite file for as long as the lock lives; commands don't take it. Several
    /// instances may share a PostgreSQL, so there it does nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: another server has it.
    pub fn claim_single_instance(&self) -> Result<InstanceLock, StoreError> {
        match &self.0.opener {
            Opener::Postgres(_) => Ok(InstanceLock::SHARED),
            Opener::Sqlite(target) => InstanceLock::take(&target.path),
        }
    }

    /// Asks the database for an answer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read("ping", async |link| Ok(link.execute(sql::sql!("SELECT 1")).await?)).await?;
        Ok(())
    }

    /// Returns the database's clock.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp(self.read("now", async |link| Ok(link.now().await?)).await?))
    }

    /// Returns the id that the store was given at its first migration. Journals belong to it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn identity(&self) -> Result<Uuid, StoreError> {
        use diesel::QueryDsl;
        let id: String = self
            .read("identity", async |link| {
                Ok(link.get(schema::store_identity::table.select(schema::store_identity::id)).await?)
            })
            .await?;
        id.parse().map_err(|_unreadable| StoreError::Refused("the store's identity is no UUID".into()))
    }

    /// Returns how many connections to the primary are open, idle and allowed.
    #[must_use]
    pub fn pool_state(&self) -> PoolState {
        match &self.0.opener {
            Opener::Postgres(_) => self.0.write.state(),
            Opener::Sqlite(_) => {
                let (write, read) = (self.0.write.state(), self.0.read.state());
                PoolState {
                    connections: write.connections + read.connections,
                    idle: write.idle + read.idle,
                    max: write.max + read.max,
                }
            }
        }
    }

    /// Runs one statement that reads.
    async fn read<T, F>(&self, op: &'static str, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        for<'l> F: AsyncFnOnce(&'l mut Link) -> Result<T, Fault>
            + AsyncWork<&'l mut Link, Result<T, Fault>, Fut: Send>
            + Send
            + 'static,
    {
        self.call(op, &self.0.read, Scope::Statement, None, work).await
    }

    /// Runs several statements that read one and the same state.
    async fn snapshot<T, F>(&self, op: &'static str, pool: &Pool, limit: Option<Duration>, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        for<'l> F: AsyncFnOnce(&'l mut Link) -> Result<T, Fault>
            + AsyncWork<&'l mut Link, Result<T, Fault>, Fut: Send>
            + Send
            + 'static,
    {
        self.call(op, pool, Scope::Snapshot, limit, work).await
    }

    /// Runs statements that write, all or nothing.
    async fn write<T, F>(&self, op: &'static str, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        for<'l> F: AsyncFnOnce(&'l mut Link) -> Result<T, Fault>
            + AsyncWork<&'l mut Link, Result<T, Fault>, Fut: Send>
            + Send
            + 'static,
    {
        self.call(op, &self.0.write, Scope::Write, None, work).await
    }

    async fn call<T, F>(
        &self,
        op: &'static str,
        pool: &Pool,
        scope: Scope,
        limit: Option<Duration>,
        work: F,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        for<'l> F: AsyncFnOnce(&'l mut Link) -> Result<T, Fault>
            + AsyncWork<&'l mut Link, Result<T, Fault>, Fut: Send>
            + Send
            + 'static,
    {
        let (pool, inner) = (pool.clone(), self.0.clone());
        let call = async move {
            let started = Instant::now();
            let result = pool.run(scope, limit, work).await;
            if let Some(observer) = inner.observer.get() {
                observer(op, started.elapsed(), !result.as_ref().is_err_and(Fault::is_outage));
            }
            result
        };
        self.0.io.run(call).await.map_err(|gone| Fault::Unavailable(gone.to_string()))?
    }
}

fn no_answer(gone: &crate::io::NoAnswer) -> StoreError {
    StoreError::Unavailable(gone.to_string())
}

/// Makes the pools, on the runtime that will drive them.
fn open(config: &Config, io: IoHandle, makes: bool) -> Result<Inner, StoreError> {
    let (opener, write) = open_pool(&config.url, config, (1, makes))?;
    let read = match &opener {
        Opener::Postgres(_) => write.clone(),
        Opener::Sqlite(_) => open_pool(&config.url, config, (SQLITE_READERS, makes))?.1,
    };
    let report = match &config.replica_url {
        None => read.clone(),
        Some(replica) => open_pool(replica, config, (SQLITE_READERS, false))?.1,
    };
    Ok(Inner {
        io,
        write,
        read,
        report,
        opener,
        observer: OnceLock::new(),
        lookups: Gathering::new(LOOKUPS),
        key_lookups: Gathering::new(KEY_LOOKUPS),
        additions: Gathering::new(ADDITIONS),
    })
}

/// Makes a pool. Of a SQLite file it is said how many connections there are at most, and whether they make it.
fn open_pool(url: &SecretString, config: &Config, (max, makes): (u32, bool)) -> Result<(Opener, Pool), StoreError> {
    let parsed = url::parse(url.expose_secret()).map_err(StoreError::Refused)?;
    let sizes = Sizes {
        max: parsed.pool_max.unwrap_or(config.pool_max),
        idle_timeout: Some(config.idle_timeout),
        connect_timeout: config.connect_timeout,
        call_timeout: config.statement_timeout + Duration::from_secs(1),
    };
    let (opener, sizes) = match parsed.address {
        Address::Postgres(address) => {
            let target = postgres::Target::new(*address, config.connect_timeout, config.statement_timeout);
            let target = target.map_err(StoreError::Refused)?;
            (Opener::Postgres(Arc::new(target)), sizes)
        }
        Address::Sqlite(target) => {
            let target = sqlite::Target { makes, ..target };
            // An open file costs nothing; closing the last connection would fold the write-ahead log each time.
            (Opener::Sqlite(Arc::new(target)), Sizes { max, idle_timeout: None, ..sizes })
        }
    };
    Ok((opener.clone(), Pool::new(opener, sizes)))
}
