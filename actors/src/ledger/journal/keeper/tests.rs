//! What the threads do beside each other.

use super::*;
use crate::{
    domain::{Amounts, ClassId, ModelKey, Outcome, Portion, Posting, Timestamp, UserKey, WindowKind},
    ledger::{Fsync, JournalConfig, Owner},
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

fn posting() -> Posting {
    Posting {
        id: Uuid::new_v4(),
        user: UserKey(1),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: Timestamp(0),
        settled_at: Timestamp(0),
        outcome: Outcome::Interrupted,
        estimated: false,
        amounts: Amounts::ZERO,
        window: WindowKind::Day,
        leased: Portion::ZERO,
    }
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
