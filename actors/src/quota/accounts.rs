//! Accounts: the counts of every user that was seen lately, shared by all workers.
//!
//! A user's meter and accounts lie behind one lock, held for a few integers' time and never across an `.await`, so a
//! limit is exact over all workers. What is not in memory is read from the store: all accounts that wait share one
//! statement, in one flight at a time.
//!
//! Invariants:
//! - Counts are read from the store only while nobody holds a reservation in them and everything that was settled in
//!   them has reached the store; so nothing is counted twice, and nothing is forgotten.
//! - A user is dropped from memory only then, too.
//! - There are never more than `max_accounts` users in memory; where none can be dropped, new ones are refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::account::{Account, Meter};
use crate::{
    domain::{AccountKey, Amounts, ClassId, Timestamp, UserId, UserKey, Window},
    ports::{LedgerStore, StoreError},
};

const SHARDS: usize = 16;
/// The most accounts that one statement reads.
const LOAD_BATCH: usize = 1_000;

/// Locks, whether or not a thread panicked while it held the lock: every change here is a whole one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One user's counts on this instance.
#[derive(Debug)]
pub(crate) struct UserState {
    pub(crate) key: UserKey,
    pub(crate) id: UserId,
    pub(crate) counts: Mutex<Counts>,
}

/// What lies behind a user's lock.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) meter: Meter,
    accounts: Vec<(ClassId, Account)>,
    last_used: Instant,
    /// Postings that were settled here and haven't reached the store.
    unflushed: u64,
}

impl Counts {
    /// Returns the account, if its counts of that window are known.
    pub(crate) fn account(&mut self, class: ClassId, window: Window) -> Option<&mut Account> {
        let find = |entry: &&mut (ClassId, Account)| entry.0 == class && entry.1.window == window;
        self.accounts.iter_mut().find(find).map(|(_, account)| account)
    }

    /// Replaces a promise, made at that time in that class and window, by the truth, which counts in the windows of
    /// both kinds, as it does in the store. `posted` says whether a posting of it is on its way there.
    pub(crate) fn settle(
        &mut self,
        (class, window, opened_at): (ClassId, Window, Timestamp),
        granted: Amounts,
        truth: Amounts,
        posted: bool,
    ) {
        for (_, account) in self.accounts.iter_mut().filter(|(of, _)| *of == class) {
            if account.window == window {
                account.settle(granted, truth);
            } else if account.window == account.window.kind().at(opened_at) {
                account.settle(Amounts::ZERO, truth);
            }
        }
        self.unflushed += u64::from(posted);
    }

    fn insert(&mut self, class: ClassId, window: Window, used: Amounts) {
        if self.account(class, window).is_some() {
            return;
        }
        // A window that is over goes when nobody is left who settles in it.
        self.accounts.retain(|(_, account)| account.window.end() > window.start() || account.reserved != Amounts::ZERO);
        self.accounts.push((class, Account { window, used, reserved: Amounts::ZERO }));
    }

    fn is_idle(&self, now: Instant, second: u64, idle: Duration) -> bool {
        now.saturating_duration_since(self.last_used) >= idle
            && self.meter.is_idle(second)
            && self.unflushed == 0
            && self.accounts.iter().all(|(_, account)| account.reserved == Amounts::ZERO)
    }
}

/// What a waiting request is told when its account's counts were read, or couldn't be.
type Answer = Result<(), StoreError>;

/// An account to be read, and who waits for it.
struct Read {
    user: Arc<UserState>,
    waiters: Vec<oneshot::Sender<Answer>>,
}

/// Accounts to be read.
#[derive(Default)]
struct Queue {
    flying: bool,
    reads: HashMap<(AccountKey, Window), Read>,
}

/// The table.
pub struct Accounts {
    store: Arc<dyn LedgerStore>,
    shards: [Mutex<HashMap<UserKey, Arc<UserState>>>; SHARDS],
    most_in_shard: usize,
    started: Instant,
    queue: Mutex<Queue>,
}

impl Accounts {
    /// Makes an empty table for at most `max_accounts` users.
    #[must_use]
    pub fn new(store: Arc<dyn LedgerStore>, max_accounts: usize, now: Instant) -> Self {
        Self {
            store,
            shards: std::array::from_fn(|_| Mutex::default()),
            most_in_shard: (max_accounts / SHARDS).max(1),
            started: now,
            queue: Mutex::default(),
        }
    }

    fn shard(&self, user: UserKey) -> &Mutex<HashMap<UserKey, Arc<UserState>>> {
        let index = usize::try_from(user.0.rem_euclid(16)).unwrap_or(0);
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    /// Returns whole seconds since the table was made.
    pub(crate) fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }

    /// Finds or adds a user; `None` where the table is full of busy ones.
    pub(crate) fn user(&self, key: UserKey, id: &UserId, now: Instant, idle: Duration) -> Option<Arc<UserState>> {
        let mut shard = lock(self.shard(key));
        if let Some(user) = shard.get(&key) {
            lock(&user.counts).last_used = now;
            return Some(Arc::clone(user));
        }
        for idle in [idle, Duration::ZERO] {
            if shard.len() >= self.most_in_shard {
                self.evict(&mut shard, now, idle);
            }
        }
        if shard.len() >= self.most_in_shard {
            return None;
        }
        let counts = Counts { meter: Meter::default(), accounts: Vec::new(), last_used: now, unflushed: 0 };
        let user = Arc::new(UserState { key, id: id.clone(), counts: Mutex::new(counts) });
        shard.insert(key, Arc::clone(&user));
        Some(user)
    }

    /// Drops the users of one shard that nobody has asked for in `idle`. Called by the gates, in turn.
    pub(crate) fn sweep(&self, turn: usize, now: Instant, idle: Duration) {
        if let Some(shard) = self.shards.get(turn % SHARDS) {
            self.evict(&mut lock(shard), now, idle);
        }
    }

    fn evict(&self, shard: &mut HashMap<UserKey, Arc<UserState>>, now: Instant, idle: Duration) {
        let second = self.second(now);
        shard.retain(|_, user| Arc::strong_count(user) > 1 || !lock(&user.counts).is_idle(now, second, idle));
    }

    /// Notes that so many of a user's postings have reached the store, and returns what is known of that user, for the
    /// snapshot in the shared cache.
    pub(crate) fn post_flushed(&self, user: UserKey, postings: u64) -> Option<(UserId, Vec<(ClassId, Account)>)> {
        let user = lock(self.shard(user)).get(&user).cloned()?;
        let mut counts = lock(&user.counts);
        counts.unflushed = counts.unflushed.saturating_sub(postings);
        Some((user.id.clone(), counts.accounts.clone()))
    }

    /// Queues an account to be read from the store. Returns the answer to wait for, and whether the caller has to see
    /// that [`Accounts::fly`] runs, since nobody does.
    pub(crate) fn post_load(&self, user: &Arc<UserState>, class: ClassId, window: Window) -> (Waiting, bool) {
        let (sender, answer) = oneshot::channel();
        let key = AccountKey { user: user.key, class };
        let mut queue = lock(&self.queue);
        let read = || Read { user: Arc::clone(user), waiters: Vec::new() };
        queue.reads.entry((key, window)).or_insert_with(read).waiters.push(sender);
        (Waiting(answer), !std::mem::replace(&mut queue.flying, true))
    }

    /// Reads what is queued until nothing is. Run by an actor, not by a request, since a request may go away.
    pub(crate) async fn fly(self: Arc<Self>) {
        let mut landing = Landing { accounts: &self, done: false };
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                landing.done = true;
                return;
            }
            let keys: Vec<_> = batch.iter().map(|(key, _)| *key).collect();
            let totals = self.store.totals(&keys).await;
            for (index, ((key, window), Read { user, waiters })) in batch.into_iter().enumerate() {
                let answer = match &totals {
                    Ok(totals) => {
                        let used = totals.get(index).copied().unwrap_or_default();
                        lock(&user.counts).insert(key.class, window, used);
                        Ok(())
                    }
                    Err(error) => Err(error.clone()),
                };
                for waiter in waiters {
                    // Whoever left needs no answer.
                    let _left = waiter.send(answer.clone()).is_err();
                }
            }
        }
    }

    /// Takes what is queued; where nothing is, the flight is over, within the same lock.
    fn next_batch(&self) -> Vec<((AccountKey, Window), Read)> {
        let mut queue = lock(&self.queue);
        let keys: Vec<_> = queue.reads.keys().take(LOAD_BATCH).copied().collect();
        queue.flying = !keys.is_empty();
        keys.into_iter().filter_map(|key| queue.reads.remove(&key).map(|read| (key, read))).collect()
    }
}

/// The answer to a read that was queued.
pub(crate) struct Waiting(oneshot::Receiver<Answer>);

impl Waiting {
    /// Waits until the counts are in memory.
    ///
    /// # Errors
    /// The store's; the next request tries again.
    pub(crate) async fn answer(self) -> Answer {
        self.0.await.unwrap_or_else(|_closed| Err(StoreError::Unavailable("the read was given up".into())))
    }
}

/// Ends a flight that was given up: whoever waits is told so, and the next request flies.
struct Landing<'a> {
    accounts: &'a Accounts,
    /// Nothing waited any more: whatever is queued now belongs to the next flight.
    done: bool,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut queue = lock(&self.accounts.queue);
            queue.flying = false;
            queue.reads.clear();
        }
    }
}
