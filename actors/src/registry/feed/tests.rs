//! What the feed remembers, and for how long.

use super::*;
use crate::{
    ports::Clock,
    testing::{ManualClock, caller},
};

fn changes(items: Vec<(i64, Change)>) -> Changes {
    Changes { last: items.last().map_or(0, |(last, _)| *last), items, ..Changes::default() }
}

fn user(id: &str) -> Change {
    Change::User(id.parse().unwrap())
}

fn key(number: u8) -> TokenHash {
    TokenHash([number; 32])
}

#[test]
fn each_reader_is_told_each_change_once() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let mut reader = feed.reader();
    assert_eq!(reader.news(), News::Nothing);
    feed.apply(&changes(vec![(4, user("a")), (9, Change::Catalog)]), clock.now());
    let mut late = feed.reader();
    assert_eq!(reader.news(), News::Changes(vec![user("a"), Change::Catalog]));
    assert_eq!((reader.news(), late.news()), (News::Nothing, News::Nothing));
    feed.apply(&changes(vec![(4, user("a")), (10, user("b"))]), clock.now());
    assert_eq!(reader.news(), News::Changes(vec![user("b")]), "the one that came twice is told once");
    assert_eq!(feed.last(), 10);
    feed.load(&Changes::default(), Vec::new(), clock.now());
    assert_eq!(reader.news(), News::Everything);
    feed.apply(&changes(vec![(11, user("c"))]), clock.now());
    assert_eq!((reader.news(), late.news()), (News::Changes(vec![user("c")]), News::Everything));
}

#[test]
fn copies_are_trusted_as_far_as_the_feed_can_tell() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    feed.apply(&changes(vec![(5, user("a")), (6, Change::Key(key(1)))]), clock.now());
    let copy = |id: &str, version: i64| crate::domain::CallerRecord { version, ..caller(1, id) };
    let trusts = |id: &str, version| feed.trusts_copy(&copy(id, version), clock.now());
    assert!(!trusts("a", 4) && trusts("a", 5) && trusts("a", 6) && trusts("b", 0));
    assert!(!feed.trusts_key(&key(1), clock.now()) && feed.trusts_key(&key(2), clock.now()));
    clock.advance(KEEP);
    feed.prune(clock.now(), clock.wall());
    assert!(trusts("a", 4) && feed.trusts_key(&key(1), clock.now()), "by now no such copy is left");
}

#[test]
fn after_too_many_changes_no_old_copy_is_trusted_until_it_has_died() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let many = i64::try_from(MAX_LOG).unwrap() + 1;
    feed.apply(&changes((1..=many).map(|n| (n, user(&format!("u{n}")))).collect()), clock.now());
    let copy = |version: i64| crate::domain::CallerRecord { version, ..caller(1, "u1") };
    assert!(!feed.trusts_copy(&copy(0), clock.now()), "its change is the one that was dropped");
    assert!(feed.trusts_copy(&copy(1), clock.now()));
    assert!(!feed.trusts_key(&key(1), clock.now()));
    clock.advance(KEEP);
    assert!(feed.trusts_copy(&copy(0), clock.now()) && feed.trusts_key(&key(1), clock.now()));
}

#[test]
fn what_changed_during_a_look_up_is_known_afterwards() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let (alice, before) = ("a".parse().unwrap(), feed.edition());
    assert!(!feed.user_changed_since(&alice, before));
    feed.apply(&changes(vec![(1, user("a")), (2, Change::Key(key(1)))]), clock.now());
    assert!(feed.user_changed_since(&alice, before) && feed.key_changed_since(&key(1), before));
    let after = feed.edition();
    assert!(!feed.user_changed_since(&alice, after) && !feed.key_changed_since(&key(1), after));
    feed.load(&Changes::default(), Vec::new(), clock.now());
    assert!(feed.user_changed_since(&alice, after), "everything may have changed");
}

#[test]
fn revocations_last_to_the_tokens_end_and_its_leeway() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let end = clock.wall().plus(Duration::from_secs(100));
    feed.apply(&changes(vec![(1, Change::Token(key(1), end))]), clock.now());
    clock.advance(Duration::from_secs(159));
    feed.prune(clock.now(), clock.wall());
    assert_eq!(feed.revocation(&key(1)), Revocation::Revoked);
    clock.advance(Duration::from_secs(1));
    feed.prune(clock.now(), clock.wall());
    assert_eq!(feed.revocation(&key(1)), Revocation::None);
}

#[test]
fn freshness_is_counted_from_the_beginning_of_a_poll() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    assert!(!feed.is_fresh(clock.now()));
    let asked_at = clock.now();
    clock.advance(Duration::from_millis(1_500));
    feed.renew(asked_at);
    assert!(feed.is_fresh(clock.now()));
    clock.advance(Duration::from_millis(500));
    assert!(!feed.is_fresh(clock.now()));
}

#[actix_rt::test]
async fn a_reader_can_wait_for_news() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let mut reader = feed.reader();
    futures_util::join!(reader.changed(), async {
        tokio::task::yield_now().await;
        feed.apply(&changes(vec![(1, Change::Catalog)]), clock.now());
    });
    assert_eq!(reader.news(), News::Changes(vec![Change::Catalog]));
}
