//! Damage to what a crash has left: no record that is damaged is applied, all others are, none is applied twice.

use std::{cell::Cell, collections::BTreeSet, fs, path::PathBuf};

use uuid::Uuid;

use super::world::{OWNER, World, folder, keeping};
use crate::{
    domain::Posting,
    ledger::{
        FlushError,
        journal::{
            reader::Reader,
            record::{Place, RECORD_BYTES, Record, Slot, decode},
            segment::file_name,
        },
        recovery,
    },
    testing::Backup,
};

pub(super) const SLOTS: u64 = 16;

/// A journal that a crash has left, and the books as they were then.
pub(super) struct Left {
    pub(super) world: World,
    pub(super) journal: Uuid,
    pub(super) folder: PathBuf,
    /// The segments, the last one a spare.
    pub(super) files: Vec<Vec<u8>>,
    /// Its records, `None` where nothing was written.
    pub(super) records: Vec<Option<Record>>,
    books: Backup,
    changed: Cell<Option<usize>>,
    _root: tempfile::TempDir,
}

impl Left {
    /// Runs requests, of which some are released and some never end. `applied` of them reach the store, all are synced.
    pub(super) async fn new(requests: u64, applied: u64) -> Self {
        let root = folder();
        let mut world = World::new(root.path(), keeping(SLOTS), 3);
        world.start(1).await.unwrap();
        for number in 0..requests {
            world.life().shelf.furnish();
            assert_eq!(world.open(0), Some(number));
            // Four are always open, and which of them ends varies.
            if number >= 4 {
                let place = usize::try_from(number % 4).unwrap();
                if number % 7 == 3 { world.release(place) } else { world.settle(place) }
            }
            if number < applied {
                world.life().shelf.sync();
                world.drain().await.unwrap();
            }
        }
        world.life().shelf.furnish();
        world.life().shelf.sync();
        let journal = world.life().shelf.live()[0].journal;
        world.kill();
        let folder = world.journals().join(journal.to_string());
        let mut files: Vec<_> =
            (0..).map(|index| folder.join(file_name(index))).take_while(|path| path.exists()).collect();
        let files: Vec<_> = files.drain(..).map(|path| fs::read(path).unwrap()).collect();
        let records = records(journal, &files);
        Self {
            books: world.store.back_up(),
            world,
            journal,
            folder,
            files,
            records,
            changed: Cell::default(),
            _root: root,
        }
    }

    /// Numbers of the last 64 records.
    pub(super) fn last(&self) -> Vec<usize> {
        let written = (0..self.records.len()).filter(|at| self.records[*at].is_some());
        let mut last: Vec<_> = written.rev().take(64).collect();
        last.reverse();
        last
    }

    pub(super) fn applied(&self) -> u64 {
        self.world.store.restore(&self.books);
        self.world.store.cursors_of_all().get(&self.journal).map_or(0, |cursor| cursor.applied)
    }

    /// Puts everything back to how the crash has left it, but for one segment.
    pub(super) fn put(&self, changed: usize, bytes: &[u8]) {
        self.world.store.restore(&self.books);
        let journals = self.world.journals();
        if journals.join("damaged").exists() {
            fs::remove_dir_all(journals.join("damaged")).unwrap();
        }
        if let Some(before) = self.changed.replace(Some(changed)) {
            fs::write(self.path(before), &self.files[before]).unwrap();
        }
        fs::write(self.path(changed), bytes).unwrap();
    }

    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.folder.join(file_name(index.try_into().unwrap()))
    }

    /// Starts a process on it, kills it, and compares the rows with those that are left without the records `lost`.
    async fn recover_without(&mut self, lost: &BTreeSet<usize>) {
        let before = self.applied();
        self.world.start(0).await.unwrap();
        self.world.kill();
        let rows = self.world.store.rows();
        let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len(), "a row is there twice");
        for (at, record) in self.records.iter().enumerate() {
            let Some(Record::Settled { posting, .. }) = record else { continue };
            let is_there = rows.contains(posting);
            let must = (at as u64) < before || !lost.contains(&at);
            assert_eq!(is_there, must, "record {at}, with {lost:?} lost");
        }
        let known: Vec<Posting> = self.records.iter().flatten().filter_map(posting_of).collect();
        for row in rows {
            assert!(known.contains(&row), "{row:?} was never written");
        }
        assert!(self.world.store.cursors_of_all()[&self.journal].closed);
    }
}

/// The rows that a record may lead to.
fn posting_of(record: &Record) -> Option<Posting> {
    match record {
        Record::Reserved(posting) | Record::Carried { posting, .. } | Record::Settled { posting, .. } => {
            Some(posting.clone())
        }
        _ => None,
    }
}

fn records(journal: Uuid, files: &[Vec<u8>]) -> Vec<Option<Record>> {
    let slots = files.iter().flat_map(|file| file.as_chunks::<RECORD_BYTES>().0);
    slots
        .zip(0..)
        .map(|(bytes, sequence)| match decode(bytes, Place { sequence, journal }) {
            Slot::Written(record, _) => Some(record),
            _ => None,
        })
        .collect()
}

pub(super) fn place(record: usize) -> (usize, usize) {
    let slots = usize::try_from(SLOTS).unwrap();
    (record / slots, record % slots * RECORD_BYTES)
}

pub(super) fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
}

/// Applied: nothing, a part, or all that was settled.
const APPLIED: [u64; 3] = [0, 25, 60];

/// Every byte of a record is tried with one of these, the first and the last with each.
fn bytes_of(record: usize, applied: u64) -> impl Iterator<Item = usize> {
    let turn = APPLIED.iter().position(|each| *each == applied).unwrap();
    (0..RECORD_BYTES)
        .filter(move |byte| (record + byte) % APPLIED.len() == turn || [0, RECORD_BYTES - 1].contains(byte))
}

#[test]
fn a_flipped_byte_costs_its_own_record_only() {
    block_on(async {
        for applied in APPLIED {
            let mut left = Left::new(60, applied).await;
            for record in left.last() {
                let (index, at) = place(record);
                for byte in bytes_of(record, applied).map(|byte| at + byte) {
                    let mut file = left.files[index].clone();
                    file[byte] ^= 0x5a;
                    left.put(index, &file);
                    left.recover_without(&BTreeSet::from([record])).await;
                    let name = format!("{}-{}", left.journal, file_name(index as u64));
                    let kept = fs::read(left.world.journals().join("damaged").join(name));
                    let scanned = record as u64 >= left.applied() / SLOTS * SLOTS;
                    assert!(!scanned || kept.unwrap() == file, "record {record} of {applied}");
                }
            }
        }
    });
}

#[test]
fn a_record_of_zeros_costs_itself_only() {
    block_on(async {
        for applied in APPLIED {
            let mut left = Left::new(60, applied).await;
            let last = left.last();
            for record in &last {
                let (index, at) = place(*record);
                let mut file = left.files[index].clone();
                file[at..at + RECORD_BYTES].fill(0);
                left.put(index, &file);
                if Some(record) == last.last() && left.applied() > *record as u64 {
                    // It can't be told from an older copy of the folder.
                    assert!(left.world.start(0).await.is_err());
                } else {
                    left.recover_without(&BTreeSet::from([*record])).await;
                }
            }
        }
    });
}

#[test]
fn a_file_that_was_cut_short_costs_what_is_missing() {
    block_on(async {
        for applied in APPLIED {
            let mut left = Left::new(60, applied).await;
            let last = left.last();
            let end = last.last().unwrap() + 1;
            for record in last {
                let (index, at) = place(record);
                let lost: BTreeSet<_> = (record..end).filter(|lost| place(*lost).0 == index).collect();
                for byte in bytes_of(record, applied).step_by(5).map(|byte| at + byte) {
                    left.put(index, &left.files[index][..byte]);
                    let is_last = lost.contains(&(end - 1));
                    if is_last && left.applied() > record as u64 {
                        let Err(FlushError::Recovery(error)) = left.world.start(0).await else {
                            panic!("{record} is missing, and the store stands at {}", left.applied())
                        };
                        assert!(error.to_string().contains("which goes up to"), "{error}");
                    } else {
                        left.recover_without(&lost).await;
                    }
                }
            }
        }
    });
}

#[test]
fn a_segment_that_is_gone_costs_what_it_held() {
    block_on(async {
        let mut left = Left::new(60, 0).await;
        let slots = usize::try_from(SLOTS).unwrap();
        // The first is missed by the store; the last two are the end, and the spare.
        for index in 1..left.files.len() - 2 {
            left.put(index, &[]);
            fs::remove_file(left.path(index)).unwrap();
            left.recover_without(&(index * slots..(index + 1) * slots).collect()).await;
        }
    });
}

#[test]
fn only_damage_to_what_was_synced_is_an_alarm() {
    block_on(async {
        let left = Left::new(30, 0).await;
        let alarms = |record: usize, is_last_synced: u64| {
            let (index, at) = place(record);
            let mut file = left.files[index].clone();
            file[at] ^= 1;
            left.put(index, &file);
            let reader = Reader::open(left.journal, left.folder.clone(), OWNER).unwrap();
            let scan = reader.unwrap().scan(is_last_synced).unwrap();
            recovery::report(left.journal, &left.folder, &scan)
        };
        let last = *left.last().last().unwrap();
        // Nothing was synced before all was written: only the store knows better.
        for (record, applied, is_alarm) in
            [(5, 0, false), (5, 6, true), (last, 0, false), (last, last as u64 + 1, true)]
        {
            let found = alarms(record, applied);
            assert_eq!(found.len(), 1, "record {record}");
            assert_eq!((found[0].gap.from, found[0].gap.to), (record as u64, record as u64 + 1));
            assert_eq!((found[0].was_synced, found[0].is_kept), (is_alarm, true), "record {record}");
        }
        // A record that was written after a sync tells of it.
        let left = Left::new(30, 20).await;
        let (index, at) = place(3);
        let mut file = left.files[index].clone();
        file[at] ^= 1;
        left.put(index, &file);
        let scan = Reader::open(left.journal, left.folder.clone(), OWNER).unwrap().unwrap().scan(0).unwrap();
        assert!(recovery::report(left.journal, &left.folder, &scan)[0].was_synced);
    });
}

#[test]
fn what_has_no_header_is_read_by_its_other_records() {
    block_on(async {
        for requests in [3, 60] {
            let mut left = Left::new(requests, 0).await;
            let headers: Vec<_> = (0..left.files.len()).map(|index| index * usize::try_from(SLOTS).unwrap()).collect();
            left.world.store.restore(&left.books);
            for (index, header) in headers.iter().enumerate() {
                let mut file = left.files[index].clone();
                file[100] ^= u8::from(left.records[*header].is_some());
                fs::write(left.path(index), file).unwrap();
            }
            left.recover_without(&headers.into_iter().collect()).await;
        }
    });
}

#[test]
fn without_a_valid_record_a_journal_is_put_aside() {
    block_on(async {
        let mut left = Left::new(3, 0).await;
        left.put(0, &[0x55; 4 * RECORD_BYTES]);
        assert_eq!(left.world.start(0).await.unwrap(), 0);
        left.world.kill();
        assert!(!left.folder.exists());
        let aside = left.world.journals().join("damaged").join(left.journal.to_string());
        assert_eq!(fs::read(aside.join(file_name(0))).unwrap(), [0x55; 4 * RECORD_BYTES]);
        // One in which nothing was ever admitted is removed.
        fs::create_dir(&left.folder).unwrap();
        fs::write(left.path(0), [0; 4 * RECORD_BYTES]).unwrap();
        assert_eq!(left.world.start(0).await.unwrap(), 0);
        assert!(!left.folder.exists());
    });
}
