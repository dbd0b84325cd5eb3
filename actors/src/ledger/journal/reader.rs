//! Reading a journal back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    Owner,
    record::{Place, RECORD_BYTES, Record, Slot, VERSION, decode},
    segment::{Layout, file_name, of_file_name},
};
use crate::domain::Posting;

/// The most records that are read at once: 512 KiB.
const CHUNK: u64 = 4_096;

/// Why a journal can't be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::ledger) enum ReadError {
    /// The file system says so.
    #[error("the journal {0} can't be read: {1}")]
    Io(Uuid, #[source] io::Error),
    /// A newer binary wrote it.
    #[error("the journal {0} has version {1}, and this binary reads up to {VERSION}: a newer one has been here")]
    Newer(Uuid, u8),
    /// It is somebody else's.
    #[error("the journal {0} belongs to another store or another instance")]
    Foreign(Uuid),
    /// The store is behind what is kept.
    #[error("the store stands at record {applied} of the journal {journal}, whose oldest record here is {oldest}")]
    Missing {
        /// The journal.
        journal: Uuid,
        /// Where the store stands.
        applied: u64,
        /// The first record that is here.
        oldest: u64,
    },
}

/// Records that should be there and aren't, with valid ones behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Gap {
    /// In which segment.
    pub(in crate::ledger) segment: u64,
    /// The first of them.
    pub(in crate::ledger) from: u64,
    /// One past the last of them.
    pub(in crate::ledger) to: u64,
}

/// What a journal that nobody writes any more holds.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Scan {
    /// One past its last record.
    pub(in crate::ledger) end: u64,
    /// The entries without an end.
    pub(in crate::ledger) open: BTreeMap<u64, Posting>,
    /// What is damaged.
    pub(in crate::ledger) gaps: Vec<Gap>,
    /// Everything before this record is known to have been synced.
    pub(in crate::ledger) synced: u64,
}

/// One journal's files.
#[derive(Debug)]
pub(in crate::ledger) struct Reader {
    journal: Uuid,
    folder: PathBuf,
    layout: Layout,
    current: Option<(u64, File)>,
}

/// Returns the segments of a journal, in order.
pub(in crate::ledger) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(of_file_name));
    }
    found.sort_unstable();
    Ok(found)
}

impl Reader {
    /// Reads a journal of this layout.
    pub(in crate::ledger) fn new(journal: Uuid, folder: PathBuf, layout: Layout) -> Self {
        Self { journal, folder, layout, current: None }
    }

    /// Opens a journal that a process has left; `None` where it has no record at all.
    pub(in crate::ledger) fn open(journal: Uuid, folder: PathBuf, owner: Owner) -> Result<Option<Self>, ReadError> {
        let io = |error| ReadError::Io(journal, error);
        let Some(first) = segments(&folder).map_err(io)?.first().copied() else { return Ok(None) };
        let mut bytes = [0; RECORD_BYTES];
        let file = File::open(folder.join(file_name(first))).map_err(io)?;
        if file.metadata().map_err(io)?.len() < RECORD_BYTES as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        // The header says how many records a segment has, which is what its number depends on.
        let slots = u64::from_le_bytes([
            bytes[24], bytes[25], bytes[26], bytes[27], bytes[28], bytes[29], bytes[30], bytes[31],
        ]);
        let sequence = first.saturating_mul(slots);
        match decode(&bytes, Place { sequence, journal }) {
            Slot::Newer(version) => Err(ReadError::Newer(journal, version)),
            Slot::Written(Record::Header(header), _) => {
                if (header.store, header.instance) != (owner.store, owner.instance) {
                    return Err(ReadError::Foreign(journal));
                }
                Ok(Some(Self::new(journal, folder, Layout::of_slots(header.slots))))
            }
            _ => Ok(None),
        }
    }

    /// Returns where the journal is.
    pub(in crate::ledger) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Finds the journal's end and what is open there. `applied` is where the store stands.
    pub(in crate::ledger) fn scan(&mut self, applied: u64) -> Result<Scan, ReadError> {
        let segments = segments(&self.folder).map_err(|error| self.io(error))?;
        let (journal, layout) = (self.journal, self.layout);
        let oldest = segments.first().map_or(0, |first| layout.header(*first));
        if applied < oldest {
            return Err(ReadError::Missing { journal, applied, oldest });
        }
        // All that is open is in the last two that were begun, and behind them there may be a spare.
        let newest = segments.len().saturating_sub(3);
        let from = segments.get(newest).map_or(0, |segment| (*segment).min(layout.segment(applied)));
        let mut scan = Scan { end: applied, ..Scan::default() };
        let mut ended = None;
        for segment in segments.into_iter().filter(|segment| *segment >= from) {
            self.scan_segment(segment, &mut scan, &mut ended)?;
        }
        Ok(scan)
    }

    fn scan_segment(&mut self, segment: u64, scan: &mut Scan, last: &mut Option<u64>) -> Result<(), ReadError> {
        let (mut next, end) = (self.layout.header(segment), self.layout.end(segment));
        let mut expected = next;
        while next < end {
            let slots = self.chunk(next, end)?;
            let count = slots.len() as u64;
            for (slot, sequence) in slots.into_iter().zip(next..) {
                let Slot::Written(record, unsynced) = slot else { continue };
                if expected < sequence {
                    scan.gaps.push(Gap { segment, from: expected, to: sequence });
                }
                if let Record::Header(header) = &record
                    && let Some(last) = last.filter(|last| *last < header.previous_end)
                {
                    scan.gaps.push(Gap { segment: segment.saturating_sub(1), from: last, to: header.previous_end });
                }
                scan.see(record, sequence, unsynced);
                (expected, *last) = (sequence + 1, Some(sequence + 1));
            }
            if count == 0 {
                break;
            }
            next += count;
        }
        Ok(())
    }

    /// Reads the postings from record `from` on, up to `end`, and about `most` of them. Returns them with the record to
    /// go on from; the same one where there is nothing.
    pub(in crate::ledger) fn postings(
        &mut self,
        from: u64,
        end: u64,
        most: usize,
    ) -> Result<(Vec<Posting>, u64), ReadError> {
        let (mut postings, mut next) = (Vec::new(), from);
        while next < end && postings.len() < most {
            let segment = self.layout.segment(next);
            let slots = self.chunk(next, end.min(self.layout.end(segment)))?;
            let read = slots.len();
            let mut taken = 0;
            for slot in slots {
                taken += 1;
                match slot {
                    Slot::Written(Record::Settled { posting, .. }, _) => postings.push(posting),
                    Slot::Newer(version) => return Err(ReadError::Newer(self.journal, version)),
                    _ => {}
                }
                if postings.len() >= most {
                    break;
                }
            }
            next = if read == 0 { self.layout.end(segment).min(end) } else { next + taken };
        }
        Ok((postings, next))
    }

    /// Reads the records from `from` on that lie in its segment, before `end`, and no more than a chunk of them.
    fn chunk(&mut self, from: u64, end: u64) -> Result<Vec<Slot>, ReadError> {
        let count = (end - from).min(CHUNK);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * RECORD_BYTES];
        let offset = self.layout.offset(from);
        let read = self.file(self.layout.segment(from)).and_then(|file| read_up_to(file, &mut bytes, offset));
        let read = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            read => read.map_err(|error| self.io(error))?,
        };
        let journal = self.journal;
        let (records, _partial) = bytes.get(..read).unwrap_or_default().as_chunks::<RECORD_BYTES>();
        Ok(records.iter().zip(from..).map(|(bytes, sequence)| decode(bytes, Place { sequence, journal })).collect())
    }

    fn file(&mut self, segment: u64) -> io::Result<&File> {
        if self.current.as_ref().is_none_or(|(open, _)| *open != segment) {
            self.current = Some((segment, File::open(self.folder.join(file_name(segment)))?));
        }
        self.current.as_ref().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes sure that what was read is on the disk, before it is applied elsewhere.
    pub(in crate::ledger) fn sync(&self) -> Result<(), ReadError> {
        let sync = || {
            segments(&self.folder)?
                .into_iter()
                .try_for_each(|segment| File::open(self.folder.join(file_name(segment)))?.sync_data())
        };
        sync().map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> ReadError {
        ReadError::Io(self.journal, error)
    }
}

/// Reads as much as there is.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

impl Scan {
    fn see(&mut self, record: Record, sequence: u64, unsynced: u32) {
        self.end = self.end.max(sequence + 1);
        self.synced = self.synced.max(sequence.saturating_sub(unsynced.into()));
        match record {
            Record::Reserved(posting) => drop(self.open.insert(sequence, posting)),
            Record::Carried { entry, posting } => drop(self.open.insert(entry, posting)),
            Record::Settled { entry, .. } | Record::Released { entry } => drop(self.open.remove(&entry)),
            Record::Header(_) => {}
        }
    }
}
