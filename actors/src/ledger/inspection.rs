//! What lies in a data folder, for people to look at. Reads beside a running process, and takes no lock.

use std::{io, path::Path};

use uuid::Uuid;

use super::{
    Owner, RecoveryError,
    journal::{keeper, reader::Reader},
};
use crate::ports::JournalCursor;

/// How many postings are counted at a time.
const AT_ONCE: usize = 5_000;

/// A journal's files, held against the store's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalFiles {
    /// The journal.
    pub journal: Uuid,
    /// How many segments there are, spares included.
    pub segments: usize,
    /// Their size.
    pub bytes: u64,
    /// One past the last record.
    pub end: u64,
    /// Admitted requests that have no end.
    pub open: usize,
    /// Postings that the store doesn't have.
    pub unapplied: usize,
}

/// Looks at the journals of `owner` below `folder`; `stands` tells where the store stands in each.
///
/// # Errors
/// [`RecoveryError`]: the folder or a journal can't be read. A folder that isn't there has no journals.
pub fn inspect(
    folder: &Path,
    owner: Owner,
    stands: impl Fn(Uuid) -> JournalCursor,
) -> Result<Vec<JournalFiles>, RecoveryError> {
    let folder = folder.join(owner.store.to_string());
    let journals = match keeper::journals(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        journals => journals?,
    };
    let kept = if journals.is_empty() { Vec::new() } else { keeper::list(&folder)? };
    let mut found = Vec::new();
    for (journal, folder) in journals {
        let Some(mut reader) = Reader::open(journal, folder, owner)? else { continue };
        let JournalCursor { applied, closed, .. } = stands(journal);
        let scan = reader.scan(applied)?;
        let (mut next, mut unapplied) = (applied, 0);
        while next < scan.end {
            let read = reader.postings(next, scan.end, AT_ONCE)?;
            (next, unapplied) = (read.next, unapplied + read.postings.len());
        }
        let files = || kept.iter().filter(|kept| kept.journal == journal);
        // Those that were open when it was closed have their rows.
        let open = if closed { 0 } else { scan.open.len() };
        let (segments, bytes) = (files().count(), files().map(|kept| kept.bytes).sum());
        found.push(JournalFiles { journal, segments, bytes, end: scan.end, open, unapplied });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        domain::Timestamp,
        ledger::journal::{
            record::{Header, Place, Record, encode},
            segment::file_name,
        },
    };

    #[test]
    fn figures_that_no_segment_can_have_do_not_overflow() {
        let root = tempfile::tempdir().unwrap();
        let (journal, owner) = (Uuid::from_u128(1), Owner { store: Uuid::from_u128(2), instance: Uuid::from_u128(3) });
        let folder = root.path().join(owner.store.to_string()).join(journal.to_string());
        fs::create_dir_all(&folder).unwrap();
        let Owner { store, instance } = owner;
        let most = u64::MAX;
        let header = |slots, carried| Header {
            slots,
            journal,
            store,
            instance,
            previous_end: most,
            created_at: Timestamp(0),
            carried,
        };
        for (slots, carried) in [(most, 0), (16, most), (most, most)] {
            for segment in 0..2 {
                let place = Place { sequence: slots.saturating_mul(segment), journal };
                let record = encode(&Record::Header(header(slots, carried)), place, 0);
                fs::write(folder.join(file_name(segment)), record).unwrap();
            }
            let cursor = JournalCursor { applied: 0, known: true, closed: false };
            let found = inspect(root.path(), owner, |_| cursor).unwrap();
            assert_eq!((found.len(), found[0].open, found[0].unapplied), (1, 0, 0), "{slots} {carried}");
        }
    }
}
