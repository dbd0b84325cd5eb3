//! Misses: shared, bounded, and nobody's fault but their own.

use futures_util::future::join_all;

use super::*;

#[actix_rt::test]
async fn two_hundred_misses_are_one_look_up() {
    let world = World::start();
    world.directory.callers.hold();
    world.knows("other", FakeVerifier::claims("alice"));
    let asked = join_all((0..200).map(|n| world.ask(if n % 2 == 0 { "alice" } else { "other" })));
    let (answers, ()) = futures_util::join!(asked, async {
        world.directory.callers.reached(1).await;
        world.settle().await;
        world.directory.callers.release();
    });
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().key.0 == 7));
    assert_eq!((world.verifier.checks.calls(), world.lookups()), (2, 1));
}

#[actix_rt::test]
async fn a_waiter_that_goes_away_takes_nothing_from_the_others() {
    let world = Rc::new(World::start());
    world.directory.callers.hold();
    let first = actix_rt::spawn({
        let world = Rc::clone(&world);
        async move { world.ask("alice").await }
    });
    world.directory.callers.reached(1).await;
    let second = actix_rt::spawn({
        let world = Rc::clone(&world);
        async move { world.ask("alice").await }
    });
    world.settle().await;
    first.abort();
    world.settle().await;
    world.directory.callers.release();
    assert_eq!(second.await.unwrap().unwrap().key.0, 7);
    assert_eq!(world.lookups(), 1);
}

#[actix_rt::test]
async fn a_flight_that_nobody_waits_for_is_still_remembered() {
    let world = World::start();
    world.directory.callers.hold();
    assert!(world.ask("alice").now_or_never().is_none());
    let gone =
        futures_util::future::select(Box::pin(world.ask("alice")), Box::pin(world.directory.callers.reached(1))).await;
    drop(gone);
    world.directory.callers.release();
    world.settle().await;
    assert!(world.ask("alice").await.is_ok());
    assert_eq!(world.lookups(), 1);
}

#[actix_rt::test]
async fn a_flight_that_crashes_leaves_nobody_hanging() {
    let world = World::start();
    world.directory.callers.break_next();
    world.verifier.checks.break_next();
    assert_eq!(world.ask("alice").await, Err(AuthError::Unavailable), "the verifier crashed");
    assert_eq!(world.ask("alice").await, Err(AuthError::Unavailable), "the store's client crashed");
    assert_eq!(world.ask("alice").await.unwrap().key.0, 7, "and neither is remembered");
}

#[actix_rt::test]
async fn a_store_that_is_away_is_no_refusal() {
    let world = World::start();
    world.directory.callers.set_down(true);
    assert_eq!(world.ask("alice").await, Err(AuthError::Unavailable));
    assert_eq!(AuthError::Unavailable.code(), ErrorCode::QuotaUnavailable);
    world.directory.callers.set_down(false);
    assert!(world.ask("alice").await.is_ok());
    world.directory.callers.set_down(true);
    world.clock.advance(Duration::from_secs(599));
    assert!(world.ask("alice").await.is_ok(), "warm accounts are served while the store is away");
}

#[test]
fn a_store_that_never_answers_is_given_up() {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    actix::System::with_tokio_rt(paused).block_on(async {
        let world = World::start();
        world.directory.callers.hold();
        assert_eq!(world.ask("alice").await, Err(AuthError::Unavailable));
        world.directory.callers.release();
        assert!(world.ask("alice").await.is_ok());
    });
}

#[actix_rt::test]
async fn flights_are_bounded() {
    let world = World::start();
    world.verifier.checks.hold();
    let tokens: Vec<String> = (0..=cache::MAX_FLIGHTS).map(|number| format!("t{number}")).collect();
    let refused = Cell::new(0);
    let asked = join_all(tokens.iter().map(|token| async {
        if world.ask(token).await == Err(AuthError::Unavailable) {
            refused.set(refused.get() + 1);
        }
    }));
    futures_util::join!(asked, async {
        world.verifier.checks.reached(cache::MAX_FLIGHTS).await;
        world.settle().await;
        assert_eq!(refused.get(), 1, "the one too many knows at once");
        world.verifier.checks.release();
    });
    assert_eq!((refused.get(), world.verifier.checks.calls()), (1, cache::MAX_FLIGHTS));
}

/// A clock with a defect: once so many calls after it was set.
struct Bomb(ManualClock, std::sync::atomic::AtomicUsize);

impl Clock for Bomb {
    fn now(&self) -> std::time::Instant {
        let left = self.1.load(std::sync::atomic::Ordering::SeqCst);
        self.1.store(left.saturating_sub(1), std::sync::atomic::Ordering::SeqCst);
        assert!(left != 1, "a defect on purpose");
        self.0.now()
    }

    fn wall(&self) -> Timestamp {
        self.0.wall()
    }
}

#[actix_rt::test]
async fn an_actor_that_dies_of_a_defect_is_replaced() {
    let world = World::start();
    let clock = Arc::new(Bomb(ManualClock::new(), 0.into()));
    let ports = Ports {
        verifier: world.verifier.clone(),
        cache: world.cache.clone(),
        directory: world.directory.clone(),
        clock: clock.clone(),
        feed: world.feed.clone(),
        metrics: Metrics::new("test", Timestamp(0)).unwrap(),
        roll: Roll::default(),
        complaints: Complaints::default(),
    };
    let auth = AuthHandle::start(Config { provision: Provision::Reject, cache_entries: 10 }, ports);
    auth.ask_caller("alice").await.unwrap();
    world.knows("another", FakeVerifier::claims("alice"));
    // The handle looks at the clock, and then the actor does.
    clock.1.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(auth.ask_caller("another").await.unwrap().key.0, 7, "asked again of its successor");
    assert!(auth.ask_caller("alice").await.is_ok());
    assert_eq!(world.lookups(), 2, "which began with nothing");
}
