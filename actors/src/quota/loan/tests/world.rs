//! The state of the model: a store, some instances, and what may still go wrong. What must hold in every state.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    super::{BELIEVED, CONTENDED, Held, RECALL_COUNTS},
    journal::{Journal, Move},
    store::{Row, Store},
};
use crate::{
    domain::{AccountKey, ClassId, Limits, Price, Timestamp, UserKey, Window, WindowKind},
    ports::{Clock, LeaseAnswer, LeaseAsk, LeaseKey},
    quota::Ask,
    testing::ManualClock,
};

/// One request without tokens.
pub(super) const ONE: Ask =
    Ask { prompt_tokens: 0, completion_tokens: 0, price: Price { input: NOTHING, output: NOTHING } };
const NOTHING: crate::domain::Nanodollars = crate::domain::Nanodollars(0);

/// Now, always: time passes by making everything older.
pub(super) static NOW: LazyLock<Instant> = LazyLock::new(|| ManualClock::new().now() + Duration::from_secs(3_600));

/// A mistake that the model can make, so that it is known to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutant {
    None,
    /// The cursor is moved in a transaction of its own, after the rows'.
    CursorApart,
    /// The cursor is moved wherever it stands, and an uncertain batch is tried again without a look at it.
    CursorUnconditional,
    /// The client is told of the end before it is in the journal.
    SettleAfterDone,
    /// What is returned stays in memory until the store has answered.
    LeaseBeforeDebit,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) mutant: Mutant,
    pub(super) instances: usize,
    pub(super) limit: i64,
    /// One in so many parts of what remains is lent where there is plenty.
    pub(super) parts: i64,
    /// Requests that run on an instance at once, and that wait on it.
    pub(super) running: i64,
    pub(super) waiting: u8,
    pub(super) budget: Budget,
    /// A crash loses what was not synced, and clients are told after the sync.
    pub(super) power: bool,
    /// Requests end without a charge, wait no longer, leave memory; leases go back unasked.
    pub(super) restless: bool,
}

/// How often things may happen that would go on for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) requests: u8,
    pub(super) crashes: u8,
    /// Answers of the store that are lost, or come with an error.
    pub(super) lost: u8,
    pub(super) recalls: u8,
    /// Leases that an operator writes off.
    pub(super) write_offs: u8,
}

/// A lease's exchange that the store has made and whose answer is under way.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) ask: LeaseAsk,
    pub(super) epoch: u64,
    pub(super) waiters: u8,
    /// Some that waited have left.
    pub(super) left: bool,
    pub(super) answer: LeaseAnswer,
    /// Whether the limit was reached at some time since the store has answered.
    pub(super) full: bool,
}

/// A batch that was taken.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) steps: Vec<Move>,
    /// Whether the store's answer is under way; else nothing is known.
    pub(super) answered: bool,
    /// The rows are written, and the cursors not yet.
    pub(super) apart: bool,
}

/// One instance: its memory, and its disk.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    /// The process that lives, or lived last.
    pub(super) life: u8,
    pub(super) up: bool,
    /// Nothing is served before what was left is in the store.
    pub(super) serving: bool,
    pub(super) held: Option<Held>,
    pub(super) running: i64,
    /// Of the running requests, those that were promised from a lease that is forgotten.
    pub(super) stale: i64,
    /// Requests whose client was told of the end, and which are not settled: a mutant's.
    pub(super) told: i64,
    pub(super) waiting: u8,
    pub(super) returns: bool,
    pub(super) refill: bool,
    pub(super) exchange: Option<Exchange>,
    pub(super) exchanges: u128,
    /// The last recall that was heard of and not obeyed; 0 for none.
    pub(super) recalled: i64,
    pub(super) journals: Vec<Journal>,
    pub(super) flight: Option<Flight>,
    /// A batch that was given up, and that the store may still apply.
    pub(super) late: Option<Vec<Move>>,
    /// The same since the answer that is believed.
    pub(super) full: bool,
    /// Memory may know of less than is leased, since something was given up.
    pub(super) leaks: bool,
    /// Somebody who may have obeyed the last recall from here has died since.
    pub(super) excused: bool,
    /// Its leases were written off, and it doesn't know.
    pub(super) forgets: bool,
    /// It was lent something that it has never heard of, before it knew the account.
    pub(super) unheard: bool,
}

impl Instance {
    pub(super) fn new() -> Self {
        Self {
            life: 0,
            up: true,
            serving: true,
            held: None,
            running: 0,
            stale: 0,
            told: 0,
            waiting: 0,
            returns: false,
            refill: false,
            exchange: None,
            exchanges: 0,
            recalled: 0,
            journals: vec![Journal::new(0)],
            flight: None,
            late: None,
            full: false,
            leaks: false,
            excused: false,
            forgets: false,
            unheard: false,
        }
    }

    /// Returns the journal of the process that lives.
    pub(super) fn book(&mut self) -> &mut Journal {
        self.journals.last_mut().unwrap()
    }

    pub(super) fn free(&self) -> i64 {
        self.held.as_ref().map_or(0, |held| held.account.lease.free.requests)
    }

    /// What was settled and isn't in the store: requests, what they use up of the lease, how many clients know.
    fn pending(&self) -> (i64, i64, i64) {
        let add = |(a, b, c): (i64, i64, i64), (d, e, f)| (a + d, b + e, c + f);
        self.journals.iter().filter(|journal| !journal.closed).map(Journal::pending).fold((0, 0, 0), add)
    }

    fn settles(&self) -> bool {
        self.serving && self.flight.is_none() && self.late.is_none() && self.exchange.is_none() && self.running == 0
    }
}

/// A state.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) store: Store,
    pub(super) instances: Vec<Instance>,
    pub(super) left: Budget,
    /// Rows that there must be in the end.
    pub(super) due: u8,
    /// What was written off, and lent until the instance learned of it: by so much a limit may be passed.
    pub(super) written_off: i64,
    /// Requests of which the client was told the end.
    pub(super) told: i64,
}

pub(super) fn limits(bounds: &Bounds) -> Limits {
    Limits { requests: Some(bounds.limit), ..Limits::default() }
}

pub(super) fn window() -> Window {
    WindowKind::Day.at(Timestamp::from_seconds(0))
}

pub(super) const CLASS: ClassId = ClassId(1);

pub(super) fn lease_key() -> LeaseKey {
    LeaseKey { account: AccountKey { user: UserKey(1), class: CLASS }, window: window() }
}

/// Makes an exchange's id that no other one has.
pub(super) fn exchange_id(instance: usize, life: u8, number: u128) -> Uuid {
    Uuid::from_u128((number << 16) + (u128::from(life) << 8) + u128::try_from(instance).unwrap() + 1)
}

/// Makes what an account knows of the store older. What is too old to matter is all of one age.
pub(super) fn age(instance: &mut Instance, by: Duration) {
    let Some(held) = &mut instance.held else { return };
    let loan = &mut held.loan;
    loan.answered_at = loan.answered_at.filter(|_| by < BELIEVED);
    let since = |at: Instant| NOW.saturating_duration_since(at) + by;
    loan.recall = loan.recall.filter(|(_, at)| since(*at) < RECALL_COUNTS).map(|(number, _)| (number, *NOW - BELIEVED));
    loan.contended = loan.contended.map(|at| if since(at) >= CONTENDED { *NOW - CONTENDED } else { at });
    instance.excused &= loan.recall.is_some();
}

impl World {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let instances = vec![Instance::new(); bounds.instances];
        Self { store: Store::new(bounds.instances), instances, left: bounds.budget, due: 0, written_off: 0, told: 0 }
    }

    /// All that is promised: used, settled, running, on its way to a request that waits for it or back to the store.
    fn promised(&self) -> i64 {
        let of = |(instance, row): (&Instance, &Row)| {
            let open: usize = instance.journals.iter().filter(|journal| !journal.closed).map(Journal::left_open).sum();
            // What is read anew is taken over with all that is leased.
            let cold = instance.held.is_none();
            let answer = instance.exchange.as_ref().map(|exchange| exchange.answer);
            let under_way = answer.map_or(0, |answer| if cold { answer.leased } else { answer.granted }.requests);
            // An ask that is made again doesn't return what has become free since; its answer sees to that.
            let again = instance.exchange.is_some() && instance.held.as_ref().is_some_and(Held::is_contended);
            let returns = if instance.returns || again { instance.free() } else { 0 };
            // Lent, or returned, in an exchange whose answer was lost: found out when it is asked again.
            let uncertain = instance.held.as_ref().filter(|held| held.loan.uncertain && instance.exchange.is_none());
            let lost = uncertain
                .and_then(|held| held.loan.pending)
                .map_or(0, |ask| if ask.exchange == row.exchange { row.granted } else { ask.give_back.requests });
            let unheard = if instance.unheard && answer.is_none() { row.leased } else { 0 };
            i64::try_from(open).unwrap() + instance.pending().0 + under_way + returns + lost + unheard
        };
        self.store.used + self.instances.iter().zip(&self.store.leases).map(of).sum::<i64>()
    }

    /// Notes where the limit is reached, trims what is of no interest any more, and says what doesn't hold.
    pub(super) fn settle_down(&mut self, bounds: &Bounds) -> Result<(), String> {
        if self.promised() >= bounds.limit {
            for instance in &mut self.instances {
                instance.full = true;
                instance.exchange.iter_mut().for_each(|exchange| exchange.full = true);
            }
        }
        for instance in &mut self.instances {
            if instance.flight.is_none() && instance.late.is_none() {
                let (up, life) = (instance.up, instance.life);
                instance.journals.retain(|journal| (up && journal.life == life) || !journal.is_over());
                instance.journals.iter_mut().for_each(Journal::trim);
            }
            let recovered = instance.journals.iter().all(|journal| journal.closed || journal.life == instance.life);
            instance.serving |= instance.up && recovered && instance.flight.is_none();
        }
        self.check(bounds)
    }

    /// What must hold in every state; the numbers are those of the module's documentation.
    fn check(&self, bounds: &Bounds) -> Result<(), String> {
        // Between two transactions nothing holds: there is no such state but a mutant's, and what it leads to counts.
        if bounds.mutant == Mutant::CursorApart {
            return Ok(());
        }
        let taken = self.store.taken();
        if taken > bounds.limit + self.written_off {
            return Err(format!("I1: {taken} are used and leased under a limit of {}", bounds.limit));
        }
        let (mut charged, mut told) = (self.store.used, self.store.used);
        for (index, instance) in self.instances.iter().enumerate() {
            let (settled, used_up, known) = instance.pending();
            charged += settled;
            told += known;
            if self.written_off == 0 {
                self.check_lease(index, used_up)?;
            }
        }
        if charged > bounds.limit + self.written_off {
            return Err(format!("I3: {charged} are charged under a limit of {}", bounds.limit));
        }
        if self.told > told {
            return Err(format!("I4: {} ends were told, {told} are in the books", self.told));
        }
        if self.instances.iter().all(Instance::settles)
            && self.instances.iter().all(|one| one.journals.iter().all(Journal::is_over))
        {
            if self.store.rows != self.due {
                return Err(format!("I5: {} rows, {} requests were admitted", self.store.rows, self.due));
            }
            if !bounds.power && self.store.used != self.told {
                return Err(format!("I5: {} are charged, {} have ended", self.store.used, self.told));
            }
        }
        Ok(())
    }

    fn check_lease(&self, index: usize, used_up: i64) -> Result<(), String> {
        let (instance, row) = (&self.instances[index], &self.store.leases[index]);
        let mut known = used_up;
        let mut owed = row.leased;
        if instance.serving {
            known += instance.free() + instance.running - instance.stale + instance.told;
        }
        if let Some(ask) = instance.held.as_ref().and_then(|held| held.loan.pending) {
            let made = row.exchange == ask.exchange;
            // What the store has lent, and memory has not; what memory has returned, and the store has not.
            let (lent, back) = if made { (self.lent(index), 0) } else { (0, ask.give_back.requests) };
            (owed, known) = (owed - lent, known + back);
        }
        let exact = instance.held.is_some() && !instance.leaks;
        if owed < known || (exact && owed != known) || instance.free() < 0 {
            return Err(format!("I2: the store has lent {owed} to instance {index}, which knows of {known}"));
        }
        Ok(())
    }

    fn lent(&self, index: usize) -> i64 {
        self.store.leases[index].granted
    }
}
