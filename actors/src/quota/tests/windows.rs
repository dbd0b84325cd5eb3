//! Accounts that go over to a window of the other kind.

use super::*;

/// A wish under a limit of requests a month.
fn monthly(requests: i64) -> Wish {
    let Wish { caller, model, line, ask } = wish(1, Some(requests));
    Wish { caller, model, line: PlanLimit { window: WindowKind::Month, ..line }, ask }
}

/// A world in which so many requests of the day are settled and haven't reached the store.
async fn settled_today(count: usize) -> Rc<World> {
    let world = World::start(1_000);
    for _ in 0..count {
        let (_permit, reservation) = world.admit(1, Some(1_000)).await.unwrap();
        settle(&world, reservation);
    }
    world
}

/// Brings what was settled into the store when everybody else waits.
async fn flush_late(world: &World) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    world.flush().await;
}

#[actix_rt::test]
async fn what_is_on_its_way_to_the_store_counts_in_the_month() {
    let world = settled_today(3).await;
    let plan = plan();
    let asking = join_all((0..5).map(|_| world.gate.ask_admit(&plan, monthly(5))));
    let (answers, ()) = tokio::join!(asking, flush_late(&world));
    let (running, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((running.len(), refused.len()), (2, 3), "three of five are used");
    let refused = world.gate.ask_admit(&plan, monthly(5)).await.err();
    let QuotaError::Exhausted(Shortage { figure, .. }) = refused.unwrap() else { panic!() };
    assert_eq!((figure.used, figure.reserved), (3, 2));
}

#[actix_rt::test]
async fn it_is_shown_in_the_month_too() {
    let world = settled_today(3).await;
    let Wish { caller, line, .. } = monthly(5);
    let (usage, ()) = tokio::join!(world.gate.ask_usage(caller, vec![line]), flush_late(&world));
    assert_eq!(usage.unwrap()[0].account.used.requests, 3);
}

#[actix_rt::test]
async fn an_account_without_limits_goes_on_at_midnight_without_the_store() {
    let world = World::start(1_000);
    let (_permit, yesterday) = world.admit(1, None).await.unwrap();
    let limited = world.admit(2, Some(9)).await.unwrap();
    world.store.reads.set_down(true);
    world.clock.set_wall(WindowKind::Day.at(ManualClock::START).end());
    let today = join_all((0..3).map(|_| world.admit(1, None))).await;
    let (_permit, today) = today.into_iter().map(Result::unwrap).next().unwrap();
    assert_eq!(world.admit(2, Some(9)).await.err(), Some(QuotaError::Unavailable), "what was lent is of yesterday");
    assert_eq!(world.admit(3, None).await.err(), Some(QuotaError::Unavailable), "whose plan may not be known");
    settle(&world, yesterday);
    settle(&world, today);
    world.store.reads.set_down(false);
    assert_eq!(world.flush().await, 2);
    let Wish { caller, line, .. } = wish(1, None);
    assert_eq!(world.gate.ask_usage(caller, vec![line]).await.unwrap()[0].account.used.requests, 1);
    drop(limited);
}
