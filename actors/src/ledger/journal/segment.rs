//! Where records lie, and when a segment is full: arithmetic only.

use super::record::RECORD_BYTES;

/// How many records a segment has, its header included. Record `n` of a journal lies in segment `n / slots`, at place
/// `n % slots`; place 0 is the header's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Layout {
    slots: u64,
}

/// What has to be done to admit one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) enum Room {
    /// Nothing: the segment has room for it, and for the end of everybody.
    Here,
    /// A new segment has to be begun.
    Next,
    /// More requests run than a segment can carry over.
    None,
}

impl Layout {
    /// The fewest records that make sense: a header, one carried, one reserved, two ends.
    const FEWEST: u64 = 8;
    /// More than a segment can have, which is 2^23; so few that 2^32 segments can be numbered.
    const MOST: u64 = 1 << 31;

    /// Makes segments of so many bytes.
    pub(in crate::ledger) fn of_bytes(bytes: u64) -> Self {
        Self::of_slots(bytes / RECORD_BYTES as u64)
    }

    /// Makes segments of so many records.
    pub(in crate::ledger) fn of_slots(slots: u64) -> Self {
        Self { slots: slots.clamp(Self::FEWEST, Self::MOST) }
    }

    /// Returns how many records a segment has.
    pub(in crate::ledger) fn slots(self) -> u64 {
        self.slots
    }

    /// Returns the size of a segment.
    pub(in crate::ledger) fn bytes(self) -> u64 {
        self.slots * RECORD_BYTES as u64
    }

    /// Returns the segment that a record lies in.
    pub(in crate::ledger) fn segment(self, sequence: u64) -> u64 {
        sequence / self.slots
    }

    /// Returns where in its segment's file a record lies.
    pub(in crate::ledger) fn offset(self, sequence: u64) -> u64 {
        sequence % self.slots * RECORD_BYTES as u64
    }

    /// Returns the number of a segment's header.
    pub(in crate::ledger) fn header(self, segment: u64) -> u64 {
        segment * self.slots
    }

    /// Returns one past the last record of a segment.
    pub(in crate::ledger) fn end(self, segment: u64) -> u64 {
        (segment + 1) * self.slots
    }

    /// Says what it takes to admit one more request where `open` ones run and `next` is the next record.
    pub(in crate::ledger) fn room(self, next: u64, open: u64) -> Room {
        // Its own record, and an end for each of them.
        let needed = 1 + open + 1;
        // `next` may be one past the segment's last record, which is where the next segment starts.
        let left = self.slots - next % self.slots;
        if !next.is_multiple_of(self.slots) && needed <= left {
            Room::Here
        } else if 1 + open + needed <= self.slots {
            Room::Next
        } else {
            Room::None
        }
    }
}

/// Returns the name of a segment's file.
pub(in crate::ledger) fn file_name(segment: u64) -> String {
    format!("{segment:010}.seg")
}

/// Returns the segment whose file has this name.
pub(in crate::ledger) fn of_file_name(name: &str) -> Option<u64> {
    let segment = name.strip_suffix(".seg")?.parse().ok()?;
    // So many that their records can still be numbered.
    (segment < 1 << 32 && file_name(segment) == name).then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_always_left_for_everybody() {
        let layout = Layout::of_slots(16);
        // The header, then as many as can all end here: 1 + n + n ≤ 16.
        let (mut next, mut open) = (1, 0);
        while layout.room(next, open) == Room::Here {
            (next, open) = (next + 1, open + 1);
        }
        assert_eq!((next, open), (8, 7));
        assert_eq!(layout.end(0) - next, open + 1);
        // Behind a header, 7 carried, 1 reserved and 8 ends don't fit; 6 carried, 1 reserved and 7 ends do.
        assert_eq!((layout.room(next, 7), layout.room(next + 1, 6)), (Room::None, Room::Next));
        assert_eq!(layout.room(16, 0), Room::Next);
    }

    #[test]
    fn places_and_names() {
        let layout = Layout::of_bytes(8 << 20);
        assert_eq!((layout.slots(), layout.bytes()), (65_536, 8 << 20));
        assert_eq!((layout.segment(65_537), layout.offset(65_537)), (1, 128));
        assert_eq!((layout.header(2), layout.end(2)), (131_072, 196_608));
        assert_eq!(of_file_name(&file_name(17)), Some(17));
        assert_eq!((of_file_name("17"), of_file_name("x.seg"), of_file_name("+000000017.seg")), (None, None, None));
        assert_eq!(of_file_name(&file_name(u64::MAX)), None);
    }
}
