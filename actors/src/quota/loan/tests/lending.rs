//! The steps of quota: what `quota.rs`, `reservation.rs` and `lending.rs` do with an account, by its own arithmetic.

use super::{
    super::{Held, Verdict},
    journal::Record,
    store::requests,
    world::{Bounds, CLASS, Exchange, Instance, Mutant, NOW, ONE, World, exchange_id, lease_key, limits, window},
};
use crate::{
    domain::{Amounts, Limits, Portion},
    ports::LeaseAsk,
    quota::{Account, Grant, Measure},
};

/// What is returned of an account that isn't in memory.
const ALL: i64 = i64::MAX;
const CHARGE: Amounts = Amounts { requests: 1, ..Amounts::ZERO };

enum Attempt {
    Granted,
    Ask,
    Exhausted,
}

impl Instance {
    /// `Asking::attempt`.
    fn attempt(&mut self, bounds: &Bounds) -> Attempt {
        let limits = limits(bounds);
        let Some(held) = self.held.as_mut().filter(|held| held.loan.limits == limits) else { return Attempt::Ask };
        match held.account.reserve(&ONE, &limits, Measure::Left) {
            Ok(granted) => {
                assert_eq!(granted.taken, requests(1));
                held.touch();
                let low = held.is_low();
                held.loan.asked |= low;
                self.refill |= low;
                self.running += 1;
                self.book().write(Record::Reserved);
                Attempt::Granted
            }
            Err(dimension) => match held.verdict(dimension, *NOW) {
                Verdict::Exhausted => Attempt::Exhausted,
                Verdict::Ask | Verdict::Elsewhere => Attempt::Ask,
            },
        }
    }

    /// `Counts::settle`, and what is left of `Reservation::close`. Returns what it uses up of the lease.
    fn close(&mut self, stale: bool, truth: Amounts, posted: bool, limits: &Limits) -> i64 {
        let Some(held) = &mut self.held else { return 0 };
        let taken = if stale { Portion::ZERO } else { requests(1) };
        let leased = held.account.settle(Grant { amounts: CHARGE, taken }, truth, limits);
        held.loan.unflushed += u64::from(posted);
        held.touch();
        self.returns |= held.is_contended();
        leased.requests
    }

    /// `Accounts::prepare`.
    fn prepare(&mut self, at: usize, bounds: &Bounds) -> (LeaseAsk, u64, u8) {
        let waiters = std::mem::take(&mut self.waiting);
        let (returns, refill) = (std::mem::take(&mut self.returns), std::mem::take(&mut self.refill));
        let need = requests(i64::from(waiters));
        let one = requests(i64::from(waiters > 0 || refill));
        self.exchanges += 1;
        let (exchange, give_back) = (exchange_id(at, self.life, self.exchanges), Portion::ZERO);
        let ask =
            LeaseAsk { key: lease_key(), exchange, limits: limits(bounds), give_back, need, most: one, obeyed: 0 };
        if let Some(held) = &mut self.held {
            let again = held.loan.pending.is_some();
            let (ask, epoch) = held.ask(ask, returns, *NOW);
            if bounds.mutant == Mutant::LeaseBeforeDebit && !again {
                held.account.lease.free += ask.give_back;
            }
            return (ask, epoch, waiters);
        }
        if waiters == 0 && returns {
            let give_back = requests(ALL);
            return (LeaseAsk { give_back, need: Portion::ZERO, most: Portion::ZERO, ..ask }, 0, 0);
        }
        let plenty = one.zip(one, |one, _| one.saturating_mul(64));
        (LeaseAsk { most: need.zip(plenty, i64::max), ..ask }, 0, waiters)
    }
}

impl World {
    fn admitted(&mut self) {
        self.due += 1;
    }

    pub(super) fn request(&mut self, at: usize, bounds: &Bounds) -> Result<bool, String> {
        self.left.requests -= 1;
        match self.instances[at].attempt(bounds) {
            Attempt::Granted => self.admitted(),
            Attempt::Ask => self.instances[at].waiting += 1,
            Attempt::Exhausted => return self.refuse(at).map(|()| false),
        }
        Ok(true)
    }

    /// A request is told that the quota is used up.
    fn refuse(&self, at: usize) -> Result<(), String> {
        let excused = self.instances[at].excused || self.instances.iter().any(|instance| instance.leaks);
        if self.instances[at].full || excused {
            return Ok(());
        }
        Err(format!("I5: instance {at} refused before the limit was reached"))
    }

    /// What others believe to be obeyed may not be, for as long as their recalls count.
    pub(super) fn excuse(&mut self) {
        for other in &mut self.instances {
            other.excused |= other.held.as_ref().is_some_and(|held| held.loan.recall.is_some());
        }
    }

    pub(super) fn leave(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        match &mut instance.exchange {
            Some(exchange) if exchange.waiters > 0 => {
                exchange.waiters -= 1;
                exchange.left = true;
            }
            _ => instance.waiting -= 1,
        }
        true
    }

    pub(super) fn settle(&mut self, at: usize, stale: bool, bounds: &Bounds) -> bool {
        let instance = &mut self.instances[at];
        let leased = instance.close(stale, CHARGE, true, &limits(bounds));
        let told = !bounds.power;
        instance.book().write(Record::Settled { leased, told });
        if stale {
            instance.stale -= 1;
        }
        if bounds.mutant == Mutant::SettleAfterDone {
            instance.told -= 1;
        } else {
            instance.running -= 1;
            self.told += i64::from(told);
        }
        true
    }

    pub(super) fn release(&mut self, at: usize, bounds: &Bounds) -> bool {
        let instance = &mut self.instances[at];
        instance.close(false, Amounts::ZERO, false, &limits(bounds));
        instance.book().write(Record::Released);
        instance.running -= 1;
        self.due -= 1;
        true
    }

    pub(super) fn tell(&mut self, at: usize) -> bool {
        self.instances[at].running -= 1;
        self.instances[at].told += 1;
        self.told += 1;
        true
    }

    /// The store makes an exchange. Returns it with its answer.
    fn make(&mut self, at: usize, bounds: &Bounds) -> Exchange {
        let (ask, epoch, waiters) = self.instances[at].prepare(at, bounds);
        let answer = self.store.exchange(at, &ask, bounds.parts);
        Exchange { ask, epoch, waiters, left: false, answer, full: false }
    }

    pub(super) fn exchange(&mut self, at: usize, bounds: &Bounds) -> bool {
        let exchange = self.make(at, bounds);
        self.instances[at].exchange = Some(exchange);
        true
    }

    pub(super) fn exchange_lost(&mut self, at: usize, made: bool, bounds: &Bounds) -> bool {
        self.left.lost -= 1;
        if made {
            self.make(at, bounds);
        } else {
            self.instances[at].prepare(at, bounds);
        }
        let instance = &mut self.instances[at];
        match &mut instance.held {
            Some(held) => held.unanswered(),
            None => instance.unheard |= made,
        }
        true
    }

    pub(super) fn exchange_refused(&mut self, at: usize, bounds: &Bounds) -> bool {
        self.left.lost -= 1;
        let (ask, ..) = self.instances[at].prepare(at, bounds);
        // What was to go back stays, though a recall was obeyed.
        self.excuse();
        let instance = &mut self.instances[at];
        instance.leaks |= instance.held.as_ref().is_some_and(|held| held.loan.uncertain);
        if let Some(held) = &mut instance.held {
            if bounds.mutant == Mutant::LeaseBeforeDebit {
                held.account.lease.free -= ask.give_back;
            }
            held.refused();
        }
        true
    }

    /// `Accounts::land`, the requests that have waited, and the recall.
    pub(super) fn answer(&mut self, at: usize, bounds: &Bounds) -> Result<bool, String> {
        let instance = &mut self.instances[at];
        let Some(Exchange { ask, epoch, waiters, left, answer, full }) = instance.exchange.take() else {
            return Ok(false);
        };
        (instance.full, instance.unheard) = (full, false);
        if instance.held.is_none() && ask.give_back.requests == ALL {
            return Ok(true);
        }
        let cold = instance.held.is_none();
        let fresh = || Held::new(CLASS, Account::new(window(), answer.used));
        let held = instance.held.get_or_insert_with(fresh);
        if bounds.mutant == Mutant::LeaseBeforeDebit && !cold {
            held.account.lease.free = (held.account.lease.free - ask.give_back).zip(Portion::ZERO, i64::max);
        }
        let recalls = held.answered(&ask, epoch, &answer, *NOW) && waiters > 0;
        for _ in 0..waiters {
            match self.instances[at].attempt(bounds) {
                Attempt::Granted => self.admitted(),
                Attempt::Ask => self.instances[at].waiting += 1,
                Attempt::Exhausted => self.refuse(at)?,
            }
        }
        let instance = &mut self.instances[at];
        // `Accounts::return_rest`.
        let rest = waiters == 0 || left;
        instance.returns |= rest && instance.held.as_ref().is_some_and(Held::is_contended);
        if recalls && self.left.recalls > 0 {
            self.left.recalls -= 1;
            self.recall(at);
        }
        Ok(true)
    }

    fn recall(&mut self, at: usize) {
        let (number, holders) = self.store.recall(at);
        for holder in holders {
            let other = &mut self.instances[holder];
            // A process that isn't there reads the feed from where it stands when it starts.
            if other.up {
                other.recalled = number;
            }
        }
        let instance = &mut self.instances[at];
        instance.excused = false;
        if let Some(held) = &mut instance.held {
            held.recalled(number, *NOW);
        }
    }

    /// `Accounts::obey_one`.
    pub(super) fn obey(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        let number = std::mem::take(&mut instance.recalled);
        if let Some(held) = &mut instance.held {
            held.obey(number, *NOW);
        }
        instance.returns = true;
        true
    }

    /// An operator takes back what a silent instance has leased; a dead one learns of it when it starts.
    pub(super) fn write_off(&mut self, at: usize) -> bool {
        self.left.write_offs -= 1;
        let row = std::mem::take(&mut self.store.leases[at]);
        self.written_off += row.leased;
        self.instances[at].forgets = self.instances[at].up;
        self.instances[at].leaks = true;
        true
    }

    /// `Accounts::forget_leases`.
    pub(super) fn forget(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        instance.forgets = false;
        // What it was lent meanwhile is forgotten, too: its requests settle without it.
        self.written_off += self.store.leases[at].leased;
        instance.stale = instance.running;
        if let Some(held) = &mut instance.held {
            held.forget();
        }
        true
    }
}
