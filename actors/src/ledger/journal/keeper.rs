//! The threads that look after journals. One syncs them. The other prepares segments, begins journals anew after a fault,
//! and drops what was applied long ago; it waits for no sync of what is written, so that a journal goes on while one takes
//! seconds.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{reader, segment::file_name};
use crate::ledger::shelf::Shelf;

/// How long the thread rests where nothing is asked of it.
const REST: Duration = Duration::from_secs(1);
/// How long it rests where something couldn't be made: so soon service resumes when there is space.
const RETRY: Duration = Duration::from_millis(100);
/// How often it looks for segments that can go.
const SWEEP: Duration = Duration::from_secs(10);

/// Wakes the threads.
#[derive(Debug)]
pub(in crate::ledger) struct Bell {
    /// Something was written since the last sync began.
    dirty: AtomicBool,
    syncs: SyncSender<()>,
    makes: SyncSender<()>,
}

/// The ends that hear a bell.
#[derive(Debug)]
pub(in crate::ledger) struct Heard {
    syncs: Receiver<()>,
    makes: Receiver<()>,
}

impl Bell {
    /// Makes a bell, and the ends that hear it.
    pub(in crate::ledger) fn new() -> (Arc<Self>, Heard) {
        let ((syncs, to_sync), (makes, to_make)) = (sync_channel(1), sync_channel(1));
        (Arc::new(Self { dirty: AtomicBool::new(false), syncs, makes }), Heard { syncs: to_sync, makes: to_make })
    }

    /// A record was written.
    pub(in crate::ledger) fn written(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.made();
        }
    }

    /// A segment was made, and is to be synced.
    pub(in crate::ledger) fn made(&self) {
        ring(&self.syncs);
    }

    /// A segment or a journal is to be made.
    pub(in crate::ledger) fn wanted(&self) {
        ring(&self.makes);
    }
}

fn ring(sender: &SyncSender<()>) {
    // Full: the thread is about to look anyway. Closed: the process ends.
    let _rung = sender.try_send(()).is_ok();
}

/// Starts the threads. They end when the shelf is gone.
pub(in crate::ledger) fn start(shelf: &Arc<Shelf>, bell: Arc<Bell>, heard: Heard) -> io::Result<()> {
    let (syncs, makes) = (Arc::downgrade(shelf), Arc::downgrade(shelf));
    let mut synced_at = None;
    let sync = move |shelf: &Shelf| sync(shelf, &bell, &mut synced_at);
    thread::Builder::new().name("hne-journal".into()).spawn(move || attend(&syncs, &heard.syncs, sync))?;
    let mut swept_at = None;
    let make = move |shelf: &Shelf| make(shelf, &mut swept_at);
    thread::Builder::new().name("hne-segments".into()).spawn(move || attend(&makes, &heard.makes, make))?;
    Ok(())
}

/// Does what is due whenever the bell rings, and after the rest that this returns.
fn attend(shelf: &Weak<Shelf>, rung: &Receiver<()>, mut due: impl FnMut(&Shelf) -> Duration) {
    let mut rest = Duration::ZERO;
    while rung.recv_timeout(rest) != Err(RecvTimeoutError::Disconnected) {
        let Some(shelf) = shelf.upgrade() else { return };
        rest = due(&shelf);
    }
}

fn sync(shelf: &Shelf, bell: &Bell, synced_at: &mut Option<Instant>) -> Duration {
    let now = shelf.clock().now();
    let due = synced_at.map_or(now, |at| at + shelf.config.sync_interval());
    let mut rest = REST;
    if bell.dirty.load(Ordering::Acquire) {
        if due <= now {
            bell.dirty.store(false, Ordering::Release);
            *synced_at = Some(now);
            shelf.sync();
        } else {
            rest = due - now;
        }
    }
    shelf.sync_spares();
    rest
}

fn make(shelf: &Shelf, swept_at: &mut Option<Instant>) -> Duration {
    let now = shelf.clock().now();
    let rest = if shelf.furnish() { REST } else { RETRY };
    if swept_at.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
        *swept_at = Some(now);
        shelf.sweep(0);
    }
    rest
}

/// A segment's file on the disk.
#[derive(Debug)]
pub(in crate::ledger) struct Kept {
    pub(in crate::ledger) journal: Uuid,
    pub(in crate::ledger) index: u64,
    pub(in crate::ledger) path: PathBuf,
    pub(in crate::ledger) bytes: u64,
    pub(in crate::ledger) age: Duration,
}

/// Lists all journals' segments below a folder.
pub(in crate::ledger) fn list(folder: &Path) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (journal, folder) in journals(folder)? {
        let segments = match reader::segments(&folder) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            segments => segments?,
        };
        for index in segments {
            let path = folder.join(file_name(index));
            let metadata = match fs::metadata(&path) {
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            all.push(Kept { journal, index, path, bytes: metadata.len(), age });
        }
    }
    Ok(all)
}

/// Lists the journals below a folder.
pub(in crate::ledger) fn journals(folder: &Path) -> io::Result<Vec<(Uuid, PathBuf)>> {
    let mut all = Vec::new();
    let entries = match fs::read_dir(folder) {
        // Whoever begins a journal makes it again.
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(all),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let name = entry.file_name();
        all.extend(name.to_str().and_then(|name| name.parse().ok()).map(|journal| (journal, entry.path())));
    }
    all.sort_unstable();
    Ok(all)
}

/// Chooses which of the segments that were applied can go: the oldest, while they are too old or too much is kept.
pub(in crate::ledger) fn superfluous(mut applied: Vec<Kept>, retain: Duration, retain_bytes: u64) -> Vec<Kept> {
    applied.sort_by_key(|kept| std::cmp::Reverse(kept.age));
    let mut bytes: u64 = applied.iter().map(|kept| kept.bytes).sum();
    let goes = |kept: &Kept| {
        let goes = kept.age > retain || bytes > retain_bytes;
        bytes = bytes.saturating_sub(if goes { kept.bytes } else { 0 });
        goes
    };
    // The first that stays ends it: what is younger stays too.
    applied.into_iter().take_while(goes).collect()
}

#[cfg(test)]
mod tests;
