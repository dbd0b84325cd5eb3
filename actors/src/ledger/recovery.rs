//! What a crash has left: journals that no process writes any more.
//!
//! Each journal below the folder of this store whose cursor isn't closed is read from where the store stands. The
//! ledger drains it like any other, and closes it; a second crash meanwhile changes nothing, since the cursor tells how
//! far it has come.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    journal::{
        reader::{ReadError, Reader, is_blank},
        scan::{Gap, Scan},
        segment::file_name,
    },
    shelf::Shelf,
    tail::{Rest, Tail},
};
use crate::{
    ports::{JournalCursor, LedgerStore, StoreError},
    private,
};

/// Why journals can't be recovered. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A journal isn't what it should be.
    #[error("{0}")]
    Journal(String),
    /// A file or folder can't be read.
    #[error("{0}")]
    Unreadable(String),
}

impl From<ReadError> for RecoveryError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(..) => Self::Unreadable(error.to_string()),
            _ => Self::Journal(error.to_string()),
        }
    }
}

impl From<io::Error> for RecoveryError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(format!("the journal's folder can't be read: {error}"))
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
        put_away(journal, folder, cursor)?;
        return Ok(None);
    };
    reader.sync()?;
    let scan = reader.scan(cursor.applied)?;
    report(journal, folder, &scan);
    if cursor.applied > scan.end {
        return Err(RecoveryError::Journal(format!(
            "the store stands at record {} of the journal {journal}, which goes up to {} here: another process has \
             applied it, from a copy of this data folder",
            cursor.applied, scan.end
        )));
    }
    let (applied, rest) = (cursor.applied, Some(Rest::of(scan)));
    Ok(Some(Tail {
        journal,
        reader,
        live: None,
        applied,
        read: applied,
        told: applied,
        owed: u64::MAX,
        rest,
        stuck_since: None,
    }))
}

/// Removes a journal without a single valid record, in which nothing was ever admitted. What isn't blank is kept aside.
fn put_away(journal: Uuid, folder: &Path, cursor: JournalCursor) -> Result<(), RecoveryError> {
    if cursor.known {
        tracing::error!(%journal, applied = cursor.applied, "what a journal held after this record is gone");
    } else if is_blank(folder)? {
        fs::remove_dir_all(folder)?;
    } else {
        let aside = damaged(folder)?.join(journal.to_string());
        tracing::error!(%journal, ?aside, "no record of a journal can be read: it was moved aside");
        fs::rename(folder, aside)?;
    }
    Ok(())
}

/// What was said about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) gap: Gap,
    /// It had been synced: no power failure explains it.
    pub(super) was_synced: bool,
    /// A copy of the segment was kept.
    pub(super) is_kept: bool,
}

/// Raises an alarm for damage, and keeps a copy of the segments that have it.
pub(super) fn report(journal: Uuid, folder: &Path, scan: &Scan) -> Vec<Alarm> {
    if !scan.unsure.is_empty() {
        let requests = scan.unsure.len();
        tracing::warn!(%journal, requests, "the end of these is damaged and may have been applied: they get no new row");
    }
    raise(journal, folder, &scan.gaps, scan.synced)
}

/// Raises an alarm for each gap.
pub(super) fn raise(journal: Uuid, folder: &Path, gaps: &[Gap], synced: u64) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    for gap in gaps {
        let kept = keep_aside(journal, folder, gap.segment);
        let (records, was_synced) = (gap.to - gap.from, gap.from < synced);
        if was_synced {
            tracing::error!(
                %journal, from = gap.from, records, ?kept,
                "records that were synced are damaged: their usage is lost; a copy of the segment was kept"
            );
        } else {
            tracing::warn!(%journal, from = gap.from, records, ?kept, "records that were not synced yet are missing");
        }
        alarms.push(Alarm { gap: *gap, was_synced, is_kept: kept.is_ok() });
    }
    alarms
}

/// Copies a segment beside the journals, where nothing drops it.
fn keep_aside(journal: Uuid, folder: &Path, segment: u64) -> io::Result<()> {
    let name = file_name(segment);
    fs::copy(folder.join(&name), damaged(folder)?.join(format!("{journal}-{name}"))).map(drop)
}

/// Makes the folder of what is damaged.
fn damaged(folder: &Path) -> io::Result<PathBuf> {
    let aside = folder.parent().unwrap_or(folder).join("damaged");
    private::make_folder(&aside)?;
    Ok(aside)
}
