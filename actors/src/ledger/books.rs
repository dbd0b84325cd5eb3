//! Books: where a worker writes what its requests used, until the ledger has brought it into the store.
//!
//! Invariants:
//! - An open [`Entry`] has claimed the space of its posting, so `settle` can't fail and never waits.
//! - `pending` = open entries + postings that haven't reached the store ≤ `max_pending`.
//! - Within a book postings are numbered from 0 without a gap, in the order in which they were settled; the store's
//!   cursor of that book says how many of them it has applied.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    domain::{Posting, Timestamp},
    ports::{Batch, CursorMove},
    quota::lock,
};

/// One worker's postings that the ledger hasn't taken yet.
#[derive(Debug)]
struct Book {
    journal: Uuid,
    open: Mutex<Page>,
}

#[derive(Debug, Default)]
struct Page {
    /// How many postings the ledger has taken, in all.
    taken: u64,
    postings: VecDeque<Posting>,
}

/// All books of the process, as the ledger sees them.
#[derive(Debug)]
pub struct Shelf {
    books: Mutex<Vec<Arc<Book>>>,
    max_pending: usize,
    flush_postings: usize,
    pending: AtomicUsize,
    settled: AtomicUsize,
    oldest: AtomicI64,
    poke: Notify,
}

impl Shelf {
    /// Makes an empty shelf with these limits.
    #[must_use]
    pub fn new(max_pending: usize, flush_postings: usize) -> Arc<Self> {
        Arc::new(Self {
            books: Mutex::default(),
            max_pending,
            flush_postings,
            pending: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            oldest: AtomicI64::new(i64::MAX),
            poke: Notify::new(),
        })
    }

    /// Opens a fresh book for a worker.
    #[must_use]
    pub fn open_books(self: &Arc<Self>) -> Books {
        let book = Arc::new(Book { journal: Uuid::new_v4(), open: Mutex::default() });
        lock(&self.books).push(Arc::clone(&book));
        Books { book, shelf: Arc::clone(self) }
    }

    /// Returns how many postings were settled and haven't reached the store.
    #[must_use]
    pub fn lag_rows(&self) -> usize {
        self.settled.load(Ordering::Acquire)
    }

    /// Returns when the oldest of them was settled.
    #[must_use]
    pub fn lag_since(&self) -> Option<Timestamp> {
        let oldest = self.oldest.load(Ordering::Acquire);
        (self.lag_rows() > 0 && oldest != i64::MAX).then_some(Timestamp(oldest))
    }

    /// Returns how many entries are open: admitted requests that haven't ended.
    #[must_use]
    pub fn open_entries(&self) -> usize {
        self.pending.load(Ordering::Acquire).saturating_sub(self.lag_rows())
    }

    /// Waits until a whole batch is there.
    pub(super) async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Takes the next batch from the books, oldest first within each. Empty where nothing was settled.
    pub(super) fn take(&self) -> Batch {
        let mut batch = Batch::default();
        let mut oldest = i64::MAX;
        for book in lock(&self.books).iter() {
            let mut page = lock(&book.open);
            let room = self.flush_postings.saturating_sub(batch.postings.len());
            let count = page.postings.len().min(room);
            if count > 0 {
                let (from, to) = (page.taken, page.taken + count as u64);
                page.taken = to;
                batch.cursors.push(CursorMove { journal: book.journal, from, to });
                batch.postings.extend(page.postings.drain(..count));
            }
            oldest = oldest.min(page.postings.front().map_or(i64::MAX, |posting| posting.settled_at.0));
        }
        let taken = batch.postings.iter().map(|posting| posting.settled_at.0).min().unwrap_or(i64::MAX);
        self.oldest.store(oldest.min(taken), Ordering::Release);
        batch
    }

    /// Gives back the space of postings that have reached the store.
    pub(super) fn release(&self, postings: usize) {
        self.settled.fetch_sub(postings, Ordering::AcqRel);
        self.pending.fetch_sub(postings, Ordering::AcqRel);
    }
}

/// A worker's book: entries are opened before a provider is contacted.
#[derive(Debug, Clone)]
pub struct Books {
    book: Arc<Book>,
    shelf: Arc<Shelf>,
}

impl Books {
    /// Claims the space of one posting; `None` where there is none.
    #[must_use]
    pub fn open(&self) -> Option<Entry> {
        let most = self.shelf.max_pending;
        let claim = |pending: usize| (pending < most).then_some(pending + 1);
        self.shelf.pending.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).ok()?;
        Some(Entry { books: Some(self.clone()) })
    }
}

/// The claimed space of one posting. Dropping it gives the space back and leaves no row.
#[derive(Debug)]
#[must_use = "an entry that isn't settled leaves no row"]
pub struct Entry {
    books: Option<Books>,
}

impl Entry {
    /// Writes the posting. It is in the book when this returns.
    pub fn settle(mut self, posting: Posting) {
        let Some(Books { book, shelf }) = self.books.take() else { return };
        // Counted before it can be taken: the ledger subtracts what it has brought.
        let settled = shelf.settled.fetch_add(1, Ordering::AcqRel) + 1;
        lock(&book.open).postings.push_back(posting);
        if settled == shelf.flush_postings {
            shelf.poke.notify_one();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(books) = self.books.take() {
            books.shelf.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
