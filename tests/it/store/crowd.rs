//! Many callers at once: they share statements, and each is added once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
};

use actors::{
    domain::{CallerRecord, TokenHash, UserId},
    ports::{CatalogSource, Change, Directory, StoreError},
};
use futures_util::{
    future::{join, join_all},
    poll,
};
use hasnot_engine::store::{NewKey, Store};

use super::world::{World, on_both};

on_both!(
    a_crowd_shares_statements,
    a_crowd_of_keys_shares_statements,
    two_instances_add_one_crowd,
    the_first_of_several_tokens_names_the_plan,
    a_plan_that_is_none_harms_nobody,
    who_leaves_stops_nobody,
    a_failure_is_everybodys_and_passes,
);

fn user(number: usize) -> UserId {
    format!("crowd/{number}").parse().unwrap()
}

fn users(numbers: std::ops::Range<usize>) -> Vec<UserId> {
    numbers.map(user).collect()
}

/// Counts calls by their names. The first of a chosen name doesn't end until it may.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    calls: BTreeMap<&'static str, usize>,
    held: Option<(&'static str, Sender<()>, Receiver<()>)>,
}

/// A call that is done, but doesn't end before `go`.
struct Held {
    done: Receiver<()>,
    go: Sender<()>,
}

impl Calls {
    fn of(store: &Store) -> Self {
        let calls = Self::default();
        let counting = calls.clone();
        store.observe(Box::new(move |op, _, _| {
            let mut counted = counting.0.lock().unwrap();
            *counted.calls.entry(op).or_default() += 1;
            let held = counted.held.take_if(|(held, ..)| *held == op);
            drop(counted);
            if let Some((_, done, go)) = held {
                done.send(()).unwrap();
                go.recv().unwrap();
            }
        }));
        calls
    }

    /// Holds the next call of this name, and with it the connections' thread.
    fn hold(&self, op: &'static str) -> Held {
        let ((ending, done), (go, gone)) = (mpsc::channel(), mpsc::channel());
        self.0.lock().unwrap().held = Some((op, ending, gone));
        Held { done, go }
    }

    fn take(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

/// Makes calls while one before them is under way, so that all of them wait at once; returns their answers.
async fn at_once<T>(
    held: &Held,
    first: impl Future<Output = T>,
    crowd: impl Iterator<Item = impl Future<Output = T>>,
) -> Vec<T> {
    let mut first = pin!(first);
    assert!(poll!(first.as_mut()).is_pending());
    held.done.recv().unwrap();
    let mut crowd = pin!(join_all(crowd));
    assert!(poll!(crowd.as_mut()).is_pending());
    held.go.send(()).unwrap();
    let (first, mut answers) = join(first, crowd).await;
    answers.insert(0, first);
    answers
}

/// Looks up or adds the first of these, and meanwhile all others.
async fn all_at_once<'a, T, F: Future<Output = T>>(
    calls: &Calls,
    op: &'static str,
    users: &'a [UserId],
    call: impl Fn(&'a UserId) -> F,
) -> Vec<T> {
    let (first, others) = users.split_first().unwrap();
    at_once(&calls.hold(op), call(first), others.iter().map(&call)).await
}

/// Asserts that each of these was added once, with a note of its own, and nobody else was.
async fn assert_added(store: &Store, added: &[CallerRecord]) {
    let mut own: Vec<_> = added.iter().map(|record| (record.version, Change::User(record.id.clone()))).collect();
    own.sort_by_key(|(version, _)| *version);
    let told = store.changes(0).await.unwrap().items;
    assert_eq!(own, told.into_iter().map(|(position, change)| (position.seq, change)).collect::<Vec<_>>());
    assert!(own.iter().map(|(version, _)| *version).eq((1..).take(added.len())));
    assert_eq!(store.users(None, 10_000).await.unwrap().len(), added.len());
    assert_eq!(added.iter().map(|record| record.key).collect::<HashSet<_>>().len(), added.len());
}

async fn a_crowd_shares_statements(world: &World) {
    let store = world.store().await;
    let calls = Calls::of(&store);
    let users = users(0..1_001);
    let unknown = all_at_once(&calls, "user.find", &users, |user| store.caller(user)).await;
    assert!(unknown.into_iter().all(|caller| caller.unwrap().is_none()));
    // The first alone, the others together.
    assert_eq!(calls.take(), BTreeMap::from([("user.find", 2)]));
    let added = all_at_once(&calls, "user.provision", &users, |user| store.provision(user, None)).await;
    let added: Vec<CallerRecord> = added.into_iter().map(Result::unwrap).collect();
    assert_eq!(calls.take(), BTreeMap::from([("user.provision", 2)]));
    assert!(added.iter().map(|record| &record.id).eq(&users));
    assert_added(&store, &added).await;
    let found = all_at_once(&calls, "user.find", &users, |user| store.caller(user)).await;
    // The first was added before the others.
    let as_of = added[1_000].as_of;
    let added = added.into_iter().map(|record| CallerRecord { as_of, ..record });
    assert!(found.into_iter().map(|caller| caller.unwrap().unwrap()).eq(added));
}

async fn a_crowd_of_keys_shares_statements(world: &World) {
    let store = world.store().await;
    store.provision(&user(0), None).await.unwrap();
    let hash = |number: usize| TokenHash::of(&number.to_string());
    let known = NewKey { user: user(0), hash: hash(7), expires_at: None };
    store.create_key(known).await.unwrap();
    let calls = Calls::of(&store);
    let hashes: Vec<_> = (0..1_001).map(hash).collect();
    let (first, others) = hashes.split_first().unwrap();
    let held = calls.hold("key.find");
    let found = at_once(&held, store.key(first), others.iter().map(|hash| store.key(hash))).await;
    assert_eq!(calls.take(), BTreeMap::from([("key.find", 2)]));
    let found: Vec<_> = found.into_iter().map(Result::unwrap).enumerate().collect();
    let known: Vec<_> = found.iter().filter_map(|(number, key)| Some((*number, key.as_ref()?.user.clone()))).collect();
    assert_eq!(known, [(7, user(0))]);
}

async fn two_instances_add_one_crowd(world: &World) {
    let (one, other) = (world.store().await, world.connect().await.unwrap());
    let add = async |store: &Store, numbers| -> HashMap<UserId, CallerRecord> {
        let users = users(numbers);
        let added = join_all(users.iter().map(|user| store.provision(user, None))).await;
        added.into_iter().map(Result::unwrap).map(|record| (record.id.clone(), record)).collect()
    };
    let (first, second) = join(add(&one, 0..600), add(&other, 300..900)).await;
    for both in users(300..600) {
        // Whoever came second has read it later.
        let as_of = first[&both].as_of;
        assert_eq!(first[&both], CallerRecord { as_of, ..second[&both].clone() });
    }
    let all: HashMap<UserId, CallerRecord> = first.into_iter().chain(second).collect();
    assert_eq!(all.len(), 900);
    assert_added(&one, &all.into_values().collect::<Vec<_>>()).await;
}

async fn the_first_of_several_tokens_names_the_plan(world: &World) {
    let store = world.store().await;
    let calls = Calls::of(&store);
    let (ann, bob) = (user(1), user(2));
    let plans = [Some("unlimited"), None, Some("default")];
    let asks = plans.map(|plan| store.provision(&ann, plan)).into_iter();
    let added = at_once(&calls.hold("user.provision"), store.provision(&bob, None), asks).await;
    let added: Vec<CallerRecord> = added.into_iter().map(Result::unwrap).collect();
    assert_ne!(added[0].plan, added[1].plan);
    assert!(added[2..].iter().all(|record| *record == added[1]));
    assert_added(&store, &added[..2]).await;
}

async fn a_plan_that_is_none_harms_nobody(world: &World) {
    let store = world.store().await;
    let calls = Calls::of(&store);
    let plans = store.catalog().await.unwrap().plans;
    let id = |name: &str| plans.iter().find(|plan| &*plan.name == name).unwrap().id;
    let named = [None, Some("unlimited"), Some("none such"), Some("a\0b"), Some(""), Some("'); --"), Some("unlimited")];
    let users = users(0..named.len());
    let asks = users.iter().zip(named).map(|(user, plan)| store.provision(user, plan));
    let added = at_once(&calls.hold("user.provision"), store.provision(&user(99), None), asks).await;
    for (record, plan) in added.iter().skip(1).zip(named) {
        let plan = id(if plan == Some("unlimited") { "unlimited" } else { "default" });
        assert_eq!(record.as_ref().unwrap().plan, plan);
    }
}

async fn who_leaves_stops_nobody(world: &World) {
    let store = world.store().await;
    let calls = Calls::of(&store);
    let [flies, leaves, stays] = [user(0), user(1), user(2)];
    let held = calls.hold("user.provision");
    let mut first = Box::pin(store.provision(&flies, None));
    assert!(poll!(first.as_mut()).is_pending());
    held.done.recv().unwrap();
    let [mut second, mut third] = [&leaves, &stays].map(|user| Box::pin(store.provision(user, None)));
    assert!(poll!(second.as_mut()).is_pending() && poll!(third.as_mut()).is_pending());
    drop(first);
    drop(second);
    held.go.send(()).unwrap();
    let stayed = third.await.unwrap();
    // What was under way is done; what wasn't has not begun.
    let flew = store.caller(&flies).await.unwrap().unwrap();
    assert_eq!(store.caller(&leaves).await.unwrap(), None);
    assert_added(&store, &[flew, stayed]).await;
}

async fn a_failure_is_everybodys_and_passes(world: &World) {
    let store = world.store().await;
    let calls = Calls::of(&store);
    let users = users(0..50);
    world.execute("ALTER TABLE changes RENAME TO elsewhere");
    let failed = all_at_once(&calls, "user.provision", &users, |user| store.provision(user, None)).await;
    assert!(failed.iter().all(|failed| matches!(failed, Err(StoreError::Refused(why)) if why.contains("changes"))));
    world.execute("ALTER TABLE elsewhere RENAME TO changes");
    let added = join_all(users.iter().map(|user| store.provision(user, None))).await;
    assert_added(&store, &added.into_iter().map(Result::unwrap).collect::<Vec<_>>()).await;
}
