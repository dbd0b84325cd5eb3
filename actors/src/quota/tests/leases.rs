//! Leases at the edges: before midnight, and when they are forgotten.

use super::*;
use crate::ports::Recall;

/// Admits users until one is refused; returns how many.
async fn admit_the_rest(world: &World, requests: i64) -> usize {
    let mut admitted = Vec::new();
    while let Ok(more) = world.admit(1, Some(requests)).await {
        admitted.push(more);
    }
    admitted.len()
}

/// Makes a world in which the first user was active just before midnight. Returns how often the store was asked by then.
async fn at_midnight(max_accounts: usize) -> (Rc<World>, usize) {
    let world = World::start(max_accounts);
    let midnight = WindowKind::Day.at(ManualClock::START).end();
    let before = Timestamp(midnight.0 - 500_000);
    world.clock.set_wall(before);
    drop(world.admit(0, Some(100)).await.unwrap());
    world.accounts.tend(0, world.clock.now(), before);
    world.accounts.settle_all_exchanges().await;
    world.clock.set_wall(midnight);
    let asked = world.store.reads.calls();
    (world, asked)
}

#[actix_rt::test]
async fn leases_are_lent_ahead_of_midnight() {
    let (world, asked) = at_midnight(1_000).await;
    assert!(world.admit(0, Some(100)).await.is_ok());
    assert_eq!(world.store.reads.calls(), asked, "nobody waits at midnight");
}

#[actix_rt::test]
async fn what_was_written_off_is_not_spent_and_not_given_back() {
    let world = World::start(1_000);
    let (_permit, running) = world.admit(1, Some(8)).await.unwrap();
    world.store.write_off(world.accounts.instance);
    world.accounts.forget_leases();
    settle(&world, running);
    assert_eq!(world.flush().await, 1);
    assert_eq!(admit_the_rest(&world, 8).await, 7, "one of 8 was used");
}

#[actix_rt::test]
async fn what_a_fallback_holds_of_a_forgotten_lease_does_not_go_back_to_the_next() {
    let world = World::start(1_000);
    let (_permit, mut running) = world.admit(1, Some(8)).await.unwrap();
    world.store.write_off(world.accounts.instance);
    world.accounts.forget_leases();
    assert_eq!(running.exchange(&wish(1, Some(8))), None, "the store has to be asked");
    let _second = world.admit(1, Some(8)).await.unwrap();
    assert_eq!(running.exchange(&wish(1, Some(8))), Some(true));
    assert_eq!(admit_the_rest(&world, 8).await, 6, "two of 8 are promised");
}

#[actix_rt::test]
async fn whoever_was_active_before_midnight_is_forgotten_like_others() {
    let (world, _) = at_midnight(16).await;
    world.clock.advance(IDLE * 2);
    // Of the same shard, which has room for one.
    assert!(world.admit(16, Some(100)).await.is_ok());
}

#[actix_rt::test]
async fn what_was_lent_under_a_higher_limit_is_waited_for_under_a_lower_one() {
    let one = World::start(1_000);
    let two = World::instance(one.store.clone(), 1_000);
    let mut running = Vec::new();
    for world in [&one, &two, &one, &two, &one, &two] {
        running.push(admit_beside(world, if Rc::ptr_eq(world, &one) { &two } else { &one }, 8).await.unwrap());
    }
    // Both know of the lower limit when what runs gives back more than it allows.
    for (world, other) in [(&one, &two), (&two, &one)] {
        assert!(matches!(admit_beside(world, other, 4).await, Err(QuotaError::Exhausted(_))));
    }
    drop(running);
    let mut admitted = Vec::new();
    while let Ok(more) = admit_beside(&one, &two, 4).await {
        admitted.push(more);
    }
    assert_eq!(admitted.len(), 4, "the other one needs nothing");
}

/// Looks after the leases of all users, and makes the exchanges that come of it, if the store lets it.
async fn tend(world: &World) {
    for turn in 0..16 {
        world.accounts.tend(turn, world.clock.now(), ManualClock::START);
    }
    world.accounts.settle_all_exchanges().await;
}

#[actix_rt::test]
async fn what_is_idle_goes_back() {
    let world = World::start(1_000);
    drop(world.admit(1, Some(100)).await.unwrap());
    assert!(world.store.leased(world.accounts.instance, key(1)).requests > 0);
    world.clock.advance(IDLE);
    tend(&world).await;
    assert_eq!(world.store.leased(world.accounts.instance, key(1)).requests, 0);
    assert!(world.admit(1, Some(100)).await.is_ok());
}

#[actix_rt::test]
async fn what_is_idle_stays_while_the_store_is_away() {
    let world = World::start(1_000);
    drop(world.admit(1, Some(100)).await.unwrap());
    world.store.reads.set_down(true);
    world.accounts.heard(None);
    world.clock.advance(IDLE);
    tend(&world).await;
    assert!(world.admit(1, Some(100)).await.is_ok(), "a warm account is decided without the store");
    world.store.reads.set_down(false);
    world.accounts.heard(Some(ManualClock::START));
    world.clock.advance(IDLE);
    tend(&world).await;
    assert_eq!(world.store.leased(world.accounts.instance, key(1)).requests, 0);
}

#[actix_rt::test]
async fn whoever_was_on_a_flight_that_was_given_up_is_forgotten_like_others() {
    let world = World::start(16);
    drop(world.admit(0, Some(100)).await.unwrap());
    world.clock.advance(IDLE);
    let asked = world.store.reads.calls();
    world.store.reads.hold();
    let accounts = Arc::clone(&world.accounts);
    let flight = actix_rt::spawn(async move {
        (0..16).for_each(|turn| accounts.tend(turn, accounts.clock.now(), ManualClock::START));
        accounts.settle_exchanges().await;
    });
    world.store.reads.reached(asked + 1).await;
    {
        let mut landed = pin!(world.accounts.settle_all_exchanges());
        assert!(poll!(landed.as_mut()).is_pending(), "somebody else flies");
        flight.abort();
        landed.await;
    }
    world.store.reads.release();
    // Of the same shard, which has room for one.
    assert!(world.admit(16, Some(100)).await.is_ok());
}

#[actix_rt::test]
async fn so_does_what_others_have_asked_for() {
    let world = World::start(1_000);
    let running = world.admit(1, Some(8)).await.unwrap();
    let asked = vec![Recall { instance: world.accounts.instance, key: key(1) }];
    world.accounts.obey(&Recalls { asked, all: false, last: 1 }, world.clock.now());
    world.accounts.settle_all_exchanges().await;
    let leased = || world.store.leased(world.accounts.instance, key(1)).requests;
    assert_eq!(leased(), 1, "what runs");
    world.accounts.heard(None);
    drop(running);
    world.accounts.settle_all_exchanges().await;
    assert_eq!(leased(), 1);
}

#[actix_rt::test]
async fn whoever_was_interrupted_is_forgotten_like_others() {
    let world = World::start(16);
    let (permit, reservation) = world.admit(0, Some(100)).await.unwrap();
    let (outcome, at) = (Outcome::Interrupted, world.clock.wall());
    let settled = reservation.settle(Settlement { outcome, estimated: false, amounts: Amounts::ZERO, at });
    assert!(settled.is_ok());
    drop(permit);
    // Nobody is told of that row.
    assert_eq!(world.flush().await, 0);
    world.clock.advance(IDLE * 2);
    assert!(world.admit(16, Some(100)).await.is_ok());
}

#[actix_rt::test]
async fn what_the_store_has_dropped_is_not_spent() {
    let world = World::start(1_000);
    let running = world.admit(1, Some(8)).await.unwrap();
    // Its clock was a day ahead for a while.
    world.store.write_off(world.accounts.instance);
    world.accounts.heard(Some(WindowKind::Day.at(ManualClock::START).end()));
    world.accounts.heard(Some(ManualClock::START));
    let (_permit, running) = running;
    settle(&world, running);
    assert_eq!(world.flush().await, 1);
    assert_eq!(admit_the_rest(&world, 8).await, 7, "one of 8 was used");
}
