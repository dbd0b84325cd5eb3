//! Finding the end of a journal that nobody writes any more, what is open there, and what is damaged.
//!
//! Where a segment's beginning is intact, it tells all that was open then, and nothing before it has a say. So the scan
//! starts at the last one that is, or where the store stands, whichever comes first.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    reader::{ReadError, Reader},
    record::{Record, Slot},
};
use crate::domain::Posting;

/// Records that should be there and aren't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Gap {
    /// In which segment.
    pub(in crate::ledger) segment: u64,
    /// The first of them.
    pub(in crate::ledger) from: u64,
    /// One past the last of them.
    pub(in crate::ledger) to: u64,
}

/// Records in a row that aren't valid.
#[derive(Debug, Default)]
pub(super) struct Lost {
    from: Option<u64>,
    /// One past the last of them that isn't empty.
    bad: u64,
}

impl Lost {
    pub(super) fn see(&mut self, slot: &Slot, sequence: u64) {
        if !matches!(slot, Slot::Written(..)) {
            self.from.get_or_insert(sequence);
        }
        if *slot == Slot::Bad {
            self.bad = sequence + 1;
        }
    }

    /// Returns what is lost before a valid record: also what is empty should have been written.
    pub(super) fn before_valid(&mut self, segment: u64, to: u64) -> Option<Gap> {
        self.from.take().map(|from| Gap { segment, from, to })
    }

    /// Returns what is lost at the end of a segment, of which the rest is empty.
    pub(super) fn at_end(&mut self, segment: u64) -> Option<Gap> {
        let to = self.bad;
        self.from.take().filter(|from| *from < to).map(|from| Gap { segment, from, to })
    }
}

/// What a journal that nobody writes any more holds.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Scan {
    /// One past its last record, be that valid or not.
    pub(in crate::ledger) end: u64,
    /// The entries without an end.
    pub(in crate::ledger) open: BTreeMap<u64, Posting>,
    /// Those whose end may have been applied before it was damaged: a second row would be refused for ever.
    pub(in crate::ledger) unsure: BTreeSet<u64>,
    /// What is damaged.
    pub(in crate::ledger) gaps: Vec<Gap>,
    /// Everything before this record is known to have been synced.
    pub(in crate::ledger) synced: u64,
    applied: u64,
}

impl Reader {
    /// Finds the journal's end and what is open there. `applied` is where the store stands.
    pub(in crate::ledger) fn scan(&mut self, applied: u64) -> Result<Scan, ReadError> {
        self.check_whole(applied)?;
        let segments = self.segments()?;
        let mut from = self.layout.segment(applied);
        for segment in segments.iter().rev() {
            from = from.min(*segment);
            if self.begins_intact(*segment)? {
                break;
            }
        }
        let mut scan = Scan { applied, ..Scan::default() };
        for segment in segments.into_iter().filter(|segment| *segment >= from) {
            self.scan_segment(segment, &mut scan)?;
        }
        scan.synced = scan.synced.max(applied.min(scan.end));
        Ok(scan)
    }

    /// Says whether a segment's header and all that it carries are there.
    fn begins_intact(&mut self, segment: u64) -> Result<bool, ReadError> {
        let first = self.layout.header(segment);
        let Some(Slot::Written(Record::Header(header), _)) = self.chunk(first, first + 1)?.pop() else {
            return Ok(false);
        };
        let (mut next, end) = (first + 1, (first + 1).saturating_add(header.carried).min(self.layout.end(segment)));
        while next < end {
            let slots = self.chunk(next, end)?;
            let carried = |slot: &Slot| matches!(slot, Slot::Written(Record::Carried { .. }, _));
            if slots.is_empty() || !slots.iter().all(carried) {
                return Ok(false);
            }
            next += slots.len() as u64;
        }
        Ok(true)
    }

    fn scan_segment(&mut self, segment: u64, scan: &mut Scan) -> Result<(), ReadError> {
        if self.begins_intact(segment)? {
            scan.open.clear();
            scan.unsure.clear();
        }
        let (first, end) = (self.layout.header(segment), self.layout.end(segment));
        let (mut next, mut lost) = (first, Lost::default());
        let mut carried_end = first + 1;
        while next < end {
            let slots = self.chunk(next, end)?;
            if slots.is_empty() {
                break;
            }
            for slot in slots {
                lost.see(&slot, next);
                match slot {
                    Slot::Newer(version) => return Err(ReadError::Newer(self.journal, version)),
                    Slot::Written(record, unsynced) => {
                        if let Some(gap) = lost.before_valid(segment, next) {
                            scan.lose(gap, carried_end);
                        }
                        if let Record::Header(header) = &record {
                            carried_end = carried_end.saturating_add(header.carried);
                            scan.lose_before(segment, header.previous_end);
                        }
                        scan.see(record, next, unsynced);
                    }
                    Slot::Bad => scan.end = next + 1,
                    Slot::Empty => {}
                }
                next += 1;
            }
        }
        let is_short = scan.end > first && self.len(segment)? < self.layout.bytes();
        let cut = Gap { segment, from: next, to: end };
        for gap in lost.at_end(segment).into_iter().chain(is_short.then_some(cut)) {
            scan.lose(gap, carried_end);
        }
        Ok(())
    }
}

impl Scan {
    fn see(&mut self, record: Record, sequence: u64, unsynced: u32) {
        self.end = sequence + 1;
        self.synced = self.synced.max(sequence.saturating_sub(unsynced.into()));
        let (entry, posting) = match record {
            Record::Reserved(posting) => (sequence, Some(posting)),
            Record::Carried { entry, posting } => (entry, Some(posting)),
            Record::Settled { entry, .. } | Record::Released { entry } => (entry, None),
            Record::Header(_) => return,
        };
        self.unsure.remove(&entry);
        match posting {
            Some(posting) => drop(self.open.insert(entry, posting)),
            None => drop(self.open.remove(&entry)),
        }
    }

    /// Notes a gap. Before `ends` no entry can have ended.
    fn lose(&mut self, gap: Gap, ends: u64) {
        if gap.from.max(ends) < gap.to.min(self.applied) {
            self.unsure.extend(std::mem::take(&mut self.open).into_keys());
        }
        self.gaps.push(gap);
    }

    /// Notes what is missing of the segment before this one.
    fn lose_before(&mut self, segment: u64, previous_end: u64) {
        if self.end != 0 && self.end < previous_end {
            let gap = Gap { segment: segment.saturating_sub(1), from: self.end, to: previous_end };
            self.lose(gap, 0);
        }
    }
}
