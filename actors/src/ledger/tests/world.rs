//! A process with its journals, which can be killed at any moment, and what its books should say in the end.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    domain::{Amounts, ClassId, ModelKey, Nanodollars, Outcome, Portion, Posting, Timestamp, UserKey, WindowKind},
    ledger::{
        Books, Entry, FlushError, Flusher, Fsync, JournalConfig, Owner, Shelf,
        journal::{keeper::Bell, record::RECORD_BYTES, segment::file_name},
    },
    testing::{FakeLedger, ManualClock},
};

pub(super) const OWNER: Owner = Owner { store: Uuid::from_u128(1), instance: Uuid::from_u128(2) };

/// Makes a folder in memory, where there is one.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_elsewhere| tempfile::tempdir()).unwrap()
}

/// Keeps everything that was applied, in segments of so many records.
pub(super) fn keeping(slots: u64) -> JournalConfig {
    JournalConfig {
        fsync: Fsync::Interval,
        fsync_interval: Duration::from_secs(3600),
        segment_bytes: slots * RECORD_BYTES as u64,
        retain: Duration::from_secs(3600),
        retain_bytes: 1 << 40,
        max_bytes: 1 << 40,
    }
}

/// The row of an admitted request that nothing else is heard of.
pub(super) fn reserved(number: u64) -> Posting {
    Posting {
        id: Uuid::from_u128(number.into()),
        user: UserKey(7),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: ManualClock::START,
        settled_at: ManualClock::START,
        outcome: Outcome::Interrupted,
        estimated: false,
        amounts: Amounts::ZERO,
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
}

/// The row of the same request when it has ended.
pub(super) fn settled(number: u64) -> Posting {
    let figure = i64::try_from(number).unwrap() + 1;
    let amounts =
        Amounts { requests: 1, prompt_tokens: figure, completion_tokens: 2 * figure, cost: Nanodollars(3 * figure) };
    let settled_at = Timestamp(ManualClock::START.0 + figure);
    Posting { outcome: Outcome::Completed, amounts, settled_at, ..reserved(number) }
}

/// How a request has ended, and one past the record that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Settled(u64),
    Released(u64),
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
struct Known {
    journal: Uuid,
    reserved: u64,
    end: Option<End>,
}

/// What lives in memory only.
pub(super) struct Life {
    pub(super) shelf: Arc<Shelf>,
    pub(super) books: Vec<Books>,
    pub(super) flusher: Flusher,
    open: BTreeMap<u64, Entry>,
}

pub(super) struct World {
    pub(super) folder: PathBuf,
    pub(super) store: Arc<FakeLedger>,
    pub(super) config: JournalConfig,
    pub(super) flush_postings: usize,
    pub(super) life: Option<Life>,
    known: HashMap<u64, Known>,
    next: u64,
}

impl World {
    pub(super) fn new(folder: &Path, config: JournalConfig, flush_postings: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            store: Arc::default(),
            config,
            flush_postings,
            life: None,
            known: HashMap::new(),
            next: 0,
        }
    }

    /// Starts a process without bringing anything into the store.
    pub(super) fn begin(&mut self, books: usize) {
        let (bell, _nobody) = Bell::new();
        let clock = Arc::new(ManualClock::new());
        let (config, postings) = (self.config.clone(), self.flush_postings);
        let shelf = Shelf::unattended(config, &self.folder, OWNER, postings, clock, bell).unwrap();
        let flusher = Flusher::new(shelf.clone(), self.store.clone());
        let books = (0..books).map(|_| shelf.open_books()).collect();
        self.life = Some(Life { shelf, books, flusher, open: BTreeMap::new() });
    }

    /// Starts a process as the service does: it drains what was left before it serves.
    pub(super) async fn start(&mut self, books: usize) -> Result<usize, FlushError> {
        self.begin(0);
        let life = self.life();
        let journals = life.flusher.recover().await?;
        while life.flusher.flush().await?.is_some() {}
        life.books = (0..books).map(|_| life.shelf.open_books()).collect();
        Ok(journals)
    }

    pub(super) fn life(&mut self) -> &mut Life {
        self.life.as_mut().unwrap()
    }

    /// Admits a request; `None` where it is refused.
    pub(super) fn open(&mut self, book: usize) -> Option<u64> {
        let number = self.next;
        let life = self.life.as_mut().unwrap();
        let entry = life.books[book % life.books.len()].open(reserved(number))?;
        let (journal, reserved) = entry.place();
        self.known.insert(number, Known { journal, reserved, end: None });
        life.open.insert(number, entry);
        self.next += 1;
        Some(number)
    }

    /// Takes the running request at a place among all that run.
    fn take(&mut self, place: usize) -> Option<(u64, Entry)> {
        let open = &mut self.life().open;
        let number = *open.keys().nth(place % open.len().max(1))?;
        Some((number, open.remove(&number).unwrap()))
    }

    fn end_of(&self, journal: Uuid) -> u64 {
        let live = self.life.as_ref().unwrap().shelf.live();
        live.iter().find(|live| live.journal == journal).map_or(0, |live| live.end())
    }

    pub(super) fn settle(&mut self, place: usize) {
        let Some((number, entry)) = self.take(place) else { return };
        let written = entry.settle(settled(number)).is_ok();
        let end = self.end_of(self.known[&number].journal);
        let known = self.known.get_mut(&number).unwrap();
        known.end = written.then_some(End::Settled(end));
    }

    pub(super) fn release(&mut self, place: usize) {
        let Some((number, entry)) = self.take(place) else { return };
        let journal = entry.place().0;
        let before = self.end_of(journal);
        drop(entry);
        let end = self.end_of(journal);
        let known = self.known.get_mut(&number).unwrap();
        known.end = (end > before).then_some(End::Released(end));
    }

    pub(super) async fn flush(&mut self) -> Result<Option<usize>, FlushError> {
        let landed = self.life().flusher.flush().await?;
        Ok(landed.map(|landed| landed.batch.postings.len()))
    }

    /// Flushes until nothing is left to be done.
    pub(super) async fn drain(&mut self) -> Result<usize, FlushError> {
        let mut postings = 0;
        while let Some(more) = self.flush().await? {
            postings += more;
        }
        Ok(postings)
    }

    /// Asserts that the store has been given nothing that a power failure could take away.
    pub(super) fn assert_synced(&self) {
        let cursors = self.store.cursors_of_all();
        for live in self.life.iter().flat_map(|life| life.shelf.live()).filter(|live| !live.has_ended()) {
            let applied = cursors.get(&live.journal).map_or(0, |cursor| cursor.applied);
            assert!(applied <= live.synced(), "{applied} of {} are in the store", live.synced());
        }
    }

    /// Ends the process as `kill -9` does: files stay as they are.
    pub(super) fn kill(&mut self) {
        let life = self.life.take().unwrap();
        life.open.into_values().for_each(Entry::vanish);
    }

    /// Ends the process as a power failure does: what wasn't synced is gone.
    pub(super) fn cut_power(&mut self) {
        let live = self.life().shelf.live();
        for live in live.iter().filter(|live| !live.has_ended()) {
            let synced = live.synced();
            for lost in synced..live.end() {
                let file = File::options().write(true).open(live.folder.join(file_name(live.layout.segment(lost))));
                file.unwrap().write_all_at(&[0; RECORD_BYTES], live.layout.offset(lost)).unwrap();
            }
            self.known.retain(|_, known| known.journal != live.journal || known.reserved < synced);
            for known in self.known.values_mut().filter(|known| known.journal == live.journal) {
                known.end =
                    known.end.filter(|end| matches!(end, End::Settled(at) | End::Released(at) if *at <= synced));
            }
        }
        self.kill();
    }

    /// Asserts that the store has each request's row exactly once, and that all journals are closed.
    pub(super) fn assert_books(&self) {
        let mut expected = BTreeMap::new();
        for (number, known) in &self.known {
            match known.end {
                Some(End::Released(_)) => {}
                Some(End::Settled(_)) => drop(expected.insert(*number, settled(*number))),
                None => drop(expected.insert(*number, reserved(*number))),
            }
        }
        let rows = self.store.rows();
        let count = rows.len();
        let found: BTreeMap<_, _> =
            rows.into_iter().map(|row| (u64::try_from(row.id.as_u128()).unwrap(), row)).collect();
        assert_eq!(found.len(), count, "a row is there twice");
        assert_eq!(found, expected);
        let cursors = self.store.cursors_of_all();
        assert!(cursors.values().all(|cursor| cursor.closed), "{cursors:?}");
    }

    /// Returns the folder of the journals.
    pub(super) fn journals(&self) -> PathBuf {
        self.folder.join(OWNER.store.to_string())
    }
}
