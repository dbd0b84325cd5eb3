//! What callers are shown of their counts.

use super::*;

/// Admits and settles so many requests of the first user.
async fn serve(world: &World, requests: Option<i64>, count: usize) {
    for _ in 0..count {
        let (_permit, reservation) = world.admit(1, requests).await.unwrap();
        settle(world, reservation);
    }
}

/// Returns used and reserved, as shown.
async fn shown(world: &World, requests: Option<i64>) -> (i64, i64) {
    let Wish { caller, line, .. } = wish(1, requests);
    let usage = world.gate.ask_usage(caller, vec![line]).await.unwrap();
    let figure = usage[0].account.figure(Dimension::Requests, &line.limits);
    (figure.used, figure.reserved)
}

#[actix_rt::test]
async fn what_others_have_used_is_shown_a_second_later() {
    for limit in [Some(100), None] {
        let one = World::start(1_000);
        let two = World::instance(one.store.clone(), 1_000);
        serve(&one, limit, 2).await;
        let running = one.admit(1, limit).await.unwrap();
        serve(&two, limit, 3).await;
        two.flush().await;
        one.clock.advance(Duration::from_secs(1));
        let elsewhere = two.store.leased(two.accounts.instance, key(1)).requests;
        assert_eq!(shown(&one, limit).await, (2 + 3, 1 + elsewhere), "{limit:?}");
        let lent = one.store.leased(one.accounts.instance, key(1));
        one.flush().await;
        one.clock.advance(Duration::from_secs(1));
        assert_eq!(shown(&one, limit).await.0, 5, "{limit:?}: counted once");
        assert!(one.store.leased(one.accounts.instance, key(1)).requests <= lent.requests, "asking lends nothing");
        drop(running);
    }
}

#[actix_rt::test]
async fn what_is_known_is_shown_while_the_store_is_away() {
    let world = World::start(1_000);
    serve(&world, Some(100), 2).await;
    world.clock.advance(Duration::from_secs(9));
    world.store.reads.set_down(true);
    assert_eq!(shown(&world, Some(100)).await.0, 2);
    let asked = world.store.reads.calls();
    world.accounts.heard(None);
    assert_eq!(shown(&world, Some(100)).await.0, 2);
    assert_eq!(world.store.reads.calls(), asked, "it isn't asked then");
}
