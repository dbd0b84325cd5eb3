//! Books that are put back to an earlier state while they are lent from.

use super::*;
use crate::ports::Recall;

const LIMIT: usize = 300;

/// Serves as many requests as are admitted, up to a number. Returns how many, and why not more.
async fn serve(world: &World, most: usize) -> (usize, Option<QuotaError>) {
    for served in 0..most {
        match world.admit(1, Some(300)).await {
            Ok((_permit, reservation)) => settle(world, reservation),
            Err(error) => return (served, Some(error)),
        }
    }
    (most, None)
}

/// Makes a world that has served so many requests, and whose books know of one.
async fn put_back(served: usize) -> Rc<World> {
    let world = World::start(1_000);
    assert_eq!(serve(&world, 1).await, (1, None));
    assert_eq!(world.flush().await, 1);
    let backup = world.store.back_up();
    assert_eq!(serve(&world, served - 1).await, (served - 1, None));
    while world.flush().await > 0 {}
    world.store.restore(&backup);
    world
}

#[actix_rt::test]
async fn no_limit_is_passed_while_they_are_applied_again() {
    let world = put_back(250).await;
    let (mut served, mut last) = (250, None);
    // A hundred are applied at a time, and then less is lent each time.
    while !matches!(last, Some(QuotaError::Exhausted(_))) {
        let (more, refused) = serve(&world, LIMIT).await;
        (served, last) = (served + more, refused);
        let _noticed = world.try_flush().await.is_err();
    }
    assert_eq!((served, world.store.rows().len()), (LIMIT, LIMIT), "{last:?}");
}

#[actix_rt::test]
async fn they_are_applied_again_where_nothing_is_served() {
    let world = put_back(250).await;
    assert!(world.accounts.look_back().await.is_err());
    while world.accounts.has_lost_footing() {
        world.flush().await;
    }
    assert_eq!((world.store.rows().len(), world.accounts.look_back().await), (250, Ok(())));
}

/// Of two instances, one obeys a recall; then the books are put back, and it is lent what there is. Returns what the other
/// one is told; `notices` says whether it was noticed before.
async fn refused_after_obedience(notices: bool) -> Result<(), QuotaError> {
    let world = World::start(1_000);
    let other = World::instance(world.store.clone(), 1_000);
    drop(other.admit(1, Some(1)).await.unwrap());
    let backup = world.store.back_up();
    let asked = vec![Recall { instance: other.accounts.instance, key: key(1) }];
    other.accounts.obey(&Recalls { asked, all: false, last: 1_000 }, other.clock.now());
    other.accounts.settle_all_exchanges().await;
    world.store.restore(&backup);
    if notices {
        other.accounts.forget_leases();
    }
    let _running = other.admit(1, Some(1)).await.unwrap();
    world.admit(1, Some(1)).await.map(drop)
}

#[actix_rt::test]
async fn what_was_obeyed_before_counts_no_more() {
    for notices in [true, false] {
        let refused = refused_after_obedience(notices).await;
        assert_eq!(refused, Err(QuotaError::Unavailable), "the other one hasn't been heard of");
    }
}
