//! How long it takes to find the end of a journal and to drain it. Printed, not asserted.
//!
//! `HNE_PROOFS=long cargo test --release -p hasnot-actors --lib ledger::tests::speed -- --nocapture` takes 1 GiB; the
//! target is 5 s.

use std::sync::Arc;

use super::{
    damage::block_on,
    world::{OWNER, World, keeping, reserved, settled},
};
use crate::{
    ledger::journal::{reader::Reader, record::RECORD_BYTES},
    testing::FakeLedger,
};

/// The default size of a segment, in records.
const SLOTS: u64 = (8 << 20) / RECORD_BYTES as u64;

#[expect(clippy::disallowed_methods, reason = "it is the tests' own configuration, and a measurement")]
fn records() -> (u64, std::time::Instant) {
    let long = std::env::var("HNE_PROOFS").is_ok_and(|proofs| proofs == "long");
    ((if long { 1 << 30 } else { 8 << 20 }) / RECORD_BYTES as u64, std::time::Instant::now())
}

#[test]
fn recovery() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let mut world = World::new(root.path(), keeping(SLOTS), 5_000);
        world.begin(1);
        let (records, began) = records();
        for number in 0..records / 2 {
            let life = world.life();
            let entry = match life.books[0].open(reserved(number)) {
                Some(entry) => entry,
                None => {
                    life.shelf.furnish();
                    life.books[0].open(reserved(number)).unwrap()
                }
            };
            assert!(entry.settle(settled(number)).is_ok());
        }
        let live = world.life().shelf.live()[0].clone();
        let written = began.elapsed();
        world.kill();
        println!("journal: {} MiB written in {written:.2?}", (live.end() * RECORD_BYTES as u64) >> 20);
        for (name, applied) in [("near its end", live.end() - 10_000), ("half", live.end() / 2), ("nothing", 0)] {
            let store = Arc::new(FakeLedger::default());
            world.store = store.clone();
            store.set_cursor(live.journal, applied);
            let began = self::records().1;
            let scan = Reader::open(live.journal, live.folder.clone(), OWNER).unwrap().unwrap().scan(applied).unwrap();
            let scanned = began.elapsed();
            assert!(scan.gaps.is_empty() && scan.end == live.end() && scan.open.is_empty());
            let began = self::records().1;
            assert_eq!(world.start(0).await.unwrap(), 1);
            let took = began.elapsed();
            let rows = store.rows().len();
            println!("applied {name}: the scan alone {scanned:.2?}; with {rows} postings brought {took:.2?}");
            world.kill();
        }
    });
}
