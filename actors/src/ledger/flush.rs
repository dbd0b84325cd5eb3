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
//!   journal is closed, in one batch: no cursor ever stands among these rows.
//! - A journal that can't be read holds up nobody but itself.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    journal::{
        Live,
        reader::{Read, ReadError, Reader},
        scan::Scan,
    },
    recovery::{self, RecoveryError},
    shelf::Shelf,
};
use crate::{
    domain::{Outcome, Posting, Timestamp},
    ports::{ApplyError, Batch, CursorMove, JournalCursor, LedgerStore, StoreError},
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
    /// Goes back to where the store stands.
    fn go_back(&mut self, shelf: &Shelf, cursor: JournalCursor) -> Result<(), FlushError> {
        let (journal, found) = (self.journal, cursor.applied);
        if found > self.applied || cursor.closed {
            let end = self.rest.as_ref().map_or(self.limit(), |rest| rest.end);
            return Err(FlushError::Ahead { journal, found, end });
        }
        if found < self.applied {
            self.reader.check_whole(found)?;
            tracing::warn!(%journal, from = self.applied, to = found, "the store was put back: applying again");
            (self.applied, self.read) = (found, found);
            shelf.note_applied(journal, found, false);
        }
        Ok(())
    }
}

impl Rest {
    /// Returns what is left at the end: nothing is charged for what was open.
    pub(super) fn of(scan: Scan) -> Self {
        let interrupted = |posting| Posting { outcome: Outcome::Interrupted, ..posting };
        Self { end: scan.end, open: scan.open.into_values().map(interrupted).collect() }
    }
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
            self.rest = Some(Rest::of(scan));
        }
        Ok(())
    }

    /// Reads on: the next postings, where they end, and whether nothing follows them. The rows of those that were open
    /// come all at once.
    fn take(&mut self, most: usize) -> Result<(Vec<Posting>, u64, bool), ReadError> {
        self.finish()?;
        let limit = self.limit();
        let Read { mut postings, mut next, gaps } = self.reader.postings(self.read, limit, most)?;
        let Some(rest) = &self.rest else {
            recovery::raise(self.journal, self.reader.folder(), &gaps, limit);
            return Ok((postings, next, false));
        };
        let closes = next >= rest.end;
        if closes {
            postings.extend(rest.open.iter().cloned());
            next = rest.end + rest.open.len() as u64;
        }
        Ok((postings, next, closes))
    }

    /// Says whether the store should be told to go on to `next`: also where there is no posting, so that what lies
    /// before it can be dropped.
    fn moves(&self, next: u64) -> bool {
        self.reader.segment_of(next) > self.reader.segment_of(self.applied)
    }
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
    /// The store was put back, and where it stands isn't known yet.
    is_lost: bool,
}

impl Flusher {
    pub(crate) fn new(shelf: Arc<Shelf>, store: Arc<dyn LedgerStore>) -> Self {
        Self { shelf, store, tails: Vec::new(), flight: None, restored: false, is_lost: false }
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
        if self.is_lost {
            self.find_place().await?;
        }
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
        // Before they are subtracted: the first that comes then says when it was.
        self.shelf.note_oldest(None);
        self.shelf.release(landed.news().count());
        Some(landed)
    }

    /// Reads the next batch from the journals. What was told before comes first, and apart.
    fn gather(&mut self) -> Result<Option<Flight>, ReadError> {
        self.tails.extend(self.shelf.take_fresh().into_iter().map(Tail::of));
        let replayed = self.gather_of(true);
        if matches!(replayed, Ok(Some(_))) {
            return replayed;
        }
        match self.gather_of(false)? {
            Some(flight) => Ok(Some(flight)),
            None => replayed,
        }
    }

    fn gather_of(&mut self, replay: bool) -> Result<Option<Flight>, ReadError> {
        let most = self.shelf.flush_postings();
        let mut batch = Batch { instance: self.shelf.owner().instance, cursors: Vec::new(), postings: Vec::new() };
        let (mut failed, mut is_full) = (None, false);
        for tail in self.tails.iter_mut().filter(|tail| tail.is_replay() == replay) {
            let room = most.saturating_sub(batch.postings.len());
            if room == 0 {
                is_full = true;
                break;
            }
            let (postings, next, closes) = match tail.take(room) {
                Ok(taken) => taken,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            tail.read = next;
            if !postings.is_empty() || closes || tail.moves(next) {
                let (journal, from, to) = (tail.journal, tail.applied, next);
                batch.cursors.push(CursorMove { journal, from, to, closes });
                batch.postings.extend(postings);
            }
        }
        if batch.cursors.is_empty() {
            return failed.map_or(Ok(None), Err);
        }
        if let Some(error) = failed {
            tracing::error!(%error, "a journal waits until it can be read");
        }
        if is_full {
            // The next batch begins with another journal, so that each gets its turn.
            self.tails.rotate_left(1);
        }
        self.shelf.note_oldest(oldest(&batch));
        Ok(Some(Flight { batch: Arc::new(batch), fresh: !replay, uncertain: false }))
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
            Some(_) => {
                // Starts again from where the store stands.
                self.flight = None;
                self.tails.iter_mut().for_each(|tail| tail.read = tail.applied);
                (self.restored, self.is_lost) = (true, true);
                self.find_place().await?;
                Err(StoreError::Refused("the store was put back: applying again".into()).into())
            }
        }
    }

    /// Asks where the store stands in every journal, since it was put back to an earlier state.
    async fn find_place(&mut self) -> Result<(), FlushError> {
        let journals: Vec<_> = self.tails.iter().map(|tail| tail.journal).collect();
        let cursors = self.store.cursors(&journals).await?;
        let placed =
            self.tails.iter_mut().zip(cursors).try_for_each(|(tail, cursor)| tail.go_back(&self.shelf, cursor));
        let found = match placed {
            Ok(()) => self.recover().await.map(drop).map_err(FlushError::from),
            Err(error) => Err(error),
        };
        match found {
            // What was closed before may be open again; all of it was found.
            Ok(()) => self.is_lost = false,
            Err(
                FlushError::Store(_) | FlushError::Recovery(RecoveryError::Store(_) | RecoveryError::Unreadable(_)),
            ) => {}
            Err(ref never) => self.shelf.stop(never.to_string()),
        }
        found
    }

    /// Syncs what was written so far, so that it can be applied.
    pub(crate) fn sync(&self) {
        self.shelf.sync();
    }

    /// Says whether everything that was written has been applied.
    pub(crate) fn is_done(&self) -> bool {
        let done = |tail: &Tail| tail.live.as_ref().is_some_and(|live| !live.has_ended() && live.end() <= tail.read);
        self.flight.is_none() && !self.shelf.has_fresh() && self.tails.iter().all(done)
    }
}

fn oldest(batch: &Batch) -> Option<Timestamp> {
    batch.postings.iter().map(|posting| posting.settled_at).min()
}
