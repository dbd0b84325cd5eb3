//! One journal on its way into the store: what was read of it, and what is left.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    flush::FlushError,
    journal::{
        Live,
        reader::{Read, ReadError, Reader},
        scan::Scan,
    },
    recovery,
    shelf::Shelf,
};
use crate::{
    domain::{Outcome, Posting, Timestamp},
    ports::JournalCursor,
};

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
    /// Up to where it is to be applied before accounts are lent to again, after the store was put back.
    pub(super) owed: u64,
    /// What is left of a journal that nobody writes any more.
    pub(super) rest: Option<Rest>,
    /// When the oldest posting was settled, as far as is known, that can't be read.
    pub(super) stuck_since: Option<Timestamp>,
}

/// The end of a journal, and the rows of those that were open there.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) end: u64,
    pub(super) open: Vec<Posting>,
}

impl Rest {
    /// Returns where the journal's last row stands.
    fn last(&self) -> u64 {
        self.end + self.open.len() as u64
    }

    /// Returns what is left at the end: nothing is charged for what was open.
    pub(super) fn of(scan: Scan) -> Self {
        let interrupted = |posting| Posting { outcome: Outcome::Interrupted, ..posting };
        Self { end: scan.end, open: scan.open.into_values().map(interrupted).collect() }
    }
}

impl Tail {
    /// Returns a journal that this process has begun.
    pub(super) fn of(live: Arc<Live>) -> Self {
        let reader = Reader::new(live.journal, live.folder.clone(), live.layout);
        Self {
            journal: live.journal,
            reader,
            live: Some(live),
            applied: 0,
            read: 0,
            told: 0,
            owed: 0,
            rest: None,
            stuck_since: None,
        }
    }

    /// Says whether what comes next was told before, or never needs to be.
    pub(super) fn is_replay(&self) -> bool {
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
    pub(super) fn take(&mut self, most: usize) -> Result<(Vec<Posting>, u64, bool), ReadError> {
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
    pub(super) fn moves(&self, next: u64) -> bool {
        self.reader.segment_of(next) > self.reader.segment_of(self.applied)
    }

    /// Goes back to where the store stands.
    pub(super) fn go_back(&mut self, shelf: &Shelf, cursor: JournalCursor) -> Result<(), FlushError> {
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

    /// Says whether the cursor of a journal that was left behind was moved by the last commit of the process that wrote
    /// it: such a commit may come after the cursors were read at the start.
    pub(super) fn is_late(&self, cursor: &JournalCursor) -> bool {
        let rest = self.rest.as_ref().filter(|_| self.live.is_none());
        rest.is_some_and(|rest| cursor.applied > self.applied && cursor.applied <= rest.last())
    }
}
