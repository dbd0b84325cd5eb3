//! The books: postings, cursors, leases.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::StoreError;
use crate::domain::{AccountKey, Amounts, Limits, Portion, Posting, Timestamp, Window};

/// How far one journal has been applied: from record `from` up to, not including, record `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorMove {
    /// The journal.
    pub journal: Uuid,
    /// Where the store must stand for this batch to be applied; 0 where it knows no such journal.
    pub from: u64,
    /// Where it stands afterwards.
    pub to: u64,
    /// Whether nothing will follow: every reservation of this journal has its row.
    pub closes: bool,
}

/// Where the store stands in a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalCursor {
    /// Up to which record it has applied; 0 for a journal that it doesn't know.
    pub applied: u64,
    /// Whether it knows the journal.
    pub known: bool,
    /// Whether the journal was closed.
    pub closed: bool,
}

/// Postings to be applied in one transaction, with the cursors that make a second try harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose leases the postings use up.
    pub instance: Uuid,
    /// One for each journal that was read.
    pub cursors: Vec<CursorMove>,
    /// The rows.
    pub postings: Vec<Posting>,
}

/// Why a batch was not applied, or perhaps not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Nothing was applied: the store stands elsewhere than the batch starts.
    #[error("journal {journal} stands at {found}, not at the batch's start")]
    CursorElsewhere {
        /// The journal.
        journal: Uuid,
        /// Where the store stands.
        found: u64,
    },
    /// Nothing was applied, or all of it: read the cursors to learn which.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is lent: an account's limit in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    /// Whose, in which class.
    pub account: AccountKey,
    /// In which window: that of the plan's line.
    pub window: Window,
}

/// One exchange about a lease: something is given back, and something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Which lease.
    pub key: LeaseKey,
    /// The exchange's own id: asked again with the same id, it is answered again and not done again.
    pub exchange: Uuid,
    /// The ceilings; where one is absent, nothing is lent of it, since nothing is counted against it.
    pub limits: Limits,
    /// What is returned. It was debited in memory before.
    pub give_back: Portion,
    /// What waiting requests need: so much is lent if it is there.
    pub need: Portion,
    /// The most to be lent if there is plenty; at least `need`.
    pub most: Portion,
    /// The number of the last recall that was obeyed: whatever is still leased then is promised to running requests.
    pub obeyed: i64,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseAnswer {
    /// What all instances have used and flushed.
    pub used: Amounts,
    /// What was lent now.
    pub granted: Portion,
    /// What this instance has leased, with it.
    pub leased: Portion,
    /// What others have leased.
    pub elsewhere: Portion,
    /// The lowest number of a recall that any of these others has obeyed last; `i64::MAX` where none has anything leased.
    pub obeyed_elsewhere: i64,
}

/// The request to return what isn't needed of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recall {
    /// Which instance is asked; nil asks all to forget what they know of the account.
    pub instance: Uuid,
    /// Which lease.
    pub key: LeaseKey,
}

/// What an instance is told when it says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// The store's clock.
    pub now: Timestamp,
    /// What was leased of windows that had ended by then is dropped.
    pub ended: Timestamp,
    /// Whether the identity is still this process's: no other one has started with it since.
    pub ours: bool,
    /// Whether an operator has written the instance off: its leases are gone.
    pub written_off: bool,
}

/// The books.
///
/// Leases: no exchange makes `used + Σ leased` of a lease exceed a limit, over all instances. What a posting has used
/// of its instance's lease leaves the lease in the transaction that adds it to the totals.
pub trait LedgerStore: Send + Sync {
    /// Applies totals (`used = used + delta`, for the day and the month), rows, leases and cursors: all or nothing.
    ///
    /// # Errors
    /// [`ApplyError`].
    fn apply(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), ApplyError>>;
    /// Returns where the store stands in each of these journals.
    ///
    /// # Errors
    /// [`StoreError`], as all methods below.
    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<JournalCursor>, StoreError>>;
    /// Takes back and lends, in the order asked. All of it in one transaction; at most one ask for each lease.
    ///
    /// `leased` shrinks by what is given back; then, of each ceiling, what is lent is
    /// `clamp(remaining / (4 × live instances), need, most)`, at most what remains of it.
    fn exchange<'a>(
        &'a self,
        instance: Uuid,
        asks: &'a [LeaseAsk],
    ) -> BoxFuture<'a, Result<Vec<LeaseAnswer>, StoreError>>;
    /// Asks all other instances that have something leased to return what they don't need, through the change sequence.
    /// Returns the recall's number: an instance that has obeyed it, or a later one, has leased only what it needs.
    fn recall<'a>(&'a self, instance: Uuid, leases: &'a [LeaseKey]) -> BoxFuture<'a, Result<i64, StoreError>>;
    /// Takes an identity for this process, from whichever had it before, and returns the store's clock. A written-off
    /// instance starts anew.
    fn enroll(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Timestamp, StoreError>>;
    /// Says that the instance lives.
    fn heartbeat(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Heartbeat, StoreError>>;
}
