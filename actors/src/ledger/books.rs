//! Books: where a worker writes what its requests used, until the ledger has brought it into the store.
//!
//! Invariants:
//! - An [`Entry`] is in the journal before [`Books::open`] returns, and the space of its end is claimed.
//! - An entry ends exactly once: settled by [`Entry::settle`], or released when it is dropped.
//! - A journal that couldn't be written isn't trusted again: its entries end as if the process had died, and a new one
//!   is begun. Until there is one, nothing is admitted.

use std::sync::{Arc, Mutex, atomic::Ordering};

use super::{
    journal::{
        Live,
        writer::{Refused, Unwritten, Writer},
    },
    shelf::{Fsync, Shelf},
};
use crate::{
    domain::Posting,
    lock::{lock, try_lock},
};

/// One worker's journal; `None` between a fault and the next one.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) writer: Mutex<Option<Writer>>,
    pub(super) shelf: Arc<Shelf>,
}

impl Book {
    /// Says whether there is no journal. Whoever asks doesn't wait for a disk: while something is written, there is one.
    pub(super) fn lacks_journal(&self) -> bool {
        try_lock(&self.writer).is_some_and(|writer| writer.is_none())
    }
}

/// A worker's books: entries are opened before a provider is contacted.
#[derive(Debug, Clone)]
pub struct Books(Arc<Book>);

impl Books {
    pub(super) fn of(book: Arc<Book>) -> Self {
        Self(book)
    }

    /// Records that a request is admitted, with the row that it will have if the process dies. `None` where it can't be
    /// recorded: the disk or the journal's share of it is full, or the file can't be written.
    #[must_use]
    pub fn open(&self, posting: Posting) -> Option<Entry> {
        let Book { writer, shelf } = &*self.0;
        if shelf.stopped.get().is_some() {
            return None;
        }
        let now = posting.opened_at;
        let mut slot = lock(writer);
        let writer = slot.as_mut()?;
        match writer.open(posting, now) {
            Ok(number) => {
                let live = Arc::clone(writer.live());
                Some(Entry { books: Some(self.clone()), live, number })
            }
            Err(Refused::Full) => {
                shelf.full.store(true, Ordering::Release);
                None
            }
            Err(Refused::Broken) => {
                *slot = None;
                None
            }
        }
    }
}

/// A request that is recorded as admitted. Dropping it records that it leaves no row.
#[derive(Debug)]
#[must_use = "an entry that isn't settled leaves no row"]
pub struct Entry {
    /// `None` once it has ended.
    books: Option<Books>,
    live: Arc<Live>,
    number: u64,
}

/// What is known of a record that was written.
#[derive(Debug)]
pub struct Receipt {
    live: Arc<Live>,
    end: u64,
}

impl Receipt {
    /// Waits until the record is on the disk; `false` where it can't be brought there.
    pub fn synced(self) -> impl Future<Output = bool> + Send + 'static {
        let Self { live, end } = self;
        live.until_synced(end)
    }
}

impl Entry {
    /// Returns what is to be waited for before the provider is contacted; `None` where records are synced in the
    /// background.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        let each = self.books.as_ref().is_some_and(|books| books.0.shelf.config.fsync == Fsync::Each);
        each.then(|| Receipt { live: Arc::clone(&self.live), end: self.number + 1 })
    }

    /// Writes the posting. It is in the journal when this returns. The receipt is to be waited for before the end of
    /// the answer is handed over; there is none where records are synced in the background.
    ///
    /// # Errors
    /// [`Unwritten`]: the request ends as if the process had died.
    pub fn settle(mut self, posting: Posting) -> Result<Option<Receipt>, Unwritten> {
        let Some(books) = self.books.take() else { return Err(Unwritten) };
        let shelf = &books.0.shelf;
        // Counted before it can be taken: the ledger subtracts what it has brought.
        let settled = shelf.settled.fetch_add(1, Ordering::AcqRel) + 1;
        let at = posting.settled_at;
        if settled == 1 {
            shelf.oldest.fetch_min(at.0, Ordering::AcqRel);
        }
        let end = self.end(&books, |writer, number| writer.settle(number, posting));
        match end {
            Ok(end) => {
                if settled == shelf.flush_postings {
                    shelf.poke.notify_one();
                }
                let each = shelf.config.fsync == Fsync::Each;
                Ok(each.then(|| Receipt { live: Arc::clone(&self.live), end }))
            }
            Err(unwritten) => {
                shelf.settled.fetch_sub(1, Ordering::AcqRel);
                Err(unwritten)
            }
        }
    }

    fn end(
        &self,
        books: &Books,
        write: impl FnOnce(&mut Writer, u64) -> Result<u64, Unwritten>,
    ) -> Result<u64, Unwritten> {
        let mut slot = lock(&books.0.writer);
        // Another journal may have been begun since.
        let writer = slot.as_mut().filter(|writer| Arc::ptr_eq(writer.live(), &self.live)).ok_or(Unwritten)?;
        let ended = write(writer, self.number);
        if ended.is_err() {
            *slot = None;
        }
        ended
    }
}

#[cfg(test)]
impl Entry {
    /// Ends as everything does when the process is killed: nothing more is written.
    pub(super) fn vanish(mut self) {
        self.books = None;
    }

    /// Returns the journal, and the number of the entry in it.
    pub(super) fn place(&self) -> (uuid::Uuid, u64) {
        (self.live.journal, self.number)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(books) = self.books.take() {
            // Where it can't be written, the journal is closed, and an interrupted row charges nothing.
            let _written = self.end(&books, |writer, number| writer.release(number)).is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::{
        ledger::{JournalConfig, Owner},
        testing::ManualClock,
    };

    #[test]
    fn nobody_waits_for_a_write_to_learn_of_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, day) = (Owner { store: Uuid::nil(), instance: Uuid::nil() }, Duration::from_secs(24 * 60 * 60));
        let (fsync, segment_bytes, max_bytes) = (Fsync::Interval, 64 << 10, 1 << 20);
        let journal =
            JournalConfig { fsync, fsync_interval: day, segment_bytes, retain: day, retain_bytes: 0, max_bytes };
        let shelf = Shelf::new(journal, folder.path(), owner, 100, Arc::new(ManualClock::new())).unwrap();
        let books = shelf.open_books();
        let writing = lock(&books.0.writer);
        let (told, trouble) = std::sync::mpsc::channel();
        let asked = Arc::clone(&shelf);
        std::thread::spawn(move || told.send(asked.trouble()));
        assert_eq!(trouble.recv_timeout(Duration::from_secs(5)), Ok(None));
        drop(writing);
    }
}
