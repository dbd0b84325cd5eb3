//! What the feed remembers, and for how long.

use super::*;
use crate::{
    domain::{AccountKey, ClassId, UserKey, WindowKind},
    ports::{Clock, LeaseKey},
    testing::{ManualClock, caller},
};

/// Changes of these numbers, each made at a time of its own.
fn changes(items: Vec<(i64, Change)>) -> Changes {
    let last = items.last().map_or(0, |(last, _)| *last);
    let items = items.into_iter().map(|(seq, change)| (state(seq), change)).collect();
    Changes { last, mark: state(last).at, items, ..Changes::default() }
}

fn state(seq: i64) -> Position {
    Position { seq, at: 1_000 + seq }
}

fn trusts_user(feed: &Feed, id: &str, as_of: Position) -> bool {
    feed.trusts_copy(&CallerRecord { as_of, ..caller(1, id) })
}

fn trusts_key(feed: &Feed, number: u8, as_of: Position) -> bool {
    let user = "a".parse().unwrap();
    feed.trusts_key(&key(number), &KeyRecord { user, expires_at: None, revoked: false, as_of })
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
    feed.load(&Changes { last: 4, mark: state(4).at, ..Changes::default() }, Vec::new(), clock.now());
    feed.apply(&changes(vec![(5, user("a")), (6, Change::Key(key(1)))]), clock.now());
    let of_a = [3, 4, 5, 6, 7].map(|seq| trusts_user(&feed, "a", state(seq)));
    assert_eq!(of_a, [false, false, true, true, false], "forgotten, changed since, known, known, not heard of yet");
    let of_b = [3, 4, 5, 6, 7].map(|seq| trusts_user(&feed, "b", state(seq)));
    assert_eq!(of_b, [false, true, true, true, false]);
    let of_keys = [(1, 5), (1, 6), (2, 4)].map(|(number, seq)| trusts_key(&feed, number, state(seq)));
    assert_eq!(of_keys, [false, true, true]);
    assert!(!trusts_user(&feed, "b", Position { at: 7, ..state(5) }), "another change had that number");
    assert!(!trusts_user(&feed, "b", Position::default()));
    clock.advance(KEEP);
    feed.prune(clock.now(), clock.wall());
    assert!(!trusts_user(&feed, "a", state(4)) && !trusts_user(&feed, "b", state(5)), "what came then is forgotten");
    assert!(trusts_user(&feed, "a", state(6)) && trusts_key(&feed, 1, state(6)), "nothing has come since");
}

#[test]
fn after_too_many_changes_no_copy_is_trusted_that_may_have_missed_one() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let many = i64::try_from(MAX_LOG).unwrap() + 2;
    feed.apply(&changes((1..=many).map(|n| (n, user(&format!("u{n}")))).collect()), clock.now());
    assert!(!trusts_user(&feed, "u2", state(1)), "its change is one of those that were dropped");
    assert!(!trusts_user(&feed, "u3", state(1)) && !trusts_user(&feed, "u3", state(2)));
    assert!(trusts_user(&feed, "u3", state(3)) && trusts_user(&feed, "u2", state(2)));
}

#[test]
fn after_a_change_that_can_not_be_read_no_older_copy_is_trusted() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let unreadable = Changes { last: 3, mark: state(3).at, unreadable: true, ..changes(vec![(1, user("a"))]) };
    feed.load(&unreadable, Vec::new(), clock.now());
    assert!(!trusts_user(&feed, "b", state(1)) && trusts_user(&feed, "b", state(3)));
}

#[test]
fn recalls_are_states_as_well() {
    let clock = ManualClock::new();
    let feed = Feed::new(clock.now());
    let account = AccountKey { user: UserKey(1), class: ClassId(1) };
    let key = LeaseKey { account, window: WindowKind::Day.at(clock.wall()) };
    let recall = Change::Recall(Recall { instance: uuid::Uuid::nil(), key });
    feed.apply(&changes(vec![(1, user("a")), (2, recall.clone()), (3, recall)]), clock.now());
    assert!([1, 2, 3].into_iter().all(|seq| trusts_user(&feed, "a", state(seq))));
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
