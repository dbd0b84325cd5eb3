//! Gate, accounts and ledger together, over books in memory.

use std::{cell::RefCell, pin::pin, rc::Rc, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all, poll};
use uuid::Uuid;

use super::*;
use crate::{
    domain::{
        AccountKey, Amounts, ClassId, Limits, Nanodollars, Outcome, PlanId, Price, Role, Timestamp, UserKey, WindowKind,
    },
    ledger::{FlushError, Flusher, Fsync, JournalConfig, Landed, Owner, Shelf},
    ports::LeaseKey,
    registry::Recalls,
    testing::{FakeLedger, ManualClock},
};

mod leases;
mod restored;
mod running;
mod shown;
mod windows;

const IDLE: Duration = Duration::from_secs(60);

struct World {
    store: Arc<FakeLedger>,
    clock: Arc<ManualClock>,
    accounts: Arc<Accounts>,
    shelf: Arc<Shelf>,
    gate: QuotaHandle,
    flusher: RefCell<Option<Flusher>>,
    _folder: tempfile::TempDir,
}

impl World {
    fn start(max_accounts: usize) -> Rc<Self> {
        Self::instance(Arc::new(FakeLedger::default()), max_accounts)
    }

    /// Starts an instance of its own on these books.
    fn instance(store: Arc<FakeLedger>, max_accounts: usize) -> Rc<Self> {
        Self::recording(journal(), store, max_accounts)
    }

    fn recording(journal: JournalConfig, store: Arc<FakeLedger>, max_accounts: usize) -> Rc<Self> {
        let clock = Arc::new(ManualClock::new());
        let folder = tempfile::tempdir().unwrap();
        let owner = Owner { store: Uuid::from_u128(1), instance: Uuid::new_v4() };
        let accounts = Arc::new(Accounts::new(store.clone(), owner.instance, max_accounts, clock.clone()));
        let shelf = Shelf::new(journal, folder.path(), owner, 100, clock.clone()).unwrap();
        let (load_timeout, lease_wait) = (Duration::from_secs(5), Duration::from_millis(300));
        let config = Config { max_accounts, idle_timeout: IDLE, load_timeout, lease_wait };
        let gate = QuotaGate::start(config, accounts.clone(), shelf.open_books(), clock.clone());
        let flusher = RefCell::new(Some(Flusher::new(shelf.clone(), store.clone())));
        Rc::new(Self { store, clock, accounts, shelf, gate, flusher, _folder: folder })
    }

    async fn admit(&self, user: i64, requests: Option<i64>) -> Result<(Permit, Reservation), QuotaError> {
        self.gate.ask_admit(&plan(), wish(user, requests)).await
    }

    /// Brings what was settled into the store, or tries to.
    async fn try_flush(&self) -> Result<usize, FlushError> {
        let mut flusher = self.flusher.take().unwrap();
        flusher.sync();
        let landed = flusher.flush().await;
        flusher.follow(&self.accounts);
        self.flusher.replace(Some(flusher));
        let landed = landed?;
        landed.iter().for_each(|landed| self.accounts.post_brought(&landed.batch.cursors));
        let postings: Vec<_> = landed.iter().flat_map(Landed::news).collect();
        for posting in &postings {
            self.accounts.post_flushed(posting.user, &[posting]);
        }
        Ok(postings.len())
    }

    async fn flush(&self) -> usize {
        self.try_flush().await.unwrap()
    }
}

/// Small journals, synced when asked.
fn journal() -> JournalConfig {
    JournalConfig {
        fsync: Fsync::Interval,
        fsync_interval: Duration::from_secs(10),
        segment_bytes: 64 << 10,
        retain: Duration::ZERO,
        retain_bytes: 0,
        max_bytes: 1 << 20,
    }
}

fn plan() -> Plan {
    Plan {
        id: PlanId(1),
        name: "test".into(),
        requests_per_minute: None,
        concurrent_streams: Some(1_000),
        open: false,
        lines: Vec::new(),
    }
}

fn wish(user: i64, requests: Option<i64>) -> Wish {
    let id = format!("user-{user}").parse().unwrap();
    let caller = Arc::new(Caller { key: UserKey(user), id, role: Role::User, plan: PlanId(1) });
    let limits = Limits { requests, ..Limits::default() };
    let line = PlanLimit { class: ClassId(1), window: WindowKind::Day, limits };
    let ask = Ask { prompt_tokens: 3, completion_tokens: 5, price: Price::default() };
    Wish { caller, model: ModelKey(1), line, ask }
}

fn settle(world: &World, reservation: Reservation) {
    let amounts = Amounts { requests: 1, prompt_tokens: 3, completion_tokens: 4, cost: Nanodollars(0) };
    let at = world.clock.wall();
    let settled = reservation.settle(Settlement { outcome: Outcome::Completed, estimated: false, amounts, at });
    assert!(settled.is_ok());
}

#[actix_rt::test]
async fn cold_requests_of_many_users_share_statements() {
    let world = World::start(1_000);
    let asked = join_all((0..200).map(|n| world.admit(n % 50, Some(1_000)))).await;
    assert!(asked.iter().all(Result::is_ok));
    assert!(world.store.reads.calls() <= 3, "{} statements", world.store.reads.calls());
}

#[actix_rt::test]
async fn an_unread_account_is_refused_and_read_again_by_the_next() {
    let world = World::start(1_000);
    world.store.reads.set_down(true);
    assert_eq!(world.admit(1, Some(1)).await.err(), Some(QuotaError::Unavailable));
    world.store.reads.set_down(false);
    assert!(world.admit(1, Some(1)).await.is_ok());
}

#[actix_rt::test]
async fn a_limit_is_exact_and_a_released_place_is_free_again() {
    let world = World::start(1_000);
    let admitted: Vec<_> = join_all((0..100).map(|_| world.admit(1, Some(7)))).await.into_iter().flatten().collect();
    assert_eq!(admitted.len(), 7);
    drop(admitted);
    assert_eq!(world.shelf.open_entries(), 0);
    let (_permit, reservation) = world.admit(1, Some(1)).await.unwrap();
    settle(&world, reservation);
    assert!(matches!(world.admit(1, Some(1)).await, Err(QuotaError::Exhausted(_))));
}

#[actix_rt::test]
async fn where_each_record_is_synced_a_promise_waits_for_its_own() {
    let each = JournalConfig { fsync: Fsync::Each, ..journal() };
    let world = World::recording(each, Arc::default(), 1_000);
    // The first one waits for the store as well.
    for _ in 0..2 {
        let (_permit, reservation) = world.admit(1, Some(9)).await.unwrap();
        let receipt = reservation.receipt().unwrap();
        assert_eq!(receipt.synced().now_or_never(), Some(true), "its record is on the disk");
    }
}

#[actix_rt::test]
async fn a_full_journal_refuses_and_promises_nothing() {
    let world = World::start(1_000);
    // Without a spare segment there is room for a few that run, and for the end of each.
    world.shelf.close();
    assert_eq!(world.admit(1, Some(2)).await.err(), Some(QuotaError::BooksFull));
    let usage = world.gate.ask_usage(wish(1, Some(2)).caller, vec![wish(1, Some(2)).line]).await.unwrap();
    assert_eq!(usage[0].account.figure(Dimension::Requests, &usage[0].line.limits).remaining(), Some(2));
}

#[actix_rt::test]
async fn a_user_is_forgotten_only_when_the_store_knows_everything() {
    let world = World::start(16);
    let (permit, reservation) = world.admit(0, Some(2)).await.unwrap();
    settle(&world, reservation);
    drop(permit);
    world.clock.advance(IDLE * 2);
    // The shard is full of a user whose posting is on its way.
    assert_eq!(world.admit(16, Some(2)).await.err(), Some(QuotaError::Unavailable));
    assert_eq!(world.flush().await, 1);
    assert!(world.admit(16, Some(2)).await.is_ok());
    world.clock.advance(IDLE * 2);
    let (_permit, reservation) = world.admit(0, Some(2)).await.unwrap();
    settle(&world, reservation);
    assert!(matches!(world.admit(0, Some(2)).await, Err(QuotaError::Exhausted(_))), "what was used was read again");
}

#[actix_rt::test]
async fn a_new_day_starts_at_zero_and_the_old_one_is_settled_in_its_own() {
    let world = World::start(1_000);
    world.clock.set_wall(ManualClock::START.plus(Duration::from_secs(86_399)));
    let (_permit, yesterday) = world.admit(1, Some(1)).await.unwrap();
    world.clock.set_wall(ManualClock::START.plus(Duration::from_secs(86_401)));
    let (_permit, today) = world.admit(1, Some(1)).await.unwrap();
    settle(&world, yesterday);
    settle(&world, today);
    assert_eq!(world.flush().await, 2);
    let days: Vec<_> = world.store.rows().iter().map(|row| row.windows()[0].start().seconds() / 86_400).collect();
    assert_eq!(days[0] + 1, days[1]);
}

#[actix_rt::test]
async fn a_lost_acknowledgement_counts_once() {
    let world = World::start(1_000);
    let (_permit, reservation) = world.admit(1, None).await.unwrap();
    settle(&world, reservation);
    world.store.acknowledgements.set_down(true);
    assert!(world.try_flush().await.is_err());
    world.store.acknowledgements.set_down(false);
    assert_eq!(world.flush().await, 1);
    assert_eq!(world.store.rows().len(), 1);
    world.store.applies.set_down(true);
    let (_permit, reservation) = world.admit(1, None).await.unwrap();
    settle(&world, reservation);
    assert!(world.try_flush().await.is_err());
    world.store.applies.set_down(false);
    assert_eq!(world.flush().await, 1);
    assert_eq!(world.store.rows().len(), 2);
    assert_eq!(world.shelf.lag_rows(), 0);
}

fn key(user: i64) -> LeaseKey {
    let account = AccountKey { user: UserKey(user), class: ClassId(1) };
    LeaseKey { account, window: WindowKind::Day.at(ManualClock::START) }
}

/// Lets an instance see what others have recalled, as the change sequence does.
fn obey(world: &World) {
    let recalls = world.store.recalls();
    let last = recalls.last().map_or(0, |(number, _)| *number);
    let asked = recalls.into_iter().map(|(_, recall)| recall).collect();
    world.accounts.obey(&Recalls { asked, all: false, last }, world.clock.now());
}

/// Asks for one of so many requests, while another instance sees what is recalled.
async fn admit_beside(world: &World, other: &World, requests: i64) -> Result<(Permit, Reservation), QuotaError> {
    let mut asking = pin!(world.admit(1, Some(requests)));
    loop {
        tokio::select! {
            answer = &mut asking => break answer,
            () = tokio::time::sleep(Duration::from_millis(5)) => obey(other),
        }
    }
}

#[actix_rt::test]
async fn a_warm_account_is_decided_without_the_store() {
    let world = World::start(1_000);
    drop(world.admit(1, Some(10_000)).await.unwrap());
    let asked = world.store.reads.calls();
    for _ in 0..40 {
        drop(world.admit(1, Some(10_000)).await.unwrap());
    }
    assert_eq!(world.store.reads.calls(), asked);
    let leased = world.store.leased(world.accounts.instance, key(1));
    assert_eq!(leased.requests, 64, "what is lent where there is plenty");
}

#[actix_rt::test]
async fn what_others_hold_unspent_is_waited_for_and_what_they_need_is_not() {
    let one = World::start(1_000);
    let two = World::instance(one.store.clone(), 1_000);
    // The first is lent more than the one that it needs.
    let running = one.admit(1, Some(8)).await.unwrap();
    let mut admitted = Vec::new();
    let refused = loop {
        match admit_beside(&two, &one, 8).await {
            Ok(more) => admitted.push(more),
            Err(refused) => break refused,
        }
    };
    assert_eq!(admitted.len(), 7, "all but the one that runs at the first");
    let QuotaError::Exhausted(Shortage { figure, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((figure.used + figure.reserved, figure.remaining()), (8, Some(0)));
    drop(running);
}

#[actix_rt::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    let world = World::start(1_000);
    drop(world.admit(1, Some(4)).await.unwrap());
    let (_permit, first) = world.admit(1, Some(4)).await.unwrap();
    world.store.answers.set_down(true);
    while let Ok((_, more)) = world.admit(1, Some(4)).await {
        settle(&world, more);
    }
    world.store.answers.set_down(false);
    settle(&world, first);
    let mut rest = Vec::new();
    while let Ok(more) = world.admit(1, Some(4)).await {
        rest.push(more);
    }
    let used = world.accounts.known(UserKey(1)).map(|user| {
        let mut counts = lock(&user.counts);
        let held = counts.held(ClassId(1), key(1).window);
        held.map(|held| held.account.used.requests + held.account.reserved.requests)
    });
    assert_eq!(used.flatten(), Some(4), "neither lost nor lent twice");
}

#[actix_rt::test]
async fn a_lowered_limit_holds_for_the_next_request() {
    let world = World::start(1_000);
    for _ in 0..3 {
        let (_permit, reservation) = world.admit(1, Some(1_000)).await.unwrap();
        settle(&world, reservation);
    }
    let (_permit, fourth) = world.admit(1, Some(4)).await.unwrap();
    assert!(matches!(world.admit(1, Some(4)).await, Err(QuotaError::Exhausted(_))));
    settle(&world, fourth);
    assert!(world.admit(1, Some(5)).await.is_ok(), "and a raised one");
}
