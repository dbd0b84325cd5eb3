//! Whatever lies in a journal, reading it neither panics nor makes records up; a record that is valid is written again as
//! it was read.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use actors::{
    ledger::{Owner, inspect, rewrite},
    ports::JournalCursor,
};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use uuid::Uuid;

const RECORD: usize = 128;
const JOURNAL: Uuid = Uuid::from_u128(0x0a0b_0c0d_0000_0000_0000_0000_0000_0001);
const OWNER: Owner = Owner { store: Uuid::from_u128(2), instance: Uuid::from_u128(3) };

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::with_prefix("hne-fuzz").unwrap());

static SEGMENTS: LazyLock<[PathBuf; 2]> = LazyLock::new(|| {
    let folder = FOLDER.path().join(OWNER.store.to_string()).join(JOURNAL.to_string());
    fs::create_dir_all(&folder).unwrap();
    ["0000000000.seg", "0000000001.seg"].map(|name| folder.join(name))
});

/// Makes a record valid, as far as that can be without changing its kind and its figures: no fuzzer finds a checksum.
fn mend(record: &mut [u8; RECORD], sequence: u64) {
    record[4] = 1;
    record[8..16].copy_from_slice(&sequence.to_le_bytes());
    record[16..20].copy_from_slice(&JOURNAL.as_fields().0.to_le_bytes());
    seal(record);
}

fn seal(record: &mut [u8; RECORD]) {
    let crc = crc32c::crc32c(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the first record of a segment: one that says whose journal this is, and honestly or not how long.
fn mend_header(record: &mut [u8; RECORD], segment: u64, slots: u64, honest: bool) {
    record[5] = 1;
    if honest {
        record[24..32].copy_from_slice(&slots.to_le_bytes());
    }
    for (at, id) in [(32, JOURNAL), (48, OWNER.store), (64, OWNER.instance)] {
        record[at..at + 16].copy_from_slice(id.as_bytes());
    }
    mend(record, segment * slots);
}

/// Checks that what is read of a record is what is written again.
fn check_record(record: &[u8; RECORD], sequence: u64) {
    let Some(again) = rewrite(record, sequence, JOURNAL) else { return };
    assert_eq!(rewrite(&again, sequence, JOURNAL), Some(again));
    // Its kind, its place, and what was known to be synced; what else it says depends on the kind.
    assert_eq!((again[5], &again[8..24]), (record[5], &record[8..24]));
    let mut flipped = again;
    flipped[usize::from(record[0]) % RECORD] ^= 1;
    assert_eq!(rewrite(&flipped, sequence, JOURNAL), None);
    assert_eq!(rewrite(&again, sequence.wrapping_add(1), JOURNAL), None);
}

// First how the journal is made of the rest: the size of a segment, whether its header is valid, where the store stands,
// and for each record one bit: whether it is made valid.
fuzz_target!(|input: &[u8]| {
    let Some((&[slots, flags, applied, valid], bytes)) = input.split_first_chunk::<4>() else { return };
    let slots = 8 + u64::from(slots % 8);
    let mut bytes = bytes.to_vec();
    let (records, _) = bytes.as_chunks_mut::<RECORD>();
    let count = records.len() as u64;
    for (sequence, record) in (0..).zip(records) {
        check_record(record, sequence);
        if sequence.is_multiple_of(slots) && flags & 1 == 0 {
            mend_header(record, sequence / slots, slots, flags & 8 == 0);
        } else if valid.rotate_left((sequence % 8) as u32) & 1 == 0 {
            mend(record, sequence);
        } else if flags & 2 != 0 {
            // Of another version, or from another place.
            seal(record);
        }
        check_record(record, sequence);
    }
    let in_first = bytes.len().min(slots as usize * RECORD);
    let (first, second) = bytes.split_at(in_first);
    fs::write(&SEGMENTS[0], first).unwrap();
    fs::write(&SEGMENTS[1], second).unwrap();
    let applied = u64::from(applied % 32);
    let stands = |_| JournalCursor { applied, known: applied > 0, closed: flags & 4 != 0 };
    // Of somebody else, or of a newer version: that is told, and read no further.
    let Ok(journals) = inspect(FOLDER.path(), OWNER, stands) else { return };
    for journal in journals {
        assert_eq!((journal.journal, journal.segments, journal.bytes), (JOURNAL, 2, bytes.len() as u64));
        assert!(journal.open as u64 <= count && journal.unapplied as u64 <= count);
    }
});
