//! The 128 bytes of a record.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0-3 | CRC-32C of the rest |
//! | 4-7 | version, kind, outcome, flags |
//! | 8-15 | sequence number in its journal |
//! | 16-19 | the first bytes of the journal's id |
//! | 20-23 | how many records before this one weren't known to be synced |
//! | 24-31 | the number of the record that opened the entry; in a header, records in a segment |
//! | 32-127 | the figures, as [`Record`] lists them |
//!
//! All numbers are little-endian. A record of zeros was never written.

use bytes::{Buf, BufMut};
use uuid::Uuid;

use crate::domain::{
    Amounts, ClassId, ModelKey, Nanodollars, Outcome, Portion, Posting, Timestamp, UserKey, WindowKind,
};

/// The size of a record.
pub(in crate::ledger) const RECORD_BYTES: usize = 128;
/// The version of the format that this binary writes, and the newest that it reads.
pub(in crate::ledger) const VERSION: u8 = 1;

/// The bytes of a record.
pub(in crate::ledger) type Bytes128 = [u8; RECORD_BYTES];

const HEADER: u8 = 1;
const RESERVED: u8 = 2;
const CARRIED: u8 = 3;
const SETTLED: u8 = 4;
const RELEASED: u8 = 5;

const ESTIMATED: u8 = 1;
const MONTH: u8 = 2;
const LEASED_REQUEST: u8 = 4;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) enum Record {
    /// The first record of a segment.
    Header(Header),
    /// A request was admitted: the row that it will have if nothing else is heard of it.
    Reserved(Posting),
    /// The same, repeated at the beginning of a later segment; `entry` is the record that opened it.
    Carried {
        /// Which.
        entry: u64,
        /// The row.
        posting: Posting,
    },
    /// A request has ended; replay needs nothing but this.
    Settled {
        /// Which.
        entry: u64,
        /// The row.
        posting: Posting,
    },
    /// A request has ended before a provider was contacted: it leaves no row.
    Released {
        /// Which.
        entry: u64,
    },
}

/// What the first record of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Header {
    /// Records in a segment, this one included.
    pub(in crate::ledger) slots: u64,
    /// The journal.
    pub(in crate::ledger) journal: Uuid,
    /// The store that it belongs to.
    pub(in crate::ledger) store: Uuid,
    /// The instance that wrote it.
    pub(in crate::ledger) instance: Uuid,
    /// One past the last record of the segment before.
    pub(in crate::ledger) previous_end: u64,
    /// When the segment was begun.
    pub(in crate::ledger) created_at: Timestamp,
    /// How many records of entries that were open then follow.
    pub(in crate::ledger) carried: u64,
}

/// What lies at a record's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) enum Slot {
    /// Nothing was written here.
    Empty,
    /// Something that isn't the record that belongs here.
    Bad,
    /// A segment of a newer version.
    Newer(u8),
    /// A record, and how many before it weren't known to be synced when it was written.
    Written(Record, u32),
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Place {
    /// Its number.
    pub(in crate::ledger) sequence: u64,
    /// Its journal.
    pub(in crate::ledger) journal: Uuid,
}

impl Place {
    fn tag(self) -> u32 {
        self.journal.as_fields().0
    }
}

/// Writes a record down.
pub(in crate::ledger) fn encode(record: &Record, place: Place, unsynced: u32) -> Bytes128 {
    let mut bytes = [0; RECORD_BYTES];
    let (kind, entry, posting) = match record {
        Record::Header(header) => (HEADER, header.slots, None),
        Record::Reserved(posting) => (RESERVED, place.sequence, Some(posting)),
        Record::Carried { entry, posting } => (CARRIED, *entry, Some(posting)),
        Record::Settled { entry, posting } => (SETTLED, *entry, Some(posting)),
        Record::Released { entry } => (RELEASED, *entry, None),
    };
    let flags = posting.map_or(0, |posting| {
        let set = |on: bool, flag: u8| if on { flag } else { 0 };
        set(posting.estimated, ESTIMATED)
            | set(posting.window == WindowKind::Month, MONTH)
            | set(posting.leased.requests > 0, LEASED_REQUEST)
    });
    let outcome = posting.map_or(0, |posting| u8::try_from(posting.outcome.code()).unwrap_or(u8::MAX));
    let mut out = &mut bytes[4..];
    out.put_slice(&[VERSION, kind, outcome, flags]);
    out.put_u64_le(place.sequence);
    out.put_u32_le(place.tag());
    out.put_u32_le(unsynced);
    out.put_u64_le(entry);
    if let Some(posting) = posting {
        put_posting(out, posting);
    } else if let Record::Header(header) = record {
        out.put_slice(header.journal.as_bytes());
        out.put_slice(header.store.as_bytes());
        out.put_slice(header.instance.as_bytes());
        out.put_u64_le(header.previous_end);
        out.put_i64_le(header.created_at.0);
        out.put_u64_le(header.carried);
    }
    let crc = crc32c::crc32c(&bytes[4..]);
    let [a, b, c, d] = crc.to_le_bytes();
    (bytes[0], bytes[1], bytes[2], bytes[3]) = (a, b, c, d);
    bytes
}

fn put_posting(mut out: &mut [u8], posting: &Posting) {
    let Amounts { requests, prompt_tokens, completion_tokens, cost } = posting.amounts;
    out.put_slice(posting.id.as_bytes());
    out.put_i64_le(posting.user.0);
    out.put_i32_le(posting.class.0);
    out.put_i32_le(i32::try_from(requests).unwrap_or(i32::MAX));
    out.put_i64_le(posting.model.0);
    out.put_i64_le(posting.opened_at.0);
    out.put_i64_le(posting.settled_at.0);
    out.put_i64_le(prompt_tokens);
    out.put_i64_le(completion_tokens);
    out.put_i64_le(cost.0);
    out.put_i64_le(posting.leased.tokens);
    out.put_i64_le(posting.leased.cost.0);
}

/// Reads what lies at a record's place.
pub(in crate::ledger) fn decode(bytes: &Bytes128, place: Place) -> Slot {
    let mut input = &bytes[..];
    let crc = input.get_u32_le();
    if crc == 0 && bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    if crc != crc32c::crc32c(&bytes[4..]) {
        return Slot::Bad;
    }
    let [version, kind, outcome, flags] = input.get_u32_le().to_le_bytes();
    if version > VERSION {
        return Slot::Newer(version);
    }
    let here = input.get_u64_le() == place.sequence && input.get_u32_le() == place.tag();
    let unsynced = input.get_u32_le();
    let entry = input.get_u64_le();
    let record = match kind {
        HEADER => Some(Record::Header(get_header(input, entry))),
        RESERVED => get_posting(input, outcome, flags).map(Record::Reserved),
        CARRIED => get_posting(input, outcome, flags).map(|posting| Record::Carried { entry, posting }),
        SETTLED => get_posting(input, outcome, flags).map(|posting| Record::Settled { entry, posting }),
        RELEASED => Some(Record::Released { entry }),
        _ => None,
    };
    match record {
        Some(record) if here => Slot::Written(record, unsynced),
        _ => Slot::Bad,
    }
}

/// Reads what lies at a record's place, and writes it down again; `None` where there is no valid record. For the fuzzer.
#[cfg(feature = "testing")]
#[must_use]
pub fn rewrite(bytes: &Bytes128, sequence: u64, journal: Uuid) -> Option<Bytes128> {
    let place = Place { sequence, journal };
    match decode(bytes, place) {
        Slot::Written(record, unsynced) => Some(encode(&record, place, unsynced)),
        _ => None,
    }
}

fn get_header(mut input: &[u8], slots: u64) -> Header {
    let mut id = || Uuid::from_u128(input.get_u128());
    let (journal, store, instance) = (id(), id(), id());
    let (previous_end, created_at) = (input.get_u64_le(), Timestamp(input.get_i64_le()));
    Header { slots, journal, store, instance, previous_end, created_at, carried: input.get_u64_le() }
}

fn get_posting(mut input: &[u8], outcome: u8, flags: u8) -> Option<Posting> {
    let id = Uuid::from_u128(input.get_u128());
    let user = UserKey(input.get_i64_le());
    let class = ClassId(input.get_i32_le());
    let requests = input.get_i32_le().into();
    let model = ModelKey(input.get_i64_le());
    let opened_at = Timestamp(input.get_i64_le());
    let settled_at = Timestamp(input.get_i64_le());
    let (prompt_tokens, completion_tokens) = (input.get_i64_le(), input.get_i64_le());
    let amounts = Amounts { requests, prompt_tokens, completion_tokens, cost: Nanodollars(input.get_i64_le()) };
    let (tokens, cost) = (input.get_i64_le(), Nanodollars(input.get_i64_le()));
    let leased = Portion { requests: i64::from(flags & LEASED_REQUEST != 0), tokens, cost };
    Some(Posting {
        id,
        user,
        class,
        model,
        opened_at,
        settled_at,
        outcome: Outcome::from_code(outcome.into())?,
        estimated: flags & ESTIMATED != 0,
        amounts,
        window: if flags & MONTH != 0 { WindowKind::Month } else { WindowKind::Day },
        leased,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(sequence: u64) -> Place {
        Place { sequence, journal: Uuid::from_u128(0x1234_5678_0000_0000_0000_0000_0000_0001) }
    }

    prop_compose! {
        fn postings()(
            ids in (any::<u128>(), any::<i64>(), any::<i32>(), any::<i64>()),
            times in (any::<i64>(), any::<i64>()),
            outcome in 0usize..Outcome::ALL.len(),
            flags in any::<(bool, bool, bool)>(),
            figures in (any::<i32>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>()),
        ) -> Posting {
            Posting {
                id: Uuid::from_u128(ids.0),
                user: UserKey(ids.1),
                class: ClassId(ids.2),
                model: ModelKey(ids.3),
                opened_at: Timestamp(times.0),
                settled_at: Timestamp(times.1),
                outcome: Outcome::ALL[outcome],
                estimated: flags.0,
                amounts: Amounts {
                    requests: figures.0.into(),
                    prompt_tokens: figures.1,
                    completion_tokens: figures.2,
                    cost: Nanodollars(figures.3),
                },
                window: if flags.1 { WindowKind::Month } else { WindowKind::Day },
                leased: Portion {
                    requests: flags.2.into(),
                    tokens: figures.4,
                    cost: Nanodollars(figures.5),
                },
            }
        }
    }

    fn records() -> impl Strategy<Value = Record> {
        let header = (any::<[u64; 3]>(), any::<[u128; 3]>(), any::<i64>()).prop_map(
            |([slots, previous_end, carried], ids, at)| {
                let [journal, store, instance] = ids.map(Uuid::from_u128);
                let created_at = Timestamp(at);
                Record::Header(Header { slots, journal, store, instance, previous_end, created_at, carried })
            },
        );
        prop_oneof![
            header,
            postings().prop_map(Record::Reserved),
            (any::<u64>(), postings()).prop_map(|(entry, posting)| Record::Carried { entry, posting }),
            (any::<u64>(), postings()).prop_map(|(entry, posting)| Record::Settled { entry, posting }),
            any::<u64>().prop_map(|entry| Record::Released { entry }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(record in records(), sequence in any::<u64>(), unsynced in any::<u32>()) {
            let bytes = encode(&record, place(sequence), unsynced);
            prop_assert_eq!(decode(&bytes, place(sequence)), Slot::Written(record, unsynced));
        }

        #[test]
        fn a_record_elsewhere_is_no_record(record in records(), sequence in 0..u64::MAX) {
            let bytes = encode(&record, place(sequence), 0);
            prop_assert_eq!(decode(&bytes, place(sequence + 1)), Slot::Bad);
            let other = Place { sequence, journal: Uuid::nil() };
            prop_assert_eq!(decode(&bytes, other), Slot::Bad);
        }

        #[test]
        fn each_flipped_bit_is_noticed(record in records(), sequence in any::<u64>()) {
            let bytes = encode(&record, place(sequence), 0);
            for bit in 0..RECORD_BYTES * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(decode(&flipped, place(sequence)), Slot::Bad);
            }
        }
    }

    #[test]
    fn zeros_were_never_written_and_a_newer_version_is_told() {
        assert_eq!(decode(&[0; RECORD_BYTES], place(0)), Slot::Empty);
        let mut bytes = encode(&Record::Released { entry: 1 }, place(7), 0);
        bytes[4] = VERSION + 1;
        let crc = crc32c::crc32c(&bytes[4..]).to_le_bytes();
        bytes[..4].copy_from_slice(&crc);
        assert_eq!(decode(&bytes, place(7)), Slot::Newer(VERSION + 1));
    }
}
