//! What is kept and what is dropped, and how service goes on after a fault.

use std::{fs, path::Path, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    damage::block_on,
    world::{OWNER, World, folder, keeping, reserved, settled},
};
use crate::{
    domain::Timestamp,
    ledger::{Config, Fsync, HEARTBEAT, JournalConfig, LedgerHandle, Place, Ports, UsageLedger, journal::keeper},
    metrics::Metrics,
    ports::{Clock, LedgerStore},
    quota::Accounts,
    registry::{self, CatalogHandle},
    testing::{FakeCache, FakeCatalog, FakeDirectory, FakeLedger, ManualClock, VirtualClock},
};

const SLOTS: u64 = 16;

/// Drops what was applied as soon as possible.
fn dropping() -> JournalConfig {
    JournalConfig { retain: Duration::ZERO, retain_bytes: 0, ..keeping(SLOTS) }
}

/// The segments that are there.
fn segments(world: &World) -> Vec<u64> {
    keeper::list(&world.journals()).unwrap().into_iter().map(|kept| kept.index).collect()
}

/// Fills as many segments; each request takes two records of the 15 behind a header.
fn fill(world: &mut World, segments: usize) {
    for _ in 0..segments * 7 {
        world.life().shelf.furnish();
        assert!(world.open(0).is_some());
        world.settle(0);
    }
    world.life().shelf.sync();
}

#[test]
fn what_was_not_applied_is_never_dropped() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), dropping(), 20);
        world.start(1).await.unwrap();
        fill(&mut world, 6);
        let all = segments(&world);
        world.life().shelf.sweep(0);
        assert_eq!(segments(&world), all);
        // 20 postings: the first two segments, and a part of the third.
        assert_eq!(world.flush().await.unwrap(), Some(20));
        world.life().shelf.sweep(0);
        assert_eq!(segments(&world), all[2..]);
        world.drain().await.unwrap();
        world.life().shelf.sweep(0);
        let live = world.life().shelf.live()[0].clone();
        let current = live.layout.segment(live.end() - 1);
        assert_eq!(segments(&world).first(), Some(&(current - 1)), "the last two tell what is open");
        // Closed, it can go as a whole.
        world.life().shelf.close();
        world.drain().await.unwrap();
        world.life().shelf.sweep(0);
        assert!(segments(&world).is_empty() && keeper::journals(&world.journals()).unwrap().is_empty());
    });
}

#[test]
fn what_was_applied_is_kept_as_long_as_it_may() {
    block_on(async {
        let bytes = dropping().segment_bytes;
        for (retain, retain_bytes, kept) in [(3_600, 1 << 40, 8), (3_600, 2 * bytes, 5), (0, 1 << 40, 3)] {
            let root = folder();
            let config = JournalConfig { retain: Duration::from_secs(retain), retain_bytes, ..dropping() };
            let mut world = World::new(root.path(), config, 100);
            world.start(1).await.unwrap();
            // Six are begun before the last two, of which one is a spare.
            fill(&mut world, 7);
            world.drain().await.unwrap();
            world.life().shelf.sweep(0);
            assert_eq!(segments(&world).len(), kept, "{retain} s, {retain_bytes} bytes");
        }
    });
}

#[test]
fn nothing_is_admitted_beyond_the_most_until_something_was_applied() {
    block_on(async {
        let root = folder();
        // What was applied may be kept for long, but not in the way of what is new.
        let config = keeping(SLOTS);
        let config = JournalConfig { max_bytes: 8 * config.segment_bytes, ..config };
        let mut world = World::new(root.path(), config.clone(), 1_000);
        world.start(1).await.unwrap();
        let until_refused = |world: &mut World| {
            let mut admitted = 0;
            loop {
                let well = world.life().shelf.furnish();
                if world.open(0).is_none() {
                    assert!(!well);
                    return admitted;
                }
                world.settle(0);
                admitted += 1;
            }
        };
        assert_eq!(until_refused(&mut world), 8 * 7);
        assert_eq!(world.life().shelf.bytes(), config.max_bytes);
        for _ in 0..3 {
            assert_eq!(world.life().shelf.trouble().as_deref(), Some("the journal is full"));
            world.life().shelf.sync();
            world.drain().await.unwrap();
            assert!(world.life().shelf.furnish() && world.life().shelf.trouble().is_none());
            assert!(until_refused(&mut world) >= 6 * 7);
            assert!(world.life().shelf.bytes() <= config.max_bytes);
        }
    });
}

#[test]
fn requests_that_leave_no_row_hold_no_segment() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), dropping(), 20);
        world.start(1).await.unwrap();
        for _ in 0..100 {
            world.life().shelf.furnish();
            assert!(world.open(0).is_some());
            world.release(0);
        }
        world.life().shelf.sync();
        assert_eq!(world.drain().await.unwrap(), 0);
        world.life().shelf.sweep(0);
        assert!(segments(&world).len() <= 3, "{:?}", segments(&world));
    });
}

#[test]
fn a_journal_that_fails_is_replaced_before_it_is_asked_for() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 20);
        world.start(1).await.unwrap();
        world.open(0);
        let live = world.life().shelf.live()[0].clone();
        live.fail();
        assert!(world.life().shelf.furnish());
        assert!(live.has_ended());
        assert!(world.open(0).is_some());
    });
}

#[test]
fn where_the_folder_is_gone_nothing_is_admitted_until_it_can_be_made() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 20);
        world.start(2).await.unwrap();
        world.open(0);
        let (folder, aside) = (world.journals(), root.path().join("aside"));
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "in the way").unwrap();
        assert!(!world.life().shelf.furnish());
        assert_eq!(world.life().shelf.trouble().as_deref(), Some("no journal can be written"));
        assert!(world.open(0).is_none() && world.open(1).is_none());
        fs::remove_file(&folder).unwrap();
        assert!(world.life().shelf.furnish());
        assert!(world.life().shelf.trouble().is_none() && world.open(0).is_some());
        // Nothing is left of the attempts that failed.
        assert_eq!(keeper::journals(&folder).unwrap().len(), 2);
    });
}

#[test]
fn a_receipt_is_there_when_the_record_is_on_the_disk() {
    block_on(async {
        let root = folder();
        let config = JournalConfig { fsync: Fsync::Each, ..keeping(SLOTS) };
        let mut world = World::new(root.path(), config, 20);
        world.start(1).await.unwrap();
        let shelf = world.life().shelf.clone();
        let books = world.life().books[0].clone();
        let entry = books.open(reserved(0)).unwrap();
        let mut admitted = Box::pin(entry.receipt().unwrap().synced());
        assert!(futures_util::poll!(&mut admitted).is_pending());
        shelf.sync();
        assert!(admitted.await);
        let mut ended = Box::pin(entry.settle(settled(0)).unwrap().unwrap().synced());
        assert!(futures_util::poll!(&mut ended).is_pending());
        let other = books.open(reserved(1)).unwrap();
        shelf.sync();
        assert!(ended.await);
        // One sync is for all, and one that fails is told.
        assert!(other.receipt().unwrap().synced().await);
        let unsynced = other.settle(settled(1)).unwrap().unwrap();
        shelf.live()[0].fail();
        assert!(!unsynced.synced().await);
    });
}

#[test]
fn the_age_of_what_waits_is_that_of_the_oldest_posting() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 2);
        world.start(1).await.unwrap();
        let since = |world: &mut World| world.life().shelf.lag_since();
        let at = |number: u64| Some(settled(number).settled_at);
        assert_eq!(since(&mut world), None);
        world.open(0);
        world.settle(0);
        assert_eq!(since(&mut world), at(0));
        // Nothing is synced, so nothing is read.
        assert_eq!(world.flush().await.unwrap(), None);
        assert_eq!(since(&mut world), at(0));
        world.life().shelf.sync();
        world.drain().await.unwrap();
        assert_eq!(since(&mut world), None);
        world.open(0);
        world.settle(0);
        assert_eq!(since(&mut world), at(1), "not that of an earlier batch");
    });
}

#[test]
fn each_journal_gets_its_turn() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 2);
        world.start(2).await.unwrap();
        for book in [0, 0, 0, 0, 1, 1] {
            world.open(book);
            world.settle(0);
        }
        world.life().shelf.sync();
        assert_eq!((world.flush().await.unwrap(), world.flush().await.unwrap()), (Some(2), Some(2)));
        assert!(world.store.rows().contains(&settled(5)), "the second journal waits for the first");
    });
}

#[test]
fn what_cannot_be_read_waits_since_it_was_settled() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 20);
        world.start(2).await.unwrap();
        world.open(0);
        world.settle(0);
        let since = world.life().shelf.lag_since();
        assert!(since.is_some());
        world.life().shelf.sync();
        let lost = world.life().shelf.live()[0].folder.clone();
        fs::remove_dir_all(lost).unwrap();
        assert!(world.drain().await.is_err());
        assert_eq!(world.life().shelf.lag_since(), since);
        // What others write comes and goes.
        world.open(1);
        world.settle(0);
        world.life().shelf.sync();
        assert_eq!(world.flush().await.unwrap(), Some(1));
        assert!(world.flush().await.is_err());
        assert_eq!((world.life().shelf.lag_rows(), world.life().shelf.lag_since()), (1, since));
    });
}

/// Starts the actor, as process 9.
fn start(root: &Path, store: &Arc<FakeLedger>, clock: Arc<dyn Clock>, flush_interval: Duration) -> LedgerHandle {
    let (here, metrics) = (actix_rt::Arbiter::current(), Metrics::new("test", Timestamp(0)).unwrap());
    let catalog = registry::Ports {
        catalog: Arc::new(FakeCatalog::default()),
        directory: Arc::new(FakeDirectory::default()),
        metrics: metrics.clone(),
        clock: clock.clone(),
    };
    let offered = registry::Config { keep: Arc::new(|_| true), pass_through: None };
    let ports = Ports {
        store: store.clone(),
        accounts: Arc::new(Accounts::new(store.clone(), OWNER.instance, 1_000, clock.clone())),
        cache: Arc::new(FakeCache::default()),
        catalog: CatalogHandle::start(&here, offered, catalog),
        metrics,
        clock,
        set_clock: Arc::new(|_, _| {}),
    };
    let config = Config { flush_interval, flush_postings: 5_000 };
    let place = Place { journal: dropping(), folder: root.to_owned(), owner: OWNER, process: Uuid::from_u128(9) };
    UsageLedger::start(config, place, ports, &here).unwrap()
}

#[actix_rt::test]
async fn the_store_may_be_away_however_seldom_is_flushed() {
    let (root, store) = (folder(), Arc::new(FakeLedger::default()));
    let ledger = start(root.path(), &store, Arc::new(ManualClock::new()), Duration::from_secs(60));
    drop(ledger.open_books().open(reserved(0)).unwrap().settle(settled(0)).unwrap());
    store.applies.set_down(true);
    assert_eq!(ledger.ask_close(Duration::from_millis(100)).await, 1);
    assert_eq!(store.applies.calls(), 1);
    store.applies.set_down(false);
    assert_eq!(ledger.ask_close(Duration::from_secs(10)).await, 0);
}

#[actix_rt::test]
async fn only_another_process_takes_an_identity_away() {
    tokio::time::pause();
    let (root, store) = (folder(), Arc::new(FakeLedger::default()));
    let ledger = start(root.path(), &store, Arc::new(VirtualClock::new()), Duration::from_secs(60));
    // The books were put back to before it had enrolled, and two heartbeats wait for them.
    store.reads.hold();
    tokio::time::sleep(HEARTBEAT * 5 / 2).await;
    store.reads.release();
    tokio::time::sleep(HEARTBEAT * 20).await;
    assert_eq!(ledger.trouble(), None);
    for taken in 1..=2 {
        store.enroll(OWNER.instance, Uuid::from_u128(10)).await.unwrap();
        tokio::time::sleep(HEARTBEAT * 2).await;
        assert_eq!(ledger.trouble().is_some(), taken == 2, "it is taken back once");
    }
}
