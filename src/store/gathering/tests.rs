//! Who flies with whom, and what becomes of those who can't.

use std::{future::Future, pin::Pin};

use futures_util::future::{BoxFuture, join_all};
use tokio::{runtime::Builder, sync::mpsc};

use super::*;
use crate::io::IoThread;

type Asking = Pin<Box<dyn Future<Output = Result<u32, StoreError>>>>;

/// A gathering whose flights tell who is aboard, and land when they are told what became of them.
struct World {
    gathering: Arc<Gathering<u32, u32>>,
    flown: mpsc::UnboundedSender<Flight>,
    flights: mpsc::UnboundedReceiver<Flight>,
    io: IoThread,
}

type Flight = (Vec<u32>, oneshot::Sender<Result<Vec<u32>, StoreError>>);

impl World {
    fn new(flights: usize) -> Self {
        let (flown, up) = mpsc::unbounded_channel();
        Self { gathering: Gathering::new(flights), flown, flights: up, io: IoThread::start().unwrap() }
    }

    /// Asks, without waiting for the answer.
    fn ask(&self, ask: u32) -> Asking {
        let (gathering, io, flown) = (self.gathering.clone(), self.io.handle(), self.flown.clone());
        let fly = move |asks: Vec<u32>| -> BoxFuture<'static, _> {
            let (land, landed) = oneshot::channel();
            flown.send((asks, land)).unwrap();
            Box::pin(async move { landed.await.unwrap() })
        };
        let mut asking: Asking = Box::pin(async move { gathering.ask(&io, ask, fly).await });
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(asking.as_mut().poll(&mut task).is_pending());
        asking
    }

    /// Waits for the next flight that is up.
    async fn flight(&mut self) -> Flight {
        self.flights.recv().await.unwrap()
    }

    fn waiting(&self) -> usize {
        self.gathering.lock().waiting.len()
    }
}

/// Lands a flight with the square of each ask.
fn land((asks, land): Flight) {
    land.send(Ok(asks.into_iter().map(|ask| ask * ask).collect())).unwrap();
}

fn run(test: impl AsyncFnOnce()) {
    Builder::new_current_thread().build().unwrap().block_on(test());
}

#[test]
fn who_comes_during_a_flight_goes_with_the_next() {
    run(async || {
        let mut world = World::new(1);
        let first = world.ask(2);
        let up = world.flight().await;
        assert_eq!(up.0, [2]);
        let others: Vec<_> = (3..1_100).map(|ask| world.ask(ask)).collect();
        land(up);
        assert_eq!(first.await, Ok(4));
        let full = world.flight().await;
        assert_eq!(full.0, (3..1_003).collect::<Vec<_>>());
        land(full);
        let rest = world.flight().await;
        assert_eq!(rest.0, (1_003..1_100).collect::<Vec<_>>());
        land(rest);
        assert_eq!(join_all(others).await, (3..1_100).map(|ask| Ok(ask * ask)).collect::<Vec<_>>());
    });
}

#[test]
fn a_slow_flight_holds_up_none_but_its_own() {
    run(async || {
        let mut world = World::new(2);
        let slow = world.ask(1);
        let hangs = world.flight().await;
        for ask in 2..5 {
            let quick = world.ask(ask);
            land(world.flight().await);
            assert_eq!(quick.await, Ok(ask * ask));
        }
        land(hangs);
        assert_eq!(slow.await, Ok(1));
    });
}

#[test]
fn who_goes_away_stops_nobody() {
    run(async || {
        let mut world = World::new(1);
        let first = world.ask(1);
        let up = world.flight().await;
        drop(first);
        let (stays, goes) = (world.ask(2), world.ask(3));
        drop(goes);
        // It is done to its end, although nobody waits for it.
        land(up);
        let up = world.flight().await;
        assert_eq!(up.0, [2]);
        land(up);
        assert_eq!(stays.await, Ok(4));
    });
}

#[test]
fn a_flight_that_fails_tells_its_own_and_the_next_one_flies() {
    run(async || {
        let mut world = World::new(1);
        let first = world.ask(1);
        let up = world.flight().await;
        let others = [world.ask(2), world.ask(3)];
        land(up);
        first.await.unwrap();
        let (_, fails) = world.flight().await;
        let later = world.ask(4);
        fails.send(Err(StoreError::Refused("no".into()))).unwrap();
        assert_eq!(join_all(others).await, [(); 2].map(|()| Err(StoreError::Refused("no".into()))));
        land(world.flight().await);
        assert_eq!(later.await, Ok(16));
    });
}

#[test]
fn a_flight_that_is_lost_leaves_nobody_waiting() {
    run(async || {
        let mut world = World::new(1);
        let aboard = world.ask(1);
        let (_, panics) = world.flight().await;
        let waits = world.ask(2);
        drop(panics);
        assert!(matches!(aboard.await, Err(StoreError::Unavailable(_))));
        assert!(matches!(waits.await, Err(StoreError::Unavailable(_))));
        let later = world.ask(3);
        land(world.flight().await);
        assert_eq!(later.await, Ok(9));
        // Nor does the thread's end.
        let last = world.ask(4);
        let (gathering, handle) = (world.gathering.clone(), world.io.handle());
        drop(world);
        assert!(matches!(last.await, Err(StoreError::Unavailable(_))));
        for _ in 0..2 {
            let late = gathering.ask(&handle, 5, |asks| async { Ok(asks) }).await;
            assert!(matches!(late, Err(StoreError::Unavailable(_))));
        }
    });
}

#[test]
fn so_many_wait_and_no_more() {
    run(async || {
        let mut world = World::new(1);
        let _flies = world.ask(0);
        let _up = world.flight().await;
        let mut waiting: Vec<_> = (0..10_000).map(|ask| world.ask(ask)).collect();
        let refused = world.gathering.ask(&world.io.handle(), 1, |asks| async { Ok(asks) }).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(why)) if why.contains("10000")));
        // Who went away makes room.
        waiting.truncate(9_000);
        waiting.push(world.ask(1));
        assert_eq!(world.waiting(), 9_001);
    });
}
