//! Books in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Faults, ManualClock};
use crate::{
    domain::{AccountKey, Amounts, Limits, Nanodollars, Portion, Posting, Timestamp, Window},
    ports::{
        ApplyError, Batch, Heartbeat, JournalCursor, LeaseAnswer, LeaseAsk, LeaseKey, LedgerStore, Recall, StoreError,
    },
};

/// Books as they were at some moment.
#[derive(Debug, Clone)]
pub struct Backup(State);

/// A ledger store in memory: cursors, totals and rows move together or not at all.
#[derive(Debug, Default)]
pub struct FakeLedger {
    /// For batches, before they are applied.
    pub applies: Faults,
    /// For batches, after they were applied: a fault here loses the acknowledgement.
    pub acknowledgements: Faults,
    /// For cursors, exchanges, recalls and heartbeats.
    pub reads: Faults,
    /// For exchanges, after they were made: a fault here loses the answer.
    pub answers: Faults,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    cursors: HashMap<Uuid, JournalCursor>,
    totals: HashMap<(AccountKey, Window), Amounts>,
    rows: Vec<Posting>,
    ids: HashSet<Uuid>,
    leases: HashMap<(Uuid, LeaseKey), Lease>,
    recalls: Vec<(i64, Recall)>,
    last_recall: i64,
    processes: HashMap<Uuid, Uuid>,
    written_off: Vec<Uuid>,
    ahead: std::time::Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Lease {
    leased: Portion,
    exchange: Uuid,
    granted: Portion,
    obeyed: i64,
}

impl FakeLedger {
    /// Returns the rows, in the order in which they were applied.
    #[must_use]
    pub fn rows(&self) -> Vec<Posting> {
        self.state().rows.clone()
    }

    /// Sets a cursor, as a restored backup or a copied data folder does.
    pub fn set_cursor(&self, journal: Uuid, at: u64) {
        self.state().cursors.insert(journal, JournalCursor { applied: at, known: true, closed: false });
    }

    /// Returns how far each journal was applied.
    #[must_use]
    pub fn cursors_of_all(&self) -> HashMap<Uuid, JournalCursor> {
        self.state().cursors.clone()
    }

    /// Copies the books as they are now.
    #[must_use]
    pub fn back_up(&self) -> Backup {
        Backup(self.state().clone())
    }

    /// Puts the books back to what they were.
    pub fn restore(&self, backup: &Backup) {
        *self.state() = backup.0.clone();
    }

    /// Moves the store's clock on.
    pub fn advance(&self, by: std::time::Duration) {
        self.state().ahead += by;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what an instance has leased.
    #[must_use]
    pub fn leased(&self, instance: Uuid, key: LeaseKey) -> Portion {
        self.state().leases.get(&(instance, key)).map_or(Portion::ZERO, |lease| lease.leased)
    }

    /// Returns the recalls so far, with their numbers.
    #[must_use]
    pub fn recalls(&self) -> Vec<(i64, Recall)> {
        self.state().recalls.clone()
    }

    /// Frees an instance's leases, as an operator does.
    pub fn write_off(&self, instance: Uuid) {
        let mut state = self.state();
        state.leases.retain(|(owner, _), _| *owner != instance);
        state.written_off.push(instance);
    }

    fn book(&self, batch: &Batch) -> Result<(), ApplyError> {
        let mut state = self.state();
        for cursor in &batch.cursors {
            let found = state.cursors.get(&cursor.journal).copied().unwrap_or_default().applied;
            if found != cursor.from {
                return Err(ApplyError::CursorElsewhere { journal: cursor.journal, found });
            }
        }
        let ids: HashSet<_> = batch.postings.iter().map(|posting| posting.id).collect();
        if ids.len() < batch.postings.len() || !ids.is_disjoint(&state.ids) {
            return Err(ApplyError::Store(StoreError::Refused("a posting with this id is booked already".into())));
        }
        state.ids.extend(ids);
        for cursor in &batch.cursors {
            let moved = JournalCursor { applied: cursor.to, known: true, closed: cursor.closes };
            state.cursors.insert(cursor.journal, moved);
        }
        for posting in &batch.postings {
            for window in posting.windows() {
                *state.totals.entry((posting.account(), window)).or_default() += posting.amounts;
            }
            let key = LeaseKey { account: posting.account(), window: posting.admitted_in() };
            if let Some(lease) = state.leases.get_mut(&(batch.instance, key)) {
                lease.leased = (lease.leased - posting.leased).zip(Portion::ZERO, i64::max);
            }
        }
        state.rows.extend(batch.postings.iter().cloned());
        Ok(())
    }
}

impl State {
    fn exchange(&mut self, instance: Uuid, ask: &LeaseAsk) -> LeaseAnswer {
        let used = self.totals.get(&(ask.key.account, ask.key.window)).copied().unwrap_or_default();
        let others = || self.leases.iter().filter(|((owner, key), _)| *owner != instance && *key == ask.key);
        let elsewhere = others().fold(Portion::ZERO, |sum, (_, lease)| sum + lease.leased);
        let obeyed = others().filter(|(_, lease)| lease.leased != Portion::ZERO).map(|(_, lease)| lease.obeyed).min();
        let live = i64::try_from(self.processes.len().max(1)).unwrap_or(1);
        let lease = self.leases.entry((instance, ask.key)).or_default();
        if lease.exchange != ask.exchange {
            lease.leased = (lease.leased - ask.give_back).zip(Portion::ZERO, i64::max);
            let room = room(&ask.limits) - Portion::from(used) - elsewhere - lease.leased;
            let share =
                room.zip(Portion { requests: 4 * live, tokens: 4 * live, cost: Nanodollars(4 * live) }, |a, b| a / b);
            let granted = share.zip(ask.most, i64::min).zip(ask.need, i64::max).min(room).zip(Portion::ZERO, i64::max);
            lease.granted = granted.zip(limited(&ask.limits), i64::min);
            lease.leased += lease.granted;
            lease.exchange = ask.exchange;
        }
        lease.obeyed = lease.obeyed.max(ask.obeyed);
        LeaseAnswer {
            used,
            granted: lease.granted,
            leased: lease.leased,
            elsewhere,
            obeyed_elsewhere: obeyed.unwrap_or(i64::MAX),
        }
    }
}

/// The ceilings; an absent one is far away.
fn room(limits: &Limits) -> Portion {
    Portion {
        requests: limits.requests.unwrap_or(i64::MAX),
        tokens: limits.tokens.unwrap_or(i64::MAX),
        cost: limits.cost.unwrap_or(Nanodollars(i64::MAX)),
    }
}

/// The most of each figure that can be lent: nothing where there is no ceiling.
fn limited(limits: &Limits) -> Portion {
    let most = |limit: Option<i64>| limit.map_or(0, |_| i64::MAX);
    Portion {
        requests: most(limits.requests),
        tokens: most(limits.tokens),
        cost: Nanodollars(most(limits.cost.map(|cost| cost.0))),
    }
}

impl LedgerStore for FakeLedger {
    fn apply(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), ApplyError>> {
        Box::pin(async move {
            self.applies.pass().await?;
            self.book(&batch)?;
            Ok(self.acknowledgements.pass().await?)
        })
    }

    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<JournalCursor>, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let state = self.state();
            Ok(journals.iter().map(|journal| state.cursors.get(journal).copied().unwrap_or_default()).collect())
        })
    }

    fn exchange<'a>(
        &'a self,
        instance: Uuid,
        asks: &'a [LeaseAsk],
    ) -> BoxFuture<'a, Result<Vec<LeaseAnswer>, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let answers = {
                let mut state = self.state();
                asks.iter().map(|ask| state.exchange(instance, ask)).collect()
            };
            self.answers.pass().await?;
            Ok(answers)
        })
    }

    fn recall<'a>(&'a self, instance: Uuid, leases: &'a [LeaseKey]) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let mut state = self.state();
            state.last_recall += 1;
            let number = state.last_recall;
            let holders: Vec<_> = state
                .leases
                .iter()
                .filter(|((owner, key), lease)| {
                    *owner != instance && leases.contains(key) && lease.leased != Portion::ZERO
                })
                .map(|((owner, key), _)| (number, Recall { instance: *owner, key: *key }))
                .collect();
            state.recalls.extend(holders);
            Ok(number)
        })
    }

    fn enroll(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let mut state = self.state();
            state.processes.insert(instance, process);
            state.written_off.retain(|gone| *gone != instance);
            Ok(ManualClock::START.plus(state.ahead))
        })
    }

    fn heartbeat(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Heartbeat, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let state = self.state();
            Ok(Heartbeat {
                now: ManualClock::START.plus(state.ahead),
                ended: Timestamp(0),
                ours: state.processes.get(&instance) == Some(&process),
                written_off: state.written_off.contains(&instance),
            })
        })
    }
}
