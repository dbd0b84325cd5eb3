//! Changes hold, wherever the answer would have come from.

use super::*;
use crate::{ports::KeyRecord, testing::caller};

#[actix_rt::test]
async fn a_changed_user_is_looked_up_again() {
    let world = World::start();
    world.poll().await;
    world.ask("alice").await.unwrap();
    world.directory.set_user(CallerRecord { disabled: true, ..caller(7, "alice") });
    assert!(world.ask("alice").await.is_ok(), "not known here yet");
    world.poll().await;
    assert_eq!(world.ask("alice").await, Err(AuthError::Disabled), "the copy in the shared cache is not believed");
    world.directory.set_user(caller(7, "alice"));
    world.poll().await;
    world.clock.advance(Duration::from_millis(500));
    world.poll().await;
    assert!(world.ask("alice").await.is_ok());
}

#[actix_rt::test]
async fn a_revoked_token_ends_at_once_and_the_users_others_go_on() {
    let world = World::start();
    world.knows("other", FakeVerifier::claims("alice"));
    world.ask("alice").await.unwrap();
    world.ask("other").await.unwrap();
    world.directory.revoke(TokenHash::of("alice"), FakeVerifier::claims("alice").expires_at);
    world.poll().await;
    assert_eq!(world.ask("alice").await, Err(AuthError::Revoked));
    assert_eq!(AuthError::Revoked.code(), ErrorCode::InvalidApiKey);
    world.ask("other").await.unwrap();
    assert_eq!((world.verifier.checks.calls(), world.lookups()), (3, 1));
    world.clock.advance(Duration::from_secs(1_800));
    world.feed.prune(world.clock.now(), world.clock.wall());
    assert_eq!(world.ask("alice").await, Err(AuthError::Revoked), "until its end");
}

#[actix_rt::test]
async fn a_revocation_of_the_whole_token_holds_warm_and_cold() {
    let world = World::start();
    let end = FakeVerifier::claims("alice").expires_at;
    for token in ["head.claims.warm", "head.claims.cold"] {
        world.knows(token, FakeVerifier::claims("alice"));
        world.directory.revoke(TokenHash::of(token), end);
    }
    world.ask("head.claims.warm").await.unwrap();
    world.poll().await;
    assert_eq!(world.ask("head.claims.warm").await, Err(AuthError::Revoked));
    assert_eq!(world.ask("head.claims.cold").await, Err(AuthError::Revoked));
}

#[actix_rt::test]
async fn a_revocation_of_what_was_signed_hits_every_form_of_the_signature() {
    let world = World::start();
    for token in ["head.claims.sig-a", "head.claims.sig-b"] {
        world.knows(token, FakeVerifier::claims("alice"));
    }
    world.ask("head.claims.sig-a").await.unwrap();
    world.directory.revoke(TokenHash::of("head.claims"), FakeVerifier::claims("alice").expires_at);
    world.poll().await;
    assert_eq!(world.ask("head.claims.sig-a").await, Err(AuthError::Revoked));
    assert_eq!(world.ask("head.claims.sig-b").await, Err(AuthError::Revoked));
}

#[actix_rt::test]
async fn a_stale_copy_in_the_shared_cache_is_ignored() {
    let world = World::start();
    let stale = CallerRecord { role: Role::Admin, ..world.directory.user("alice").unwrap() };
    world.cache.post_caller(&stale);
    world.directory.set_user(caller(7, "alice"));
    world.poll().await;
    assert_eq!(world.ask("alice").await.unwrap().role, Role::User);
    assert_eq!(world.lookups(), 1);
}

#[actix_rt::test]
async fn a_copy_that_is_as_new_as_the_feed_saves_the_look_up() {
    let world = World::start();
    world.poll().await;
    world.cache.post_caller(&world.directory.user("alice").unwrap());
    world.ask("alice").await.unwrap();
    assert_eq!(world.lookups(), 0);
}

/// What was read from a database is in the shared cache; then a backup is put back, and so many changes are made.
async fn copies_of_a_lost_future_are_ignored(changes: usize) {
    let world = World::start();
    let (key, as_of) = (TokenHash::of("hne_alice"), world.directory.position());
    world.cache.post_caller(&CallerRecord { role: Role::Admin, ..world.directory.user("alice").unwrap() });
    world.cache.post_key(&key, &KeyRecord { user: "alice".parse().unwrap(), expires_at: None, revoked: false, as_of });
    world.directory.rewind();
    for _ in 0..changes {
        world.directory.announce(Change::Catalog);
    }
    world.feed.load(&world.directory.recent_changes().await.unwrap(), Vec::new(), world.clock.now());
    world.feed.renew(world.clock.now());
    assert_eq!(world.ask("alice").await.unwrap().role, Role::User);
    assert_eq!(world.ask("hne_alice").await, Err(AuthError::Invalid));
}

#[actix_rt::test]
async fn copies_of_another_sequence_are_ignored_behind_it_beside_it_and_ahead() {
    for changes in 0..3 {
        copies_of_a_lost_future_are_ignored(changes).await;
    }
}

#[actix_rt::test]
async fn a_copy_that_knows_more_than_the_feed_is_ignored() {
    let world = World::start();
    world.poll().await;
    world.directory.set_user(CallerRecord { role: Role::Admin, ..caller(7, "alice") });
    world.cache.post_caller(&world.directory.user("alice").unwrap());
    world.directory.set_user(caller(7, "alice"));
    assert_eq!(world.ask("alice").await.unwrap().role, Role::User);
}

/// As from a server that stood still with the write before it, until the change is long forgotten.
#[actix_rt::test]
async fn a_copy_that_comes_late_is_ignored() {
    let world = World::start();
    let late = world.directory.user("alice").unwrap();
    world.directory.set_user(CallerRecord { disabled: true, ..caller(7, "alice") });
    world.poll().await;
    world.clock.advance(crate::registry::KEEP);
    world.feed.prune(world.clock.now(), world.clock.wall());
    world.poll().await;
    world.knows("alice", FakeVerifier::claims("alice"));
    world.cache.post_caller(&late);
    assert_eq!(world.ask("alice").await, Err(AuthError::Disabled));
}

#[actix_rt::test]
async fn without_a_fresh_feed_the_store_is_asked() {
    let world = World::start();
    world.cache.post_caller(&world.directory.user("alice").unwrap());
    world.ask("alice").await.unwrap();
    assert_eq!((world.cache.reads.calls(), world.lookups()), (0, 1), "no poll yet");
    world.poll().await;
    world.clock.advance(Duration::from_secs(2));
    world.knows("bob", FakeVerifier::claims("bob"));
    world.cache.post_caller(&caller(8, "bob"));
    world.ask("bob").await.unwrap();
    assert_eq!((world.cache.reads.calls(), world.lookups()), (0, 2), "the last one is two seconds old");
    world.ask("alice").await.unwrap();
    assert_eq!(world.lookups(), 2, "what is remembered here goes on");
}

#[actix_rt::test]
async fn a_change_that_overtakes_a_look_up_makes_it_fly_again() {
    let world = World::start();
    world.poll().await;
    world.directory.callers.hold();
    let (answer, ()) = futures_util::join!(world.ask("alice"), async {
        world.directory.callers.reached(1).await;
        world.directory.set_user(CallerRecord { disabled: true, ..caller(7, "alice") });
        world.poll().await;
        world.directory.callers.release();
    });
    assert_eq!(answer, Err(AuthError::Disabled));
    assert_eq!(world.lookups(), 2);
}

#[actix_rt::test]
async fn a_revocation_that_overtakes_a_look_up_holds() {
    let world = World::start();
    world.directory.callers.hold();
    let (answer, ()) = futures_util::join!(world.ask("alice"), async {
        world.directory.callers.reached(1).await;
        world.directory.revoke(TokenHash::of("alice"), FakeVerifier::claims("alice").expires_at);
        world.poll().await;
        world.directory.callers.release();
    });
    assert_eq!(answer, Err(AuthError::Revoked));
}

#[actix_rt::test]
async fn who_missed_too_much_forgets_everything() {
    let world = World::start();
    world.poll().await;
    world.ask("alice").await.unwrap();
    for number in 0..crate::registry::MAX_LOG {
        world.directory.announce(Change::User(format!("user{number}").parse().unwrap()));
    }
    world.poll().await;
    assert!(world.ask("alice").await.is_ok());
    assert_eq!(world.lookups(), 1, "alice was not among those that changed");
    for number in 0..=crate::registry::MAX_LOG {
        world.directory.announce(Change::User(format!("user{number}").parse().unwrap()));
    }
    world.poll().await;
    world.poll().await;
    assert!(world.ask("alice").await.is_ok());
    assert_eq!(world.lookups(), 2, "now nobody knows whether she was");
}

#[actix_rt::test]
async fn while_revocations_are_incomplete_no_jwt_is_let_in() {
    let world = World::start();
    let end = Timestamp(i64::MAX);
    let many = (0..=crate::registry::MAX_REVOKED).map(|number| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        (TokenHash(hash), end)
    });
    world.feed.load(&crate::ports::Changes::default(), many.collect(), world.clock.now());
    assert_eq!(world.ask("alice").await, Err(AuthError::Unavailable));
}
