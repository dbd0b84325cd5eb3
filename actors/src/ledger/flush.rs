//! One batch at a time from the journals into the store, exactly once.
//!
//! Invariants:
//! - What is applied is read from the journals' files, and only what was synced.
//! - A batch that was taken stays the current one, unchanged, until the store has applied it.
//! - After an attempt whose end is unknown the cursors are read before anything is tried again: they stand at the
//!   batch's start (nothing was applied) or at its end (all of it was), since they move in the batch's transaction.
//! - A cursor that stands before the batch's start is a restored backup's: what lies between is applied again. One that
//!   stands behind its end was moved by somebody else: nothing is applied any more. But for journals that were left
//!   behind: the last commit of the process that wrote them may come after their cursors were read.
//! - A journal that nobody writes any more is drained; each entry without an end becomes an `interrupted` row, and the
//!   journal is closed, in one batch: no cursor ever stands among these rows.
//! - A journal that can't be read holds up nobody but itself.

mod replay;

use std::sync::Arc;

use replay::Replay;
use uuid::Uuid;

use super::{
    journal::reader::ReadError,
    recovery::{self, RecoveryError},
    shelf::Shelf,
    tail::Tail,
};
use crate::{
    domain::{Outcome, Posting, Timestamp},
    mutants::{self, Mutant},
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

/// What has become of a batch whose end was unknown.
enum Fate {
    Applied,
    Unapplied,
    /// Neither: it was taken from where the cursors no longer are, and the next one starts there.
    Moved,
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
    replay: Replay,
    /// The store was put back, and where it stands isn't known yet.
    is_lost: bool,
}

impl Flusher {
    pub(crate) fn new(shelf: Arc<Shelf>, store: Arc<dyn LedgerStore>) -> Self {
        Self { shelf, store, tails: Vec::new(), flight: None, replay: Replay::None, is_lost: false }
    }

    /// Returns how many postings the current batch has; 0 where none is on its way.
    pub(crate) fn under_way(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.batch.postings.len())
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
        loop {
            if self.flight.is_none() {
                self.flight = self.gather()?;
            }
            let Some(flight) = &mut self.flight else { return Ok(None) };
            let batch = Arc::clone(&flight.batch);
            // Until the store has answered, whether it applied the batch is unknown, also if this future is dropped.
            let blind = mutants::is(Mutant::CursorUnconditional);
            if std::mem::replace(&mut flight.uncertain, true) && !blind {
                match self.find_out(&batch).await? {
                    Fate::Applied => return Ok(self.land()),
                    Fate::Moved => continue,
                    Fate::Unapplied => {}
                }
            }
            match self.store.apply(Arc::clone(&batch)).await {
                Ok(()) => return Ok(self.land()),
                Err(ApplyError::Store(error)) => return Err(error.into()),
                // An attempt that was given up may have been made meanwhile.
                Err(ApplyError::CursorElsewhere { .. }) => match self.find_out(&batch).await? {
                    Fate::Applied => return Ok(self.land()),
                    Fate::Moved => {}
                    Fate::Unapplied => {
                        return Err(StoreError::Unavailable("the cursors have moved and moved back".into()).into());
                    }
                },
            }
        }
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
        self.shelf.note_oldest(self.stuck_since());
        self.shelf.release(landed.news().count());
        Some(landed)
    }

    /// Reads the next batch from the journals. What was told before comes first, and apart.
    fn gather(&mut self) -> Result<Option<Flight>, ReadError> {
        self.take_fresh();
        let replayed = self.gather_of(true);
        if matches!(replayed, Ok(Some(_))) {
            return replayed;
        }
        match self.gather_of(false)? {
            Some(flight) => Ok(Some(flight)),
            None => replayed,
        }
    }

    fn take_fresh(&mut self) {
        self.tails.extend(self.shelf.take_fresh().into_iter().map(Tail::of));
    }

    fn gather_of(&mut self, replay: bool) -> Result<Option<Flight>, ReadError> {
        let most = self.shelf.flush_postings;
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
                    let since = || self.shelf.lag_since().unwrap_or_else(|| self.shelf.clock().wall());
                    tail.stuck_since.get_or_insert_with(since);
                    failed = Some(error);
                    continue;
                }
            };
            (tail.read, tail.stuck_since) = (next, None);
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
        self.shelf.note_oldest(oldest(&batch).into_iter().chain(self.stuck_since()).min());
        Ok(Some(Flight { batch: Arc::new(batch), fresh: !replay, uncertain: false }))
    }

    /// Returns since when postings wait that can't be read.
    fn stuck_since(&self) -> Option<Timestamp> {
        self.tails.iter().filter_map(|tail| tail.stuck_since).min()
    }

    /// Reads the cursors to learn what has become of a batch.
    async fn find_out(&mut self, batch: &Batch) -> Result<Fate, FlushError> {
        let journals: Vec<_> = batch.cursors.iter().map(|step| step.journal).collect();
        let found = self.store.cursors(&journals).await?;
        let steps = || batch.cursors.iter().zip(&found);
        if steps().all(|(step, found)| found.applied == step.to && found.closed == step.closes) {
            return Ok(Fate::Applied);
        }
        let Some((step, found)) = steps().find(|(step, found)| found.applied != step.from || found.closed) else {
            return Ok(Fate::Unapplied);
        };
        // Starts again from where the store stands.
        self.flight = None;
        self.tails.iter_mut().for_each(|tail| tail.read = tail.applied);
        if self.go_on(step.journal, found) {
            return Ok(Fate::Moved);
        }
        (self.replay, self.is_lost) = (Replay::Noticed, true);
        self.find_place().await?;
        Err(StoreError::Refused("the store was put back: applying again".into()).into())
    }

    /// Goes on behind what the last commit of a process that has died brought, if that is why the cursor moved.
    fn go_on(&mut self, journal: Uuid, found: &JournalCursor) -> bool {
        let late = |tail: &&mut Tail| tail.journal == journal && tail.is_late(found);
        let Some(tail) = self.tails.iter_mut().find(late) else { return false };
        tracing::info!(%journal, to = found.applied, "a commit of the last process came late");
        (tail.applied, tail.read, tail.told) = (found.applied, found.applied, found.applied);
        self.shelf.note_applied(journal, found.applied, found.closed);
        self.tails.retain(|tail| !(found.closed && tail.journal == journal));
        true
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
