//! The shelf: all journals of the process, as those who look after them see them.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    books::{Book, Books},
    journal::{
        Live, Owner,
        keeper::{self, Bell, Kept},
        segment::Layout,
        writer::{Segment, Writer},
    },
};
use crate::{domain::Timestamp, lock::lock, metrics::Metrics, ports::Clock, private};

/// How journals are kept: `[journal]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalConfig {
    /// When records are synced to the disk.
    pub fsync: Fsync,
    /// How long a record may wait for that.
    #[serde(with = "humantime_serde")]
    pub fsync_interval: Duration,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// How long a segment is kept after it was applied.
    #[serde(with = "humantime_serde")]
    pub retain: Duration,
    /// The most bytes of applied segments that are kept.
    pub retain_bytes: u64,
    /// The most bytes of all segments; beyond them new requests are refused.
    pub max_bytes: u64,
}

/// When records are synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Each `fsync_interval`, in the background.
    Interval,
    /// Before a provider is contacted and before the end of an answer is handed over, many at once.
    Each,
}

impl JournalConfig {
    /// Returns how long a record may wait to be synced.
    pub(super) fn sync_interval(&self) -> Duration {
        if self.fsync == Fsync::Each { Duration::ZERO } else { self.fsync_interval }
    }
}

/// How far the store has applied a journal.
#[derive(Debug, Clone, Copy, Default)]
struct Applied {
    end: u64,
    closed: bool,
}

/// All journals of the process.
pub struct Shelf {
    pub(super) config: JournalConfig,
    folder: PathBuf,
    owner: Owner,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    books: Mutex<Vec<Weak<Book>>>,
    /// Journals that the ledger hasn't seen yet.
    fresh: Mutex<Vec<Arc<Live>>>,
    /// Journals that are not closed yet.
    live: Mutex<Vec<Arc<Live>>>,
    applied: Mutex<HashMap<Uuid, Applied>>,
    pub(super) flush_postings: usize,
    pub(super) settled: AtomicUsize,
    pub(super) oldest: AtomicI64,
    pub(super) poke: Notify,
    pub(super) stopped: OnceLock<String>,
    metrics: OnceLock<Metrics>,
    closed: AtomicBool,
    /// The last attempt to begin a journal has failed.
    refuses: AtomicBool,
    /// A request found no room, and none was made since.
    pub(super) full: AtomicBool,
    /// Held from the making of a journal's folder until it is among the live ones.
    beginning: Mutex<()>,
}

impl Shelf {
    /// Makes a shelf below `folder`, with the thread that looks after it.
    ///
    /// # Errors
    /// The folder can't be made, or the thread not be started.
    pub fn new(
        config: JournalConfig,
        folder: &Path,
        owner: Owner,
        flush_postings: usize,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Arc<Self>> {
        let (bell, rung) = Bell::new();
        let shelf = Self::unattended(config, folder, owner, flush_postings, clock, Arc::clone(&bell))?;
        keeper::start(&shelf, bell, rung)?;
        Ok(shelf)
    }

    /// Makes a shelf that nobody looks after.
    pub(super) fn unattended(
        config: JournalConfig,
        folder: &Path,
        owner: Owner,
        flush_postings: usize,
        clock: Arc<dyn Clock>,
        bell: Arc<Bell>,
    ) -> io::Result<Arc<Self>> {
        let folder = folder.join(owner.store.to_string());
        private::make_folder(&folder)?;
        Ok(Arc::new(Self {
            config,
            folder,
            owner,
            clock,
            bell,
            books: Mutex::default(),
            fresh: Mutex::default(),
            live: Mutex::default(),
            applied: Mutex::default(),
            flush_postings,
            settled: AtomicUsize::new(0),
            oldest: AtomicI64::new(i64::MAX),
            poke: Notify::new(),
            stopped: OnceLock::new(),
            metrics: OnceLock::new(),
            closed: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            full: AtomicBool::new(false),
            beginning: Mutex::default(),
        }))
    }

    /// Opens a worker's books. Where no journal can be begun, they refuse until one can.
    #[must_use]
    pub fn open_books(self: &Arc<Self>) -> Books {
        let book = Arc::new(Book { writer: Mutex::new(self.begin()), shelf: Arc::clone(self) });
        lock(&self.books).push(Arc::downgrade(&book));
        Books::of(book)
    }

    fn begin(&self) -> Option<Writer> {
        let layout = Layout::of_bytes(self.config.segment_bytes);
        if !self.has_room(layout.bytes()) {
            return None;
        }
        let _beginning = lock(&self.beginning);
        match Writer::create(&self.folder, self.owner, layout, Arc::clone(&self.bell), self.clock.wall()) {
            Ok(writer) => {
                let live = writer.live();
                lock(&self.live).push(Arc::clone(live));
                lock(&self.fresh).push(Arc::clone(live));
                self.bell.wanted();
                self.refuses.store(false, Ordering::Release);
                Some(writer)
            }
            Err(error) => {
                // It is tried again and again, and said once.
                if !self.refuses.swap(true, Ordering::AcqRel) {
                    tracing::error!(%error, "no journal can be begun: new requests are refused");
                }
                None
            }
        }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let fits = || keeper::list(&self.folder).map(|all| bytes_of(&all) + bytes <= self.config.max_bytes);
        if fits().is_ok_and(|fits| !fits) {
            self.sweep(bytes);
        }
        fits().unwrap_or(false)
    }

    /// Gives each book a journal, and each journal a spare segment. Says whether that went well.
    pub(super) fn furnish(&self) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return true;
        }
        let mut well = true;
        for live in self.live().iter().filter(|live| !live.has_ended() && !live.is_broken() && !live.is_there()) {
            tracing::error!(journal = %live.journal, "a journal's file is gone: nothing more is written to it");
            live.fail();
        }
        let books: Vec<_> = lock(&self.books).iter().filter_map(Weak::upgrade).collect();
        for book in books {
            if lock(&book.writer).as_ref().is_none_or(|writer| writer.live().is_broken()) {
                let writer = self.begin();
                well &= writer.is_some();
                let mut slot = lock(&book.writer);
                // Closed meanwhile: what was begun ends at once.
                *slot = writer.filter(|_| !self.closed.load(Ordering::Acquire));
            }
        }
        let live: Vec<_> =
            lock(&self.live).iter().filter(|live| !live.has_ended() && !live.is_broken()).cloned().collect();
        for live in live {
            if !live.has_spare() {
                let room = self.has_room(live.layout.bytes()).then_some(()).ok_or(io::ErrorKind::QuotaExceeded.into());
                let made = room.and_then(|()| Segment::create(&live.folder, live.next_spare(), live.layout));
                well &= made.is_ok();
                match made {
                    Ok(spare) => live.put_spare(Arc::new(spare)),
                    Err(error) => tracing::debug!(%error, journal = %live.journal, "no spare segment"),
                }
            }
        }
        self.full.fetch_and(!well, Ordering::AcqRel);
        self.bell.made();
        well
    }

    /// Has this counted from now on.
    pub(super) fn observe(&self, metrics: Metrics) {
        // The first one stays.
        let _first = self.metrics.set(metrics).is_ok();
    }

    /// Syncs every journal.
    pub(super) fn sync(&self) {
        for live in self.live() {
            let started = self.clock.now();
            if live.sync()
                && let Some(metrics) = self.metrics.get()
            {
                metrics.journal_synced(self.clock.now().saturating_duration_since(started));
            }
        }
    }

    /// Syncs the segments that wait to be begun.
    pub(super) fn sync_spares(&self) {
        self.live().iter().for_each(|live| live.sync_spare());
    }

    /// Returns the journals that are not closed yet.
    pub(super) fn live(&self) -> Vec<Arc<Live>> {
        lock(&self.live).clone()
    }

    /// Drops segments that were applied and needn't be kept, or are in the way of so many bytes.
    pub(super) fn sweep(&self, needed: u64) {
        lock(&self.books).retain(|book| book.strong_count() > 0);
        let Ok(all) = keeper::list(&self.folder) else { return };
        let (applied, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|kept| self.is_applied(kept));
        let room = self.config.max_bytes.saturating_sub(bytes_of(&waiting) + needed);
        for kept in keeper::superfluous(applied, self.config.retain, self.config.retain_bytes.min(room)) {
            if let Err(error) = fs::remove_file(&kept.path) {
                tracing::warn!(%error, path = %kept.path.display(), "a segment can't be removed");
            }
            // Fails while there are others.
            let _removed = kept.path.parent().is_some_and(|folder| fs::remove_dir(folder).is_ok());
        }
    }

    /// Says whether a segment is behind the store's cursor, and before the last two, which tell what is open.
    fn is_applied(&self, kept: &Kept) -> bool {
        let Some(applied) = lock(&self.applied).get(&kept.journal).copied() else { return false };
        let live = lock(&self.live).iter().find(|live| live.journal == kept.journal).cloned();
        applied.closed
            || live.is_some_and(|live| {
                let current = live.layout.segment(live.end().saturating_sub(1));
                live.layout.end(kept.index) <= applied.end && kept.index + 1 < current
            })
    }

    /// Returns how many bytes all segments have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        keeper::list(&self.folder).map_or(0, |all| bytes_of(&all))
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
    #[cfg(test)]
    pub(crate) fn open_entries(&self) -> usize {
        let open = |book: Arc<Book>| lock(&book.writer).as_ref().map_or(0, Writer::open_entries);
        lock(&self.books).iter().filter_map(Weak::upgrade).map(open).sum()
    }

    /// Returns why usage can't be recorded now; `None` where it can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let without = |book: &Weak<Book>| book.upgrade().is_some_and(|book| book.lacks_journal());
        let refused = || lock(&self.books).iter().any(without).then(|| "no journal can be written".to_owned());
        let full = || self.full.load(Ordering::Acquire).then(|| "the journal is full".to_owned());
        self.stopped.get().cloned().or_else(refused).or_else(full)
    }

    /// Ends every book: the ledger closes the journals.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let books: Vec<_> = lock(&self.books).iter().filter_map(Weak::upgrade).collect();
        books.iter().for_each(|book| drop(lock(&book.writer).take()));
    }

    /// Admits nothing any more.
    pub(super) fn stop(&self, why: String) {
        tracing::error!(why, "nothing is served any more");
        // The first reason stays.
        let _first = self.stopped.set(why).is_ok();
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// Takes the journals that were begun since the last call.
    pub(super) fn take_fresh(&self) -> Vec<Arc<Live>> {
        std::mem::take(&mut *lock(&self.fresh))
    }

    /// Says whether there are journals that the ledger hasn't seen yet.
    pub(super) fn has_fresh(&self) -> bool {
        !lock(&self.fresh).is_empty()
    }

    /// Notes how far the store has applied a journal.
    pub(super) fn note_applied(&self, journal: Uuid, end: u64, closed: bool) {
        lock(&self.applied).insert(journal, Applied { end, closed });
        if closed {
            lock(&self.live).retain(|live| live.journal != journal);
        }
    }

    /// Lists the journals that processes before this one have left.
    pub(super) fn left_behind(&self) -> io::Result<Vec<(Uuid, PathBuf)>> {
        // One that is just being begun would be taken for somebody else's.
        let _beginning = lock(&self.beginning);
        let mut found = keeper::journals(&self.folder)?;
        let live = lock(&self.live);
        found.retain(|(journal, _)| !live.iter().any(|live| live.journal == *journal));
        Ok(found)
    }

    /// Waits until a whole batch is there.
    pub(super) async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Notes when the oldest posting was settled that the store doesn't have.
    pub(super) fn note_oldest(&self, oldest: Option<Timestamp>) {
        self.oldest.store(oldest.map_or(i64::MAX, |oldest| oldest.0), Ordering::Release);
    }

    /// Notes that so many postings have reached the store.
    pub(super) fn release(&self, postings: usize) {
        let less = |settled: usize| Some(settled.saturating_sub(postings));
        // It always gives a number.
        let _before = self.settled.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok();
    }
}

fn bytes_of(kept: &[Kept]) -> u64 {
    kept.iter().map(|kept| kept.bytes).sum()
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").field("folder", &self.folder).field("owner", &self.owner).finish_non_exhaustive()
    }
}
