//! The thread that looks after journals: syncs them, prepares segments, begins journals anew after a fault, and drops
//! what was applied long ago.

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

use super::{
    reader,
    segment::{Layout, file_name},
    writer::{Segment, sync_folder},
};
use crate::ledger::shelf::Shelf;

/// How long the thread rests where nothing is asked of it.
const REST: Duration = Duration::from_secs(1);
/// How long it rests where something couldn't be made: so soon service resumes when there is space.
const RETRY: Duration = Duration::from_millis(100);
/// How often it looks for segments that can go.
const SWEEP: Duration = Duration::from_secs(10);

/// Wakes the thread.
#[derive(Debug)]
pub(in crate::ledger) struct Bell {
    /// Something was written since the last sync began.
    dirty: AtomicBool,
    sender: SyncSender<()>,
}

impl Bell {
    /// Makes a bell, and the end that hears it.
    pub(in crate::ledger) fn new() -> (Arc<Self>, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (Arc::new(Self { dirty: AtomicBool::new(false), sender }), receiver)
    }

    /// A record was written.
    pub(in crate::ledger) fn written(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.wanted();
        }
    }

    /// Something is to be done at once.
    pub(in crate::ledger) fn wanted(&self) {
        // Full: the thread is about to look anyway. Closed: the process ends.
        let _rung = self.sender.try_send(()).is_ok();
    }
}

/// Starts the thread. It ends when the shelf is gone.
pub(in crate::ledger) fn start(shelf: &Arc<Shelf>, bell: Arc<Bell>, rung: Receiver<()>) -> io::Result<()> {
    let keeper = Keeper { shelf: Arc::downgrade(shelf), bell, rung, synced_at: None, swept_at: None };
    thread::Builder::new().name("hne-journal".into()).spawn(move || keeper.run()).map(drop)
}

struct Keeper {
    shelf: Weak<Shelf>,
    bell: Arc<Bell>,
    rung: Receiver<()>,
    synced_at: Option<Instant>,
    swept_at: Option<Instant>,
}

impl Keeper {
    fn run(mut self) {
        let mut rest = Duration::ZERO;
        while self.rung.recv_timeout(rest) != Err(RecvTimeoutError::Disconnected) {
            let Some(shelf) = self.shelf.upgrade() else { return };
            rest = self.look_after(&shelf);
        }
    }

    /// Does what is due, and returns how long there is nothing more to do.
    fn look_after(&mut self, shelf: &Shelf) -> Duration {
        let now = shelf.clock().now();
        let mut rest = if shelf.furnish() { REST } else { RETRY };
        let due = self.synced_at.map_or(now, |at| at + shelf.config().sync_interval());
        if self.bell.dirty.load(Ordering::Acquire) {
            if due <= now {
                self.bell.dirty.store(false, Ordering::Release);
                self.synced_at = Some(now);
                shelf.sync();
            } else {
                rest = rest.min(due - now);
            }
        }
        if self.swept_at.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
            self.swept_at = Some(now);
            shelf.sweep(0);
        }
        rest
    }
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

/// Makes a segment that can be begun at once.
pub(in crate::ledger) fn spare(folder: &Path, index: u64, layout: Layout) -> io::Result<Arc<Segment>> {
    let segment = Segment::create(folder, index, layout)?;
    segment.file.sync_all()?;
    sync_folder(folder)?;
    Ok(Arc::new(segment))
}
