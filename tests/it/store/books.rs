//! The ledger's side: exactly once, whatever happens.

use std::sync::Arc;

use actors::{
    domain::{Amounts, Timestamp},
    ports::{ApplyError, Batch, LedgerStore, StoreError},
};
use futures_util::future::{join_all, try_join_all};
use uuid::Uuid;

use super::world::{NOON, World, account, amounts, applied, batch, day, month, on_both, posting, step, used};

on_both!(
    a_batch_counts_in_the_day_and_the_month,
    a_batch_is_applied_exactly_once,
    a_cursor_elsewhere_applies_nothing,
    a_failure_leaves_nothing,
    a_correction_is_a_negative_posting,
    overlapping_batches_neither_deadlock_nor_lose,
    of_two_tries_at_once_one_applies,
    an_abandoned_apply_runs_to_its_end,
    verification_finds_an_injected_drift,
);

fn at(day_of_month: i64, seconds: i64) -> Timestamp {
    Timestamp(NOON.0 + ((day_of_month - 23) * 86_400 + seconds) * 1_000_000)
}

async fn a_batch_counts_in_the_day_and_the_month(world: &World) {
    let store = world.store().await;
    let midnight = at(24, -43_200);
    let postings = vec![
        posting(1, 1, NOON, amounts(1, 10, 20, 300)),
        posting(1, 1, Timestamp(midnight.0 - 1), amounts(1, 1, 1, 1)),
        posting(1, 1, midnight, amounts(1, 2, 2, 2)),
        posting(1, 2, NOON, amounts(1, 7, 7, 7)),
        posting(2, 1, at(54, 0), amounts(1, 5, 5, 5)),
    ];
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, postings))).await.unwrap();
    let asked = [
        (account(1, 1), month(NOON)),
        (account(9, 9), day(NOON)),
        (account(1, 1), day(NOON)),
        (account(1, 1), day(midnight)),
        (account(1, 2), day(NOON)),
        (account(2, 1), month(NOON)),
        (account(2, 1), month(at(54, 0))),
        (account(1, 1), day(NOON)),
    ];
    let expected = [
        amounts(3, 13, 23, 303),
        Amounts::ZERO,
        amounts(2, 11, 21, 301),
        amounts(1, 2, 2, 2),
        amounts(1, 7, 7, 7),
        Amounts::ZERO,
        amounts(1, 5, 5, 5),
        amounts(2, 11, 21, 301),
    ];
    assert_eq!(used(&store, &asked).await, expected);
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!((verified.accounts, verified.postings, verified.drift), (3, 5, 0));
}

async fn a_batch_is_applied_exactly_once(world: &World) {
    let store = world.store().await;
    let journal = Uuid::new_v4();
    let first = Arc::new(batch(journal, 0, vec![posting(1, 1, NOON, amounts(1, 10, 20, 300))]));
    store.apply(first.clone()).await.unwrap();
    assert_eq!(store.apply(first).await, Err(ApplyError::CursorElsewhere { journal, found: 1 }));
    let second = Arc::new(batch(journal, 1, vec![posting(1, 1, NOON, amounts(1, 1, 2, 3))]));
    store.apply(second.clone()).await.unwrap();
    assert_eq!(store.apply(second).await, Err(ApplyError::CursorElsewhere { journal, found: 2 }));
    assert_eq!(applied(&store, &[Uuid::new_v4(), journal]).await, [0, 2]);
    assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, [amounts(2, 11, 22, 303)]);
    assert_eq!(store.verify_ledger().await.unwrap().postings, 2);
}

async fn a_cursor_elsewhere_applies_nothing(world: &World) {
    let store = world.store().await;
    let (here, there, unknown) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let one = || vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))];
    store.apply(Arc::new(batch(here, 0, one()))).await.unwrap();
    store.apply(Arc::new(batch(there, 0, one()))).await.unwrap();
    let before = used(&store, &[(account(1, 1), day(NOON))]).await;
    for (journal, from, found) in [(there, 5, 1), (there, 0, 1), (unknown, 7, 0)] {
        // The other cursor would move.
        let moves = vec![step(here, 1, 2), step(journal, from, from + 1)];
        let apply = store.apply(Arc::new(Batch { instance: Uuid::nil(), cursors: moves, postings: one() })).await;
        assert_eq!(apply, Err(ApplyError::CursorElsewhere { journal, found }));
    }
    assert_eq!(applied(&store, &[here, there, unknown]).await, [1, 1, 0]);
    assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, before);
}

async fn a_failure_leaves_nothing(world: &World) {
    let store = world.store().await;
    let journal = Uuid::new_v4();
    let kept = posting(1, 1, NOON, amounts(1, 1, 1, 1));
    store.apply(Arc::new(batch(journal, 0, vec![kept.clone()]))).await.unwrap();
    let again = vec![posting(2, 1, NOON, amounts(1, 1, 1, 1)), kept];
    let refused = store.apply(Arc::new(batch(journal, 1, again))).await;
    assert!(matches!(refused, Err(ApplyError::Store(StoreError::Refused(_)))), "{refused:?}");
    assert_eq!(applied(&store, &[journal]).await, [1]);
    assert_eq!(used(&store, &[(account(2, 1), day(NOON))]).await, [Amounts::ZERO]);
    assert_eq!(store.verify_ledger().await.unwrap().postings, 1);
    // The connection is as good as before.
    store.apply(Arc::new(batch(journal, 1, vec![posting(2, 1, NOON, amounts(1, 1, 1, 1))]))).await.unwrap();
    let loose = Batch { cursors: vec![], ..batch(journal, 2, vec![posting(2, 1, NOON, amounts(1, 1, 1, 1))]) };
    assert!(matches!(store.apply(Arc::new(loose)).await, Err(ApplyError::Store(StoreError::Refused(_)))));
    // A cursor may move without a posting, as past reservations that were released.
    store.apply(Arc::new(Batch { cursors: vec![step(journal, 2, 9)], ..batch(journal, 2, vec![]) })).await.unwrap();
    assert_eq!(applied(&store, &[journal]).await, [9]);
}

async fn a_correction_is_a_negative_posting(world: &World) {
    let store = world.store().await;
    let postings = vec![posting(1, 1, NOON, amounts(2, 20, 30, 400)), posting(1, 1, NOON, amounts(-1, -15, -10, -500))];
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, postings))).await.unwrap();
    let back = vec![posting(1, 1, NOON, amounts(-5, 0, 0, 0))];
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, back))).await.unwrap();
    let totals = used(&store, &[(account(1, 1), day(NOON)), (account(1, 1), month(NOON))]).await;
    assert_eq!(totals, [amounts(-4, 5, 20, -100); 2]);
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
}

async fn overlapping_batches_neither_deadlock_nor_lose(world: &World) {
    let store = world.store().await;
    let writer = async |writer: i64| {
        let journal = Uuid::new_v4();
        for round in 0..10 {
            // The same 50 accounts for everybody, each time in another order.
            let users = (0..50).map(|i| (i * (2 * writer + 1) + round) % 50);
            let postings: Vec<_> = users.map(|user| posting(user, 1, NOON, amounts(1, 2, 3, 4))).collect();
            store.apply(Arc::new(batch(journal, u64::try_from(round).unwrap() * 50, postings))).await?;
        }
        Ok::<_, ApplyError>(())
    };
    try_join_all((0..8).map(writer)).await.unwrap();
    let asked: Vec<_> = (0..50).map(|user| (account(user, 1), month(NOON))).collect();
    assert_eq!(used(&store, &asked).await, vec![amounts(80, 160, 240, 320); 50]);
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!((verified.accounts, verified.postings, verified.drift), (50, 4000, 0));
}

async fn of_two_tries_at_once_one_applies(world: &World) {
    let store = world.store().await;
    let journal = Uuid::new_v4();
    for round in 0..20 {
        let postings = vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))];
        let batch = Arc::new(batch(journal, round, postings));
        let tries = join_all((0..4).map(|_| store.apply(batch.clone()))).await;
        assert_eq!(tries.iter().filter(|tried| tried.is_ok()).count(), 1, "{tries:?}");
        let elsewhere = ApplyError::CursorElsewhere { journal, found: round + 1 };
        assert!(tries.iter().filter_map(|tried| tried.as_ref().err()).all(|error| *error == elsewhere), "{tries:?}");
    }
    assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, [amounts(20, 20, 20, 20)]);
}

async fn an_abandoned_apply_runs_to_its_end(world: &World) {
    let store = world.store().await;
    let (journal, mut abandoned) = (Uuid::new_v4(), 0);
    for round in 0..20 {
        let batch = Arc::new(batch(journal, round, vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))]));
        let mut apply = store.apply(batch);
        // Not pending where this thread was kept from looking until it had ended.
        abandoned += u32::from(futures_util::poll!(&mut apply).is_pending());
        drop(apply);
        while applied(&store, &[journal]).await != [round + 1] {}
    }
    assert!(abandoned > 0, "none was under way");
    assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, [amounts(20, 20, 20, 20)]);
}

async fn verification_finds_an_injected_drift(world: &World) {
    let store = world.store().await;
    let postings = (1..=4).map(|user| posting(user, 1, NOON, amounts(1, 10, 20, 300))).collect();
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, postings))).await.unwrap();
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
    world.execute(
        "UPDATE usage_totals SET requests = requests + 2, prompt_tokens = 7 WHERE user_id = 1 AND window_kind = 0",
    );
    world.execute("DELETE FROM usage_totals WHERE user_id = 2 AND window_kind = 1");
    world.execute("DELETE FROM postings WHERE user_id = 3");
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!(verified.drift, (2 + 3) + 331 + 2 * 331);
    let found: Vec<_> = verified.drifting.iter().map(|drift| (drift.class.as_str(), drift.difference)).collect();
    assert_eq!(
        found,
        [
            ("basic", amounts(2, -3, 0, 0)),
            ("basic", amounts(-1, -10, -20, -300)),
            ("basic", amounts(1, 10, 20, 300)),
            ("basic", amounts(1, 10, 20, 300)),
        ]
    );
}
