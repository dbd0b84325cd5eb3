//! What the threads do beside each other.

use super::*;
use crate::{
    ledger::{Fsync, JournalConfig, Owner, journal::writer::tests::posting},
    lock::lock,
    testing::ManualClock,
};

/// Waits until something holds.
fn wait_until(holds: impl Fn() -> bool) {
    let held = (0..20_000_000).any(|_| {
        thread::yield_now();
        holds()
    });
    assert!(held, "it never holds");
}

#[test]
fn while_a_sync_hangs_segments_are_made_and_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, day) = (Owner { store: Uuid::nil(), instance: Uuid::nil() }, Duration::from_secs(24 * 60 * 60));
    let (fsync, segment_bytes, max_bytes) = (Fsync::Each, 1 << 10, 1 << 20);
    let journal = JournalConfig { fsync, fsync_interval: day, segment_bytes, retain: day, retain_bytes: 0, max_bytes };
    let shelf = Shelf::new(journal, folder.path(), owner, 100, Arc::new(ManualClock::new())).unwrap();
    let books = shelf.open_books();
    let live = Arc::clone(&shelf.live()[0]);
    wait_until(|| live.has_spare());
    // As where the disk gives no answer.
    let hanging = lock(&live.syncing);
    for _ in 0..50 {
        wait_until(|| live.has_spare());
        drop(books.open(posting()).unwrap());
    }
    assert!(live.layout.segment(live.end()) >= 10 && live.synced() < live.end());
    drop(hanging);
    wait_until(|| live.synced() == live.end());
}
