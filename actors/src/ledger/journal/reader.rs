//! Reading a journal back.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    Owner,
    record::{Bytes128, Header, Place, RECORD_BYTES, Record, Slot, VERSION, decode},
    scan::{Gap, Lost},
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

/// What was read.
#[derive(Debug)]
pub(in crate::ledger) struct Read {
    /// The postings, in the order of their records.
    pub(in crate::ledger) postings: Vec<Posting>,
    /// The record to go on from; the same one where there is nothing.
    pub(in crate::ledger) next: u64,
    /// What is damaged.
    pub(in crate::ledger) gaps: Vec<Gap>,
}

/// One journal's files.
#[derive(Debug)]
pub(in crate::ledger) struct Reader {
    pub(super) journal: Uuid,
    folder: PathBuf,
    pub(super) layout: Layout,
    /// This process writes it: all its files must be there.
    own: bool,
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
    /// Reads a journal of this layout that this process writes.
    pub(in crate::ledger) fn new(journal: Uuid, folder: PathBuf, layout: Layout) -> Self {
        Self { journal, folder, layout, own: true, current: None }
    }

    /// Opens a journal that a process has left; `None` where it has no record at all.
    pub(in crate::ledger) fn open(journal: Uuid, folder: PathBuf, owner: Owner) -> Result<Option<Self>, ReadError> {
        let mut reader = Self { journal, folder, layout: Layout::of_slots(0), own: false, current: None };
        let segments = reader.segments()?;
        for segment in &segments {
            if let Some(header) = reader.header(*segment)? {
                if (header.store, header.instance) != (owner.store, owner.instance) {
                    return Err(ReadError::Foreign(journal));
                }
                reader.layout = Layout::of_slots(header.slots);
                return Ok(Some(reader));
            }
        }
        // No header is left. Any other record tells as much, but for the owner: that is whose folder this is.
        for segment in segments.into_iter().rev() {
            if let Some(slots) = reader.slots_of(segment).map_err(|error| reader.io(error))? {
                reader.layout = Layout::of_slots(slots);
                return Ok(Some(reader));
            }
        }
        Ok(None)
    }

    /// Reads the header of a segment of whatever layout; `None` where there is none that is valid.
    fn header(&mut self, segment: u64) -> Result<Option<Header>, ReadError> {
        let mut bytes = [0; RECORD_BYTES];
        let read = self.file(segment).and_then(|file| read_up_to(file, &mut bytes, 0));
        if read.map_err(|error| self.io(error))? < RECORD_BYTES {
            return Ok(None);
        }
        // How many records a segment has is what its header's number depends on.
        let slots = number_at(&bytes, 24);
        match decode(&bytes, Place { sequence: segment.saturating_mul(slots), journal: self.journal }) {
            Slot::Newer(version) => Err(ReadError::Newer(self.journal, version)),
            Slot::Written(Record::Header(header), _) => Ok(Some(header)),
            _ => Ok(None),
        }
    }

    /// Finds out how many records a segment has from any record in it, whose number says so.
    fn slots_of(&mut self, segment: u64) -> io::Result<Option<u64>> {
        let journal = self.journal;
        let file = self.file(segment)?;
        let whole = file.metadata()?.len() / RECORD_BYTES as u64;
        for place in 0..whole {
            let mut bytes = [0; RECORD_BYTES];
            file.read_exact_at(&mut bytes, place * RECORD_BYTES as u64)?;
            let sequence = number_at(&bytes, 8);
            if matches!(decode(&bytes, Place { sequence, journal }), Slot::Written(..)) {
                return Ok(sequence.saturating_sub(place).checked_div(segment).or(Some(whole)));
            }
        }
        Ok(None)
    }

    /// Returns the segments that are there, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>, ReadError> {
        segments(&self.folder).map_err(|error| self.io(error))
    }

    /// Makes sure that nothing was dropped of what comes after record `applied`.
    pub(in crate::ledger) fn check_whole(&self, applied: u64) -> Result<(), ReadError> {
        let journal = self.journal;
        let oldest = self.segments()?.first().map_or(0, |first| self.layout.header(*first));
        if applied < oldest { Err(ReadError::Missing { journal, applied, oldest }) } else { Ok(()) }
    }

    /// Returns the segment that a record lies in.
    pub(in crate::ledger) fn segment_of(&self, sequence: u64) -> u64 {
        self.layout.segment(sequence)
    }

    /// Returns the size of a segment's file.
    pub(super) fn len(&mut self, segment: u64) -> Result<u64, ReadError> {
        let len = self.file(segment).and_then(|file| file.metadata()).map(|metadata| metadata.len());
        len.map_err(|error| self.io(error))
    }

    /// Returns where the journal is.
    pub(in crate::ledger) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads the postings from record `from` on, up to `end`, and about `most` of them.
    pub(in crate::ledger) fn postings(&mut self, from: u64, end: u64, most: usize) -> Result<Read, ReadError> {
        let mut read = Read { postings: Vec::new(), next: from, gaps: Vec::new() };
        let mut lost = Lost::default();
        while read.next < end && read.postings.len() < most {
            let segment = self.layout.segment(read.next);
            let slots = self.chunk(read.next, end.min(self.layout.end(segment)))?;
            if slots.is_empty() {
                read.next = self.layout.end(segment).min(end);
            }
            for slot in slots {
                lost.see(&slot, read.next);
                read.next += 1;
                match slot {
                    Slot::Written(record, _) => {
                        read.gaps.extend(lost.before_valid(segment, read.next - 1));
                        if let Record::Settled { posting, .. } = record {
                            read.postings.push(posting);
                        }
                    }
                    Slot::Newer(version) => return Err(ReadError::Newer(self.journal, version)),
                    Slot::Bad | Slot::Empty => {}
                }
                if read.postings.len() >= most {
                    break;
                }
            }
            if self.layout.segment(read.next) != segment {
                read.gaps.extend(lost.at_end(segment));
            }
        }
        Ok(read)
    }

    /// Reads the records from `from` on that lie in its segment, before `end`, and no more than a chunk of them.
    pub(super) fn chunk(&mut self, from: u64, end: u64) -> Result<Vec<Slot>, ReadError> {
        let count = (end - from).min(CHUNK);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * RECORD_BYTES];
        let offset = self.layout.offset(from);
        let read = self.file(self.layout.segment(from)).and_then(|file| read_up_to(file, &mut bytes, offset));
        if read.is_err() {
            // Next time it is opened anew.
            self.current = None;
        }
        let read = match read {
            // Of a journal that was left, the scan has told what is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.own => 0,
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

/// Says whether nothing was ever written into the segments of a folder.
pub(in crate::ledger) fn is_blank(folder: &Path) -> io::Result<bool> {
    for segment in segments(folder)? {
        if fs::read(folder.join(file_name(segment)))?.into_iter().any(|byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the number that stands at a place of a record.
fn number_at(bytes: &Bytes128, at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
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
