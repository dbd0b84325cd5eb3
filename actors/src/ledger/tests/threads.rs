//! Workers, the thread that looks after journals, and the flush, all at once, while journals fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    damage::block_on,
    world::{OWNER, folder, keeping, reserved, settled},
};
use crate::{
    domain::Posting,
    ledger::{Books, Flusher, JournalConfig, Shelf},
    testing::{FakeLedger, ManualClock},
};

const WORKERS: usize = 3;
/// Requests of each.
const REQUESTS: u64 = 4_000;

/// What a worker knows of its requests in the end.
#[derive(Default)]
struct Told {
    settled: BTreeSet<u64>,
    unwritten: BTreeSet<u64>,
    released: BTreeSet<u64>,
}

/// Opens and ends requests, a few of them at a time; one that is refused is tried again.
fn work(books: &Books, numbers: &AtomicU64) -> Told {
    let (mut told, mut open) = (Told::default(), Vec::new());
    for turn in 0..REQUESTS {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let entry = loop {
            match books.open(reserved(number)) {
                Some(entry) => break entry,
                None => thread::yield_now(),
            }
        };
        open.push((number, entry));
        if open.len() > 5 || turn + 1 == REQUESTS {
            for (number, entry) in open.drain(..) {
                if number % 5 == 0 {
                    drop(entry);
                    told.released.insert(number);
                } else if entry.settle(settled(number)).is_ok() {
                    told.settled.insert(number);
                } else {
                    told.unwritten.insert(number);
                }
            }
        }
    }
    told
}

/// Compares the rows with what the workers were told.
fn compare(rows: Vec<Posting>, told: &[Told]) {
    let count = rows.len();
    let mut rows: BTreeMap<_, _> =
        rows.into_iter().map(|row| (u64::try_from(row.id.as_u128()).unwrap(), row)).collect();
    assert_eq!(rows.len(), count, "a row is there twice");
    for told in told {
        for number in &told.settled {
            assert_eq!(rows.remove(number), Some(settled(*number)));
        }
        for number in &told.unwritten {
            assert_eq!(rows.remove(number), Some(reserved(*number)));
        }
        for number in &told.released {
            // Where its journal failed first, it couldn't be told.
            assert!(rows.remove(number).is_none_or(|row| row == reserved(*number)));
        }
    }
    // Of those that were refused because their record couldn't be written, it may be there nevertheless.
    assert!(rows.is_empty(), "rows that nobody knows: {rows:?}");
}

#[test]
fn each_request_has_its_row_exactly_once() {
    let root = folder();
    let config = JournalConfig {
        fsync_interval: Duration::from_millis(1),
        retain: Duration::ZERO,
        retain_bytes: 0,
        ..keeping(64)
    };
    let store = Arc::new(FakeLedger::default());
    let clock = Arc::new(ManualClock::new());
    let shelf = Shelf::new(config, root.path(), OWNER, 100, clock.clone()).unwrap();
    let books: Vec<_> = (0..WORKERS).map(|_| shelf.open_books()).collect();
    let (numbers, working) = (AtomicU64::new(0), AtomicUsize::new(WORKERS));
    let mut flusher = Flusher::new(shelf.clone(), store.clone());
    let told: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = books
            .iter()
            .map(|books| {
                scope.spawn(|| {
                    let told = work(books, &numbers);
                    working.fetch_sub(1, Ordering::AcqRel);
                    told
                })
            })
            .collect();
        block_on(async {
            let mut turn = 0;
            while working.load(Ordering::Acquire) > 0 {
                turn += 1;
                store.applies.set_down(turn % 7 == 0);
                store.acknowledgements.set_down(turn % 5 == 0);
                drop(flusher.flush().await);
                if turn % 50 == 0 {
                    shelf.live().first().into_iter().for_each(|live| live.fail());
                }
                // Now and then the keeper syncs, and sweeps.
                clock.advance(Duration::from_millis(if turn % 20 == 0 { 10_000 } else { 1 }));
            }
            store.applies.set_down(false);
            store.acknowledgements.set_down(false);
        });
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    shelf.close();
    block_on(async {
        while !flusher.is_done() {
            flusher.sync();
            drop(flusher.flush().await.unwrap());
        }
    });
    assert_eq!(shelf.lag_rows(), 0);
    assert!(store.cursors_of_all().values().all(|cursor| cursor.closed));
    compare(store.rows(), &told);
}
