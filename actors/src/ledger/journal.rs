//! Journal: the local append-only file that makes usage survive the process.
//!
//! Each worker thread writes one journal, a folder of segments named by the journal's id. A *reserved* record is in the
//! file before a provider is contacted, its *settled* or *released* record before the client is handed the end of its
//! answer: `write` has returned, so that `kill -9` loses nothing; `fdatasync` follows on the [`keeper`]'s thread.
//!
//! | file | what it knows |
//! | --- | --- |
//! | [`record`] | the 128 bytes of a record; no I/O |
//! | [`segment`] | where records lie, and when a segment is full; no I/O |
//! | [`writer`] | appending, on a worker's thread |
//! | [`reader`] | reading a journal back |
//! | [`scan`] | the end of one that nobody writes any more, and what is damaged |
//! | [`keeper`] | the threads that sync, prepare segments and drop old ones |
//!
//! Invariants:
//! - A record never moves and is never overwritten; a file that a crash left behind is never appended to.
//! - An admitted request has its end's record reserved: `left in the segment ≥ open entries`, so that settling never
//!   needs space. Segments are written with zeros in advance (an append to a growing file has a p99.9 of 6.5 ms, to a
//!   pre-zeroed one of 77 µs; measured), and change only when a request is admitted.
//! - Whoever is open when a segment begins is carried over to its beginning, so that the last two segments of a journal
//!   tell all that is open, and older ones can go once the store has applied them.
//! - The store is given only what was synced, so that its cursor is never ahead of a file after a power failure.

pub(super) mod keeper;
pub(super) mod reader;
pub(super) mod record;
pub(super) mod scan;
pub(super) mod segment;
pub(super) mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use uuid::Uuid;

use self::{
    segment::{Layout, file_name},
    writer::{Segment, Spare, sync_folder},
};
use crate::lock::lock;

/// Whose journals these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The store that they are applied to.
    pub store: Uuid,
    /// The instance that writes them.
    pub instance: Uuid,
}

/// How far a journal is on the disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Synced {
    end: u64,
    /// Nothing more will get there.
    failed: bool,
}

/// What a journal's writer shares with those who sync and read it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) journal: Uuid,
    pub(super) folder: PathBuf,
    pub(super) layout: Layout,
    /// One past the last record that was written.
    end: AtomicU64,
    /// One past the last record that was synced.
    synced: watch::Sender<Synced>,
    /// A write or a sync has failed: nothing more is written.
    broken: AtomicBool,
    /// Nobody writes it any more.
    ended: AtomicBool,
    spare: Mutex<Option<Spare>>,
    /// The newest segment that was made, begun or spare.
    newest: AtomicU64,
    /// Segments that have something to be synced, the current one last.
    unsynced: Mutex<Vec<Arc<Segment>>>,
    /// Held while they are: whoever comes second finds that all is done.
    syncing: Mutex<()>,
}

impl Live {
    /// Returns one past the last record that was written.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Returns one past the last record that was synced; it stays where it is when the next sync fails.
    pub(super) fn synced(&self) -> u64 {
        self.synced.borrow().end
    }

    /// Waits until everything before `end` is synced, or never will be.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) fn until_synced(&self, end: u64) -> impl Future<Output = bool> + Send + use<> {
        let mut synced = self.synced.subscribe();
        async move {
            synced.wait_for(|synced| synced.failed || synced.end >= end).await.is_ok_and(|synced| synced.end >= end)
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Says whether nobody writes it any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn has_spare(&self) -> bool {
        lock(&self.spare).is_some()
    }

    pub(super) fn put_spare(&self, spare: Spare) {
        self.newest.store(spare.index, Ordering::Release);
        *lock(&self.spare) = Some(spare);
    }

    /// Brings the spare segment's zeros to the disk. It may be begun before: then its first sync does so. One that can't be
    /// synced is made anew.
    pub(super) fn sync_spare(&self) {
        let spare = lock(&self.spare).clone();
        let Some(spare) = spare.filter(|spare| !spare.is_on_disk.load(Ordering::Acquire)) else { return };
        let synced = spare.file.sync_all().and_then(|()| sync_folder(&self.folder));
        if let Err(error) = synced {
            tracing::warn!(%error, journal = %self.journal, "a segment can't be synced");
            let mut slot = lock(&self.spare);
            if slot.as_ref().is_some_and(|left| Arc::ptr_eq(left, &spare)) {
                self.newest.store(spare.index - 1, Ordering::Release);
                *slot = None;
            }
            return;
        }
        spare.is_on_disk.store(true, Ordering::Release);
    }

    /// Returns the segment that is to be made next.
    pub(super) fn next_spare(&self) -> u64 {
        self.newest.load(Ordering::Acquire) + 1
    }

    /// Says whether the file that is written to can still be found by its name.
    pub(super) fn is_there(&self) -> bool {
        let current = lock(&self.unsynced).last().map_or(0, |segment| segment.index);
        self.folder.join(file_name(current)).exists()
    }

    /// Syncs what was written so far; says whether there was something. A file that can't be synced isn't trusted again.
    pub(super) fn sync(&self) -> bool {
        let _alone = lock(&self.syncing);
        let end = self.end();
        if end <= self.synced() || self.is_broken() {
            return false;
        }
        // The current segment stays in the list; those before it are whole.
        let segments = lock(&self.unsynced).clone();
        let synced = segments.iter().try_for_each(|segment| segment.file.sync_data());
        // Of one that was begun since, the name may not be on the disk yet.
        let named = || if segments.len() > 1 { sync_folder(&self.folder) } else { Ok(()) };
        if let Err(error) = synced.and_then(|()| named()) {
            tracing::error!(%error, journal = %self.journal, "a journal can't be synced and isn't trusted again");
            self.fail();
            return false;
        }
        if let Some(current) = segments.last() {
            lock(&self.unsynced).retain(|segment| segment.index >= current.index);
        }
        self.synced.send_if_modified(|synced| {
            let moved = !synced.failed && synced.end < end;
            synced.end = if moved { end } else { synced.end };
            moved
        });
        true
    }

    pub(super) fn fail(&self) {
        self.broken.store(true, Ordering::Release);
        self.synced.send_modify(|synced| synced.failed = true);
    }
}
