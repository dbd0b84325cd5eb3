//! Redis, without its clock: nothing ends here, as in the worst case.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;

use super::Faults;
use crate::{
    domain::{CallerRecord, TokenHash, UserId},
    ports::{KeyRecord, SharedCache, UsageSnapshot},
};

/// A shared cache in memory.
#[derive(Debug, Default)]
pub struct FakeCache {
    /// For look-ups. Down means: a miss.
    pub reads: Faults,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    callers: HashMap<UserId, CallerRecord>,
    keys: HashMap<TokenHash, KeyRecord>,
    usage: HashMap<UserId, serde_json::Value>,
}

impl FakeCache {
    /// Returns the copy of a user.
    #[must_use]
    pub fn copy(&self, user: &str) -> Option<CallerRecord> {
        self.state().callers.get(user).cloned()
    }

    /// Returns the snapshot of a user's usage.
    #[must_use]
    pub fn usage(&self, user: &str) -> Option<serde_json::Value> {
        self.state().usage.get(user).cloned()
    }

    /// Says whether a key is kept.
    #[must_use]
    pub fn has_key(&self, key: &TokenHash) -> bool {
        self.state().keys.contains_key(key)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedCache for FakeCache {
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Option<CallerRecord>> {
        Box::pin(async move {
            self.reads.pass().await.ok()?;
            self.state().callers.get(user).cloned()
        })
    }

    fn post_caller(&self, caller: &CallerRecord) {
        self.state().callers.insert(caller.id.clone(), caller.clone());
    }

    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Option<KeyRecord>> {
        Box::pin(async move {
            self.reads.pass().await.ok()?;
            self.state().keys.get(key).cloned()
        })
    }

    fn post_key(&self, key: &TokenHash, record: &KeyRecord) {
        self.state().keys.insert(*key, record.clone());
    }

    fn post_usage(&self, user: &UserId, snapshot: &UsageSnapshot<'_>) {
        self.state().usage.insert(user.clone(), serde_json::json!(snapshot));
    }

    fn healthy(&self) -> Option<bool> {
        Some(true)
    }
}
