//! Books in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Faults, ManualClock};
use crate::{
    domain::{AccountKey, Amounts, Posting, Timestamp, Window},
    ports::{ApplyError, Batch, LedgerStore, StoreError},
};

/// A ledger store in memory: cursors, totals and rows move together or not at all.
#[derive(Debug, Default)]
pub struct FakeLedger {
    /// For batches, before they are applied.
    pub applies: Faults,
    /// For batches, after they were applied: a fault here loses the acknowledgement.
    pub acknowledgements: Faults,
    /// For cursors and totals.
    pub reads: Faults,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cursors: HashMap<Uuid, u64>,
    totals: HashMap<(AccountKey, Window), Amounts>,
    rows: Vec<Posting>,
    ahead: std::time::Duration,
}

impl FakeLedger {
    /// Returns the rows, in the order in which they were applied.
    #[must_use]
    pub fn rows(&self) -> Vec<Posting> {
        self.state().rows.clone()
    }

    /// Sets a cursor, as a restored backup or a copied data folder does.
    pub fn set_cursor(&self, journal: Uuid, at: u64) {
        self.state().cursors.insert(journal, at);
    }

    /// Moves the store's clock on.
    pub fn advance(&self, by: std::time::Duration) {
        self.state().ahead += by;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self, batch: &Batch) -> Result<(), ApplyError> {
        let mut state = self.state();
        for cursor in &batch.cursors {
            let found = state.cursors.get(&cursor.journal).copied().unwrap_or(0);
            if found != cursor.from {
                return Err(ApplyError::CursorElsewhere { journal: cursor.journal, found });
            }
        }
        for cursor in &batch.cursors {
            state.cursors.insert(cursor.journal, cursor.to);
        }
        for posting in &batch.postings {
            for window in posting.windows() {
                *state.totals.entry((posting.account(), window)).or_default() += posting.amounts;
            }
        }
        state.rows.extend(batch.postings.iter().cloned());
        Ok(())
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

    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<u64>, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let state = self.state();
            Ok(journals.iter().map(|journal| state.cursors.get(journal).copied().unwrap_or(0)).collect())
        })
    }

    fn totals<'a>(&'a self, accounts: &'a [(AccountKey, Window)]) -> BoxFuture<'a, Result<Vec<Amounts>, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            let state = self.state();
            Ok(accounts.iter().map(|account| state.totals.get(account).copied().unwrap_or_default()).collect())
        })
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        Box::pin(async move {
            self.reads.pass().await?;
            Ok(ManualClock::START.plus(self.state().ahead))
        })
    }
}
