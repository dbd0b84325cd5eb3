//! Lending: how accounts get their part of a limit from the store, and give it back.
//!
//! Accounts that need something are queued, one entry for each, whoever waits for it; all that are queued share one
//! statement, in one flight at a time. What was debited from memory is given back, what was lent is credited, and an
//! exchange whose answer was lost is made again under its own id.
//!
//! Invariants:
//! - At most one exchange of an account is under way. Memory is debited before the store.
//! - What an account is lent is spent from memory only; so a limit holds over all instances without asking for each
//!   request.
//! - An account that isn't in memory has no request running and nothing unflushed, so all that it has leased is free.
//!
//! Limits: 1,000 accounts in a statement; one flight at a time.

mod flight;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use flight::Flight;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    account::{Account, limited},
    accounts::{Accounts, SHARDS, UserState},
    loan::Held,
};
use crate::{
    domain::{AccountKey, Catalog, Limits, Nanodollars, PlanLimit, Portion, Timestamp, UserKey, Window, WindowKind},
    lock::lock,
    ports::{LeaseAnswer, LeaseAsk, LeaseKey, Recall, StoreError},
    registry::Recalls,
};

/// The most accounts in one statement.
const BATCH: usize = 1_000;
/// How long an account's lease is kept without a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long before a window begins it is asked for.
const AHEAD: Duration = Duration::from_secs(5);
/// All that there may be.
const ALL: Portion = Portion { requests: i64::MAX, tokens: i64::MAX, cost: Nanodollars(i64::MAX) };

/// What a waiting request is told when the store has answered, or couldn't.
type Answer = Result<(), StoreError>;

/// What an account needs, and who waits for it.
#[derive(Default)]
struct Need {
    user: Option<Arc<UserState>>,
    limits: Limits,
    /// What all that wait need.
    need: Portion,
    /// What one request needs.
    one: Portion,
    /// What isn't needed goes back.
    returns: bool,
    waiters: Vec<oneshot::Sender<Answer>>,
}

/// What is to be exchanged.
#[derive(Default)]
pub(super) struct Queue {
    flying: bool,
    needs: HashMap<LeaseKey, Need>,
}

impl Queue {
    fn is_idle(&self) -> bool {
        !self.flying && self.needs.is_empty()
    }
}

/// An exchange that is under way.
struct Exchange {
    ask: LeaseAsk,
    epoch: u64,
    /// What isn't needed was to go back, and an ask whose answer was lost came first.
    returns_next: bool,
    user: Option<Arc<UserState>>,
    waiters: Vec<oneshot::Sender<Answer>>,
}

impl Accounts {
    /// Queues what a request needs of an account. Returns the answer to wait for.
    pub(crate) fn ask_lease(&self, user: &Arc<UserState>, line: PlanLimit, window: Window, whole: Portion) -> Waiting {
        let (sender, answer) = oneshot::channel();
        self.queue(user, line, window, |need| {
            need.need += whole;
            need.one = need.one.zip(whole, i64::max);
            need.waiters.push(sender);
        });
        Waiting(answer)
    }

    /// Queues an account of which little is left.
    pub(crate) fn post_refill(&self, user: &Arc<UserState>, line: PlanLimit, window: Window, whole: Portion) {
        self.queue(user, line, window, |need| need.one = need.one.zip(whole, i64::max));
    }

    /// Queues what an account doesn't need to go back.
    pub(crate) fn post_return(&self, user: &Arc<UserState>, line: PlanLimit, window: Window) {
        self.queue(user, line, window, |need| need.returns = true);
    }

    fn queue(&self, user: &Arc<UserState>, line: PlanLimit, window: Window, add: impl FnOnce(&mut Need)) {
        let key = LeaseKey { account: AccountKey { user: user.key, class: line.class }, window };
        let mut queue = lock(&self.queue);
        let need = queue.needs.entry(key).or_default();
        (need.user, need.limits) = (Some(Arc::clone(user)), line.limits);
        add(need);
        drop(queue);
        self.wanted.notify_one();
    }

    /// Carries the exchanges that others queue, for as long as its actor lives. Run by actors, not by requests, since a
    /// request may go away.
    pub(crate) async fn carry(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            self.settle_exchanges().await;
        }
    }

    /// Makes all exchanges that are queued, and waits for those that somebody else is about.
    pub(crate) async fn settle_all_exchanges(&self) {
        loop {
            let landed = self.landed.notified();
            self.settle_exchanges().await;
            if lock(&self.queue).is_idle() {
                return;
            }
            landed.await;
        }
    }

    /// Makes all exchanges that are queued, unless somebody else is about it.
    pub(crate) async fn settle_exchanges(&self) {
        if std::mem::replace(&mut lock(&self.queue).flying, true) {
            return;
        }
        let mut flight = Flight::of(self);
        loop {
            flight.batch = self.next_batch();
            if flight.batch.is_empty() {
                return flight.land();
            }
            let asks: Vec<_> = flight.batch.iter().map(|exchange| exchange.ask).collect();
            let answers = self.exchange(&asks).await;
            let now = self.clock.now();
            let mut recalls = Vec::new();
            for (index, exchange) in flight.batch.iter_mut().enumerate() {
                let answer = answers.as_ref().map(|answers| answers.get(index).copied().unwrap_or_default());
                if self.land(exchange, answer, now) {
                    recalls.push(exchange.ask.key);
                }
                if let Some(user) = exchange.user.as_ref().filter(|_| exchange.returns_next && answers.is_ok()) {
                    let LeaseKey { account, window } = exchange.ask.key;
                    let line = PlanLimit { class: account.class, window: window.kind(), limits: exchange.ask.limits };
                    self.post_return(user, line, window);
                }
                let told = answers.as_ref().map(drop).map_err(Clone::clone);
                let waiters = exchange.waiters.len();
                let told = exchange.waiters.drain(..).filter_map(|waiter| waiter.send(told.clone()).ok()).count();
                if answers.is_ok() && (told == 0 || told < waiters) {
                    self.return_rest(exchange);
                }
            }
            self.recall(&recalls, now).await;
        }
    }

    /// Takes what is queued; where nothing is, the flight is over, within the same lock.
    fn next_batch(&self) -> Vec<Exchange> {
        let mut queue = lock(&self.queue);
        let keys: Vec<_> = queue.needs.keys().take(BATCH).copied().collect();
        queue.flying = !keys.is_empty();
        let needs: Vec<_> = keys.into_iter().filter_map(|key| Some((key, queue.needs.remove(&key)?))).collect();
        drop(queue);
        let now = self.clock.now();
        needs.into_iter().map(|(key, need)| self.prepare(key, need, now)).collect()
    }

    fn prepare(&self, key: LeaseKey, need: Need, now: Instant) -> Exchange {
        let Need { user, limits, need, one, returns, waiters } = need;
        let wanted = |portion: Portion| limited(portion, &limits);
        let (need, one) = (wanted(need), wanted(one));
        let (exchange, give_back, obeyed) = (Uuid::new_v4(), Portion::ZERO, 0);
        let ask = LeaseAsk { key, exchange, limits, give_back, need, most: one, obeyed };
        let user = user.or_else(|| self.known(key.account.user));
        if let Some(user) = &user
            && let Some(held) = lock(&user.counts).held(key.account.class, key.window)
        {
            let (asked, epoch) = held.ask(ask, returns, now);
            let returns_next = returns && asked.exchange != exchange;
            return Exchange { ask: asked, epoch, returns_next, user: Some(Arc::clone(user)), waiters };
        }
        let ask = if waiters.is_empty() && returns {
            // Nothing of it is in memory, so all of it is free. Nothing is obeyed beyond that: what is lent here next may
            // be more than is needed.
            LeaseAsk { give_back: ALL, need: Portion::ZERO, most: Portion::ZERO, ..ask }
        } else {
            let plenty = one.zip(one, |one, _| one.saturating_mul(64));
            LeaseAsk { most: need.zip(plenty, i64::max), ..ask }
        };
        Exchange { ask, epoch: 0, returns_next: false, user, waiters }
    }

    /// Credits an account with what the store has lent. Says whether the rest should be recalled from others.
    fn land(&self, exchange: &Exchange, answer: Result<LeaseAnswer, &StoreError>, now: Instant) -> bool {
        let Exchange { ask, epoch, user: Some(user), waiters, .. } = exchange else { return false };
        let LeaseKey { account, window } = ask.key;
        let mut counts = lock(&user.counts);
        // Otherwise what was lent is taken up when it is asked for again.
        let begins = ask.give_back != ALL && !counts.awaits(account.class, window);
        match (counts.held(account.class, window), answer) {
            (Some(held), Ok(answer)) => held.answered(ask, *epoch, &answer, now) && !waiters.is_empty(),
            (Some(held), Err(error)) => {
                held.failed(error);
                false
            }
            (None, Ok(answer)) if begins => {
                let held =
                    counts.insert(Held::new(account.class, Account::new(window, answer.used)), self.clock.wall());
                held.answered(ask, 0, &answer, now) && !waiters.is_empty()
            }
            (None, _) => false,
        }
    }

    /// Returns what a contended account was lent and nobody has waited for: an ask that was made again is the old one,
    /// and requests may have left.
    fn return_rest(&self, Exchange { ask, user, .. }: &Exchange) {
        let (Some(user), LeaseKey { account, window }) = (user, ask.key) else { return };
        let contended = lock(&user.counts).held(account.class, window).is_some_and(|held| held.is_contended());
        if contended {
            let line = PlanLimit { class: account.class, window: window.kind(), limits: ask.limits };
            self.post_return(user, line, window);
        }
    }

    /// Asks other instances to return what they don't need of these.
    async fn recall(&self, keys: &[LeaseKey], now: Instant) {
        if keys.is_empty() {
            return;
        }
        // Where the store is away, those who wait are told so.
        let Ok(number) = self.store.recall(self.instance, keys).await else { return };
        self.count(|metrics| metrics.leases_recalled(keys.len() as u64));
        for key in keys {
            if let Some(user) = self.known(key.account.user)
                && let Some(held) = lock(&user.counts).held(key.account.class, key.window)
            {
                held.recalled(number, now);
            }
        }
    }

    /// Returns what isn't needed of the leases that were asked back.
    pub(crate) fn obey(&self, recalls: &Recalls, now: Instant) {
        let ours = |recall: &&Recall| recall.instance.is_nil() || recall.instance == self.instance;
        for recall in recalls.asked.iter().filter(ours) {
            self.obey_one(recall.key, recalls.last, now);
            self.count(|metrics| metrics.recalls_obeyed(1));
        }
        if recalls.all {
            self.look_through(0..SHARDS, |_, held| {
                held.obey(recalls.last, now);
                Some(Want::Return)
            });
        }
    }

    fn obey_one(&self, key: LeaseKey, number: i64, now: Instant) {
        let user = self.known(key.account.user);
        let mut limits = Limits::default();
        if let Some(user) = &user
            && let Some(held) = lock(&user.counts).held(key.account.class, key.window)
        {
            held.obey(number, now);
            limits = held.loan.limits;
        }
        let mut queue = lock(&self.queue);
        let need = queue.needs.entry(key).or_insert_with(|| Need { user, limits, ..Need::default() });
        need.returns = true;
        drop(queue);
        self.wanted.notify_one();
    }

    /// Queues every lease to go back.
    pub(crate) fn return_all(&self) {
        self.look_through(0..SHARDS, |_, held| (held.account.lease.free != Portion::ZERO).then_some(Want::Return));
    }

    /// Queues every lease to go back whose ceilings aren't those of its plan any more.
    pub(crate) fn return_changed(&self, catalog: &Catalog) {
        self.look_through(0..SHARDS, |_, held| {
            let line = catalog.plan(held.loan.plan?)?.line(held.class);
            let changed = line.is_none_or(|line| line.limits != held.loan.limits);
            (changed && held.account.lease.free != Portion::ZERO).then_some(Want::Return)
        });
    }

    /// Looks after leases that nobody asks for: those that are idle go back, a part of them at each `turn`, and the
    /// next window is asked for ahead, by accounts that were active lately, spread over the last seconds of this one.
    pub(crate) fn tend(&self, turn: usize, now: Instant, wall: Timestamp) {
        let (shard, away) = (turn % SHARDS, self.is_away());
        self.look_through(shard..shard + 1, |user, held| {
            let idle = now.saturating_duration_since(user.1) >= IDLE && held.account.lease.free != Portion::ZERO;
            (idle && !away && !held.loan.asked).then_some(Want::Return)
        });
        let ends = WindowKind::Day.at(wall).end();
        if ends.since(wall) < AHEAD {
            self.look_through(0..SHARDS, |(key, last_used), held| {
                let window = held.account.window;
                let active = now.saturating_duration_since(last_used) < IDLE && window.end() == ends;
                // One second after the other, by the user's number.
                let due = ends.since(wall).as_secs() <= u64::try_from(key.0.rem_euclid(5)).unwrap_or(0);
                (active && due).then_some(Want::Window(window.kind().at(ends)))
            });
        }
    }

    /// Queues what accounts want, if they want something.
    fn look_through(
        &self,
        shards: std::ops::Range<usize>,
        mut look: impl FnMut((UserKey, Instant), &mut Held) -> Option<Want>,
    ) {
        for shard in self.shards.iter().take(shards.end).skip(shards.start) {
            let mut wants = Vec::new();
            for user in lock(shard).values() {
                let mut counts = lock(&user.counts);
                let last_used = counts.last_used;
                for index in 0..counts.held.len() {
                    let Some(held) = counts.held.get_mut(index) else { break };
                    let Some(want) = look((user.key, last_used), held) else { continue };
                    let (class, limits, window) = (held.class, held.loan.limits, held.account.window);
                    match want {
                        Want::Return => held.loan.asked = true,
                        Want::Window(next) if counts.held(class, next).is_some() => continue,
                        Want::Window(_) => {}
                    }
                    wants.push((Arc::clone(user), class, limits, window, want));
                }
            }
            for (user, class, limits, window, want) in wants {
                let line = PlanLimit { class, window: window.kind(), limits };
                match want {
                    Want::Return => self.post_return(&user, line, window),
                    Want::Window(next) => self.post_refill(&user, line, next, Portion { requests: 1, ..Portion::ZERO }),
                }
            }
        }
    }
}

/// What an account wants without being asked.
enum Want {
    /// To give back what it doesn't need.
    Return,
    /// Its part of the next window.
    Window(Window),
}

/// The answer to an ask that was queued.
pub(crate) struct Waiting(oneshot::Receiver<Answer>);

impl Waiting {
    /// Waits until the store has answered.
    ///
    /// # Errors
    /// The store's; the next request tries again.
    pub(crate) async fn answer(self) -> Answer {
        self.0.await.unwrap_or_else(|_closed| Err(StoreError::Unavailable("the exchange was given up".into())))
    }
}
