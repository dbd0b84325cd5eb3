//! Gathering: what is asked for while others are being answered goes together in the next call.
//!
//! Owns the asks that wait, each with the channel of whoever asked. An ask that finds a flight free leaves at once; the
//! rest leave together as soon as one is back, as transactions do that share a commit. So one ask alone waits for nobody,
//! and of a thousand at once each waits for two calls or three.
//!
//! Invariants:
//! - An ask is in one flight at most. Whoever asked is told what became of it: its answer, the flight's error, or that the
//!   flight was lost.
//! - Flights run on the [`IoThread`](crate::io::IoThread) to their end, whoever still waits: they are nobody's in
//!   particular. Who goes away before take-off takes the ask along.
//! - While anybody waits, a flight is up that will take them.
//!
//! Limits: [`MAX_ASKS`] in a flight, [`MAX_WAITING`] asks that wait, beyond which asking fails at once. How many flights
//! may be up is said when it is made.

use std::{
    collections::VecDeque,
    future::Future,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actors::ports::StoreError;
use tokio::sync::oneshot;

use crate::io::IoHandle;

/// The most asks in one flight.
const MAX_ASKS: usize = 1_000;
/// The most asks that wait: ten flights.
const MAX_WAITING: usize = 10_000;

/// Asks of one kind, and how they are answered.
pub(super) struct Gathering<A, R> {
    flights: usize,
    state: Mutex<State<A, R>>,
}

struct State<A, R> {
    flying: usize,
    waiting: VecDeque<(A, Waiter<R>)>,
}

type Waiter<R> = oneshot::Sender<Result<R, StoreError>>;

impl<A: Send + 'static, R: Send + 'static> Gathering<A, R> {
    /// Makes one that has at most so many flights up, one at least. Where one is slow, the others go on.
    pub(super) fn new(flights: usize) -> Arc<Self> {
        Arc::new(Self { flights, state: Mutex::new(State { flying: 0, waiting: VecDeque::new() }) })
    }

    /// Asks together with others. `flight` answers several asks, in their order.
    ///
    /// # Errors
    /// The flight's, or [`StoreError::Unavailable`] where there was none.
    ///
    /// # Cancel safety
    /// May be dropped at any point: until its flight takes off, nothing is done; from then on it is done to the end.
    pub(super) async fn ask<F>(
        self: &Arc<Self>,
        io: &IoHandle,
        ask: A,
        flight: impl Fn(Vec<A>) -> F + Send + 'static,
    ) -> Result<R, StoreError>
    where
        F: Future<Output = Result<Vec<R>, StoreError>> + Send + 'static,
    {
        let (waiter, answer) = oneshot::channel();
        if let Some(pilot) = self.join(ask, waiter)? {
            io.post(pilot.fly(flight));
        }
        answer.await.unwrap_or_else(|_lost| Err(StoreError::Unavailable("the call was given up".into())))
    }

    /// Queues an ask. Returns who is to fly, if another flight may be up.
    fn join(self: &Arc<Self>, ask: A, waiter: Waiter<R>) -> Result<Option<Pilot<A, R>>, StoreError> {
        let mut state = self.lock();
        if state.waiting.len() >= MAX_WAITING {
            state.waiting.retain(|(_, waiter)| !waiter.is_closed());
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(StoreError::Unavailable(format!("{MAX_WAITING} calls wait already")));
        }
        state.waiting.push_back((ask, waiter));
        if state.flying >= self.flights {
            return Ok(None);
        }
        state.flying += 1;
        Ok(Some(Pilot { gathering: Arc::clone(self), landed: false }))
    }
}

impl<A, R> Gathering<A, R> {
    fn lock(&self) -> MutexGuard<'_, State<A, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flies for as long as anybody waits.
struct Pilot<A, R> {
    gathering: Arc<Gathering<A, R>>,
    landed: bool,
}

impl<A: Send + 'static, R: Send + 'static> Pilot<A, R> {
    async fn fly<F>(mut self, flight: impl Fn(Vec<A>) -> F)
    where
        F: Future<Output = Result<Vec<R>, StoreError>>,
    {
        while let Some((asks, waiters)) = self.board() {
            if asks.is_empty() {
                continue;
            }
            match flight(asks).await {
                // Who went away meanwhile doesn't mind.
                Ok(answers) => iter::zip(waiters, answers).for_each(|(waiter, answer)| drop(waiter.send(Ok(answer)))),
                Err(error) => waiters.into_iter().for_each(|waiter| drop(waiter.send(Err(error.clone())))),
            }
        }
    }

    /// Takes those who wait and are still there; where nobody waits, the flight is over, within the same lock.
    fn board(&mut self) -> Option<(Vec<A>, Vec<Waiter<R>>)> {
        let mut state = self.gathering.lock();
        let boarding = state.waiting.len().min(MAX_ASKS);
        if boarding == 0 {
            state.flying -= 1;
            self.landed = true;
            return None;
        }
        Some(state.waiting.drain(..boarding).filter(|(_, waiter)| !waiter.is_closed()).unzip())
    }
}

/// A flight that is lost tells all who wait, since there may be no other; the next to ask flies again.
impl<A, R> Drop for Pilot<A, R> {
    fn drop(&mut self) {
        if !self.landed {
            let mut state = self.gathering.lock();
            state.flying -= 1;
            let lost = std::mem::take(&mut state.waiting);
            drop(state);
            drop(lost);
        }
    }
}

#[cfg(test)]
mod tests;
