//! One batch at a time from the journals into the store, exactly once.
//!
//! Invariants:
//! - What is applied is read from the journals' files, and only what was synced.
//! - A batch that was taken stays the current one, unchanged, until the store has applied it.
//! - After an attempt whose end is unknown the cursors are read before anything is tried again: they stand at the
//!   batch's start (nothing was applied) or at its end (all of it was), since they move in the batch's transaction.
//! - A cursor that stands before the batch's start is a restored backup's: what lies between is applied again. One that
//!   stands behind its end was moved by somebody else: nothing is applied any more.
//! - A journal that nobody writes any more is drained; each entry without an end becomes an `interrupted` row, and the
//!   journal is closed. The rows' place is fixed: behind the journal's end, in the order of the entries.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    journal::{
        Live,
        reader::{ReadError, Reader},
    },
    recovery::{self, RecoveryError},
    shelf::Shelf,
};
use crate::{
    domain::{Outcome, Posting, Timestamp},
    ports::{ApplyError, Batch, CursorMove, LedgerStore, StoreError},
};

/// Why nothing more can be flushed for now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    /// The store gave no answer: try later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A journal can't be read, or what was restored can't be brought back.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The store's cursor is ahead: somebody else has applied these journals.
    #[error(
        "the store stands at record {found} of the journal {journal}, which goes up to {end} here: another process has \
         applied it, from a copy of this data folder"
    )]
    Ahead {
        /// The journal.
        journal: Uuid,
        /// Where the store stands.
        found: u64,
        /// Where the journal ends.
        end: u64,
    },
}

impl From<ReadError> for FlushError {
    fn from(error: ReadError) -> Self {
        Self::Recovery(error.into())
    }
}

/// One journal, from where the store stands.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) journal: Uuid,
    pub(super) reader: Reader,
    /// Its writer's end, where this process writes it.
    pub(super) live: Option<Arc<Live>>,
    /// Where the store's cursor stands.
    pub(super) applied: u64,
    /// What was read, for the batch that is under way.
    pub(super) read: u64,
    /// Up to where accounts have been told what has reached the store.
    pub(super) told: u64,
    /// What is left of a journal that nobody writes any more.
    pub(super) rest: Option<Rest>,
}

/// The end of a journal, and the rows of those that were open there.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) end: u64,
    pub(super) open: Vec<Posting>,
}

impl Tail {
    /// Returns a journal that this process has begun.
    fn of(live: Arc<Live>) -> Self {
        let reader = Reader::new(live.journal, live.folder.clone(), live.layout);
        Self { journal: live.journal, reader, live: Some(live), applied: 0, read: 0, told: 0, rest: None }
    }

    /// Says whether what comes next was told before, or never needs to be.
    fn is_replay(&self) -> bool {
        self.live.is_none() || self.read < self.told
    }

    /// Up to where it may be read now.
    fn limit(&self) -> u64 {
        let limit = match (&self.rest, &self.live) {
            (Some(rest), _) => rest.end,
            (None, Some(live)) => live.synced().min(live.end()),
            (None, None) => self.read,
        };
        if self.live.is_some() && self.read < self.told { limit.min(self.told) } else { limit }
    }

    /// Finds out what is left of a journal that nobody writes any more.
    fn finish(&mut self) -> Result<(), ReadError> {
        if self.rest.is_none() && self.live.as_ref().is_some_and(|live| live.has_ended()) {
            self.reader.sync()?;
            let scan = self.reader.scan(self.applied)?;
            recovery::report(self.journal, self.reader.folder(), &scan);
            self.rest = Some(Rest { end: scan.end, open: interrupted(scan.open.into_values()) });
        }
        Ok(())
    }

    /// Reads on: the next postings, where they end, and whether nothing follows them.
    fn take(&mut self, most: usize) -> Result<(Vec<Posting>, u64, bool), ReadError> {
        self.finish()?;
        let limit = self.limit();
        let (mut postings, mut next) = self.reader.postings(self.read, limit, most)?;
        let mut closes = false;
        if let Some(rest) = self.rest.as_ref().filter(|rest| next >= rest.end) {
            let taken = usize::try_from(next - rest.end).unwrap_or(usize::MAX);
            let more = rest.open.iter().skip(taken).take(most.saturating_sub(postings.len()));
            let before = postings.len();
            postings.extend(more.cloned());
            let added = postings.len() - before;
            next += added as u64;
            closes = taken + added >= rest.open.len();
        }
        Ok((postings, next, closes))
    }
}

/// The rows of entries that have no end: nothing is charged.
pub(super) fn interrupted(open: impl Iterator<Item = Posting>) -> Vec<Posting> {
    open.map(|posting| Posting { outcome: Outcome::Interrupted, ..posting }).collect()
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    batch: Arc<Batch>,
    fresh: bool,
    uncertain: bool,
}

/// What has reached the store.
#[derive(Debug)]
pub(crate) struct Landed {
    /// The batch.
    pub(crate) batch: Arc<Batch>,
    /// Whether accounts don't know of it yet.
    pub(crate) fresh: bool,
}

impl Landed {
    /// Returns the postings that were settled in this process and have just reached the store.
    pub(crate) fn news(&self) -> impl Iterator<Item = &Posting> {
        let settled = |posting: &&Posting| posting.outcome != Outcome::Interrupted;
        self.batch.postings.iter().filter(move |_| self.fresh).filter(settled)
    }
}

/// The state between two flushes.
pub(crate) struct Flusher {
    shelf: Arc<Shelf>,
    store: Arc<dyn LedgerStore>,
    tails: Vec<Tail>,
    flight: Option<Flight>,
    restored: bool,
}

impl Flusher {
    pub(crate) fn new(shelf: Arc<Shelf>, store: Arc<dyn LedgerStore>) -> Self {
        Self { shelf, store, tails: Vec::new(), flight: None, restored: false }
    }

    /// Returns how many postings the current batch has; 0 where none is on its way.
    pub(crate) fn under_way(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.batch.postings.len())
    }

    /// Says, once, whether the store was found to be put back to an earlier state.
    pub(crate) fn take_restored(&mut self) -> bool {
        std::mem::take(&mut self.restored)
    }

    /// Takes up the journals that other processes have left here.
    pub(crate) async fn recover(&mut self) -> Result<usize, RecoveryError> {
        let known: Vec<_> = self.tails.iter().map(|tail| tail.journal).collect();
        let found = recovery::find(&self.shelf, &*self.store, &known).await?;
        let count = found.len();
        self.tails.extend(found);
        Ok(count)
    }

    /// Brings one batch into the store. `None` where nothing waits.
    pub(crate) async fn flush(&mut self) -> Result<Option<Landed>, FlushError> {
        if self.flight.is_none() {
            self.flight = self.gather()?;
        }
        let Some(flight) = &mut self.flight else { return Ok(None) };
        let batch = Arc::clone(&flight.batch);
        // Until the store has answered, whether it applied the batch is unknown, also if this future is dropped.
        let uncertain = std::mem::replace(&mut flight.uncertain, true);
        if !(uncertain && self.was_applied(&batch).await?) {
            match self.store.apply(Arc::clone(&batch)).await {
                Ok(()) => {}
                Err(ApplyError::Store(error)) => return Err(error.into()),
                // An attempt that was given up may have been made meanwhile.
                Err(ApplyError::CursorElsewhere { .. }) if self.was_applied(&batch).await? => {}
                Err(ApplyError::CursorElsewhere { .. }) => {
                    return Err(StoreError::Unavailable("the cursors have moved and moved back".into()).into());
                }
            }
        }
        Ok(self.land())
    }

    fn land(&mut self) -> Option<Landed> {
        let Flight { batch, fresh, .. } = self.flight.take()?;
        for step in &batch.cursors {
            let Some(tail) = self.tails.iter_mut().find(|tail| tail.journal == step.journal) else { continue };
            tail.applied = step.to;
            tail.told = tail.told.max(step.to);
            self.shelf.note_applied(step.journal, step.to, step.closes);
        }
        let closed = |tail: &Tail| batch.cursors.iter().any(|step| step.closes && step.journal == tail.journal);
        self.tails.retain(|tail| !closed(tail));
        let landed = Landed { batch, fresh };
        self.shelf.release(landed.news().count());
        Some(landed)
    }

    /// Reads the next batch from the journals. What was told before comes first, and apart.
    fn gather(&mut self) -> Result<Option<Flight>, ReadError> {
        self.tails.extend(self.shelf.take_fresh().into_iter().map(Tail::of));
        let replay = self.tails.iter().any(|tail| tail.is_replay() && (tail.rest.is_some() || tail.read < tail.told));
        let most = self.shelf.flush_postings();
        let mut batch = Batch { instance: self.shelf.owner().instance, cursors: Vec::new(), postings: Vec::new() };
        for tail in self.tails.iter_mut().filter(|tail| tail.is_replay() == replay) {
            let room = most.saturating_sub(batch.postings.len());
            if room == 0 {
                break;
            }
            let (postings, next, closes) = tail.take(room)?;
            tail.read = next;
            if !postings.is_empty() || closes {
                let (journal, from, to) = (tail.journal, tail.applied, next);
                batch.cursors.push(CursorMove { journal, from, to, closes });
                batch.postings.extend(postings);
            }
        }
        self.shelf.note_oldest(oldest(&batch));
        let flight = Flight { batch: Arc::new(batch), fresh: !replay, uncertain: false };
        Ok((!flight.batch.cursors.is_empty()).then_some(flight))
    }

    async fn was_applied(&mut self, batch: &Batch) -> Result<bool, FlushError> {
        let journals: Vec<_> = batch.cursors.iter().map(|step| step.journal).collect();
        let found = self.store.cursors(&journals).await?;
        let steps = || batch.cursors.iter().zip(&found);
        let stands = |step: &CursorMove, found: u64, closed: bool, at: u64| {
            found == at && (closed == step.closes || at == step.from)
        };
        if steps()
            .all(|(step, found)| stands(step, found.applied, found.closed, step.to) && (!step.closes || found.closed))
        {
            return Ok(true);
        }
        match steps().find(|(step, found)| found.applied != step.from || found.closed) {
            None => Ok(false),
            Some((step, found)) => {
                self.go_back(step.journal, found.applied).await?;
                Err(StoreError::Refused("the store was put back: applying again".into()).into())
            }
        }
    }

    /// Starts again from where the store stands.
    async fn go_back(&mut self, journal: Uuid, found: u64) -> Result<(), FlushError> {
        self.flight = None;
        self.tails.iter_mut().for_each(|tail| tail.read = tail.applied);
        if let Some(tail) = self.tails.iter_mut().find(|tail| tail.journal == journal) {
            if found > tail.applied {
                let end = tail.rest.as_ref().map_or(tail.limit(), |rest| rest.end);
                let ahead = FlushError::Ahead { journal, found, end };
                self.shelf.stop(ahead.to_string());
                return Err(ahead);
            }
            tracing::warn!(%journal, from = tail.applied, to = found, "the store was put back: applying again");
            (tail.applied, tail.read) = (found, found);
        }
        self.restored = true;
        // What was closed before may be open again.
        self.recover().await?;
        Ok(())
    }

    /// Syncs what was written so far, so that it can be applied.
    pub(crate) fn sync(&self) {
        self.shelf.sync();
    }

    /// Says whether everything that was written has been applied.
    pub(crate) fn is_done(&self) -> bool {
        let done = |tail: &Tail| tail.live.as_ref().is_some_and(|live| !live.has_ended() && live.end() <= tail.read);
        self.flight.is_none() && self.tails.iter().all(done)
    }
}

fn oldest(batch: &Batch) -> Option<Timestamp> {
    batch.postings.iter().map(|posting| posting.settled_at).min()
}
