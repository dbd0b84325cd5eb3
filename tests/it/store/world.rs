//! A database of a test's own, of either kind.

use std::{future::Future, time::Duration};

use actors::{
    domain::{
        AccountKey, Amounts, ClassId, Limits, ModelKey, Nanodollars, Outcome, Portion, Posting, Timestamp, UserKey,
        Window, WindowKind,
    },
    ports::{Batch, CursorMove, JournalCursor, LeaseAsk, LeaseKey, LedgerStore, StoreError},
};
use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use hasnot_engine::{
    io::IoThread,
    store::{Config, Store},
};
use uuid::Uuid;

use crate::harness::servers::{postgres, psql};

/// Makes a test of each function, for each kind of database.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $test() { super::super::world::World::sqlite().run(super::$test) })*
        }
        mod postgres {
            $(#[test] fn $test() { super::super::world::World::postgres().run(super::$test) })*
        }
    };
}
pub(super) use on_both;

/// A database, and what it takes to reach it.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) io: IoThread,
    _folder: Option<tempfile::TempDir>,
}

impl World {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("deep/store.db").display());
        Self { url, io: IoThread::start().unwrap(), _folder: Some(folder) }
    }

    pub(crate) fn postgres() -> Self {
        Self::at(postgres().fresh_database())
    }

    pub(crate) fn at(url: String) -> Self {
        Self { url, io: IoThread::start().unwrap(), _folder: None }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    /// Runs a test, on a runtime that isn't the connections'.
    pub(crate) fn run<T: AsyncFnOnce(&Self)>(self, test: T) {
        block_on(test(&self));
    }

    /// Opens the store without a schema.
    pub(crate) async fn connect(&self) -> Result<Store, StoreError> {
        Store::connect(&config(&self.url), &self.io.handle()).await
    }

    /// Opens the store and makes its schema.
    pub(crate) async fn store(&self) -> Store {
        let store = self.connect().await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Does what nobody should, behind the store's back.
    pub(crate) fn execute(&self, sql: &str) {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => SqliteConnection::establish(path).unwrap().batch_execute(sql).unwrap(),
            None => drop(psql(&self.url, sql)),
        }
    }
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn config(url: &str) -> Config {
    Config {
        url: url.into(),
        replica_url: None,
        pool_max: 20,
        idle_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(10),
    }
}

/// 2026-11-23T12:00:00Z.
pub(crate) const NOON: Timestamp = Timestamp(1_795_435_200_000_000);

pub(crate) fn amounts(requests: i64, prompt: i64, completion: i64, cost: i64) -> Amounts {
    Amounts { requests, prompt_tokens: prompt, completion_tokens: completion, cost: Nanodollars(cost) }
}

pub(crate) fn posting(user: i64, class: i32, opened_at: Timestamp, amounts: Amounts) -> Posting {
    Posting {
        id: Uuid::now_v7(),
        user: UserKey(user),
        class: ClassId(class),
        model: ModelKey(1),
        opened_at,
        settled_at: opened_at.plus(Duration::from_secs(3)),
        outcome: Outcome::Completed,
        estimated: false,
        amounts,
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
}

pub(crate) fn step(journal: Uuid, from: u64, to: u64) -> CursorMove {
    CursorMove { journal, from, to, closes: false }
}

pub(crate) fn batch(journal: Uuid, from: u64, postings: Vec<Posting>) -> Batch {
    let to = from + postings.len() as u64;
    Batch { instance: Uuid::nil(), cursors: vec![step(journal, from, to)], postings }
}

/// An ask for nothing: what an account without limits sends.
pub(crate) fn reading(account: AccountKey, window: Window) -> LeaseAsk {
    LeaseAsk {
        key: LeaseKey { account, window },
        exchange: Uuid::new_v4(),
        limits: Limits::default(),
        give_back: Portion::ZERO,
        need: Portion::ZERO,
        most: Portion::ZERO,
        obeyed: 0,
    }
}

/// Reads what was used.
pub(crate) async fn used(store: &Store, accounts: &[(AccountKey, Window)]) -> Vec<Amounts> {
    let asks: Vec<_> = accounts.iter().map(|(account, window)| reading(*account, *window)).collect();
    store.exchange(Uuid::nil(), &asks).await.unwrap().into_iter().map(|answer| answer.used).collect()
}

/// Reads how far journals were applied.
pub(crate) async fn applied(store: &Store, journals: &[Uuid]) -> Vec<u64> {
    let cursors: Vec<JournalCursor> = store.cursors(journals).await.unwrap();
    assert!(cursors.iter().all(|cursor| cursor.known || cursor.applied == 0));
    cursors.into_iter().map(|cursor| cursor.applied).collect()
}

pub(crate) fn account(user: i64, class: i32) -> AccountKey {
    AccountKey { user: UserKey(user), class: ClassId(class) }
}

pub(crate) fn day(at: Timestamp) -> Window {
    WindowKind::Day.at(at)
}

pub(crate) fn month(at: Timestamp) -> Window {
    WindowKind::Month.at(at)
}
