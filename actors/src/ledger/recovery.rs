//! What a crash has left: journals that no process writes any more.
//!
//! Each journal below the folder of this store whose cursor isn't closed is read from where the store stands. The
//! ledger drains it like any other, and closes it; a second crash meanwhile changes nothing, since the cursor tells how
//! far it has come.

use std::{fs, io, path::Path};

use uuid::Uuid;

use super::{
    flush::{Rest, Tail, interrupted},
    journal::{
        reader::{ReadError, Reader, Scan},
        segment::file_name,
    },
    shelf::Shelf,
};
use crate::ports::{JournalCursor, LedgerStore, StoreError};

/// Why journals can't be recovered. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A journal can't be read as it should be.
    #[error("{0}")]
    Journal(String),
}

impl From<ReadError> for RecoveryError {
    fn from(error: ReadError) -> Self {
        Self::Journal(error.to_string())
    }
}

impl From<io::Error> for RecoveryError {
    fn from(error: io::Error) -> Self {
        Self::Journal(format!("the journal's folder can't be read: {error}"))
    }
}

/// Finds the journals that are not closed, but for those that are known.
pub(super) async fn find(shelf: &Shelf, store: &dyn LedgerStore, known: &[Uuid]) -> Result<Vec<Tail>, RecoveryError> {
    let mut found = shelf.left_behind()?;
    found.retain(|(journal, _)| !known.contains(journal));
    let ids: Vec<_> = found.iter().map(|(journal, _)| *journal).collect();
    let cursors = if ids.is_empty() { Vec::new() } else { store.cursors(&ids).await? };
    let mut tails = Vec::new();
    for ((journal, folder), cursor) in found.into_iter().zip(cursors) {
        shelf.note_applied(journal, cursor.applied, cursor.closed);
        if !cursor.closed {
            tails.extend(read(shelf, journal, &folder, cursor)?);
        }
    }
    Ok(tails)
}

fn read(shelf: &Shelf, journal: Uuid, folder: &Path, cursor: JournalCursor) -> Result<Option<Tail>, RecoveryError> {
    let Some(mut reader) = Reader::open(journal, folder.to_owned(), shelf.owner())? else {
        // Nothing was ever admitted in it.
        if !cursor.known {
            fs::remove_dir_all(folder)?;
        }
        return Ok(None);
    };
    reader.sync()?;
    let scan = reader.scan(cursor.applied)?;
    report(journal, folder, &scan);
    let (end, open) = (scan.end, interrupted(scan.open.into_values()));
    let last = end + open.len() as u64;
    if cursor.applied > last {
        return Err(RecoveryError::Journal(format!(
            "the store stands at record {} of the journal {journal}, which goes up to {last} here: another process has \
             applied it, from a copy of this data folder",
            cursor.applied
        )));
    }
    let (applied, rest) = (cursor.applied, Some(Rest { end, open }));
    Ok(Some(Tail { journal, reader, live: None, applied, read: applied, told: applied, rest }))
}

/// Raises an alarm for damage, and keeps a copy of the segments that have it.
pub(super) fn report(journal: Uuid, folder: &Path, scan: &Scan) {
    for gap in &scan.gaps {
        let kept = keep_aside(journal, folder, gap.segment);
        let records = gap.to - gap.from;
        if gap.from < scan.synced {
            tracing::error!(
                %journal, from = gap.from, records, ?kept,
                "records that were synced are damaged: their usage is lost; a copy of the segment was kept"
            );
        } else {
            tracing::warn!(%journal, from = gap.from, records, ?kept, "records that were not synced yet are missing");
        }
    }
}

/// Copies a segment beside the journals, where nothing drops it.
fn keep_aside(journal: Uuid, folder: &Path, segment: u64) -> io::Result<()> {
    let aside = folder.parent().unwrap_or(folder).join("damaged");
    fs::create_dir_all(&aside)?;
    let name = file_name(segment);
    fs::copy(folder.join(&name), aside.join(format!("{journal}-{name}"))).map(drop)
}
