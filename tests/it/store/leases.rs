//! Leases: what is lent, what comes back, and that a limit is never passed.

use std::sync::Arc;

use actors::{
    domain::{AccountKey, Limits, Nanodollars, Portion, Posting, Timestamp, WindowKind},
    ports::{ApplyError, Batch, Change, Directory, LeaseAnswer, LeaseAsk, LeaseKey, LedgerStore, Recall, StoreError},
};
use futures_util::future::{join_all, try_join_all};
use hasnot_engine::store::{Correction, Store};
use tokio::time::Instant;
use uuid::Uuid;

use super::world::{NOON, World, account, amounts, batch, day, month, on_both, posting, reading, used};

on_both!(
    grants_are_a_share_of_what_remains,
    what_is_not_limited_is_not_lent,
    an_exchange_is_done_once,
    what_is_given_back_can_be_lent_again,
    extreme_figures_do_no_harm,
    counts_alone_are_only_read,
    obedience_is_remembered,
    others_are_asked_to_return,
    a_posting_uses_up_its_lease,
    a_batch_that_fails_leaves_the_leases,
    no_limit_is_ever_passed,
    all_at_once_never_deadlock,
    how_fast,
);

const NONE: Portion = Portion::ZERO;

fn portion(requests: i64, tokens: i64, cost: i64) -> Portion {
    Portion { requests, tokens, cost: Nanodollars(cost) }
}

fn limits(requests: i64, tokens: i64, cost: i64) -> Limits {
    Limits { requests: Some(requests), tokens: Some(tokens), cost: Some(Nanodollars(cost)) }
}

/// An ask of an account, in the day of [`NOON`].
fn ask(account: AccountKey, limits: Limits, give_back: Portion, need: Portion, most: Portion) -> LeaseAsk {
    LeaseAsk { limits, give_back, need, most, ..reading(account, day(NOON)) }
}

async fn exchange(store: &Store, instance: Uuid, ask: LeaseAsk) -> LeaseAnswer {
    store.exchange(instance, &[ask]).await.unwrap()[0]
}

/// A posting that uses up as much of its lease as it is charged.
fn leased(user: i64, requests: i64, tokens: i64, cost: i64) -> Posting {
    let charged = amounts(requests, tokens, 0, cost);
    Posting { leased: portion(requests, tokens, cost), ..posting(user, 1, NOON, charged) }
}

async fn apply(store: &Store, instance: Uuid, postings: Vec<Posting>) {
    store.apply(Arc::new(Batch { instance, ..batch(Uuid::new_v4(), 0, postings) })).await.unwrap();
}

async fn grants_are_a_share_of_what_remains(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let limits = limits(100, 1_000, 10_000);
    let plenty = portion(1_000, 100_000, 1_000_000);
    // Nobody is enrolled: whoever asks counts as the only one. A quarter of what remains.
    let first = exchange(&store, one, ask(account(1, 1), limits, NONE, portion(1, 10, 100), plenty)).await;
    assert_eq!(
        (first.granted, first.leased, first.elsewhere),
        (portion(25, 250, 2_500), portion(25, 250, 2_500), NONE)
    );
    assert_eq!((first.used, first.obeyed_elsewhere), (amounts(0, 0, 0, 0), i64::MAX));
    // Two are: an eighth of the 75, 750 and 7,500 that remain; rounded down.
    store.enroll(one, Uuid::new_v4()).await.unwrap();
    store.enroll(other, Uuid::new_v4()).await.unwrap();
    let second = exchange(&store, other, ask(account(1, 1), limits, NONE, portion(1, 10, 100), plenty)).await;
    assert_eq!((second.granted, second.elsewhere), (portion(9, 93, 937), first.leased));
    // No more than the most, no less than the need, and of that what there is.
    let need = portion(60, 0, 10_000);
    let third = exchange(&store, other, ask(account(1, 1), limits, NONE, need, portion(60, 5, 10_000))).await;
    assert_eq!(third.granted, portion(60, 5, 6_563));
    assert_eq!(third.leased, portion(69, 98, 7_500));
    let none = exchange(&store, one, ask(account(1, 1), limits, NONE, portion(9, 0, 9), plenty)).await;
    assert_eq!((none.granted.requests, none.granted.cost), (6, Nanodollars(0)));
    assert_eq!((none.leased + none.elsewhere).requests, 100);
    // Whoever was silent for long doesn't count: a quarter of 1,000 again.
    world.execute("UPDATE instances SET heartbeat_at = heartbeat_at - 31000000");
    let alone = exchange(&store, one, ask(account(2, 1), limits, NONE, NONE, plenty)).await;
    assert_eq!(alone.granted, portion(25, 250, 2_500));
    // A used-up limit, and one that was passed.
    apply(&store, one, vec![posting(3, 1, NOON, amounts(100, 400, 700, 10_001))]).await;
    let over = exchange(&store, one, ask(account(3, 1), limits, NONE, portion(1, 1, 1), plenty)).await;
    assert_eq!((over.granted, over.leased, over.used), (NONE, NONE, amounts(100, 400, 700, 10_001)));
    // Other windows and classes are others.
    let other_window = LeaseAsk {
        key: LeaseKey { account: account(3, 1), window: day(Timestamp(0)) },
        ..ask(account(3, 1), limits, NONE, NONE, plenty)
    };
    assert_eq!(exchange(&store, one, other_window).await.granted, portion(25, 250, 2_500));
    assert_eq!(
        exchange(&store, one, ask(account(3, 2), limits, NONE, NONE, plenty)).await.granted,
        portion(25, 250, 2_500)
    );
}

async fn what_is_not_limited_is_not_lent(world: &World) {
    let store = world.store().await;
    let one = Uuid::new_v4();
    let some = Limits { requests: None, tokens: Some(40), cost: None };
    let plenty = portion(9, 100, 9);
    let answer = exchange(&store, one, ask(account(1, 1), some, NONE, portion(9, 1, 9), plenty)).await;
    assert_eq!((answer.granted, answer.leased), (portion(0, 10, 0), portion(0, 10, 0)));
    // What is leased of a limit that is gone can still be returned.
    let back = exchange(&store, one, ask(account(1, 1), Limits::default(), portion(0, 4, 0), NONE, plenty)).await;
    assert_eq!((back.granted, back.leased), (NONE, portion(0, 6, 0)));
}

async fn an_exchange_is_done_once(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let limits = limits(100, 1_000, 10_000);
    let lost = ask(account(1, 1), limits, NONE, portion(1, 1, 1), portion(20, 20, 20));
    let first = exchange(&store, one, lost).await;
    assert_eq!(first.granted, portion(20, 20, 20));
    // Another's exchange and one's own posting in between change what the same question is answered, not what it does.
    exchange(&store, other, ask(account(1, 1), limits, NONE, portion(30, 0, 0), portion(30, 0, 0))).await;
    apply(&store, one, vec![leased(1, 5, 0, 0)]).await;
    let again = exchange(&store, one, LeaseAsk { give_back: portion(2, 2, 2), obeyed: 7, ..lost }).await;
    assert_eq!((again.granted, again.leased), (portion(20, 20, 20), portion(15, 20, 20)));
    assert_eq!((again.elsewhere, again.used), (portion(30, 0, 0), amounts(5, 0, 0, 0)));
    // That it has obeyed counts all the same.
    assert_eq!(exchange(&store, other, reading(account(1, 1), day(NOON))).await.obeyed_elsewhere, 7);
    // The next one is another.
    let next = exchange(&store, one, LeaseAsk { exchange: Uuid::new_v4(), ..lost }).await;
    assert_eq!(next.leased, portion(15 + 12, 40, 40));
}

async fn what_is_given_back_can_be_lent_again(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let limits = limits(10, 10, 10);
    let all = portion(10, 10, 10);
    assert_eq!(exchange(&store, one, ask(account(1, 1), limits, NONE, all, all)).await.granted, all);
    assert_eq!(exchange(&store, other, ask(account(1, 1), limits, NONE, all, all)).await.granted, NONE);
    // More than there is can't come back.
    let back = exchange(&store, one, ask(account(1, 1), limits, portion(4, 99, 0), NONE, NONE)).await;
    assert_eq!((back.granted, back.leased), (NONE, portion(6, 0, 10)));
    assert_eq!(exchange(&store, other, ask(account(1, 1), limits, NONE, all, all)).await.granted, portion(4, 10, 0));
    // What an ask returns is there for its own need, too.
    let swapped =
        exchange(&store, one, ask(account(1, 1), limits, portion(6, 0, 10), portion(2, 0, 3), portion(2, 0, 3))).await;
    assert_eq!((swapped.granted, swapped.leased), (portion(2, 0, 3), portion(2, 0, 3)));
}

async fn extreme_figures_do_no_harm(world: &World) {
    let store = world.store().await;
    let one = Uuid::new_v4();
    apply(&store, one, vec![posting(1, 1, NOON, amounts(-100, -100, -100, -100))]).await;
    let (most, far) = (portion(i64::MAX, i64::MAX, i64::MAX), limits(i64::MAX, i64::MAX, i64::MAX));
    let answer = exchange(&store, one, ask(account(1, 1), far, NONE, NONE, most)).await;
    assert!(answer.granted.requests >= i64::MAX / 8 && answer.granted == answer.leased, "{answer:?}");
    let negative = portion(-5, -5, -5);
    let answer = exchange(&store, one, ask(account(2, 1), limits(9, 9, 9), negative, negative, negative)).await;
    assert_eq!((answer.granted, answer.leased), (NONE, NONE));
    let top_up = exchange(&store, one, ask(account(1, 2), limits(0, 0, 0), NONE, portion(1, 1, 1), most)).await;
    assert_eq!(top_up.granted, NONE);
    let same = ask(account(3, 1), limits(9, 9, 9), NONE, NONE, most);
    let twice = store.exchange(one, &[same, same]).await;
    assert!(matches!(twice, Err(StoreError::Refused(_))), "{twice:?}");
    assert_eq!(store.exchange(one, &[]).await.unwrap(), []);
}

async fn counts_alone_are_only_read(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    apply(&store, one, vec![posting(1, 1, NOON, amounts(1, 2, 3, 4))]).await;
    exchange(&store, other, ask(account(1, 1), limits(9, 9, 9), NONE, portion(1, 1, 1), portion(1, 1, 1))).await;
    let before = store.verify_ledger().await.unwrap();
    let asks =
        [reading(account(2, 1), day(NOON)), reading(account(1, 1), day(NOON)), reading(account(1, 1), month(NOON))];
    let answers = store.exchange(one, &asks).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.used.requests).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(answers.iter().map(|answer| answer.elsewhere.requests).collect::<Vec<_>>(), [0, 1, 0]);
    // Nor beside asks that write.
    let limited = ask(account(3, 1), limits(9, 9, 9), NONE, portion(1, 1, 1), portion(1, 1, 1));
    let answers = store.exchange(one, &[asks[0], limited, asks[1]]).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.granted.requests).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(answers.iter().map(|answer| answer.used.requests).collect::<Vec<_>>(), [0, 0, 1]);
    let after = store.verify_ledger().await.unwrap();
    assert_eq!(
        (before.accounts, after.accounts, after.drift),
        (1, 2, 0),
        "the limited one has totals now, the other none"
    );
    let leases = store.inspect().await.unwrap().leases;
    assert_eq!(leases.len(), 2, "{leases:?}");
}

async fn obedience_is_remembered(world: &World) {
    let store = world.store().await;
    let [one, other, third] = [(); 3].map(|()| Uuid::new_v4());
    let some = |obeyed| LeaseAsk {
        obeyed,
        ..ask(account(1, 1), limits(100, 100, 100), NONE, portion(1, 0, 0), portion(1, 0, 0))
    };
    let obeyed = async |instance| exchange(&store, instance, reading(account(1, 1), day(NOON))).await.obeyed_elsewhere;
    exchange(&store, one, some(5)).await;
    exchange(&store, other, some(3)).await;
    assert_eq!((obeyed(third).await, obeyed(one).await, obeyed(other).await), (3, 3, 5));
    exchange(&store, other, some(8)).await;
    exchange(&store, one, some(2)).await;
    assert_eq!((obeyed(third).await, obeyed(one).await, obeyed(other).await), (5, 8, 5), "it never goes back");
    // Who has nothing leased has nothing to obey with.
    exchange(&store, one, LeaseAsk { give_back: portion(9, 9, 9), need: NONE, most: NONE, ..some(2) }).await;
    assert_eq!((obeyed(third).await, obeyed(other).await), (8, i64::MAX));
}

async fn others_are_asked_to_return(world: &World) {
    let store = world.store().await;
    let [one, other, gone] = [(); 3].map(|()| Uuid::new_v4());
    let keys: Vec<_> = [1, 2, 3].map(|user| LeaseKey { account: account(user, 1), window: day(NOON) }).into();
    let start = store.changes(0).await.unwrap().last;
    assert_eq!(store.recall(one, &keys).await.unwrap(), start, "nobody has anything: nothing is written");
    let some = |user| ask(account(user, 1), limits(100, 100, 100), NONE, portion(1, 1, 0), portion(1, 1, 0));
    exchange(&store, one, some(1)).await;
    exchange(&store, other, some(1)).await;
    exchange(&store, other, some(2)).await;
    exchange(&store, gone, some(2)).await;
    exchange(&store, other, some(4)).await;
    exchange(&store, other, LeaseAsk { give_back: portion(1, 1, 0), need: NONE, most: NONE, ..some(3) }).await;
    store.enroll(gone, gone).await.unwrap();
    world.execute("UPDATE instances SET written_off_at = 1");
    let number = store.recall(one, &[keys.clone(), keys.clone()].concat()).await.unwrap();
    let changes = store.changes(start).await.unwrap();
    let told: Vec<_> = changes.items.iter().map(|(_, change)| change.clone()).collect();
    let expected = [0, 1].map(|at: usize| Change::Recall(Recall { instance: other, key: keys[at] }));
    assert_eq!((told, changes.last), (expected.to_vec(), number));
    assert_eq!(store.recent_changes().await.unwrap().items, changes.items);
    assert_eq!(store.recall(gone, &keys[2..]).await.unwrap(), number);
    let month = LeaseKey { account: account(1, 1), window: month(NOON) };
    assert_eq!(store.recall(one, &[month]).await.unwrap(), number, "another window is another lease");
    // Numbers go on behind a recall.
    store.provision(&"ann".parse().unwrap(), None).await.unwrap();
    assert_eq!(store.changes(number).await.unwrap().items[0].0.seq, number + 1);
}

async fn a_posting_uses_up_its_lease(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let some =
        |user| ask(account(user, 1), limits(100, 1_000, 1_000), NONE, portion(10, 100, 100), portion(10, 100, 100));
    let monthly = |user| LeaseAsk { key: LeaseKey { account: account(user, 1), window: month(NOON) }, ..some(user) };
    store.exchange(one, &[some(1), some(2), monthly(1)]).await.unwrap();
    exchange(&store, other, some(1)).await;
    let overage = Posting { leased: portion(1, 30, 30), ..posting(1, 1, NOON, amounts(1, 30, 50, 60)) };
    let free = Posting { leased: NONE, ..posting(2, 1, NOON, amounts(1, 1, 1, 1)) };
    let unknown = leased(9, 1, 1, 1);
    apply(&store, one, vec![overage.clone(), free, unknown, Posting { id: Uuid::now_v7(), ..overage.clone() }]).await;
    let now = async |user| exchange(&store, one, reading(account(user, 1), day(NOON))).await;
    assert_eq!((now(1).await.leased, now(1).await.elsewhere), (portion(8, 40, 40), portion(10, 100, 100)));
    assert_eq!((now(2).await.leased, now(9).await.leased), (portion(10, 100, 100), NONE));
    assert_eq!(now(1).await.used, amounts(2, 60, 100, 120));
    // Never below nothing.
    apply(&store, one, vec![leased(1, 3, 60, 10)]).await;
    assert_eq!(now(1).await.leased, portion(5, 0, 30));
    // It leaves the lease of the window that it was admitted in, and no other.
    let in_month = async || exchange(&store, one, reading(account(1, 1), month(NOON))).await.leased;
    assert_eq!(in_month().await, portion(10, 100, 100));
    apply(&store, one, vec![Posting { window: WindowKind::Month, ..leased(1, 1, 1, 1) }]).await;
    assert_eq!((in_month().await, now(1).await.leased), (portion(9, 99, 99), portion(5, 0, 30)));
}

async fn a_batch_that_fails_leaves_the_leases(world: &World) {
    let store = world.store().await;
    let one = Uuid::new_v4();
    exchange(&store, one, ask(account(1, 1), limits(9, 9, 9), NONE, portion(5, 5, 5), portion(5, 5, 5))).await;
    let kept = leased(2, 1, 1, 1);
    apply(&store, one, vec![kept.clone()]).await;
    let journal = Uuid::new_v4();
    let again = Batch { instance: one, ..batch(journal, 0, vec![leased(1, 2, 2, 2), kept]) };
    assert!(matches!(store.apply(Arc::new(again)).await, Err(ApplyError::Store(StoreError::Refused(_)))));
    let late = Batch { instance: one, ..batch(journal, 7, vec![leased(1, 2, 2, 2)]) };
    assert!(matches!(store.apply(Arc::new(late)).await, Err(ApplyError::CursorElsewhere { .. })));
    let now = exchange(&store, one, reading(account(1, 1), day(NOON))).await;
    assert_eq!((now.leased, now.used.requests), (portion(5, 5, 5), 0));
}

/// Three instances, fifty at a time, that lend, use and return as fast as they can; nobody ever sees more than there is.
async fn no_limit_is_ever_passed(world: &World) {
    const LIMIT: i64 = 300;
    let store = world.store().await;
    let instances = [(); 3].map(|()| Uuid::new_v4());
    let limits = limits(LIMIT, LIMIT * 10, LIMIT * 100);
    let worker = async |n: usize| {
        let (instance, mut unspent) = (instances[n % 3], 0);
        for round in 0..6_i64 {
            let want = portion(1 + round % 3, 10, 100);
            // No more goes back than is unspent, as the engine does it: what others hold of the lease they will use.
            let back = if round % 2 == 0 { NONE } else { portion(unspent.min(1), 0, 50) };
            let answer =
                store.exchange(instance, &[ask(account(1, 1), limits, back, want, portion(20, 200, 2_000))]).await?[0];
            let all = Portion::from(answer.used) + answer.leased + answer.elsewhere;
            assert!(all.requests <= LIMIT && all.tokens <= LIMIT * 10 && all.cost.0 <= LIMIT * 100, "{answer:?}");
            unspent += answer.granted.requests - back.requests;
            if unspent > 0 {
                unspent -= 1;
                apply(&store, instance, vec![leased(1, 1, answer.granted.tokens.min(5), 0)]).await;
            }
        }
        Ok::<_, StoreError>(())
    };
    try_join_all((0..50).map(worker)).await.unwrap();
    let [answer] = store.exchange(Uuid::nil(), &[reading(account(1, 1), day(NOON))]).await.unwrap()[..] else {
        panic!()
    };
    assert!(answer.used.requests > 50 && answer.used.requests + answer.elsewhere.requests <= LIMIT, "{answer:?}");
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
}

/// Batches, exchanges, recalls, corrections and heartbeats on the same accounts, each in another order.
async fn all_at_once_never_deadlock(world: &World) {
    let store = world.store().await;
    let users = join_all((0..20).map(|n| {
        let store = store.clone();
        async move { store.provision(&format!("user-{n}").parse().unwrap(), None).await.unwrap().key.0 }
    }))
    .await;
    let instances = [(); 3].map(|()| Uuid::new_v4());
    for instance in instances {
        store.enroll(instance, instance).await.unwrap();
    }
    let worker = async |n: usize| {
        let instance = instances[n % 3];
        for round in 0..5_usize {
            // Each user once: a step that shares no factor with 20.
            let stride = [1, 3, 7, 9, 11, 13, 17, 19][n % 8];
            let turned: Vec<i64> = (0..20).map(|i| users[(i * stride + round * 3) % 20]).collect();
            let one = portion(1, 1, 1);
            let some = |user: &i64| ask(account(*user, 1), limits(50, 500, 5_000), one, one, portion(9, 9, 9));
            let asks: Vec<_> = turned.iter().map(some).collect();
            match (n + round) % 5 {
                0 => drop(store.exchange(instance, &asks).await?),
                1 => {
                    let postings = turned.iter().map(|user| leased(*user, 1, 1, 1)).collect();
                    apply(&store, instance, postings).await;
                }
                2 => drop(store.recall(instance, &asks.iter().map(|ask| ask.key).collect::<Vec<_>>()).await?),
                3 => {
                    let user = format!("user-{}", (n + round) % 20).parse().unwrap();
                    let (amounts, reason) = (amounts(-1, 0, 0, 0), "why not".to_owned());
                    store.adjust(Correction { user, class: "basic".into(), amounts, reason }).await?;
                }
                _ => drop(store.heartbeat(instance, instance).await?),
            }
        }
        Ok::<_, StoreError>(())
    };
    try_join_all((0..40).map(worker)).await.unwrap();
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
}

/// Printed, not asserted: `cargo test --release … how_fast -- --nocapture`.
async fn how_fast(world: &World) {
    let store = world.store().await;
    let one = Uuid::new_v4();
    let ask = |user| ask(account(user, 1), limits(1_000, 10_000, 100_000), NONE, portion(1, 1, 1), portion(9, 9, 9));
    let kind = world.url.split(':').next().unwrap();
    for round in ["first", "second", "third"] {
        let asks: Vec<_> = (0..1_000).map(ask).collect();
        let started = Instant::now();
        assert_eq!(store.exchange(one, &asks).await.unwrap().len(), 1_000);
        println!("{kind}: {:?} for the {round} 1,000 asks", started.elapsed());
    }
    let started = Instant::now();
    for user in 0..100 {
        exchange(&store, one, ask(user)).await;
    }
    println!("{kind}: {:?} for one ask", started.elapsed() / 100);
    let started = Instant::now();
    for user in 0..100 {
        used(&store, &[(account(user, 1), day(NOON))]).await;
    }
    println!("{kind}: {:?} for one reading", started.elapsed() / 100);
}
