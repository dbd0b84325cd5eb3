//! The journal of the model, and the store's cursor in it. It follows `ledger/flush.rs` and `ledger/recovery.rs`.

/// The most postings of a batch.
const BATCH: usize = 2;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Record {
    Reserved,
    /// What it uses up of the lease, and whether the client was told.
    Settled {
        leased: i64,
        told: bool,
    },
    Released,
}

/// How far a batch moves one cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Move {
    pub(super) life: u8,
    pub(super) from: usize,
    pub(super) to: usize,
    closes: bool,
}

/// What one life of an instance has written. Positions count from the first record that is still of interest.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    /// The process that wrote it.
    pub(super) life: u8,
    /// Entries that were open before the first record.
    before: usize,
    records: Vec<Record>,
    pub(super) synced: usize,
    /// Where the store's cursor stands.
    cursor: usize,
    /// Where the flusher believes it to stand.
    tail: usize,
    /// Which rows the store has: a bit for each position.
    rows: u32,
    pub(super) closed: bool,
}

/// What a batch brings into the store.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Brought {
    pub(super) charged: i64,
    pub(super) leased: i64,
    pub(super) rows: u8,
    pub(super) doubled: bool,
}

impl Journal {
    pub(super) fn new(life: u8) -> Self {
        Self { life, before: 0, records: Vec::new(), synced: 0, cursor: 0, tail: 0, rows: 0, closed: false }
    }

    pub(super) fn write(&mut self, record: Record) {
        self.records.push(record);
    }

    /// Syncs; returns whether there was something to be synced. Clients that waited for it are told.
    pub(super) fn sync(&mut self) -> bool {
        let before = std::mem::replace(&mut self.synced, self.records.len());
        for record in &mut self.records {
            if let Record::Settled { told, .. } = record {
                *told = true;
            }
        }
        before < self.synced
    }

    /// Nobody waits for it any more, and all of it is on the disk.
    pub(super) fn sync_silently(&mut self) {
        self.synced = self.records.len();
    }

    pub(super) fn unsynced(&self) -> usize {
        self.records.len() - self.synced
    }

    /// Loses the last records, as a power failure does. Returns them.
    pub(super) fn lose(&mut self, count: usize) -> Vec<Record> {
        self.records.split_off(self.records.len() - count)
    }

    fn open(&self, records: &[Record]) -> usize {
        let count = |wanted: fn(&Record) -> bool| records.iter().filter(|record| wanted(record)).count();
        let begun = self.before + count(|record| *record == Record::Reserved);
        begun - count(|record| *record != Record::Reserved)
    }

    /// Entries without an end.
    pub(super) fn left_open(&self) -> usize {
        self.open(&self.records)
    }

    /// Whether the store will never get anything from it any more, once its writer is dead.
    pub(super) fn is_over(&self) -> bool {
        self.closed || (self.cursor >= self.records.len() && self.left_open() == 0)
    }

    /// Reads what the flusher would bring next: from a journal whose writer is dead all of it, else what was synced.
    pub(super) fn take(&self, dead: bool, room: usize) -> Option<(Move, usize)> {
        let (from, mut to, mut postings) = (self.tail, self.tail, 0);
        let end = if dead { self.records.len() } else { self.synced };
        while to < end && postings < room {
            postings += usize::from(matches!(self.records[to], Record::Settled { .. }));
            to += 1;
        }
        let last = self.records.len() + self.left_open();
        if dead && to >= self.records.len() {
            let more = (last - to).min(room - postings);
            (to, postings) = (to + more, postings + more);
        }
        let closes = dead && to >= last;
        (postings > 0 || closes).then_some((Move { life: self.life, from, to, closes }, postings))
    }

    /// Says whether the store's cursor stands where the step starts, or where it ends.
    pub(super) fn stands_at(&self, step: &Move, end: bool) -> bool {
        if end {
            self.cursor == step.to && self.closed == step.closes
        } else {
            self.cursor == step.from && !self.closed
        }
    }

    /// Says whether the cursor is further than the flusher knows.
    pub(super) fn is_ahead(&self) -> bool {
        self.cursor > self.tail
    }

    /// What the step brings.
    pub(super) fn bring(&mut self, step: &Move) -> Brought {
        let mut brought = Brought::default();
        for position in step.from..step.to {
            match self.records.get(position) {
                Some(Record::Reserved | Record::Released) => continue,
                Some(Record::Settled { leased, .. }) => {
                    brought.charged += 1;
                    brought.leased += leased;
                }
                None => {}
            }
            brought.rows += 1;
            brought.doubled |= self.rows >> position & 1 == 1;
            self.rows |= 1 << position;
        }
        brought
    }

    pub(super) fn move_cursor(&mut self, step: &Move) {
        self.cursor = step.to;
        self.closed |= step.closes;
    }

    /// The flusher knows where the cursor is.
    pub(super) fn landed(&mut self, step: &Move) {
        self.tail = self.tail.max(step.to);
    }

    /// Another process reads where the cursor is.
    pub(super) fn found(&mut self) {
        self.tail = self.cursor;
    }

    /// How many settled records the step passes.
    pub(super) fn settled(&self, step: &Move) -> u64 {
        self.records[step.from..step.to.min(self.records.len())].iter().filter(|record| is_settled(record)).count()
            as u64
    }

    /// What was settled and is not in the store: requests, what they use up of the lease, and how many clients know.
    pub(super) fn pending(&self) -> (i64, i64, i64) {
        let settled = (self.cursor.min(self.records.len())..self.records.len()).map(|position| self.records[position]);
        settled.fold((0, 0, 0), |(count, leased, told), record| match record {
            Record::Settled { leased: more, told: known } => (count + 1, leased + more, told + i64::from(known)),
            Record::Reserved | Record::Released => (count, leased, told),
        })
    }

    /// Forgets what is behind the cursor, where nothing is under way.
    pub(super) fn trim(&mut self) {
        let passed = self.cursor.min(self.tail).min(self.records.len()).min(self.synced);
        self.before = self.open(&self.records[..passed]);
        self.records.drain(..passed);
        (self.synced, self.cursor, self.tail) = (self.synced - passed, self.cursor - passed, self.tail - passed);
        self.rows >>= passed;
    }

    pub(super) fn encode(&self, key: &mut Vec<u8>) {
        key.extend([0xF5, u8::from(self.closed)]);
        for number in [self.before, self.synced, self.cursor, self.tail, self.records.len()] {
            key.push(u8::try_from(number).unwrap());
        }
        key.extend(self.records.iter().map(|record| match record {
            Record::Reserved => 0,
            Record::Released => 1,
            Record::Settled { leased, told } => 2 + u8::from(*told) + 2 * u8::try_from(*leased).unwrap(),
        }));
        key.extend(self.rows.to_le_bytes());
    }
}

fn is_settled(record: &Record) -> bool {
    matches!(record, Record::Settled { .. })
}

/// Reads a batch of these journals, as `Flusher::gather` does: of dead writers' first.
pub(super) fn gather(journals: &[Journal], life: Option<u8>) -> Vec<Move> {
    let dead = |journal: &Journal| Some(journal.life) != life && !journal.closed;
    let replay = journals.iter().any(dead);
    let mut room = BATCH;
    let mut steps = Vec::new();
    for journal in journals.iter().filter(|journal| !journal.closed && dead(journal) == replay) {
        if room == 0 {
            break;
        }
        if let Some((step, postings)) = journal.take(replay, room) {
            room -= postings;
            steps.push(step);
        }
    }
    steps
}
