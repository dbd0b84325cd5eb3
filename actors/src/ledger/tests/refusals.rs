//! What isn't applied at all: newer journals, others' journals, and those that don't fit where the store stands.

use std::{fs, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    damage::{Left, SLOTS, block_on, place},
    world::{OWNER, World, folder, keeping, reserved, settled},
};
use crate::{
    ledger::{
        FlushError, Owner, RecoveryError,
        journal::{
            reader::Reader,
            record::{RECORD_BYTES, VERSION},
            segment::file_name,
        },
    },
    ports::{Batch, CursorMove, LedgerStore},
};

/// Changes a record and makes it valid again.
fn rewrite(file: &mut [u8], at: usize, change: impl FnOnce(&mut [u8])) {
    let record = &mut file[at..at + RECORD_BYTES];
    change(record);
    let crc = crc32c::crc32c(&record[4..]).to_le_bytes();
    record[..4].copy_from_slice(&crc);
}

async fn refusal(left: &mut Left) -> String {
    let Err(FlushError::Recovery(RecoveryError::Journal(sentence))) = left.world.start(0).await else {
        panic!("it was not refused");
    };
    left.world.kill();
    sentence
}

#[test]
fn a_newer_version_is_refused_wherever_it_is() {
    block_on(async {
        let mut left = Left::new(60, 0).await;
        for record in [0, 5, 16, *left.last().last().unwrap()] {
            let (index, at) = place(record);
            let mut file = left.files[index].clone();
            rewrite(&mut file, at, |record| record[4] = VERSION + 1);
            left.put(index, &file);
            let sentence = refusal(&mut left).await;
            assert!(sentence.contains("a newer one has been here"), "{sentence}");
            assert!(left.world.store.rows().is_empty(), "something was applied");
        }
    });
}

#[test]
fn a_journal_of_others_is_refused() {
    block_on(async {
        let mut left = Left::new(10, 0).await;
        // Behind its own id a header has the store's and the instance's.
        for at in [48, 64] {
            let mut file = left.files[0].clone();
            rewrite(&mut file, 0, |record| record[at] ^= 1);
            left.put(0, &file);
            let sentence = refusal(&mut left).await;
            assert!(sentence.contains("belongs to another store or another instance"), "{sentence}");
        }
        let other = Owner { instance: Uuid::nil(), ..OWNER };
        assert!(Reader::open(left.journal, left.folder.clone(), other).is_err());
    });
}

#[test]
fn a_store_that_is_ahead_or_too_far_behind_is_refused() {
    block_on(async {
        let mut left = Left::new(60, 0).await;
        left.put(0, &left.files[0].clone());
        left.world.store.set_cursor(left.journal, left.records.len() as u64);
        let sentence = refusal(&mut left).await;
        assert!(sentence.contains("from a copy of this data folder"), "{sentence}");
        left.put(0, &[]);
        fs::remove_file(left.path(0)).unwrap();
        left.world.store.set_cursor(left.journal, SLOTS - 1);
        let sentence = refusal(&mut left).await;
        assert!(sentence.contains("whose oldest record here is 16"), "{sentence}");
        left.world.store.set_cursor(left.journal, SLOTS);
        assert_eq!(left.world.start(0).await.unwrap(), 1);
    });
}

/// Admits and settles, syncs, and brings it into the store.
async fn serve(world: &mut World, requests: usize) {
    for _ in 0..requests {
        world.life().shelf.furnish();
        assert!(world.open(0).is_some());
        world.settle(0);
    }
    world.life().shelf.sync();
    world.drain().await.unwrap();
}

#[test]
fn it_is_also_noticed_while_it_runs() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 3);
        world.start(1).await.unwrap();
        serve(&mut world, 40).await;
        let live = world.life().shelf.live()[0].clone();
        let stands = world.store.cursors_of_all()[&live.journal].applied;
        // Somebody else has gone on, or has closed it.
        world.store.set_cursor(live.journal, stands + 1);
        world.open(0);
        world.settle(0);
        world.life().shelf.sync();
        assert!(matches!(world.flush().await, Err(FlushError::Ahead { found, .. }) if found == stands + 1));
        assert!(world.life().shelf.trouble().unwrap().contains("from a copy of this data folder"));
        assert!(world.open(0).is_none());
        assert_eq!(world.store.rows().len(), 40);
    });
}

#[test]
fn what_was_dropped_is_missed_when_the_store_is_put_back() {
    block_on(async {
        let root = folder();
        let mut config = keeping(SLOTS);
        (config.retain, config.retain_bytes) = (Duration::ZERO, 0);
        let mut world = World::new(root.path(), config, 3);
        world.start(1).await.unwrap();
        let old = world.store.back_up();
        serve(&mut world, 60).await;
        world.life().shelf.sweep(0);
        world.store.restore(&old);
        world.open(0);
        world.settle(0);
        world.life().shelf.sync();
        assert!(world.flush().await.is_err());
        let trouble = world.life().shelf.trouble().unwrap();
        assert!(trouble.contains("whose oldest record here is"), "{trouble}");
        assert!(world.store.rows().is_empty(), "something was left out");
    });
}

#[test]
fn a_journal_that_cant_be_read_holds_up_no_other_and_loses_nothing() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 100);
        world.start(2).await.unwrap();
        for book in [0, 1, 0, 1] {
            world.open(book);
            world.settle(0);
        }
        world.life().shelf.sync();
        let live = world.life().shelf.live()[1].clone();
        let path = live.folder.join(file_name(0));
        let aside = root.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(world.flush().await.unwrap(), Some(2));
        assert!(world.flush().await.is_err());
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert_eq!(world.flush().await.unwrap(), Some(2));
        let rows = world.store.rows();
        assert_eq!(rows.len(), 4);
        assert!((0..4).all(|number| rows.contains(&settled(number))));
        assert!(!rows.contains(&reserved(0)));
    });
}

#[test]
fn damage_to_a_journal_that_is_written_is_told_at_once() {
    block_on(async {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 3);
        world.start(1).await.unwrap();
        for _ in 0..4 {
            world.open(0);
            world.settle(0);
        }
        world.life().shelf.sync();
        let live = world.life().shelf.live()[0].clone();
        let path = live.folder.join(file_name(0));
        let mut file = fs::read(&path).unwrap();
        // The header, then two records for each request: this is the end of the second.
        file[4 * RECORD_BYTES + 100] ^= 1;
        fs::write(&path, &file).unwrap();
        world.drain().await.unwrap();
        let rows = world.store.rows();
        assert_eq!(rows, [settled(0), settled(2), settled(3)]);
        let kept = world.journals().join("damaged").join(format!("{}-{}", live.journal, file_name(0)));
        assert_eq!(fs::read(kept).unwrap(), file);
        // Whether its end was applied can't be known then.
        world.life().shelf.close();
        world.drain().await.unwrap();
        assert_eq!(world.store.rows(), rows);
    });
}

#[test]
fn the_last_commit_of_a_killed_process_may_come_late() {
    for closes in [false, true] {
        block_on(async {
            let folder = folder();
            let mut world = World::new(folder.path(), keeping(SLOTS), 100);
            world.start(1).await.unwrap();
            for _ in 0..4 {
                assert!(world.open(0).is_some());
            }
            world.settle(0);
            world.settle(0);
            world.life().shelf.sync();
            let live = world.life().shelf.live().remove(0);
            let (journal, end) = (live.journal, live.synced());
            world.kill();
            // A batch of the life that was killed, or of a recovery that was killed too, which had the rest as well.
            let mut postings = vec![settled(0), settled(1)];
            postings.extend([reserved(2), reserved(3)].into_iter().filter(|_| closes));
            let to = end + if closes { 2 } else { 0 };
            let cursors = vec![CursorMove { journal, from: 0, to, closes }];
            let late = Arc::new(Batch { instance: OWNER.instance, cursors, postings });
            world.begin(0);
            world.life().flusher.recover().await.unwrap();
            world.store.apply(late).await.unwrap();
            world.drain().await.unwrap();
            world.assert_books();
            world.kill();
        });
    }
}
