//! One batch at a time from the books into the store, exactly once.
//!
//! Invariants:
//! - A batch that was taken stays the current one, unchanged, until the store has applied it.
//! - After an attempt whose end is unknown the cursors are read before anything is tried again: they stand at the
//!   batch's start (nothing was applied) or at its end (all of it was), since they move in the batch's transaction.
//! - Where they stand elsewhere, someone else writes these books or the store was put back: nothing is applied.

use std::sync::Arc;

use uuid::Uuid;

use super::books::Shelf;
use crate::ports::{ApplyError, Batch, LedgerStore, StoreError};

/// Why nothing more can be flushed for now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlushError {
    /// The store gave no answer: try later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's cursor fits neither the batch's start nor its end.
    #[error("the store's cursor of journal {journal} stands at {found}, which fits no batch of this process")]
    CursorElsewhere {
        /// The journal.
        journal: Uuid,
        /// Where the store stands.
        found: u64,
    },
}

/// The state between two flushes.
pub(crate) struct Flusher {
    shelf: Arc<Shelf>,
    store: Arc<dyn LedgerStore>,
    current: Option<Arc<Batch>>,
    uncertain: bool,
}

impl Flusher {
    /// Returns how many postings the current batch has; 0 where none is on its way.
    pub(crate) fn under_way(&self) -> usize {
        self.current.as_ref().map_or(0, |batch| batch.postings.len())
    }

    pub(crate) fn new(shelf: Arc<Shelf>, store: Arc<dyn LedgerStore>) -> Self {
        Self { shelf, store, current: None, uncertain: false }
    }

    /// Brings one batch into the store and returns it. `None` where nothing waits.
    pub(crate) async fn flush(&mut self) -> Result<Option<Arc<Batch>>, FlushError> {
        let batch = match &self.current {
            Some(batch) => Arc::clone(batch),
            None => {
                let batch = Arc::new(self.shelf.take());
                if batch.postings.is_empty() {
                    return Ok(None);
                }
                self.current = Some(Arc::clone(&batch));
                batch
            }
        };
        if !(self.uncertain && self.was_applied(&batch).await?) {
            // Until the store has answered, whether it applied the batch is unknown, also if this future is dropped.
            self.uncertain = true;
            match self.store.apply(Arc::clone(&batch)).await {
                Ok(()) => {}
                Err(ApplyError::Store(error)) => return Err(error.into()),
                Err(ApplyError::CursorElsewhere { journal, found }) => {
                    return Err(FlushError::CursorElsewhere { journal, found });
                }
            }
        }
        self.current = None;
        self.uncertain = false;
        self.shelf.release(batch.postings.len());
        Ok(Some(batch))
    }

    async fn was_applied(&self, batch: &Batch) -> Result<bool, FlushError> {
        let journals: Vec<_> = batch.cursors.iter().map(|cursor| cursor.journal).collect();
        let found = self.store.cursors(&journals).await?;
        let at_end = batch.cursors.iter().zip(&found).all(|(cursor, found)| *found == cursor.to);
        match batch.cursors.iter().zip(&found).find(|(cursor, found)| **found != cursor.from) {
            Some((cursor, found)) if !at_end => {
                Err(FlushError::CursorElsewhere { journal: cursor.journal, found: *found })
            }
            _ => Ok(at_end),
        }
    }
}
