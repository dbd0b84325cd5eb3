//! How others speak to the ledger.

use std::{sync::Arc, time::Duration};

use actix::{Addr, Message};
use tokio::sync::oneshot;

use super::{Books, RecoveryError, Shelf, UsageLedger};
use crate::{domain::Timestamp, ports::StoreError};

/// A handle to the ledger. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct LedgerHandle {
    pub(super) addr: Addr<UsageLedger>,
    pub(super) shelf: Arc<Shelf>,
}

/// How far the store is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Postings that haven't reached the store.
    pub rows: usize,
    /// The age of the oldest of them.
    pub age: Duration,
}

/// What was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Journals that were drained and closed.
    pub journals: usize,
    /// Postings that they held and the store didn't.
    pub postings: usize,
}

impl LedgerHandle {
    /// Returns how far the store is behind.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Lag {
        let age = self.shelf.lag_since().map_or(Duration::ZERO, |since| now.since(since));
        Lag { rows: self.shelf.lag_rows(), age }
    }

    /// Returns why usage can't be recorded now; `None` where it can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shelf.trouble()
    }

    /// Opens a fresh journal for a worker.
    #[must_use]
    pub fn open_books(&self) -> Books {
        self.shelf.open_books()
    }

    /// Brings into the store what processes before this one have left in the data folder, and closes their journals.
    /// To be done before anything is admitted.
    ///
    /// # Errors
    /// [`RecoveryError`]; what was brought so far stays.
    pub async fn ask_recover(&self) -> Result<Recovered, RecoveryError> {
        let gone = || RecoveryError::Store(StoreError::Unavailable("the ledger is gone".into()));
        let done = self.addr.send(Recover).await.map_err(|_closed| gone())?;
        done.await.unwrap_or_else(|_closed| Err(gone()))
    }

    /// Admits nothing any more, brings everything into the store and closes the journals, waiting at most `deadline`.
    /// Returns how many postings are left: 0 unless the store was away. The journals have what is left.
    pub async fn ask_close(&self, deadline: Duration) -> usize {
        self.shelf.close();
        let done = async {
            match self.addr.send(Flush).await {
                Ok(done) => done.await.is_ok(),
                Err(_closed) => false,
            }
        };
        match tokio::time::timeout(deadline, done).await {
            Ok(true) => 0,
            _ => self.shelf.lag_rows(),
        }
    }

    /// Returns every lease, waiting at most `deadline`. To be done when nothing is admitted any more and everything has
    /// reached the store.
    pub async fn ask_return_leases(&self, deadline: Duration) {
        // What isn't returned stays this instance's, and is there when it starts again.
        let _in_time = tokio::time::timeout(deadline, self.addr.send(ReturnLeases)).await.is_ok();
    }
}

/// Asks to be told when nothing waits any more.
pub(super) struct Flush;

impl Message for Flush {
    type Result = oneshot::Receiver<()>;
}

/// Asks to drain what other processes have left.
pub(super) struct Recover;

impl Message for Recover {
    type Result = oneshot::Receiver<Result<Recovered, RecoveryError>>;
}

/// Asks to return every lease.
pub(super) struct ReturnLeases;

impl Message for ReturnLeases {
    type Result = ();
}
