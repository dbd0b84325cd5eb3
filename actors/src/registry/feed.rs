//! The change feed: what was changed in the store lately, readable from every thread.
//!
//! The registry writes it; caches read it. A cache is never *sent* a change: it compares one number before each use and,
//! when that has moved, reads what it missed from the log. So no mailbox can be full, no message can be lost, an idle
//! worker costs nothing, and a change holds for every request that comes after the poll that brought it.
//!
//! # Which copies in the shared cache are believed
//! A copy says which state of the store it was read from ([`Position`]): the number of the last change in it, and when
//! that was made. It is believed if
//! 1. that very change is in the feed's [`History`], and
//! 2. none of the changes after it was about what is copied.
//!
//! The history has no gap and begins no earlier than the log of changes, so that nothing is missed between the two. What
//! the feed has forgotten, hasn't heard of yet, or never was in this database is no reason to believe anything: a copy
//! may be as old as it likes, be written late by a cache that stood still, or come from changes that were lost when the
//! database was put back to a backup. No clock and no lifetime is relied upon.
//!
//! # Limits
//! [`MAX_LOG`] changes are remembered, for [`KEEP`]. A reader that has missed more is told to forget
//! everything.
//! [`MAX_REVOKED`] revoked tokens are held; beyond them no token's revocation can be told, and that is what the feed
//! says ([`Revocation::Unknown`]): the signing secret has to be changed then.

mod history;
mod reader;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use history::History;
pub use reader::{News, Reader};

use crate::{
    domain::{CallerRecord, Position, Timestamp, TokenHash, UserId},
    ports::{Change, Changes, KeyRecord, Recall},
};

/// How long a change is remembered: a caller lives at most 600 s in the shared cache and 600 s in a worker's.
pub const KEEP: Duration = Duration::from_secs(20 * 60);
/// The most changes that are remembered: a page of [`crate::ports::Directory::changes`].
pub const MAX_LOG: usize = 10_000;
/// The most revoked tokens that are held: about 64 MiB.
pub const MAX_REVOKED: usize = 1_000_000;
/// How long after the last successful poll the feed still counts as fresh: four polls.
pub const FRESH: Duration = Duration::from_secs(2);

/// How much longer than its end a revocation is held: `exp` may be exceeded by a leeway of 30 s.
const REVOKED_GRACE: Duration = Duration::from_secs(60);

/// Whether a token was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Not as far as the feed has come.
    None,
    /// It was.
    Revoked,
    /// More tokens are revoked than can be held.
    Unknown,
}

/// What was changed lately. One in the process.
#[derive(Debug)]
pub struct Feed {
    /// How many changes were written, resets included. The same number as in `recent`, to be compared without a lock.
    edition: AtomicU64,
    /// Until when the feed is fresh, in µs after `origin`.
    fresh_until: AtomicU64,
    origin: Instant,
    recent: RwLock<Recent>,
    recalled: Notify,
}

#[derive(Debug, Default)]
struct Recent {
    /// Where the feed stands in the store's sequence.
    last: i64,
    /// The number of the next change to be written.
    next: u64,
    /// The number of the log's first change. `next - first` is the log's length.
    first: u64,
    /// The number that `next` had at the last reset.
    reset: u64,
    log: VecDeque<Logged>,
    users: HashMap<UserId, Mark>,
    keys: HashMap<TokenHash, Mark>,
    revoked: HashMap<TokenHash, Timestamp>,
    revoked_overflow: bool,
    /// Leases that were asked back. Not in the log: they are for one reader only.
    recalls: Recalls,
    /// The states of the store since which all changes are in the log.
    history: History,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    number: u64,
    sequence: i64,
    change: Change,
}

/// What was asked back since it was last taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recalls {
    /// Each of them, at most [`MAX_LOG`].
    pub asked: Vec<Recall>,
    /// There were more: whatever is leased is asked back.
    pub all: bool,
    /// The change up to which all are known.
    pub last: i64,
}

/// When something was last changed: by the store's sequence and by the feed's own numbers.
#[derive(Debug, Clone, Copy)]
struct Mark {
    sequence: i64,
    number: u64,
}

impl Feed {
    /// Makes an empty feed, which is not fresh.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            edition: AtomicU64::new(0),
            fresh_until: AtomicU64::new(0),
            origin: now,
            recent: RwLock::default(),
            recalled: Notify::new(),
        })
    }

    /// Returns a reader that has seen everything up to now: for a cache that is still empty.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader { seen: self.edition(), feed: Arc::clone(self) }
    }

    /// Starts afresh with what the store says now; every reader forgets everything.
    ///
    /// `revoked` has to be read after `changes`, so that no revocation falls between them.
    pub fn load(&self, changes: &Changes, revoked: Vec<(TokenHash, Timestamp)>, now: Instant) {
        let mut recent = self.write();
        let next = recent.next + 1;
        *recent = Recent { next, first: next, reset: next, last: i64::MIN, ..Recent::default() };
        // What was asked back while the feed was not followed isn't known.
        recent.recalls.all = true;
        for (token, end) in revoked {
            recent.revoke(token, end);
        }
        recent.append(changes, now);
        if changes.unreadable {
            // What can't be read may be about any copy that is older.
            recent.history.forget_before(changes.last);
        }
        self.publish(recent);
    }

    /// Writes down the changes that a poll brought.
    pub fn apply(&self, changes: &Changes, now: Instant) {
        let mut recent = self.write();
        recent.append(changes, now);
        self.publish(recent);
    }

    /// Notes that a poll which began at `asked_at` succeeded.
    pub fn renew(&self, asked_at: Instant) {
        let until = asked_at.saturating_duration_since(self.origin) + FRESH;
        self.fresh_until.fetch_max(u64::try_from(until.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says whether the last successful poll began less than [`FRESH`] ago.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.origin);
        u64::try_from(age.as_micros()).unwrap_or(u64::MAX) < self.fresh_until.load(Ordering::Relaxed)
    }

    /// Returns where the feed stands in the store's sequence.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.read().last
    }

    /// Returns the number to hand to `…_changed_since` later.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    /// Says whether a user was changed after the feed had this edition.
    #[must_use]
    pub fn user_changed_since(&self, user: &UserId, edition: u64) -> bool {
        let recent = self.read();
        recent.reset > edition || recent.users.get(user).is_some_and(|mark| mark.number >= edition)
    }

    /// Says whether an API key was changed after the feed had this edition.
    #[must_use]
    pub fn key_changed_since(&self, key: &TokenHash, edition: u64) -> bool {
        let recent = self.read();
        recent.reset > edition || recent.keys.get(key).is_some_and(|mark| mark.number >= edition)
    }

    /// Says whether a copy of a user from the shared cache is what the store says, as far as the feed knows.
    #[must_use]
    pub fn trusts_copy(&self, copy: &CallerRecord) -> bool {
        let recent = self.read();
        recent.trusts(copy.as_of, recent.users.get(&copy.id))
    }

    /// Says the same of the shared cache's copy of a key.
    #[must_use]
    pub fn trusts_key(&self, key: &TokenHash, copy: &KeyRecord) -> bool {
        let recent = self.read();
        recent.trusts(copy.as_of, recent.keys.get(key))
    }

    /// Says whether a token was revoked.
    #[must_use]
    pub fn revocation(&self, token: &TokenHash) -> Revocation {
        let recent = self.read();
        if recent.revoked.contains_key(token) {
            Revocation::Revoked
        } else if recent.revoked_overflow {
            Revocation::Unknown
        } else {
            Revocation::None
        }
    }

    /// Waits until a lease is asked back, or may have been.
    pub async fn recalled(&self) {
        self.recalled.notified().await;
    }

    /// Takes what was asked back since the last call. For one reader.
    pub fn take_recalls(&self) -> Recalls {
        let mut recent = self.write();
        let last = recent.last;
        Recalls { last, ..std::mem::take(&mut recent.recalls) }
    }

    /// Drops changes older than [`KEEP`] and revocations of tokens that have ended.
    pub fn prune(&self, now: Instant, wall: Timestamp) {
        let mut recent = self.write();
        while recent.log.front().is_some_and(|oldest| now.saturating_duration_since(oldest.at) >= KEEP) {
            recent.forget_oldest();
        }
        recent.revoked.retain(|_, end| end.plus(REVOKED_GRACE) > wall);
    }

    fn publish(&self, recent: RwLockWriteGuard<'_, Recent>) {
        let recalled = recent.recalls != Recalls::default();
        self.edition.store(recent.next, Ordering::Release);
        drop(recent);
        if recalled {
            self.recalled.notify_one();
        }
    }

    // A thread that panicked while it held the lock can at worst have written half a page of changes, and `last`
    // moves with each of them.
    fn read(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Says whether a copy of that state is still right; `changed` is when its subject was changed last.
    fn trusts(&self, as_of: Position, changed: Option<&Mark>) -> bool {
        self.history.has(as_of) && changed.is_none_or(|mark| mark.sequence <= as_of.seq)
    }

    fn append(&mut self, changes: &Changes, now: Instant) {
        for (position, change) in &changes.items {
            let sequence = position.seq;
            if sequence <= self.last {
                continue;
            }
            self.last = sequence;
            self.history.add(*position);
            if let Change::Recall(recall) = change {
                self.recalls.add(*recall);
                continue;
            }
            let mark = Mark { sequence, number: self.next };
            match change {
                Change::User(user) => drop(self.users.insert(user.clone(), mark)),
                Change::Key(key) => drop(self.keys.insert(*key, mark)),
                Change::Token(token, end) => self.revoke(*token, *end),
                Change::Catalog | Change::Recall(_) => {}
            }
            let logged = Logged { at: now, number: self.next, sequence, change: change.clone() };
            self.log.push_back(logged);
            self.next += 1;
            if self.log.len() > MAX_LOG {
                self.forget_oldest();
            }
        }
        if self.last < changes.last {
            self.last = changes.last;
            self.history.add(Position { seq: changes.last, at: changes.mark });
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.log.pop_front() else { return };
        self.first = oldest.number + 1;
        self.history.forget_before(oldest.sequence);
        match &oldest.change {
            Change::User(user) => forget(&mut self.users, user, oldest.number),
            Change::Key(key) => forget(&mut self.keys, key, oldest.number),
            Change::Token(..) | Change::Catalog | Change::Recall(_) => {}
        }
    }

    fn revoke(&mut self, token: TokenHash, end: Timestamp) {
        if self.revoked.len() < MAX_REVOKED || self.revoked.contains_key(&token) {
            self.revoked.insert(token, end);
        } else if !std::mem::replace(&mut self.revoked_overflow, true) {
            tracing::error!(limit = MAX_REVOKED, "too many revoked tokens: none can be verified; change the secret");
        }
    }
}

impl Recalls {
    fn add(&mut self, recall: Recall) {
        if self.asked.len() < MAX_LOG {
            self.asked.push(recall);
        } else {
            self.all = true;
        }
    }
}

/// Drops a mark unless a younger change has renewed it.
fn forget<K: Hash + Eq>(marks: &mut HashMap<K, Mark>, key: &K, number: u64) {
    if marks.get(key).is_some_and(|mark| mark.number == number) {
        marks.remove(key);
    }
}

#[cfg(test)]
mod tests;
