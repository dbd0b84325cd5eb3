//! How an account stands with the store: what it asked for last, and what it knows of others. No clock, no I/O.

use std::time::{Duration, Instant};

use super::account::{Account, Dimension, limited};
use crate::{
    domain::{Amounts, ClassId, Limits, PlanId, Portion},
    mutants::{self, Mutant},
    ports::{LeaseAnswer, LeaseAsk, StoreError},
};

/// How long an answer that nothing is left is believed.
const BELIEVED: Duration = Duration::from_millis(500);
/// How long an answer is good enough to be shown.
const SHOWN: Duration = Duration::from_secs(1);
/// How long a recall counts: others lend themselves no more than they need for [`CONTENDED`] after they have obeyed.
const RECALL_COUNTS: Duration = Duration::from_secs(2);
/// How often an account's lease is recalled.
const RECALL_EVERY: Duration = Duration::from_millis(500);
/// How long an account that was recalled keeps nothing that it doesn't need.
const CONTENDED: Duration = Duration::from_secs(5);
/// The fewest requests that are lent where there is plenty.
const AT_LEAST: i64 = 64;
/// Over how long the recent demand is counted, in seconds.
const DEMAND: u64 = 60;

/// An account in memory.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) class: ClassId,
    pub(crate) account: Account,
    pub(crate) loan: Loan,
}

/// The account's dealings with the store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loan {
    /// The ceilings that were lent under.
    pub(super) limits: Limits,
    /// The plan that they are of, when it was last used.
    pub(super) plan: Option<PlanId>,
    /// Counts what happened to the account, so that an answer is known to be about it as it still is.
    epoch: u64,
    /// Counts how often all leases were forgotten: what was taken before can't be given back.
    pub(super) generation: u64,
    /// Postings that were settled here and haven't reached the store.
    unflushed: u64,
    /// Whether some have reached it since it was asked: its answer may lack them.
    flushed: bool,
    /// Something is queued or under way.
    pub(super) asked: bool,
    /// What was asked, until its answer is known.
    pending: Option<LeaseAsk>,
    /// It may have been made already: an answer to it was lost.
    uncertain: bool,
    /// Of which figures the last answer gave less than was needed, or said that more is lent than is left.
    short: [bool; 3],
    answered_at: Option<Instant>,
    /// What was free after the last answer.
    size: Portion,
    /// The number of the last recall from here, and when it was made.
    recall: Option<(i64, Instant)>,
    obeyed_elsewhere: i64,
    /// Recalled by others, and when.
    contended: Option<Instant>,
    obeyed: i64,
    demand: Demand,
}

/// What was promised lately: of this minute and the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Demand {
    minute: u64,
    now: Portion,
    before: Portion,
}

/// Why not enough is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The store has to be asked.
    Ask,
    /// The rest is lent elsewhere, perhaps unspent.
    Elsewhere,
    /// What is used and reserved has reached the limit.
    Exhausted,
}

impl Held {
    pub(super) fn new(class: ClassId, account: Account) -> Self {
        Self { class, account, loan: Loan::default() }
    }

    /// Notes that the account has changed.
    pub(super) fn touch(&mut self) {
        self.loan.epoch += 1;
    }

    /// Notes that so much was promised, at second `now` of any clock; one that has waited comes late.
    pub(super) fn demand(&mut self, taken: Portion, now: u64) {
        let Demand { minute, now: current, before } = &mut self.loan.demand;
        if now / DEMAND > *minute {
            *before = if now / DEMAND == *minute + 1 { *current } else { Portion::ZERO };
            (*minute, *current) = (now / DEMAND, Portion::ZERO);
        }
        *current += taken;
    }

    /// Notes that a posting is on its way to the store, and by how much it exceeds its lease.
    pub(super) fn sent(&mut self, over: Portion) {
        self.loan.unflushed += 1;
        self.account.over += over;
    }

    /// Notes that it is there, or will never be.
    pub(super) fn arrived(&mut self, over: Portion) {
        self.loan.unflushed = self.loan.unflushed.saturating_sub(1);
        self.loan.flushed = true;
        // It may be from before this account was known.
        self.account.over = (self.account.over - over).zip(Portion::ZERO, i64::max);
        if limited(over, &self.loan.limits) != Portion::ZERO {
            // The last answer may have had it already, so that it counted twice.
            self.loan.answered_at = None;
        }
    }

    /// Says whether others may have used so much since the store was asked that it is to be asked again before counts are
    /// shown.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.loan.answered_at.is_none_or(|at| now.saturating_duration_since(at) >= SHOWN)
    }

    /// Says whether postings are on their way to the store.
    pub(super) fn has_sent(&self) -> bool {
        self.loan.unflushed > 0
    }

    /// Says whether nothing is promised, unflushed or under way: what the store says is then all there is.
    pub(super) fn is_quiet(&self) -> bool {
        self.account.reserved == Amounts::ZERO && !self.has_sent()
    }

    /// Says why not enough of a figure is free.
    pub(super) fn verdict(&self, dimension: Dimension, now: Instant) -> Verdict {
        let loan = &self.loan;
        let fresh = loan.answered_at.is_some_and(|at| now.saturating_duration_since(at) < BELIEVED);
        let [requests, tokens, cost] = loan.short;
        let short = match dimension {
            Dimension::Requests => requests,
            Dimension::Tokens => tokens,
            Dimension::Cost => cost,
        };
        if !fresh {
            return Verdict::Ask;
        } else if self.account.is_overlent(dimension, &loan.limits) && dimension.of(self.account.over) != 0 {
            // The store doesn't know yet what was used.
            return Verdict::Elsewhere;
        } else if !short {
            return Verdict::Ask;
        }
        let recall = loan.recall.filter(|(_, at)| now.saturating_duration_since(*at) < RECALL_COUNTS);
        let obeyed = recall.is_some_and(|(number, _)| loan.obeyed_elsewhere >= number);
        let elsewhere = dimension.of(self.account.lease.elsewhere) > 0;
        if elsewhere && !obeyed { Verdict::Elsewhere } else { Verdict::Exhausted }
    }

    /// Says whether so little is left that more should be asked for.
    pub(super) fn is_low(&self) -> bool {
        let low = |dimension: Dimension| {
            let (free, size) = (dimension.of(self.account.lease.free), dimension.of(self.loan.size));
            dimension.limit(&self.loan.limits).is_some() && free.saturating_mul(4) < size
        };
        let short = self.loan.short.iter().any(|short| *short);
        !self.loan.asked && !short && Dimension::ALL.into_iter().any(low)
    }

    /// Makes an ask of what is needed, or of what can go back. What goes back is no longer free. An ask whose answer was
    /// lost is asked again as it was. Returns it with the account's state, for [`Held::answered`].
    pub(super) fn ask(&mut self, ask: LeaseAsk, returns: bool, now: Instant) -> (LeaseAsk, u64) {
        if let Some(pending) = self.loan.pending {
            return (pending, self.loan.epoch);
        }
        if self.loan.contended.is_some_and(|at| now.saturating_duration_since(at) >= CONTENDED) {
            self.loan.contended = None;
        }
        let free = &mut self.account.lease.free;
        // Under other ceilings everything is lent anew.
        let changed = self.loan.limits != ask.limits;
        let kept = if changed { Portion::ZERO } else { free.min(ask.need) };
        let give_back = if returns || changed { *free - kept } else { Portion::ZERO };
        if !mutants::is(Mutant::LeaseBeforeDebit) {
            *free -= give_back;
        }
        let need = (ask.need - *free).zip(Portion::ZERO, i64::max);
        let reads = ask.most == Portion::ZERO;
        let most = if self.loan.contended.is_some() || returns || reads { need } else { self.most(ask.need, ask.most) };
        let obeyed = self.loan.obeyed;
        let ask = LeaseAsk { give_back, need, most, obeyed, ..ask };
        (self.loan.pending, self.loan.flushed) = (Some(ask), false);
        (ask, self.loan.epoch)
    }

    fn most(&self, need: Portion, one: Portion) -> Portion {
        let Demand { now, before, .. } = self.loan.demand;
        let plenty = one.zip(one, |one, _| one.saturating_mul(AT_LEAST));
        need.zip(plenty, i64::max).zip(now + before, i64::max)
    }

    /// Takes what the store has answered. Says whether the rest is lent elsewhere and should be recalled.
    pub(super) fn answered(&mut self, ask: &LeaseAsk, epoch: u64, answer: &LeaseAnswer, now: Instant) -> bool {
        let quiet = self.is_quiet() && self.loan.epoch == epoch;
        let (account, loan) = (&mut self.account, &mut self.loan);
        if mutants::is(Mutant::LeaseBeforeDebit) {
            account.lease.free = (account.lease.free - ask.give_back).zip(Portion::ZERO, i64::max);
        }
        // What was asked before all leases were forgotten may have been lent by a store that is no more.
        if loan.pending.is_some_and(|pending| pending.exchange == ask.exchange) {
            account.lease.free += answer.granted;
        }
        let behind = account.lease.behind;
        account.renew(answer.used, answer.leased, answer.elsewhere, &ask.limits, quiet);
        if loan.flushed && !quiet {
            account.lease.behind = account.lease.behind.zip(behind, i64::max);
        }
        // Others may hold what was lent under a higher limit; what is free here is then more than is left.
        let short = |dimension: Dimension| {
            let missing = dimension.of(answer.granted) < dimension.of(ask.need);
            dimension.limit(&ask.limits).is_some() && (missing || account.is_overlent(dimension, &ask.limits))
        };
        loan.short = Dimension::ALL.map(short);
        (loan.limits, loan.size) = (ask.limits, account.lease.free);
        (loan.asked, loan.pending) = (false, None);
        // What was lent when it was made first says nothing of what is left now.
        loan.answered_at = (!std::mem::take(&mut loan.uncertain)).then_some(now);
        loan.obeyed_elsewhere = answer.obeyed_elsewhere;
        // The store remembers it. One that is put back counts from lower numbers.
        loan.obeyed = if loan.obeyed == ask.obeyed { 0 } else { loan.obeyed };
        let due = loan.recall.is_none_or(|(_, at)| now.saturating_duration_since(at) >= RECALL_EVERY);
        let elsewhere = |dimension: Dimension| short(dimension) && dimension.of(answer.elsewhere) > 0;
        due && Dimension::ALL.into_iter().any(elsewhere)
    }

    /// Notes that an ask came to nothing.
    pub(super) fn failed(&mut self, error: &StoreError) {
        match error {
            StoreError::Unavailable(_) => self.unanswered(),
            _ => self.refused(),
        }
    }

    /// Takes back what was to be returned, since the store has refused the ask; not if it may have been made before.
    pub(super) fn refused(&mut self) {
        let made = std::mem::take(&mut self.loan.uncertain);
        if let Some(ask) = self.loan.pending.take().filter(|_| !made) {
            self.account.lease.free += ask.give_back;
        }
        self.loan.asked = false;
    }

    /// Notes that the store gave no answer: the same is asked again.
    pub(super) fn unanswered(&mut self) {
        (self.loan.asked, self.loan.uncertain) = (false, self.loan.pending.is_some());
    }

    /// Notes the number of a recall that was made for this account.
    pub(super) fn recalled(&mut self, number: i64, now: Instant) {
        self.loan.recall = Some((number, now));
    }

    /// Obeys a recall: for a while nothing is kept that isn't needed.
    pub(super) fn obey(&mut self, number: i64, now: Instant) {
        self.loan.obeyed = self.loan.obeyed.max(number);
        self.loan.contended = Some(now);
    }

    /// Says whether what isn't needed is to go back at once.
    pub(super) fn is_contended(&self) -> bool {
        self.loan.contended.is_some() && self.account.lease.free != Portion::ZERO
    }

    /// Forgets what was lent: the store may have lent it to others since.
    pub(super) fn forget(&mut self) {
        self.account.lease.free = Portion::ZERO;
        (self.loan.pending, self.loan.answered_at, self.loan.uncertain) = (None, None, false);
        // A store that was put back counts from lower numbers.
        (self.loan.recall, self.loan.obeyed) = (None, 0);
        self.loan.generation += 1;
        self.touch();
    }
}

#[cfg(test)]
mod tests;
