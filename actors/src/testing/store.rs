//! The store: users, keys, revocations, the change sequence, the catalog.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;

use super::Faults;
use crate::{
    domain::{CallerRecord, CatalogRows, PlanId, Position, Role, Timestamp, TokenHash, UserId, UserKey},
    ports::{CatalogSource, Change, Changes, Directory, KeyRecord, StoreError},
};

/// Makes a user's record with the plan 1.
///
/// # Panics
/// `id` is no user id.
#[must_use]
#[expect(clippy::unwrap_used, reason = "a test's own literal")]
pub fn caller(key: i64, id: &str) -> CallerRecord {
    let id = id.parse().unwrap();
    let (role, as_of) = (Role::User, Position::default());
    CallerRecord { key: UserKey(key), id, role, plan: PlanId(1), disabled: false, version: 0, as_of }
}

/// A directory in memory. Every change of it gets the next sequence number.
#[derive(Debug, Default)]
pub struct FakeDirectory {
    /// For look-ups of users.
    pub callers: Faults,
    /// For provisioning.
    pub provisions: Faults,
    /// For look-ups of keys.
    pub keys: Faults,
    /// For polls of the change sequence, first reads included.
    pub polls: Faults,
    /// For notes of last use.
    pub touches: Faults,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<UserId, CallerRecord>,
    keys: HashMap<TokenHash, KeyRecord>,
    revoked: Vec<(TokenHash, Timestamp)>,
    changes: Vec<(Position, Change)>,
    /// How often the sequence was started anew.
    rewound: i64,
    touched: Vec<Vec<(TokenHash, Timestamp)>>,
}

impl State {
    fn log(&mut self, change: Change) -> i64 {
        let seq = self.position().seq + 1;
        self.changes.push((Position { seq, at: self.rewound + 1 }, change));
        seq
    }

    fn position(&self) -> Position {
        self.changes.last().map_or(Position::default(), |(last, _)| *last)
    }

    fn mark(&self, number: i64) -> i64 {
        self.changes.iter().find(|(known, _)| known.seq == number).map_or(0, |(known, _)| known.at)
    }

    fn key(&self, key: &TokenHash) -> Option<KeyRecord> {
        self.keys.get(key).map(|key| KeyRecord { as_of: self.position(), ..key.clone() })
    }

    fn user(&self, id: &UserId) -> Option<CallerRecord> {
        self.users.get(id).map(|user| CallerRecord { as_of: self.position(), ..user.clone() })
    }
}

impl FakeDirectory {
    /// Adds or replaces a user; its version is the change's number, which is returned.
    pub fn set_user(&self, record: CallerRecord) -> i64 {
        let mut state = self.state();
        let version = state.log(Change::User(record.id.clone()));
        state.users.insert(record.id.clone(), CallerRecord { version, ..record });
        version
    }

    /// Adds or replaces an API key.
    pub fn set_key(&self, key: TokenHash, record: KeyRecord) {
        let mut state = self.state();
        state.log(Change::Key(key));
        state.keys.insert(key, record);
    }

    /// Revokes a JWT.
    pub fn revoke(&self, token: TokenHash, end: Timestamp) {
        let mut state = self.state();
        state.log(Change::Token(token, end));
        state.revoked.push((token, end));
    }

    /// Writes a change without making one.
    pub fn announce(&self, change: Change) -> i64 {
        self.state().log(change)
    }

    /// Forgets a change, as the store does with old ones.
    pub fn drop_change(&self, number: i64) {
        self.state().changes.retain(|(kept, _)| kept.seq != number);
    }

    /// Forgets all changes and starts the sequence anew, as a restored backup does. Users and keys stay.
    pub fn rewind(&self) {
        let mut state = self.state();
        state.changes.clear();
        state.rewound += 1;
    }

    /// Returns the state that look-ups read now.
    #[must_use]
    pub fn position(&self) -> Position {
        self.state().position()
    }

    /// Returns the record of a user, as a look-up finds it.
    #[must_use]
    pub fn user(&self, id: &str) -> Option<CallerRecord> {
        self.state().user(&id.parse().ok()?)
    }

    /// Returns what each call of `touch_keys` brought.
    #[must_use]
    pub fn touched(&self) -> Vec<Vec<(TokenHash, Timestamp)>> {
        self.state().touched.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for FakeDirectory {
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<Option<CallerRecord>, StoreError>> {
        Box::pin(async move {
            // Read first, answer later: what a slow store answers may be what was before.
            let found = self.state().user(user);
            self.callers.pass().await?;
            Ok(found)
        })
    }

    fn provision<'a>(
        &'a self,
        user: &'a UserId,
        plan: Option<&'a str>,
    ) -> BoxFuture<'a, Result<CallerRecord, StoreError>> {
        Box::pin(async move {
            self.provisions.pass().await?;
            if let Some(record) = self.state().user(user) {
                return Ok(record);
            }
            let key = 1_000 + i64::try_from(self.state().users.len()).unwrap_or(0);
            let plan = PlanId(if plan == Some("team") { 2 } else { 1 });
            let record = CallerRecord { plan, ..caller(key, user.as_str()) };
            let version = self.set_user(record.clone());
            Ok(CallerRecord { version, as_of: self.position(), ..record })
        })
    }

    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Result<Option<KeyRecord>, StoreError>> {
        Box::pin(async move {
            let found = self.state().key(key);
            self.keys.pass().await?;
            Ok(found)
        })
    }

    fn touch_keys<'a>(&'a self, used: &'a [(TokenHash, Timestamp)]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.touches.pass().await?;
            self.state().touched.push(used.to_vec());
            Ok(())
        })
    }

    fn revoked_tokens(&self) -> BoxFuture<'_, Result<Vec<(TokenHash, Timestamp)>, StoreError>> {
        Box::pin(async move { Ok(self.state().revoked.clone()) })
    }

    fn changes(&self, after: i64) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(async move {
            self.polls.pass().await?;
            let state = self.state();
            let items: Vec<_> =
                state.changes.iter().filter(|(known, _)| known.seq > after).take(10_000).cloned().collect();
            let last = items.last().map_or(state.position().seq, |(last, _)| last.seq);
            Ok(Changes { last, mark: state.mark(last), asked: state.mark(after), items, ..Changes::default() })
        })
    }

    fn recent_changes(&self) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(async move {
            self.polls.pass().await?;
            let state = self.state();
            let old = state.changes.len().saturating_sub(10_000);
            let (items, Position { seq: last, at: mark }) = (state.changes.iter().skip(old), state.position());
            Ok(Changes { last, mark, items: items.cloned().collect(), ..Changes::default() })
        })
    }
}

/// A catalog in memory.
#[derive(Debug, Default)]
pub struct FakeCatalog {
    /// For reads.
    pub reads: Faults,
    rows: Mutex<CatalogRows>,
}

impl FakeCatalog {
    /// Replaces the rows.
    pub fn set(&self, rows: CatalogRows) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

impl CatalogSource for FakeCatalog {
    fn catalog(&self) -> BoxFuture<'_, Result<CatalogRows, StoreError>> {
        Box::pin(async move {
            let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.reads.pass().await?;
            Ok(rows)
        })
    }
}
