//! Instances, corrections, write-offs and pruning.

use std::{sync::Arc, time::Duration};

use actors::{
    domain::{Amounts, Limits, Nanodollars, Portion, Timestamp, TokenHash, UserId, WindowKind},
    ports::{Batch, Change, CursorMove, Directory, JournalCursor, LeaseAsk, LeaseKey, LedgerStore, Recall, StoreError},
};
use hasnot_engine::store::{Correction, Pruned, Store};
use uuid::Uuid;

use super::world::{NOON, World, account, amounts, batch, day, month, on_both, posting, reading, step, used};

on_both!(
    journals_are_known_and_closed,
    the_last_process_has_the_identity,
    ended_leases_are_dropped,
    a_limit_holds_for_streams_that_outlive_their_window,
    an_instance_is_written_off,
    corrections_count_and_are_told,
    impossible_corrections_are_refused,
    pruned_rows_are_still_proved,
    what_is_of_no_use_any_more_is_dropped,
    usage_shows_what_is_leased,
    a_store_that_was_put_back_is_known_by_its_changes,
);

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Mistaken(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Leases so many requests of an account, in a window.
async fn lease(store: &Store, instance: Uuid, key: LeaseKey, requests: i64) {
    let some = Portion { requests, tokens: 0, cost: Nanodollars(0) };
    let limits = Limits { requests: Some(1_000), ..Limits::default() };
    let ask = LeaseAsk { limits, need: some, most: some, ..reading(key.account, key.window) };
    assert_eq!(store.exchange(instance, &[ask]).await.unwrap()[0].granted, some);
}

async fn journals_are_known_and_closed(world: &World) {
    let store = world.store().await;
    let [open, closed, empty, unknown] = [(); 4].map(|()| Uuid::new_v4());
    let instance = Uuid::new_v4();
    let ends = |journal, from, to| CursorMove { closes: true, ..step(journal, from, to) };
    let moves = vec![step(open, 0, 3), step(closed, 0, 2), ends(empty, 0, 0)];
    store.apply(Arc::new(Batch { instance, cursors: moves, postings: vec![] })).await.unwrap();
    let moves = vec![ends(closed, 2, 2)];
    store.apply(Arc::new(Batch { instance, cursors: moves, postings: vec![] })).await.unwrap();
    let cursor = |applied, known, closed| JournalCursor { applied, known, closed };
    let expected = [cursor(2, true, true), cursor(0, false, false), cursor(3, true, false), cursor(0, true, true)];
    assert_eq!(store.cursors(&[closed, unknown, open, empty]).await.unwrap(), expected);
    let journals = store.inspect().await.unwrap().journals;
    assert_eq!((journals.len(), &journals[0].id, journals[0].applied), (3, &open.to_string(), 3), "open ones first");
    assert!(journals.iter().all(|journal| journal.instance == Some(instance.to_string())));
    assert_eq!(journals.iter().filter(|journal| journal.closed_at.is_some()).count(), 2);
}

async fn the_last_process_has_the_identity(world: &World) {
    let store = world.store().await;
    let [instance, first, second] = [(); 3].map(|()| Uuid::new_v4());
    let unknown = store.heartbeat(instance, first).await.unwrap();
    assert_eq!((unknown.ours, unknown.written_off), (false, false));
    let now = store.enroll(instance, first).await.unwrap();
    let beat = store.heartbeat(instance, first).await.unwrap();
    assert!(beat.ours && beat.now >= now && beat.now.since(now) < Duration::from_secs(60));
    assert_eq!(beat.now.since(beat.ended), Duration::from_secs(7 * 24 * 3_600));
    store.enroll(instance, second).await.unwrap();
    world.execute("UPDATE instances SET heartbeat_at = 5");
    assert!(!store.heartbeat(instance, first).await.unwrap().ours);
    let heartbeat = async || store.inspect().await.unwrap().instances[0].heartbeat_at;
    assert_eq!(heartbeat().await, 5, "a copy doesn't keep it alive");
    assert!(store.heartbeat(instance, second).await.unwrap().ours);
    assert!(heartbeat().await >= now.0);
    world.execute("UPDATE instances SET written_off_at = 5");
    assert!(store.heartbeat(instance, second).await.unwrap().written_off);
    store.enroll(instance, second).await.unwrap();
    assert!(!store.heartbeat(instance, second).await.unwrap().written_off);
    assert_eq!(store.inspect().await.unwrap().instances.len(), 1);
}

async fn ended_leases_are_dropped(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    let now = store.enroll(one, one).await.unwrap();
    let days = |days: i64| Timestamp(now.0 + days * 24 * 3_600_000_000);
    let windows = [
        WindowKind::Day.at(now),
        WindowKind::Day.at(days(-9)),
        WindowKind::Month.at(now),
        WindowKind::Month.at(days(-40)),
        WindowKind::Day.at(days(1)),
    ];
    for window in windows {
        for instance in [one, other] {
            lease(&store, instance, LeaseKey { account: account(1, 1), window }, 5).await;
        }
    }
    assert!(!store.heartbeat(one, other).await.unwrap().ours);
    assert_eq!(store.inspect().await.unwrap().leases.len(), 10, "a copy drops nothing");
    assert!(store.heartbeat(one, one).await.unwrap().ours);
    let left = store.inspect().await.unwrap().leases;
    let of = |instance: Uuid| left.iter().filter(|row| row.instance == instance.to_string()).collect::<Vec<_>>();
    assert_eq!(of(other).len(), 5, "only its own");
    let mut kept: Vec<_> = of(one).iter().map(|row| row.window).collect();
    kept.sort();
    let mut expected = vec![windows[0], windows[2], windows[4]];
    expected.sort();
    assert_eq!(kept, expected);
}

async fn a_limit_holds_for_streams_that_outlive_their_window(world: &World) {
    let store = world.store().await;
    let instance = Uuid::new_v4();
    let now = store.enroll(instance, instance).await.unwrap();
    // It ended more than an hour ago, whatever the time of day.
    let key = LeaseKey { account: account(1, 1), window: WindowKind::Day.at(Timestamp(now.0 - 26 * 3_600_000_000)) };
    lease(&store, instance, key, 1_000).await;
    assert!(store.heartbeat(instance, instance).await.unwrap().ours);
    let limits = Limits { requests: Some(1_000), ..Limits::default() };
    let one = Portion { requests: 1, ..Portion::ZERO };
    let ask = LeaseAsk { limits, need: one, most: one, ..reading(key.account, key.window) };
    assert_eq!(store.exchange(instance, &[ask]).await.unwrap()[0].granted, Portion::ZERO);
}

async fn an_instance_is_written_off(world: &World) {
    let store = world.store().await;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(refused(store.write_off(one, None).await).contains(&one.to_string()));
    store.enroll(one, one).await.unwrap();
    store.enroll(other, other).await.unwrap();
    let key = |user| LeaseKey { account: account(user, 1), window: day(NOON) };
    lease(&store, one, key(1), 3).await;
    lease(&store, one, key(2), 4).await;
    lease(&store, other, key(1), 5).await;
    let why = refused(store.write_off(one, None).await);
    assert!(why.contains("10 minutes"), "{why}");
    world.execute("UPDATE instances SET heartbeat_at = heartbeat_at - 595000000");
    refused(store.write_off(one, None).await);
    assert_eq!(store.inspect().await.unwrap().leases.len(), 3, "a refusal frees nothing");
    world.execute("UPDATE instances SET heartbeat_at = heartbeat_at - 10000000");
    let done = store.write_off(one, Some("ann".into())).await.unwrap();
    assert_eq!((done.leases, done.freed), (2, Portion { requests: 7, ..Portion::ZERO }));
    let after = store.inspect().await.unwrap();
    assert_eq!((after.leases.len(), after.leases[0].instance.clone()), (1, other.to_string()));
    let row = after.instances.iter().find(|row| row.id == one.to_string()).unwrap();
    assert_eq!(row.written_off_at, Some(done.at.0));
    // It is on record; what fails here fails loudly.
    world.execute("CREATE TABLE seen (n INTEGER CHECK (n = 1)); INSERT INTO seen SELECT count(*) FROM write_offs WHERE operator = 'ann' AND requests = 7 AND leases = 2");
    assert!(store.heartbeat(one, one).await.unwrap().written_off);
    // What it hadn't applied can be applied still.
    store
        .apply(Arc::new(Batch {
            instance: one,
            ..batch(Uuid::new_v4(), 0, vec![posting(1, 1, NOON, amounts(1, 1, 1, 1))])
        }))
        .await
        .unwrap();
    assert_eq!(used(&store, &[(account(1, 1), day(NOON))]).await, [amounts(1, 1, 1, 1)]);
}

fn correction(user: &str, class: &str, amounts: Amounts, reason: &str) -> Correction {
    Correction { user: user.parse::<UserId>().unwrap(), class: class.into(), amounts, reason: reason.into() }
}

async fn corrections_count_and_are_told(world: &World) {
    let store = world.store().await;
    let ann = store.provision(&"ann".parse().unwrap(), None).await.unwrap();
    let before = store.changes(0).await.unwrap().last;
    let first = store.adjust(correction("ann", "basic", amounts(2, 30, 40, 500), "  a gift  ")).await.unwrap();
    store.adjust(correction("ann", "basic", amounts(-5, 0, -50, -1_000), "back")).await.unwrap();
    let windows = [day(first.opened_at), month(first.opened_at)];
    let asked = windows.map(|window| (account(ann.key.0, 1), window));
    assert_eq!(used(&store, &asked).await, [amounts(-3, 30, -10, -500); 2]);
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!((verified.postings, verified.drift), (2, 0));
    let told: Vec<_> = store.changes(before).await.unwrap().items.into_iter().map(|(_, change)| change).collect();
    let forget = windows.map(|window| {
        Change::Recall(Recall { instance: Uuid::nil(), key: LeaseKey { account: account(ann.key.0, 1), window } })
    });
    assert_eq!(told, [forget.clone(), forget].concat());
    world.execute("CREATE TABLE seen (n INTEGER CHECK (n = 1)); INSERT INTO seen SELECT count(*) FROM postings WHERE reason = 'a gift' AND outcome = 7 AND model_id = 0 AND opened_at = settled_at");
}

async fn impossible_corrections_are_refused(world: &World) {
    let store = world.store().await;
    store.provision(&"ann".parse().unwrap(), None).await.unwrap();
    let before = store.changes(0).await.unwrap().last;
    let one = amounts(1, 0, 0, 0);
    for (correction, why) in [
        (correction("bob", "basic", one, "r"), "bob"),
        (correction("ann", "gold", one, "r"), "gold"),
        (correction("ann", "basic", Amounts::ZERO, "r"), "figure"),
        (correction("ann", "basic", amounts(0, 0, 0, i64::MIN), "r"), "figure"),
        (correction("ann", "basic", amounts(0, 1_000_000_000_000_001, 0, 0), "r"), "figure"),
        (correction("ann", "basic", one, " \n"), "reason"),
        (correction("ann", "basic", one, &"r".repeat(1_001)), "reason"),
    ] {
        let found = refused(store.adjust(correction).await);
        assert!(found.contains(why), "{found}");
    }
    assert_eq!(store.changes(0).await.unwrap().last, before);
    assert_eq!(store.verify_ledger().await.unwrap().postings, 0);
}

async fn pruned_rows_are_still_proved(world: &World) {
    let store = world.store().await;
    // Long past, whatever the day.
    let noon = Timestamp(NOON.0 - 730 * 86_400_000_000);
    let earlier = |days: i64| Timestamp(noon.0 - days * 86_400_000_000);
    let midnight = day(noon).start();
    let postings = vec![
        posting(1, 1, noon, amounts(1, 10, 20, 300)),
        posting(1, 1, midnight, amounts(1, 1, 1, 1)),
        posting(1, 1, Timestamp(midnight.0 - 1), amounts(1, 2, 2, 2)),
        posting(1, 1, earlier(1), amounts(1, 3, 3, 3)),
        posting(1, 2, earlier(40), amounts(-1, -4, -4, -4)),
        posting(2, 1, earlier(40), amounts(1, 5, 5, 5)),
    ];
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, postings))).await.unwrap();
    let asked = [(account(1, 1), day(noon)), (account(1, 1), month(noon)), (account(2, 1), month(earlier(40)))];
    let before = used(&store, &asked).await;
    assert_eq!(store.prune(midnight).await.unwrap().postings, 4);
    assert_eq!(store.prune(midnight).await.unwrap().postings, 0);
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!((verified.postings, verified.checkpoints, verified.drift), (2, 6, 0));
    assert_eq!(used(&store, &asked).await, before);
    // A latecomer of a pruned day is a row beside the checkpoint, until it is pruned too.
    store
        .apply(Arc::new(batch(Uuid::new_v4(), 0, vec![posting(1, 1, earlier(1), amounts(1, 1, 1, 1))])))
        .await
        .unwrap();
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
    assert_eq!(store.prune(midnight).await.unwrap().postings, 1);
    let verified = store.verify_ledger().await.unwrap();
    assert_eq!((verified.postings, verified.checkpoints, verified.drift), (2, 6, 0));
    // A total of a pruned window that was tampered with is found, and so is a checkpoint.
    world.execute("UPDATE usage_totals SET requests = requests + 7 WHERE user_id = 2 AND window_kind = 0");
    assert_eq!(store.verify_ledger().await.unwrap().drift, 7);
    world.execute("UPDATE usage_checkpoints SET prompt_tokens = prompt_tokens - 2 WHERE user_id = 1 AND class_id = 2");
    assert_eq!(store.verify_ledger().await.unwrap().drift, 7 + 2 * 2);
    let future = store.now().await.unwrap().plus(Duration::from_secs(60));
    assert!(refused(store.prune(future).await).contains("past"));
}

async fn what_is_of_no_use_any_more_is_dropped(world: &World) {
    let store = world.store().await;
    let now = store.now().await.unwrap();
    let (before, week) = (Timestamp(now.0 - 3_600_000_000), Duration::from_secs(7 * 24 * 3_600));
    store.revoke_token(TokenHash([2; 32]), now.plus(week)).await.unwrap();
    store.revoke_token(TokenHash([1; 32]), Timestamp(before.0 - 1)).await.unwrap();

    let [gone, open, lending, lent, alive, fresh] = [(); 6].map(|()| Uuid::new_v4());
    for instance in [gone, open, lending, lent, alive] {
        store.enroll(instance, instance).await.unwrap();
    }
    let window = |at: i64| WindowKind::Day.at(Timestamp(at));
    let key = |at| LeaseKey { account: account(1, 1), window: window(at) };
    lease(&store, lending, key(now.0), 1).await;
    lease(&store, lent, key(now.0 - 9 * 86_400_000_000), 1).await;
    lease(&store, alive, key(now.0 - 9 * 86_400_000_000), 1).await;

    let [empty, written, begun, new] = [(); 4].map(|()| Uuid::new_v4());
    let ends = |journal, from, to| CursorMove { closes: true, ..step(journal, from, to) };
    let batch = |instance, cursors| Arc::new(Batch { instance, cursors, postings: vec![] });
    store.apply(batch(gone, vec![ends(empty, 0, 0), ends(written, 0, 2)])).await.unwrap();
    store.apply(batch(open, vec![step(begun, 0, 0)])).await.unwrap();
    let long_ago = before.0 - 1;
    world.execute(&format!("UPDATE journals SET closed_at = {long_ago} WHERE closed_at IS NOT NULL"));
    world.execute(&format!("UPDATE instances SET heartbeat_at = {long_ago} WHERE id <> '{alive}'"));
    store.enroll(fresh, fresh).await.unwrap();
    store.apply(batch(fresh, vec![ends(new, 0, 0)])).await.unwrap();

    // Of `gone` and `lent`; the lease is of the latter.
    let dropped = Pruned { postings: 0, revocations: 1, journals: 1, leases: 1, instances: 2 };
    assert_eq!(store.prune(before).await.unwrap(), dropped);
    let nothing = Pruned { revocations: 0, journals: 0, leases: 0, instances: 0, ..dropped };
    assert_eq!(store.prune(before).await.unwrap(), nothing);
    let cursor = |applied, known, closed| JournalCursor { applied, known, closed };
    let kept = [cursor(0, false, false), cursor(2, true, true), cursor(0, true, false), cursor(0, true, true)];
    assert_eq!(store.cursors(&[empty, written, begun, new]).await.unwrap(), kept);
    let left = store.inspect().await.unwrap();
    let mut ids: Vec<_> = left.instances.iter().map(|row| row.id.clone()).collect();
    ids.sort();
    let mut expected = [open, lending, alive, fresh].map(|id| id.to_string());
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(left.leases.len(), 2, "one is of today, the other's instance lives");

    // What comes back does so as if nothing had happened.
    store.apply(batch(gone, vec![ends(empty, 0, 0)])).await.unwrap();
    assert!(!store.heartbeat(gone, gone).await.unwrap().ours);
    store.enroll(gone, gone).await.unwrap();
    assert!(store.heartbeat(gone, gone).await.unwrap().ours);
    assert_eq!(store.verify_ledger().await.unwrap().drift, 0);
}

async fn usage_shows_what_is_leased(world: &World) {
    let store = world.store().await;
    let ann = store.provision(&"ann".parse().unwrap(), None).await.unwrap();
    let window = WindowKind::Day.at(store.now().await.unwrap());
    let key = LeaseKey { account: account(ann.key.0, 1), window };
    lease(&store, Uuid::new_v4(), key, 3).await;
    lease(&store, Uuid::new_v4(), key, 4).await;
    let usage = store.usage(&ann.id).await.unwrap().unwrap();
    assert_eq!(usage.classes[0].leased, Portion { requests: 7, ..Portion::ZERO });
    assert_eq!(usage.classes[0].used, Amounts::ZERO);
}

/// Takes away the changes from this number on, as a backup that was made before them does.
fn put_back(world: &World, to: i64) {
    world.execute(&format!("DELETE FROM changes WHERE seq >= {to}"));
    world.execute(&format!("UPDATE change_counter SET seq = {to} - 1"));
}

async fn a_store_that_was_put_back_is_known_by_its_changes(world: &World) {
    let store = world.store().await;
    let add = async |user: &str| store.provision(&user.parse().unwrap(), None).await.unwrap().version;
    let known = add("ann").await;
    let seen = store.changes(known).await.unwrap();
    assert_eq!((seen.last, seen.asked == seen.mark, seen.items.len()), (known, true, 0));
    assert_eq!(store.recent_changes().await.unwrap().mark, seen.mark);
    put_back(world, known);
    let behind = store.changes(known).await.unwrap();
    assert!(behind.last < known, "nothing has been changed since");
    // The numbers are given out again.
    assert_eq!((add("bea").await, add("cid").await), (known, known + 1));
    let other = store.changes(known).await.unwrap();
    assert_eq!((other.last, other.items.len()), (known + 1, 1));
    assert!(other.asked != seen.mark && other.mark != 0, "another change has that number");
    // What isn't kept any more has no mark.
    world.execute("DELETE FROM changes");
    let kept = store.changes(known + 1).await.unwrap();
    assert_eq!((kept.last, kept.mark, kept.asked, kept.items.len()), (known + 1, 0, 0, 0));
    assert_eq!(store.recent_changes().await.unwrap(), kept);
}
