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
