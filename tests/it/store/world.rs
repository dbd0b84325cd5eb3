//! A database of a test's own, of either kind.

use std::{future::Future, time::Duration};

use actors::{
    domain::{
        AccountKey, Amounts, ClassId, ModelKey, Nanodollars, Outcome, Posting, Timestamp, UserKey, Window, WindowKind,
    },
    ports::{Batch, CursorMove, StoreError},
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
    }
}

pub(crate) fn batch(journal: Uuid, from: u64, postings: Vec<Posting>) -> Batch {
    let to = from + postings.len() as u64;
    Batch { cursors: vec![CursorMove { journal, from, to }], postings }
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
