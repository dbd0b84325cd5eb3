//! Accounts: the counts of every user that was seen lately, shared by all workers.
//!
//! A user's meter and accounts lie behind one lock, held for a few integers' time and never across an `.await`, so a
//! limit is exact over all workers. What is not in memory is read from the store (`lending`).
//!
//! Invariants:
//! - A user is dropped from memory only while nobody holds a reservation of theirs, everything that was settled has
//!   reached the store, and no exchange is under way. What is lent to them then stays lent, and is taken up again when
//!   they come back.
//! - An account begins to be known when nothing that counts in it is on its way to the store: what the store says of it
//!   is then all there is.
//! - There are never more than `max_accounts` users in memory; where none can be dropped, new ones are refused.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    account::{Account, Grant},
    footing::Footing,
    lending::Queue,
    loan::Held,
    meter::Meter,
};
use crate::{
    domain::{Amounts, ClassId, Limits, PlanLimit, Portion, Posting, Timestamp, UserId, UserKey, Window, WindowKind},
    lock::lock,
    metrics::Metrics,
    ports::{Clock, LedgerStore},
};

pub(super) const SHARDS: usize = 16;

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
    pub(super) held: Vec<Held>,
    pub(super) last_used: Instant,
    /// Postings that were settled here and haven't reached the store.
    unflushed: u64,
}

/// What a reservation is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Against {
    pub(crate) line: PlanLimit,
    pub(crate) window: Window,
    pub(crate) opened_at: Timestamp,
    /// The account's generation when it was promised.
    pub(crate) generation: u64,
}

impl Counts {
    /// Returns what is held of an account, if its counts of that window are known.
    pub(crate) fn held(&mut self, class: ClassId, window: Window) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.class == class && held.account.window == window)
    }

    /// Says whether an account can go on without the store: nothing has to be lent to it, and it is known. One whose window
    /// before is known begins this one at zero.
    pub(super) fn goes_on(&mut self, line: &PlanLimit, window: Window, now: Timestamp) -> bool {
        if line.limits != Limits::default() {
            return false;
        }
        let before = |held: &Held| held.class == line.class && held.account.window.kind() == window.kind();
        let known = self.held(line.class, window).is_some();
        if !known && self.held.iter().any(before) && !self.awaits(line.class, window) {
            self.insert(Held::new(line.class, Account::new(window, Amounts::ZERO)), now);
            return true;
        }
        known
    }

    /// Says whether nothing is known of an account, and postings that may count in it are on their way to the store: those
    /// that were admitted in a window of the other kind. What the store says of it lacks them.
    pub(super) fn awaits(&self, class: ClassId, window: Window) -> bool {
        let of_class = || self.held.iter().filter(|held| held.class == class).map(|held| (held, held.account.window));
        let underway = |(held, other): (&Held, Window)| other.kind() != window.kind() && held.has_sent();
        of_class().all(|(_, known)| known != window) && of_class().any(underway)
    }

    /// Returns the accounts in which a promise's truth counts: those of the windows of both kinds, as in the store.
    fn counting(&mut self, against: &Against) -> impl Iterator<Item = &mut Held> {
        let Against { line, window, opened_at, .. } = *against;
        let counts = move |counted: Window| counted == window || counted == counted.kind().at(opened_at);
        self.held.iter_mut().filter(move |held| held.class == line.class && counts(held.account.window))
    }

    /// Replaces a promise by the truth. Returns what it uses up of the lease. `posted` says whether a posting of it is on
    /// its way to the store.
    pub(crate) fn settle(&mut self, against: &Against, granted: Grant, truth: Amounts, posted: bool) -> Portion {
        let mut leased = Portion::ZERO;
        for held in self.counting(against) {
            let used_up = if held.account.window == against.window {
                // What was taken from a lease that is forgotten can't go back to it.
                let current = held.loan.generation == against.generation;
                let taken = if current { granted.taken } else { Portion::ZERO };
                leased = held.account.settle(Grant { taken, ..granted }, truth, &against.line.limits);
                leased
            } else {
                held.account.settle(Grant::default(), truth, &Limits::default())
            };
            if posted {
                held.sent(Portion::from(truth) - used_up);
            }
            held.touch();
        }
        self.unflushed += u64::from(posted);
        leased
    }

    /// Takes back a truth that couldn't be recorded, and gives back what it used up of the lease, if that is still held.
    pub(super) fn unsettle(&mut self, against: &Against, truth: Amounts, leased: Portion, posted: bool) {
        for held in self.counting(against) {
            let leased = if held.account.window == against.window { leased } else { Portion::ZERO };
            if held.loan.generation == against.generation {
                held.account.lease.free += leased;
            }
            held.account.used -= truth;
            if posted {
                held.arrived(Portion::from(truth) - leased);
            }
            held.touch();
        }
        self.unflushed = self.unflushed.saturating_sub(u64::from(posted));
    }

    /// Adds an account. Those of windows that are over go, when nobody is left who settles in them.
    pub(super) fn insert(&mut self, held: Held, now: Timestamp) -> &mut Held {
        self.held.retain(|old| old.account.window.end() > now || !old.is_quiet());
        let index = self.held.len();
        // Most users have one account; room for four, which a list takes by itself, would be 2 KiB for each user.
        self.held.reserve_exact(1);
        self.held.push(held);
        // Just pushed.
        self.held.get_mut(index).unwrap_or_else(|| unreachable!("an account was just added"))
    }

    fn is_idle(&self, now: Instant, second: u64, idle: Duration) -> bool {
        now.saturating_duration_since(self.last_used) >= idle
            && self.meter.is_idle(second)
            && self.unflushed == 0
            && self.held.iter().all(|held| held.is_quiet() && !held.loan.asked)
    }
}

/// The table.
pub struct Accounts {
    pub(super) store: Arc<dyn LedgerStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) instance: Uuid,
    pub(super) shards: [Mutex<HashMap<UserKey, Arc<UserState>>>; SHARDS],
    most_in_shard: usize,
    started: Instant,
    pub(super) queue: Mutex<Queue>,
    pub(super) wanted: Notify,
    /// A flight has ended.
    pub(super) landed: Notify,
    pub(super) footing: Footing,
    /// The store didn't answer the last heartbeat.
    away: AtomicBool,
    /// When the day began whose predecessors' leases the store has dropped.
    day: AtomicI64,
    metrics: OnceLock<Metrics>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Makes an empty table for at most `max_accounts` users; leases are lent to `instance`.
    #[must_use]
    pub fn new(store: Arc<dyn LedgerStore>, instance: Uuid, max_accounts: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            instance,
            shards: std::array::from_fn(|_| Mutex::default()),
            most_in_shard: (max_accounts / SHARDS).max(1),
            started: clock.now(),
            clock,
            queue: Mutex::default(),
            wanted: Notify::new(),
            landed: Notify::new(),
            footing: Footing::default(),
            away: AtomicBool::new(false),
            day: AtomicI64::new(i64::MIN),
            metrics: OnceLock::new(),
        }
    }

    /// Has this counted from now on.
    pub(crate) fn observe(&self, metrics: Metrics) {
        // The first one stays.
        let _first = self.metrics.set(metrics).is_ok();
    }

    /// Counts something, where that is asked for.
    pub(crate) fn count(&self, event: impl FnOnce(&Metrics)) {
        self.metrics.get().map(event).unwrap_or_default();
    }

    /// Returns how many accounts have something leased that is promised to nobody.
    pub(crate) fn leases(&self) -> u64 {
        let lent = |held: &&Held| held.account.lease.free != Portion::ZERO;
        let of = |user: &Arc<UserState>| lock(&user.counts).held.iter().filter(lent).count() as u64;
        self.shards.iter().map(|shard| lock(shard).values().map(of).sum::<u64>()).sum()
    }

    pub(super) fn shard(&self, user: UserKey) -> &Mutex<HashMap<UserKey, Arc<UserState>>> {
        let index = usize::try_from(user.0).unwrap_or(0) % SHARDS;
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    /// Returns a user who is in memory.
    pub(super) fn known(&self, key: UserKey) -> Option<Arc<UserState>> {
        lock(self.shard(key)).get(&key).cloned()
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
        let counts = Counts { meter: Meter::default(), held: Vec::new(), last_used: now, unflushed: 0 };
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

    /// Notes that these postings of a user have reached the store, and returns what is known of that user, for the
    /// snapshot in the shared cache.
    pub(crate) fn post_flushed(
        &self,
        user: UserKey,
        postings: &[&Posting],
    ) -> Option<(UserId, Vec<(ClassId, Account)>)> {
        let user = self.known(user)?;
        let mut counts = lock(&user.counts);
        counts.unflushed = counts.unflushed.saturating_sub(postings.len() as u64);
        for posting in postings {
            let windows = posting.windows();
            let counted = |held: &&mut Held| held.class == posting.class && windows.contains(&held.account.window);
            for held in counts.held.iter_mut().filter(counted) {
                let lent = held.account.window.kind() == posting.window;
                let leased = if lent { posting.leased } else { Portion::ZERO };
                held.arrived(Portion::from(posting.amounts) - leased);
                held.touch();
            }
        }
        Some((user.id.clone(), counts.held.iter().map(|held| (held.class, held.account)).collect()))
    }

    /// Notes that the store has answered a heartbeat, and forgets what it has dropped: the leases of windows that had
    /// ended by then, be it that its clock was ahead. `None` where it gave no answer.
    pub(crate) fn heard(&self, ended: Option<Timestamp>) {
        self.away.store(ended.is_none(), Ordering::Release);
        let Some(ended) = ended else { return };
        let day = WindowKind::Day.at(ended).start().0;
        if self.day.swap(day, Ordering::AcqRel) == day {
            return;
        }
        for shard in &self.shards {
            for user in lock(shard).values() {
                let mut counts = lock(&user.counts);
                counts.held.iter_mut().filter(|held| held.account.window.end() <= ended).for_each(Held::forget);
            }
        }
    }

    /// Says whether the store is away. What is lent stays here then: once it is on its way back, nobody can use it until
    /// the store has answered.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Forgets all that was lent: the store was put back, or somebody has written this instance off.
    pub(crate) fn forget_leases(&self) {
        for shard in &self.shards {
            for user in lock(shard).values() {
                lock(&user.counts).held.iter_mut().for_each(Held::forget);
            }
        }
    }
}
