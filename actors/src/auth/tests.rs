//! The actor with fakes around it. Every test has a runtime of its own; nothing sleeps.

mod changes;
mod flights;
mod keys;

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::*;
use crate::{
    domain::{CallerRecord, Claims, Role, Timestamp},
    ports::{Change, TokenError},
    testing::{FakeCache, FakeDirectory, FakeVerifier, Faults, ManualClock, caller},
};

/// An AuthCache and everything that it asks.
struct World {
    verifier: Arc<FakeVerifier>,
    cache: Arc<FakeCache>,
    directory: Arc<FakeDirectory>,
    clock: Arc<ManualClock>,
    feed: Arc<Feed>,
    roll: Roll,
    auth: AuthHandle,
}

impl World {
    /// Starts the actor. The feed knows of all so far and isn't fresh; the token `alice` is the stored user alice's.
    fn start() -> Self {
        Self::with(Config { provision: Provision::DefaultPlan, cache_entries: 100 })
    }

    fn with(config: Config) -> Self {
        let clock = Arc::new(ManualClock::new());
        let (feed, roll) = (Feed::new(clock.now()), Roll::default());
        let (verifier, cache, directory) =
            (Arc::new(FakeVerifier::default()), Arc::new(FakeCache::default()), Arc::new(FakeDirectory::default()));
        let ports = Ports {
            verifier: verifier.clone(),
            cache: cache.clone(),
            directory: directory.clone(),
            clock: clock.clone(),
            feed: feed.clone(),
            metrics: Metrics::new("test", Timestamp(0)).unwrap(),
            roll: roll.clone(),
            complaints: Complaints::default(),
        };
        let auth = AuthHandle::start(config, ports);
        let world = Self { verifier, cache, directory, clock, feed, roll, auth };
        world.directory.set_user(caller(7, "alice"));
        world.knows("alice", FakeVerifier::claims("alice"));
        let before = world.directory_changes().now_or_never().unwrap();
        world.feed.apply(&before, world.clock.now());
        world
    }

    fn knows(&self, token: &str, claims: Claims) {
        self.verifier.set(token, Ok(claims));
    }

    /// Does what the registry does each 500 ms.
    async fn poll(&self) {
        let changes = self.directory_changes().await;
        self.feed.apply(&changes, self.clock.now());
        self.feed.renew(self.clock.now());
    }

    async fn directory_changes(&self) -> crate::ports::Changes {
        self.directory.changes(self.feed.last()).await.unwrap()
    }

    async fn ask(&self, token: &str) -> Answer {
        self.auth.ask_caller(token).await
    }

    fn lookups(&self) -> usize {
        self.directory.callers.calls()
    }

    /// Lets answered questions, flights and landings take their turns.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

#[actix_rt::test]
async fn a_token_is_verified_and_its_user_looked_up_once() {
    let world = World::start();
    for _ in 0..5 {
        let caller = world.ask("alice").await.unwrap();
        assert_eq!((caller.key.0, caller.id.as_str(), caller.role), (7, "alice", Role::User));
    }
    assert_eq!((world.verifier.checks.calls(), world.lookups()), (1, 1));
    assert_eq!(world.cache.copy("alice").unwrap().key.0, 7, "other instances find the user in the shared cache");
}

#[actix_rt::test]
async fn a_second_token_of_a_user_costs_no_look_up() {
    let world = World::start();
    world.knows("other", FakeVerifier::claims("alice"));
    world.ask("alice").await.unwrap();
    world.ask("other").await.unwrap();
    assert_eq!((world.verifier.checks.calls(), world.lookups()), (2, 1));
}

#[actix_rt::test]
async fn a_trusted_role_raises_and_never_lowers() {
    let world = World::start();
    world.directory.set_user(CallerRecord { role: Role::Admin, ..caller(8, "root") });
    world.knows("raised", Claims { role: Some(Role::Admin), ..FakeVerifier::claims("alice") });
    world.knows("lowered", Claims { role: Some(Role::User), ..FakeVerifier::claims("root") });
    assert_eq!(world.ask("raised").await.unwrap().role, Role::Admin);
    assert_eq!(world.ask("alice").await.unwrap().role, Role::User, "the other token of the same user is not raised");
    assert_eq!(world.ask("lowered").await.unwrap().role, Role::Admin);
}

#[actix_rt::test]
async fn an_entry_lives_600_seconds_and_no_longer_than_its_token() {
    let world = World::start();
    let short =
        Claims { expires_at: ManualClock::START.plus(Duration::from_secs(60)), ..FakeVerifier::claims("alice") };
    world.knows("short", short);
    world.ask("alice").await.unwrap();
    world.ask("short").await.unwrap();
    world.clock.advance(Duration::from_secs(59));
    world.ask("short").await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask("short").await, Err(AuthError::Expired));
    world.clock.advance(Duration::from_secs(539));
    world.ask("alice").await.unwrap();
    assert_eq!(world.lookups(), 1);
    world.clock.advance(Duration::from_secs(1));
    world.ask("alice").await.unwrap();
    assert_eq!(world.lookups(), 2);
}

#[actix_rt::test]
async fn turning_the_wall_clock_does_not_lengthen_a_tokens_life() {
    let world = World::start();
    let end = ManualClock::START.plus(Duration::from_secs(60));
    world.knows("short", Claims { expires_at: end, ..FakeVerifier::claims("alice") });
    world.ask("short").await.unwrap();
    world.clock.set_wall(end);
    world.verifier.set("short", Err(TokenError::Expired));
    assert_eq!(world.ask("short").await, Err(AuthError::Expired), "set forward: ended at once");

    let world = World::start();
    world.knows("short", Claims { expires_at: end, ..FakeVerifier::claims("alice") });
    world.ask("short").await.unwrap();
    world.clock.advance(Duration::from_secs(60));
    world.clock.set_wall(ManualClock::START);
    world.verifier.set("short", Err(TokenError::Invalid));
    assert_eq!(world.ask("short").await, Err(AuthError::Invalid), "set back: looked at again all the same");
}

#[actix_rt::test]
async fn unknown_users_are_added_with_the_tokens_plan() {
    let world = World::start();
    world.knows("new", Claims { plan: Some("team".to_owned()), ..FakeVerifier::claims("bob") });
    let bob = world.ask("new").await.unwrap();
    assert_eq!(bob.plan.0, 2);
    world.knows("new-2", Claims { plan: Some("other".to_owned()), ..FakeVerifier::claims("bob") });
    assert_eq!(world.ask("new-2").await.unwrap().plan.0, 2, "afterwards the store's plan counts");
    assert_eq!(world.directory.provisions.calls(), 1);
}

#[actix_rt::test]
async fn unknown_users_are_refused_where_that_is_configured() {
    let world = World::with(Config { provision: Provision::Reject, cache_entries: 100 });
    world.knows("new", FakeVerifier::claims("bob"));
    for _ in 0..3 {
        assert_eq!(world.ask("new").await, Err(AuthError::Invalid));
    }
    assert_eq!((world.lookups(), world.directory.provisions.calls()), (1, 0), "the refusal is remembered");
    world.directory.set_user(caller(9, "bob"));
    world.clock.advance(Duration::from_millis(500));
    assert_eq!(world.ask("new").await.unwrap().key.0, 9, "for 500 ms");
}

#[actix_rt::test]
async fn a_disabled_user_is_refused_whatever_the_token_says() {
    let world = World::start();
    world.directory.set_user(CallerRecord { disabled: true, ..caller(8, "mallory") });
    world.knows("mallory", Claims { role: Some(Role::Admin), ..FakeVerifier::claims("mallory") });
    assert_eq!(world.ask("mallory").await, Err(AuthError::Disabled));
    assert_eq!(AuthError::Disabled.code(), ErrorCode::InvalidApiKey);
    assert!(world.cache.copy("mallory").is_none());
}

#[actix_rt::test]
async fn what_the_verifier_says_is_handed_on_and_remembered() {
    let world = World::start();
    world.verifier.set("old", Err(TokenError::Expired));
    for _ in 0..3 {
        assert_eq!(world.ask("old").await, Err(AuthError::Expired));
        assert_eq!(world.ask("garbage").await, Err(AuthError::Invalid));
    }
    assert_eq!(world.verifier.checks.calls(), 2);
    world.verifier.checks.set_down(true);
    for _ in 0..2 {
        assert_eq!(world.ask("no keys").await, Err(AuthError::Unavailable));
    }
    assert_eq!(world.verifier.checks.calls(), 4, "that nobody can be asked is not remembered");
    assert_eq!(world.lookups(), 0);
}

#[actix_rt::test]
async fn tokens_without_text_or_end_are_not_looked_at() {
    let world = World::start();
    assert_eq!(world.ask("").await, Err(AuthError::Invalid));
    assert_eq!(world.ask(&"x".repeat(MAX_TOKEN_BYTES + 1)).await, Err(AuthError::Invalid));
    assert_eq!(world.verifier.checks.calls(), 0);
    assert_eq!(world.ask(&"x".repeat(MAX_TOKEN_BYTES)).await, Err(AuthError::Invalid));
    assert_eq!(world.verifier.checks.calls(), 1);
}

#[actix_rt::test]
async fn the_tables_are_bounded_and_what_is_used_stays() {
    let world = World::with(Config { provision: Provision::DefaultPlan, cache_entries: 10 });
    world.ask("alice").await.unwrap();
    for number in 0..100 {
        let token = format!("t{number}");
        world.knows(&token, FakeVerifier::claims(&format!("user{number}")));
        world.ask(&token).await.unwrap();
        world.ask("alice").await.unwrap();
    }
    let before = world.lookups();
    world.ask("alice").await.unwrap();
    world.ask("t99").await.unwrap();
    assert_eq!(world.lookups(), before, "the one in use and the latest are still there");
    world.ask("t0").await.unwrap();
    assert_eq!(world.lookups(), before + 1, "an old one is not");
}

#[actix_rt::test]
async fn a_token_whose_user_had_to_go_goes_too() {
    let world = World::with(Config { provision: Provision::DefaultPlan, cache_entries: 1 });
    world.knows("bob", FakeVerifier::claims("bob"));
    world.ask("alice").await.unwrap();
    world.ask("bob").await.unwrap();
    world.ask("alice").await.unwrap();
    assert_eq!(world.lookups(), 3);
}
