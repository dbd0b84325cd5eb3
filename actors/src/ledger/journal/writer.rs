//! Appending to a journal, on its worker's thread.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Live, Owner,
    keeper::Bell,
    record::{Header, Place, RECORD_BYTES, Record, encode},
    segment::{Layout, Room, file_name},
};
use crate::{
    domain::{Posting, Timestamp},
    lock::lock,
    mutants::{self, Mutant},
    private,
};

/// So many entries may be open before their table is given back when all have ended.
const KEPT_OPEN: usize = 1_024;

/// A file of a journal.
#[derive(Debug)]
pub(in crate::ledger) struct Segment {
    pub(in crate::ledger) index: u64,
    pub(in crate::ledger) file: File,
    /// Whether its zeros were synced.
    pub(in crate::ledger) is_on_disk: AtomicBool,
}

/// A segment that was written with zeros and waits to be begun.
pub(in crate::ledger) type Spare = Arc<Segment>;

impl Segment {
    /// Makes a file of zeros, in the place of one whose making has failed. Where this fails, it is gone again.
    pub(in crate::ledger) fn create(folder: &Path, index: u64, layout: Layout) -> io::Result<Self> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let path = folder.join(file_name(index));
        let mut file = private::file().read(true).write(true).create(true).truncate(true).open(&path)?;
        let mut left = layout.bytes();
        while left > 0 {
            let part = ZEROS.get(..usize::try_from(left).unwrap_or(ZEROS.len()).min(ZEROS.len())).unwrap_or(&ZEROS);
            if let Err(error) = file.write_all(part) {
                fs::remove_file(&path)?;
                return Err(error);
            }
            left -= part.len() as u64;
        }
        Ok(Self { index, file, is_on_disk: AtomicBool::new(false) })
    }
}

/// Makes sure that what was made in a folder is still there after a power failure.
pub(in crate::ledger) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Why an entry can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) enum Refused {
    /// There is no room for it and its end.
    Full,
    /// The file can't be written.
    Broken,
}

/// The file can't be written: what was to be recorded isn't, and the journal ends as if the process had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal can't be written")]
pub struct Unwritten;

/// One journal, as its worker writes it.
#[derive(Debug)]
pub(in crate::ledger) struct Writer {
    owner: Owner,
    live: Arc<Live>,
    bell: Arc<Bell>,
    segment: Arc<Segment>,
    next: u64,
    /// The entries that are open, as they will be carried over.
    open: HashMap<u64, Posting>,
}

impl Writer {
    /// Begins a fresh journal, in a folder of its own below `folder`.
    pub(in crate::ledger) fn create(
        folder: &Path,
        owner: Owner,
        layout: Layout,
        bell: Arc<Bell>,
        now: Timestamp,
    ) -> io::Result<Self> {
        let journal = Uuid::new_v4();
        let own = folder.join(journal.to_string());
        private::make_folder(&own)?;
        let begun = Self::begin_in(own.clone(), journal, owner, layout, bell, now);
        let begun = begun.and_then(|writer| sync_folder(&own).and_then(|()| sync_folder(folder)).map(|()| writer));
        if begun.is_err() {
            // Whatever is left of it is in the way of the next attempt.
            let _removed = fs::remove_dir_all(&own).is_ok();
        }
        begun
    }

    fn begin_in(
        folder: PathBuf,
        journal: Uuid,
        owner: Owner,
        layout: Layout,
        bell: Arc<Bell>,
        now: Timestamp,
    ) -> io::Result<Self> {
        let segment = Arc::new(Segment::create(&folder, 0, layout)?);
        let live = Live {
            journal,
            folder,
            layout,
            end: AtomicU64::new(0),
            synced: watch::Sender::default(),
            broken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            spare: Mutex::default(),
            newest: AtomicU64::new(0),
            unsynced: Mutex::new(vec![Arc::clone(&segment)]),
            syncing: Mutex::default(),
        };
        let mut writer = Self { owner, live: Arc::new(live), bell, segment, next: 0, open: HashMap::new() };
        writer.begin(now, 0)?;
        Ok(writer)
    }

    /// Returns what the writer shares.
    pub(in crate::ledger) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Returns how many entries are open.
    #[cfg(test)]
    pub(in crate::ledger) fn open_entries(&self) -> usize {
        self.open.len()
    }

    /// Records that a request is admitted, with the row that it will have if nothing else is heard of it. Returns the
    /// entry's number; the record is in the file.
    pub(in crate::ledger) fn open(&mut self, posting: Posting, now: Timestamp) -> Result<u64, Refused> {
        if self.live.is_broken() {
            return Err(Refused::Broken);
        }
        match self.live.layout.room(self.next, self.open.len() as u64) {
            Room::Here => {}
            Room::Next => self.rotate(now)?,
            Room::None => return Err(Refused::Full),
        }
        let entry = self.next;
        let record = Record::Reserved(posting);
        self.append(&record).map_err(|Unwritten| Refused::Broken)?;
        if let Record::Reserved(posting) = record {
            self.open.insert(entry, posting);
        }
        Ok(entry)
    }

    /// Records how a request has ended. Returns one past the record, for [`Live::until_synced`]; it is in the file.
    pub(in crate::ledger) fn settle(&mut self, entry: u64, posting: Posting) -> Result<u64, Unwritten> {
        self.end(entry, &Record::Settled { entry, posting })
    }

    /// Records that a request leaves no row.
    pub(in crate::ledger) fn release(&mut self, entry: u64) -> Result<u64, Unwritten> {
        self.end(entry, &Record::Released { entry })
    }

    fn end(&mut self, entry: u64, record: &Record) -> Result<u64, Unwritten> {
        if self.live.is_broken() || self.open.remove(&entry).is_none() {
            return Err(Unwritten);
        }
        if self.open.is_empty() {
            // After thousands at once the table is a megabyte and more.
            self.open.shrink_to(KEPT_OPEN);
        }
        self.append(record)?;
        Ok(self.next)
    }

    fn append(&mut self, record: &Record) -> Result<(), Unwritten> {
        let bytes = self.encode(record, self.next);
        self.write(&bytes, self.next)
    }

    fn encode(&self, record: &Record, sequence: u64) -> [u8; RECORD_BYTES] {
        let unsynced = u32::try_from(sequence.saturating_sub(self.live.synced())).unwrap_or(u32::MAX);
        encode(record, Place { sequence, journal: self.live.journal }, unsynced)
    }

    /// Writes whole records from the place of `first` on, and makes them known.
    fn write(&mut self, bytes: &[u8], first: u64) -> Result<(), Unwritten> {
        if mutants::is(Mutant::NoJournal) {
            self.next = first + (bytes.len() / RECORD_BYTES) as u64;
            return Ok(());
        }
        if let Err(error) = self.segment.file.write_all_at(bytes, self.live.layout.offset(first)) {
            tracing::error!(%error, journal = %self.live.journal, "a journal can't be written and isn't trusted again");
            self.live.fail();
            return Err(Unwritten);
        }
        self.next = first + (bytes.len() / RECORD_BYTES) as u64;
        self.live.end.store(self.next, Ordering::Release);
        self.bell.written();
        Ok(())
    }

    /// Goes on in the spare segment.
    fn rotate(&mut self, now: Timestamp) -> Result<(), Refused> {
        let spare = lock(&self.live.spare).take();
        self.bell.wanted();
        let previous_end = self.next;
        self.segment = spare.ok_or(Refused::Full)?;
        lock(&self.live.unsynced).push(Arc::clone(&self.segment));
        self.begin(now, previous_end).map_err(|_logged| Refused::Broken)
    }

    /// Writes a segment's header and everything that is open, in one piece.
    fn begin(&mut self, now: Timestamp, previous_end: u64) -> io::Result<()> {
        let first = self.live.layout.header(self.segment.index);
        let header = Header {
            slots: self.live.layout.slots(),
            journal: self.live.journal,
            store: self.owner.store,
            instance: self.owner.instance,
            previous_end,
            created_at: now,
            carried: self.open.len() as u64,
        };
        let mut bytes = self.encode(&Record::Header(header), first).to_vec();
        let carried =
            self.open.iter().map(|(entry, posting)| Record::Carried { entry: *entry, posting: posting.clone() });
        for (record, sequence) in carried.zip(first + 1..) {
            bytes.extend_from_slice(&self.encode(&record, sequence));
        }
        self.write(&bytes, first).map_err(io::Error::other)
    }
}

impl Drop for Writer {
    /// What is left open ends as if the process had: the ledger closes the journal.
    fn drop(&mut self) {
        self.live.ended.store(true, Ordering::Release);
        self.bell.wanted();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{Amounts, ClassId, ModelKey, Outcome, Portion, UserKey, WindowKind};

    /// A posting of a request that nothing is known of.
    pub(in crate::ledger::journal) fn posting() -> Posting {
        Posting {
            id: Uuid::new_v4(),
            user: UserKey(1),
            class: ClassId(1),
            model: ModelKey(1),
            opened_at: Timestamp(0),
            settled_at: Timestamp(0),
            outcome: Outcome::Interrupted,
            estimated: false,
            amounts: Amounts::ZERO,
            window: WindowKind::Day,
            leased: Portion::ZERO,
        }
    }

    #[test]
    fn the_table_of_open_entries_is_given_back() {
        const MANY: usize = 10 * KEPT_OPEN;
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner { store: Uuid::nil(), instance: Uuid::nil() };
        let (bell, _heard) = Bell::new();
        let layout = Layout::of_slots(4 * MANY as u64);
        let mut writer = Writer::create(folder.path(), owner, layout, bell, Timestamp(0)).unwrap();
        let entries: Vec<_> = (0..MANY).map(|_| writer.open(posting(), Timestamp(0)).unwrap()).collect();
        assert!(writer.open.capacity() >= MANY);
        for entry in entries {
            writer.release(entry).unwrap();
        }
        assert!(writer.open.capacity() < 2 * KEPT_OPEN, "{}", writer.open.capacity());
    }
}
