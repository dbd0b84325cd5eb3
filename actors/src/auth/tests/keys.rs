//! API keys.

use super::*;
use crate::{domain::Position, ports::KeyRecord, testing::caller};

const KEY: &str = "hne_alice";

fn record() -> KeyRecord {
    KeyRecord { user: "alice".parse().unwrap(), expires_at: None, revoked: false, as_of: Position::default() }
}

fn with_key(record: KeyRecord) -> World {
    let world = World::start();
    world.directory.set_key(TokenHash::of(KEY), record);
    world
}

#[actix_rt::test]
async fn a_key_is_looked_up_by_its_hash_once() {
    let world = with_key(record());
    for _ in 0..3 {
        assert_eq!(world.ask(KEY).await.unwrap().key.0, 7);
    }
    assert_eq!((world.directory.keys.calls(), world.lookups(), world.verifier.checks.calls()), (1, 1, 0));
    assert!(world.cache.has_key(&TokenHash::of(KEY)));
}

#[actix_rt::test]
async fn an_unknown_key_is_refused_after_one_look_up() {
    let world = World::start();
    for _ in 0..3 {
        assert_eq!(world.ask("hne_none").await, Err(AuthError::Invalid));
    }
    assert_eq!(world.directory.keys.calls(), 1);
    world.directory.set_key(TokenHash::of("hne_none"), record());
    world.poll().await;
    assert!(world.ask("hne_none").await.is_ok(), "made just now, by whichever instance");
}

#[actix_rt::test]
async fn a_key_of_an_unknown_user_adds_nobody() {
    let world = with_key(KeyRecord { user: "nobody".parse().unwrap(), ..record() });
    assert_eq!(world.ask(KEY).await, Err(AuthError::Invalid));
    assert_eq!(world.directory.provisions.calls(), 0);
}

#[actix_rt::test]
async fn a_jwt_that_joins_a_keys_look_up_still_adds_its_user() {
    let world = with_key(KeyRecord { user: "bob".parse().unwrap(), ..record() });
    world.knows("bob", FakeVerifier::claims("bob"));
    world.directory.callers.hold();
    let (key, jwt, ()) = futures_util::join!(world.ask(KEY), world.ask("bob"), async {
        world.directory.callers.reached(1).await;
        world.settle().await;
        world.directory.callers.release();
    });
    assert_eq!(key, Err(AuthError::Invalid), "its answer came before the user was there");
    assert!(jwt.is_ok());
}

#[actix_rt::test]
async fn a_revoked_key_ends_at_the_next_poll_whatever_the_shared_cache_says() {
    let world = with_key(record());
    world.poll().await;
    world.ask(KEY).await.unwrap();
    world.directory.set_key(TokenHash::of(KEY), KeyRecord { revoked: true, ..record() });
    world.poll().await;
    assert!(world.cache.has_key(&TokenHash::of(KEY)));
    assert_eq!(world.ask(KEY).await, Err(AuthError::Revoked));
}

#[actix_rt::test]
async fn a_key_in_the_shared_cache_saves_the_look_up() {
    let world = World::start();
    world.poll().await;
    world.cache.post_key(&TokenHash::of(KEY), &KeyRecord { as_of: world.directory.position(), ..record() });
    world.ask(KEY).await.unwrap();
    assert_eq!(world.directory.keys.calls(), 0);
}

#[actix_rt::test]
async fn a_key_ends_when_it_says() {
    let end = ManualClock::START.plus(Duration::from_secs(100));
    let world = with_key(KeyRecord { expires_at: Some(end), ..record() });
    world.ask(KEY).await.unwrap();
    assert!(!world.cache.has_key(&TokenHash::of(KEY)), "its copy elsewhere could outlive it");
    world.clock.advance(Duration::from_secs(99));
    world.ask(KEY).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask(KEY).await, Err(AuthError::Expired));
}

/// The copy may be older than it should be there.
#[actix_rt::test]
async fn a_key_in_the_shared_cache_ends_when_it_says() {
    let world = World::start();
    world.poll().await;
    let (as_of, end) = (world.directory.position(), ManualClock::START.plus(Duration::from_secs(100)));
    world.directory.set_key(TokenHash::of(KEY), KeyRecord { expires_at: Some(end), ..record() });
    let copy = KeyRecord { expires_at: Some(end), as_of, ..record() };
    world.cache.post_key(&TokenHash::of(KEY), &copy);
    world.ask(KEY).await.unwrap();
    assert_eq!(world.directory.keys.calls(), 0);
    world.clock.advance(Duration::from_secs(100));
    world.feed.renew(world.clock.now());
    assert_eq!(world.ask(KEY).await, Err(AuthError::Expired), "remembered");
    let world = World::start();
    world.clock.advance(Duration::from_secs(100));
    world.poll().await;
    world.cache.post_key(&TokenHash::of(KEY), &copy);
    world.directory.set_key(TokenHash::of(KEY), KeyRecord { expires_at: Some(end), ..record() });
    assert_eq!(world.ask(KEY).await, Err(AuthError::Expired), "cold");
}

#[actix_rt::test]
async fn a_change_that_overtakes_a_keys_look_up_makes_it_fly_again() {
    let world = with_key(record());
    world.poll().await;
    world.directory.callers.hold();
    let (answer, ()) = futures_util::join!(world.ask(KEY), async {
        world.directory.callers.reached(1).await;
        world.directory.set_key(TokenHash::of(KEY), KeyRecord { revoked: true, ..record() });
        world.poll().await;
        world.directory.callers.release();
    });
    assert_eq!(answer, Err(AuthError::Revoked));
}

#[test]
fn uses_are_brought_to_the_store_together() {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    actix::System::with_tokio_rt(paused).block_on(async {
        let world = with_key(record());
        world.directory.set_key(TokenHash::of("hne_2"), record());
        world.directory.set_user(caller(7, "alice"));
        for _ in 0..100 {
            world.ask(KEY).await.unwrap();
            world.ask("hne_2").await.unwrap();
        }
        assert_eq!(world.directory.touches.calls(), 0, "never on a request's way");
        world.directory.touches.set_down(true);
        world.directory.touches.reached_in_time(1).await;
        world.directory.touches.set_down(false);
        world.directory.touches.reached_in_time(2).await;
        let touched = world.directory.touched();
        assert_eq!(touched.len(), 1);
        assert_eq!(touched[0].len(), 2, "what could not be written was kept");
        tokio::time::advance(Duration::from_secs(100)).await;
        world.settle().await;
        assert_eq!(world.directory.touches.calls(), 2, "no use, no note");
        world.ask(KEY).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let again: Vec<usize> = world.directory.touched().iter().map(Vec::len).collect();
        assert_eq!(again, [2, 1], "a key that is remembered is noted in the next round as well");
    });
}

#[actix_rt::test]
async fn uses_are_brought_when_the_process_ends_unless_that_takes_too_long() {
    let world = with_key(record());
    world.ask(KEY).await.unwrap();
    world.roll.ask_touch(Duration::from_secs(60)).await;
    world.roll.ask_touch(Duration::from_secs(60)).await;
    assert_eq!(world.directory.touched().iter().map(Vec::len).collect::<Vec<_>>(), [1]);
    world.ask(KEY).await.unwrap();
    world.directory.touches.hold();
    world.roll.ask_touch(Duration::from_millis(1)).await;
    assert_eq!((world.directory.touches.calls(), world.directory.touched().len()), (2, 1));
}

impl Faults {
    /// Waits for calls that a timer makes, with a clock that goes on by itself.
    async fn reached_in_time(&self, calls: usize) {
        while self.calls() < calls {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
